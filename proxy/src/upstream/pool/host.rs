//! The connections of one worker to one endpoint, and the requests that wait for one.

mod dial;

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use tokio::{sync::oneshot, time::Instant};

use super::{
    Payload, PoolError, Wire,
    h1::{self, H1Connection},
    h2::{self, H2Connection},
    life::Life,
};
use crate::upstream::{ClusterState, Host, PendingPermit};

#[derive(Debug)]
pub(super) struct HostPool<B: Payload> {
    pub(super) cluster: Arc<ClusterState>,
    pub(super) host: Arc<Host>,
    wire: Wire,
    /// For the hello, where it depends on the request.
    asked_for: Option<Arc<str>>,
    state: RefCell<State<B>>,
}

#[derive(Debug)]
struct State<B: Payload> {
    /// HTTP/1 connections without a request, the newest last.
    idle: Vec<H1Connection<B>>,
    /// HTTP/2 connections that take requests.
    shared: Vec<Rc<H2Connection<B>>>,
    /// Requests in line, first come first served.
    waiting: VecDeque<oneshot::Sender<Result<Slot<B>, PoolError>>>,
    connecting: usize,
    /// Established connections, busy ones included.
    open: usize,
    next_id: u64,
}

/// The right to send one request on a connection; unused, it goes back.
#[derive(Debug)]
pub(super) struct Slot<B: Payload> {
    pub(super) pool: Rc<HostPool<B>>,
    connection: Option<Connection<B>>,
}

#[derive(Debug)]
pub(super) enum Connection<B: Payload> {
    H1(H1Connection<B>),
    H2(Rc<H2Connection<B>>),
}

impl<B: Payload> HostPool<B> {
    pub(super) fn new(
        cluster: Arc<ClusterState>,
        host: Arc<Host>,
        wire: Wire,
        asked_for: Option<Arc<str>>,
    ) -> Self {
        let state = State {
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: VecDeque::new(),
            connecting: 0,
            open: 0,
            next_id: 0,
        };
        Self { cluster, host, wire, asked_for, state: RefCell::new(state) }
    }

    /// A connection that can take a request now.
    pub(super) fn take_ready(self: &Rc<Self>) -> Option<Slot<B>> {
        let connection = match self.wire {
            Wire::Http1 => self.take_idle().map(Connection::H1),
            Wire::Http2 => self.take_shared().map(Connection::H2),
        }?;
        connection.life().enter();
        Some(Slot { pool: self.clone(), connection: Some(connection) })
    }

    fn take_idle(&self) -> Option<H1Connection<B>> {
        let now = Instant::now();
        let mut stale = Vec::new();
        let mut state = self.state.borrow_mut();
        let found = loop {
            match state.idle.pop() {
                Some(connection) if connection.is_ready() && !connection.life.is_over(now) => {
                    break Some(connection);
                }
                Some(connection) => stale.push(connection),
                None => break None,
            }
        };
        drop(state);
        drop(stale);
        found
    }

    fn take_shared(&self) -> Option<Rc<H2Connection<B>>> {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        // A connection that is over is left to its streams.
        let over =
            state.shared.extract_if(.., |connection| connection.is_closed() || connection.life.is_over(now));
        let over: Vec<_> = over.collect();
        let most = self.cluster.max_concurrent_streams();
        let found = state.shared.iter().find(|connection| connection.has_room(most)).cloned();
        drop(state);
        drop(over);
        found
    }

    /// Waits in line; a new connection is opened if the line is longer than what is being opened.
    pub(super) async fn wait(self: &Rc<Self>) -> Result<Slot<B>, PoolError> {
        let _pending = PendingPermit::acquire(&self.cluster)?;
        let mut cancelled = CountCancelled { cluster: &self.cluster, armed: true };
        let (turn, mine) = oneshot::channel();
        self.state.borrow_mut().waiting.push_back(turn);
        self.dial_for_waiting();
        let slot = mine.await;
        cancelled.armed = false;
        slot.unwrap_or_else(|_| Err(PoolError::connect("connection pool closed")))
    }

    /// An HTTP/1 connection has nothing to do.
    pub(super) fn put_idle(self: &Rc<Self>, connection: H1Connection<B>) {
        if connection.life.is_over(Instant::now()) || self.host.is_removed() {
            if connection.life.is_used_up() {
                self.cluster.stats.upstream_cx_max_requests.inc();
            }
            connection.life.ended_here.set(true);
            return;
        }
        self.state.borrow_mut().idle.push(connection);
        self.serve_waiting();
    }

    /// A stream of a shared connection has ended.
    pub(super) fn stream_ended(self: &Rc<Self>, connection: &Rc<H2Connection<B>>) {
        let life = &connection.life;
        if life.active.get() == 0 && (life.is_over(Instant::now()) || self.host.is_removed()) {
            if life.is_used_up() && !life.ended_here.replace(true) {
                self.cluster.stats.upstream_cx_max_requests.inc();
            }
            self.forget(life.id);
        }
        self.serve_waiting();
    }

    /// A connection is about to end: nobody may take it.
    fn forget(&self, id: u64) {
        let mut state = self.state.borrow_mut();
        let idle: Vec<_> = state.idle.extract_if(.., |connection| connection.life.id == id).collect();
        let shared: Vec<_> = state.shared.extract_if(.., |connection| connection.life.id == id).collect();
        drop(state);
        drop((idle, shared));
    }

    /// Runs a connection to its end, and takes it back after each request.
    async fn drive_h1(self: Rc<Self>, mut driver: h1::Driver<B>) {
        while let Some(connection) = driver.settled().await {
            self.put_idle(connection);
        }
        self.end(&driver.life.clone(), driver);
    }

    /// Runs a connection until it takes no more requests.
    async fn drive_h2(self: Rc<Self>, mut driver: h2::Driver<B>) {
        while driver.settled().await.is_some() {
            self.serve_waiting();
        }
        self.end(&driver.life.clone(), driver);
    }

    /// A connection has ended. With its driver gone its permit is free, so a waiting request may get another.
    fn end<D>(self: &Rc<Self>, life: &Life, driver: D) {
        self.forget(life.id);
        drop(driver);
        self.count_end(life.ended_by_peer());
        self.state.borrow_mut().open -= 1;
        self.dial_for_waiting();
    }

    fn count_end(&self, by_peer: bool) {
        self.cluster.stats.end_connection(by_peer);
    }

    pub(super) fn close_idle(&self) {
        let mut state = self.state.borrow_mut();
        let idle = std::mem::take(&mut state.idle);
        let shared: Vec<_> =
            state.shared.extract_if(.., |connection| connection.life.active.get() == 0).collect();
        drop(state);
        idle.iter().for_each(|connection| connection.life.ended_here.set(true));
        shared.iter().for_each(|connection| connection.life.ended_here.set(true));
    }

    fn serve_waiting(self: &Rc<Self>) {
        self.hand_out();
        self.dial_for_waiting();
    }

    /// Gives connections to the line; `false` if there is none even for the first in it.
    fn hand_out(self: &Rc<Self>) -> bool {
        let mut any = !self.has_waiting();
        while self.has_waiting()
            && let Some(slot) = self.take_ready()
        {
            let Some(turn) = self.state.borrow_mut().waiting.pop_front() else { break };
            // Nobody else runs between the look at the line and this: it cannot fail.
            drop(turn.send(Ok(slot)));
            any = true;
        }
        any
    }

    /// Whether it has a connection, or somebody waits for one.
    pub(super) fn is_used(&self) -> bool {
        let state = self.state.borrow();
        state.open + state.connecting > 0 || !state.waiting.is_empty()
    }

    /// Forgets those who left the line.
    fn has_waiting(&self) -> bool {
        let mut state = self.state.borrow_mut();
        state.waiting.retain(|turn| !turn.is_closed());
        !state.waiting.is_empty()
    }
}

impl<B: Payload> Slot<B> {
    /// The connection, which the caller now answers for.
    pub(super) fn take(mut self) -> Option<(Rc<HostPool<B>>, Connection<B>)> {
        self.connection.take().map(|connection| (self.pool.clone(), connection))
    }

    pub(super) fn connection(&self) -> Option<&Connection<B>> {
        self.connection.as_ref()
    }
}

impl<B: Payload> Drop for Slot<B> {
    fn drop(&mut self) {
        match self.connection.take() {
            Some(Connection::H1(connection)) => {
                connection.life.leave_unused();
                self.pool.put_idle(connection);
            }
            Some(Connection::H2(connection)) => {
                connection.life.leave_unused();
                self.pool.stream_ended(&connection);
            }
            None => {}
        }
    }
}

impl<B: Payload> Connection<B> {
    pub(super) fn life(&self) -> &Life {
        match self {
            Self::H1(connection) => &connection.life,
            Self::H2(connection) => &connection.life,
        }
    }
}

/// Counts `upstream_rq_cancelled` where a request leaves the line by itself.
struct CountCancelled<'a> {
    cluster: &'a ClusterState,
    armed: bool,
}

impl Drop for CountCancelled<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}
