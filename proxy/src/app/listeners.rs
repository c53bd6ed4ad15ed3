//! The configured listeners: bound before a snapshot is published, closed after one without them is.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use outrigger_config::snapshot::{Interception, Listener, Snapshot};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

use super::{Bound, Ports, StartError};
use crate::{
    drain::Departure,
    net::{
        capture::Capture,
        listen::{self, ListenerInfo, Open, Workers},
    },
    upstream::Published,
};

/// What is bound, and the tasks that accept there.
#[derive(Debug)]
pub(super) struct Listeners {
    ports: Ports,
    workers: Workers,
    bound: Arc<Bound>,
    accepting: HashMap<Arc<str>, Accepting>,
    /// The accept loops, those that are about to end too.
    loops: JoinSet<()>,
    /// Closed for good: a configuration that comes after the drain opens nothing.
    closed: bool,
}

#[derive(Debug)]
struct Accepting {
    info: Arc<ListenerInfo>,
    _open: Vec<Open>,
}

/// Listeners that are bound but not accepted from yet: dropping them leaves everything as it was.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Arc<ListenerInfo>, Vec<BoundSocket>)>);

type BoundSocket = (TcpListener, SocketAddr);

impl Listeners {
    pub(super) fn new(ports: Ports, workers: Workers, bound: Arc<Bound>) -> Self {
        Self { ports, workers, bound, accepting: HashMap::new(), loops: JoinSet::new(), closed: false }
    }

    /// Binds the listeners of `snapshot` that are not bound yet; none once all were closed.
    pub(super) fn prepare(&self, snapshot: &Snapshot) -> Result<Prepared, StartError> {
        if self.closed {
            return Ok(Prepared(Vec::new()));
        }
        let new = snapshot.listeners.iter().filter(|listener| !self.accepting.contains_key(&listener.name));
        new.map(|listener| self.bind(listener, snapshot)).collect::<Result<_, _>>().map(Prepared)
    }

    /// Tells the connections of listeners that `next` no longer has to leave. They have their answers by `last` until
    /// they are gone; so this comes before `next` is published.
    pub(super) fn dismiss(&self, next: &Snapshot, last: &Arc<Published>) {
        for accepting in self.accepting.values().filter(|accepting| !has(next, &accepting.info.name)) {
            accepting.info.departure.leave(Arc::clone(last));
        }
    }

    /// Accepts from the prepared listeners, and closes those that `snapshot` no longer has. Their connections were
    /// [dismissed](Self::dismiss).
    pub(super) fn follow(&mut self, prepared: Prepared, snapshot: &Snapshot) {
        let gone: Vec<_> = self.accepting.keys().filter(|name| !has(snapshot, name)).cloned().collect();
        for name in gone {
            self.close(&name);
        }
        while self.loops.try_join_next().is_some() {}
        // All may have been closed since these were bound.
        let prepared = prepared.0.into_iter().filter(|_| !self.closed);
        for (info, sockets) in prepared {
            let open = sockets.into_iter().map(|(listener, address)| {
                self.bound.add(Arc::clone(&info.name), address, true);
                let (open, closed) = oneshot::channel();
                self.loops.spawn(listen::accept(listener, Arc::clone(&info), self.workers.clone(), closed));
                open
            });
            let open = open.collect();
            self.accepting.insert(Arc::clone(&info.name), Accepting { info, _open: open });
        }
        for listener in snapshot.listeners.iter() {
            let accepting = self.accepting.get(&listener.name);
            if accepting.is_some_and(|accepting| accepting.info.direction != listener.direction) {
                tracing::warn!(listener = %listener.name, "a listener that changes its direction needs a restart");
            }
        }
    }

    /// Accepts no more, whatever configuration comes.
    pub(super) fn close_all(&mut self) {
        self.closed = true;
        let names: Vec<_> = self.accepting.keys().cloned().collect();
        for name in names {
            self.close(&name);
        }
    }

    /// Waits until what has been closed is, and no connection is open.
    pub(super) async fn idle(&mut self) {
        while self.loops.join_next().await.is_some() {}
        self.workers.idle().await;
    }

    fn close(&mut self, name: &Arc<str>) {
        if self.accepting.remove(name).is_some() {
            self.bound.remove(name);
        }
    }

    fn bind(
        &self,
        listener: &Listener,
        snapshot: &Snapshot,
    ) -> Result<(Arc<ListenerInfo>, Vec<BoundSocket>), StartError> {
        let captures = |listener: &&Listener| listener.captured().is_some();
        let mode = match captures(&listener) {
            true => snapshot.node.interception,
            false => Interception::None,
        };
        let address = match self.ports {
            Ports::Configured => listener.bind,
            Ports::Ephemeral => SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let socket = bind_as(&listener.name, address, mode).map_err(|error| self.explain(error))?;
        let info = ListenerInfo {
            name: Arc::clone(&listener.name),
            direction: listener.direction,
            address: socket.1,
            capture: mode.is_on().then(|| Capture {
                mode,
                direction: listener.direction,
                ports: snapshot.listeners.iter().filter(captures).map(|other| other.bind.port()).collect(),
            }),
            departure: Departure::default(),
        };
        let mut sockets = vec![socket];
        if mode.is_on() && self.ports == Ports::Configured {
            sockets.extend(self.bind_ipv6(listener, mode)?);
        }
        Ok((Arc::new(info), sockets))
    }

    /// Captured traffic is of both families.
    fn bind_ipv6(&self, listener: &Listener, mode: Interception) -> Result<Option<BoundSocket>, StartError> {
        bind_beside(&listener.name, listener.bind.port(), mode).map_err(|error| self.explain(error))
    }

    /// Names the listener of our own that stands in the way. It closes only once the new ones are bound, so that a
    /// failure leaves everything as it was; that rules out a move between addresses that overlap.
    fn explain(&self, failed: StartError) -> StartError {
        let StartError::Bind { name, address, error } = failed else { return failed };
        let overlaps = |old: &SocketAddr| {
            let any = old.ip().is_unspecified() || address.ip().is_unspecified();
            old.port() == address.port() && (any || old.ip() == address.ip())
        };
        let mut old = self.accepting.values().map(|accepting| &accepting.info);
        let error = match old.find(|old| overlaps(&old.address)) {
            Some(old) if error.kind() == io::ErrorKind::AddrInUse => io::Error::new(
                error.kind(),
                format!(
                    "{error}: it overlaps the open listener {} at {}; restart the proxy",
                    old.name, old.address
                ),
            ),
            _ => error,
        };
        StartError::Bind { name, address, error }
    }
}

/// The system was built without IPv6, or has it turned off.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Has no kind of its own.
const EAFNOSUPPORT: i32 = 97;

fn has(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.listeners.iter().any(|listener| &*listener.name == name)
}

/// Binds, and tells the port that a 0 became.
pub(super) fn bind(name: &Arc<str>, address: SocketAddr) -> Result<BoundSocket, StartError> {
    bind_as(name, address, Interception::None)
}

/// The same for a page. At every address of IPv4 it is at every one of IPv6, too: a pod may have either.
pub(super) fn bind_page(name: &Arc<str>, address: SocketAddr) -> Result<Vec<BoundSocket>, StartError> {
    let (socket, address) = bind(name, address)?;
    let beside = match address.ip() == Ipv4Addr::UNSPECIFIED {
        true => bind_beside(name, address.port(), Interception::None)?,
        false => None,
    };
    Ok([(socket, address)].into_iter().chain(beside).collect())
}

/// At every address of IPv6, which not every machine has.
fn bind_beside(name: &Arc<str>, port: u16, mode: Interception) -> Result<Option<BoundSocket>, StartError> {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match told(name, address, listen::bind_beside(address, mode)) {
        Ok(socket) => Ok(Some(socket)),
        Err(StartError::Bind { error, .. }) if is_without_ipv6(&error) => {
            tracing::info!(listener = %name, %error, "nobody is served over IPv6");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn bind_as(name: &Arc<str>, address: SocketAddr, mode: Interception) -> Result<BoundSocket, StartError> {
    told(name, address, listen::bind(address, mode))
}

/// With the port that a 0 became, or the name of what could not be bound.
fn told(
    name: &Arc<str>,
    address: SocketAddr,
    bound: io::Result<TcpListener>,
) -> Result<BoundSocket, StartError> {
    match bound.and_then(|listener| Ok((listener.local_addr()?, listener))) {
        Ok((address, listener)) => Ok((listener, address)),
        Err(error) => Err(StartError::Bind { name: Arc::clone(name), address, error }),
    }
}
