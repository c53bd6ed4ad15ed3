//! A client's connection as its requests see it. Served it is in [`conn`](super::conn).

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, Weak},
    task::Poll,
    time::Duration,
};

use outrigger_config::snapshot::{Direction, RouteTableId, Snapshot};
use tokio::time::Instant;

use crate::{
    net::{head::Violation, listen::ListenerInfo, socket::SocketView, tls::Secured},
    upstream::{Original, Published},
    worker::Worker,
};

/// What the requests of one connection share.
#[derive(Debug)]
pub(crate) struct ConnInfo {
    peer: SocketAddr,
    /// Where the client was going.
    local: SocketAddr,
    captured: bool,
    listener: Arc<ListenerInfo>,
    secured: Option<Arc<Secured>>,
    socket: Arc<SocketView>,
    /// The configuration that was looked at last, and what was found. Held weakly: a connection that waits keeps no old
    /// configuration, and its address is not used again as long as this points to it.
    routes: RefCell<(Weak<Snapshot>, Option<RouteTableId>)>,
    /// Requests that began.
    begun: Cell<u64>,
    active: Cell<usize>,
    /// When the last request ended.
    idle_since: Cell<Instant>,
    dismissed: Cell<bool>,
}

impl ConnInfo {
    /// A connection that begins now, between the client and where it was going; `captured` says that this was no listener
    /// of ours.
    pub(crate) fn new(
        (peer, local): (SocketAddr, SocketAddr),
        captured: bool,
        listener: Arc<ListenerInfo>,
        secured: Option<Arc<Secured>>,
        socket: Arc<SocketView>,
    ) -> Self {
        Self {
            peer,
            local,
            captured,
            listener,
            secured,
            socket,
            routes: RefCell::default(),
            begun: Cell::new(0),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            dismissed: Cell::new(false),
        }
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Where the client was going, if its connection was captured.
    pub(crate) fn original(&self) -> Option<Original> {
        self.captured.then_some(Original { destination: self.local, client: self.peer.ip() })
    }

    /// What was agreed with the client, if the connection is secured.
    pub(crate) fn secured(&self) -> Option<&Arc<Secured>> {
        self.secured.as_ref()
    }

    pub(crate) fn direction(&self) -> Direction {
        self.listener.direction
    }

    /// The configuration for a request that begins now: the newest, or the last one that has routes for it. Then the
    /// client is to come back elsewhere.
    pub(crate) fn published(&self, worker: &Worker) -> Arc<Published> {
        let newest = worker.published();
        if !self.has_lost(&newest) {
            return newest;
        }
        self.dismiss();
        self.listener.departure.last(|last| self.routes(&last.snapshot).is_some()).unwrap_or(newest)
    }

    /// Whether its client is to leave: its requests have no routes any more.
    pub(crate) fn departs(&self, worker: &Worker) -> bool {
        self.listener.departure.has_lost() && self.has_lost(&worker.published())
    }

    fn has_lost(&self, newest: &Published) -> bool {
        self.listener.departure.has_lost() && self.routes(&newest.snapshot).is_none()
    }

    /// The client is to leave after the answer that goes out now.
    pub(crate) fn dismiss(&self) {
        self.dismissed.set(true);
    }

    /// Waits until the client is dismissed. The answer that does so wakes the connection, to be written.
    pub(crate) async fn dismissed(&self) {
        poll_fn(|_| if self.dismissed.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits until its listener loses something, and with it this connection its routes. If it is another's, the next
    /// loss is noticed with the next request.
    pub(crate) async fn lost(&self, worker: &Worker) {
        self.listener.departure.told().await;
        if !self.departs(worker) {
            std::future::pending::<()>().await;
        }
    }

    /// The routes of this listener to where the client was going; `None` if the configuration no longer has it. It is
    /// looked for once a configuration.
    pub(crate) fn routes(&self, snapshot: &Arc<Snapshot>) -> Option<RouteTableId> {
        let mut found = self.routes.borrow_mut();
        if !std::ptr::eq(found.0.as_ptr(), Arc::as_ptr(snapshot)) {
            let listener = snapshot.listeners.iter().find(|listener| listener.name == self.listener.name);
            let table = listener.and_then(|listener| listener.requests_to(self.local));
            *found = (Arc::downgrade(snapshot), table);
        }
        found.1
    }

    /// Why the request that begins now is a stand-in for one that was refused. HTTP/1 only; counts the requests.
    pub(crate) fn next_violation(&self) -> Option<Violation> {
        let index = self.begun.replace(self.begun.get() + 1);
        self.socket.violation(index)
    }

    pub(crate) fn enter(&self) {
        self.active.set(self.active.get() + 1);
    }

    pub(crate) fn leave(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    /// What is known of its socket.
    pub(crate) fn socket(&self) -> &SocketView {
        &self.socket
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// When the connection will have been idle for `limit`; `None` if it is now.
    pub(crate) fn idle_deadline(&self, limit: Duration) -> Option<Instant> {
        let now = Instant::now();
        let since = if self.active.get() > 0 { now } else { self.idle_since.get() };
        Some(since + limit).filter(|deadline| *deadline > now)
    }
}
