//! The configured listeners: bound before a snapshot is published, closed after one without them is.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use outrigger_config::snapshot::{Interception, Listener, Snapshot};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::oneshot,
    task::JoinSet,
};

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
    /// What connections are given that come now.
    info: Arc<ArcSwap<ListenerInfo>>,
    /// What those have that came before something was lost.
    before: Vec<Weak<ListenerInfo>>,
    _open: Vec<Open>,
}

impl Accepting {
    /// Of all its connections.
    fn infos(&self) -> impl Iterator<Item = Arc<ListenerInfo>> {
        self.before.iter().filter_map(Weak::upgrade).chain([self.info.load_full()])
    }

    /// Tells the connections that are open of what was lost.
    fn tell(&mut self) {
        self.infos().filter(|info| info.departure.has_lost()).for_each(|info| info.departure.tell());
        let now = self.info.load_full();
        if now.departure.has_lost() {
            self.info.store(Arc::new(now.afresh()));
            self.before.push(Arc::downgrade(&now));
        }
        drop(now);
        self.before.retain(|info| info.strong_count() > 0);
    }
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

    /// Notes that `last` is the last configuration that has what `next` takes away: a listener, or the requests to some of
    /// its destinations. Connections that are open have answers by it until they are gone; so this comes before `next` is
    /// published.
    pub(super) fn record_losses(&self, next: &Snapshot, last: &Arc<Published>) {
        for (name, accepting) in &self.accepting {
            let loses = match find(next, name) {
                Some(next) => find(&last.snapshot, name).is_some_and(|last| loses_requests(last, next)),
                None => true,
            };
            if loses {
                accepting.infos().for_each(|info| info.departure.record(Arc::clone(last)));
            }
        }
    }

    /// Accepts from the prepared listeners, and closes those that `snapshot` no longer has, once it is published. Who has
    /// [lost](Self::record_losses) something is told; connections that come from now on have nothing to do with it.
    pub(super) fn follow(&mut self, prepared: Prepared, snapshot: &Snapshot) {
        let gone: Vec<_> =
            self.accepting.keys().filter(|name| find(snapshot, name).is_none()).cloned().collect();
        for accepting in self.accepting.values_mut() {
            accepting.tell();
        }
        for name in gone {
            self.close(&name);
        }
        while self.loops.try_join_next().is_some() {}
        // All may have been closed since these were bound.
        let prepared = prepared.0.into_iter().filter(|_| !self.closed);
        for (info, sockets) in prepared {
            let name = Arc::clone(&info.name);
            let info = Arc::new(ArcSwap::new(info));
            let open = sockets.into_iter().map(|(listener, address)| {
                self.bound.add(Arc::clone(&name), address, true);
                let (open, closed) = oneshot::channel();
                self.loops.spawn(listen::accept(listener, Arc::clone(&info), self.workers.clone(), closed));
                open
            });
            let open = open.collect();
            self.accepting.insert(name, Accepting { info, before: Vec::new(), _open: open });
        }
        for listener in snapshot.listeners.iter() {
            let accepting = self.accepting.get(&listener.name);
            if accepting.is_some_and(|accepting| accepting.info.load().direction != listener.direction) {
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
        let mut old = self.accepting.values().map(|accepting| accepting.info.load());
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

fn find<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Listener> {
    snapshot.listeners.iter().find(|listener| &*listener.name == name)
}

/// Whether requests to some destination have routes by `last` and none by `next`: they are bytes there.
fn loses_requests(last: &Listener, next: &Listener) -> bool {
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let captured = [last, next].into_iter().filter_map(Listener::captured);
    let mut destinations = captured.flat_map(|captured| {
        let at_port = captured.ports.keys().map(move |port| SocketAddr::new(any, *port));
        captured.destinations.keys().copied().chain(at_port)
    });
    let lost = |to| last.requests_to(to).is_some() && next.requests_to(to).is_none();
    lost(next.bind) || destinations.any(lost)
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

/// Sockets for datagrams and connections at one address; none at one of IPv6 where there is no IPv6.
pub(super) fn bind_dns(address: SocketAddr) -> Result<Option<(UdpSocket, TcpListener)>, StartError> {
    let name: Arc<str> = "dns".into();
    let datagrams = std::net::UdpSocket::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(UdpSocket::from_std);
    match datagrams {
        Ok(datagrams) => Ok(Some((datagrams, bind(&"dns_tcp".into(), address)?.0))),
        Err(error) if address.is_ipv6() && is_without_ipv6(&error) => {
            tracing::info!(listener = %name, %error, "nobody is served over IPv6");
            Ok(None)
        }
        Err(error) => Err(StartError::Bind { name, address, error }),
    }
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

#[cfg(test)]
mod tests {
    use outrigger_config::{LoadOptions, Source, load, snapshot::Node};

    use super::*;

    /// What `virtualOutbound` carries where services have port 9000: their protocols and addresses.
    fn outbound(services: &[(&str, &str)]) -> Snapshot {
        let text = services.iter().enumerate().map(|(at, (protocol, addresses))| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: s{at} }}\nspec:\n  \
                 hosts: [s{at}.example.com]\n  addresses: [{addresses}]\n  resolution: STATIC\n  \
                 ports: [{{ number: 9000, name: main, protocol: {protocol} }}]\n  \
                 endpoints: [{{ address: 10.1.0.1 }}]\n---\n"
            )
        });
        let node = Node { interception: Interception::Redirect, ..Node::default() };
        let source = Source { name: "mesh".into(), text: text.collect() };
        let loaded = load(&[source], &LoadOptions { node, ..LoadOptions::default() });
        loaded.unwrap_or_else(|report| panic!("{report}")).snapshot
    }

    #[test]
    fn captured_requests_are_lost_where_a_port_or_an_address_becomes_bytes() {
        let loses = |last: &[(&str, &str)], next: &[(&str, &str)]| {
            let (last, next) = (outbound(last), outbound(next));
            let of = |snapshot| find(snapshot, "virtualOutbound").unwrap();
            loses_requests(of(&last), of(&next))
        };
        let http = ("HTTP", "");
        assert!(!loses(&[http], &[http]));
        assert!(!loses(&[http], &[http, ("HTTP", "10.9.0.1")]));
        assert!(!loses(&[("TCP", "")], &[http]), "there were none");
        assert!(loses(&[http], &[("TCP", "")]));
        assert!(loses(&[http], &[]));
        assert!(loses(&[http], &[http, ("TCP", "10.9.0.1")]), "connections to that address");
    }
}
