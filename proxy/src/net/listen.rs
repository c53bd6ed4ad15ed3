//! Binds listeners and hands each accepted socket to the worker with the fewest live connections.
//!
//! Few long HTTP/2 connections make `SO_REUSEPORT` uneven, so one accept loop a listener counts instead. It runs on
//! the control thread; no request is looked at here.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config::snapshot::{Direction, Interception};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
    time::sleep,
};

use super::{
    capture::{self, Capture},
    complaint::Complaint,
};
use crate::{drain::Departure, overload::Overload};

/// Connections that wait to be accepted by the system.
const BACKLOG: i32 = 4096;
/// Accepted sockets that wait for one worker.
const QUEUE: usize = 256;
/// Wait after a failed accept: descriptors or memory are short, and others must be able to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection knows of the listener it came in by.
#[derive(Debug)]
pub struct ListenerInfo {
    /// Name in the snapshot: `127.0.0.1_4317`.
    pub name: Arc<str>,
    /// Inbound or outbound.
    pub direction: Direction,
    /// The bound address, port 0 resolved.
    pub address: SocketAddr,
    /// What comes in there was going elsewhere.
    pub capture: Option<Capture>,
    /// Whether the configuration still has it as it was when the connection came.
    pub departure: Departure,
}

impl ListenerInfo {
    /// The same for connections that come from now on.
    #[must_use]
    pub fn afresh(&self) -> Self {
        Self {
            name: Arc::clone(&self.name),
            direction: self.direction,
            address: self.address,
            capture: self.capture.clone(),
            departure: Departure::default(),
        }
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// Not registered with any runtime yet.
    pub stream: std::net::TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// Where the client was going, if its connection was captured.
    pub destination: Option<SocketAddr>,
    /// Where it came in.
    pub listener: Arc<ListenerInfo>,
    /// Held as long as the connection lives.
    pub live: Live,
}

impl Accepted {
    /// The destination of the connection: on an explicit listener, that listener.
    pub(crate) fn going_to(&self) -> SocketAddr {
        self.destination.unwrap_or(self.listener.address)
    }
}

/// Counts one live connection of a worker and of the process, until it is dropped.
#[derive(Debug)]
pub struct Live {
    worker: Arc<AtomicUsize>,
    total: Arc<Total>,
}

/// Live connections of the process.
#[derive(Debug, Default)]
struct Total {
    live: AtomicUsize,
    idle: Notify,
}

impl Live {
    fn new(worker: &Arc<AtomicUsize>, total: &Arc<Total>) -> Self {
        worker.fetch_add(1, Relaxed);
        total.live.fetch_add(1, AcqRel);
        Self { worker: Arc::clone(worker), total: Arc::clone(total) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.worker.fetch_sub(1, Relaxed);
        if self.total.live.fetch_sub(1, AcqRel) == 1 {
            self.total.idle.notify_waiters();
        }
    }
}

/// The accepting side of all workers; shared by the accept loops.
#[derive(Debug, Clone)]
pub struct Workers {
    lanes: Arc<[Lane]>,
    total: Arc<Total>,
    limit: usize,
    overload: Arc<Overload>,
    counts: Arc<Counts>,
}

/// What did not become a connection.
#[derive(Debug, Default)]
struct Counts {
    refused: AtomicUsize,
    failed: AtomicUsize,
    astray: AtomicUsize,
}

#[derive(Debug)]
struct Lane {
    sender: mpsc::Sender<Accepted>,
    live: Arc<AtomicUsize>,
}

impl Workers {
    /// Makes `count` lanes; each receiver is served by one worker. Above `limit` live connections new ones are closed
    /// at once, and while the process is overloaded they wait in the system.
    #[must_use]
    pub fn new(count: usize, limit: usize, overload: Arc<Overload>) -> (Self, Vec<mpsc::Receiver<Accepted>>) {
        let (lanes, receivers): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (sender, receiver) = mpsc::channel(QUEUE);
                (Lane { sender, live: Arc::default() }, receiver)
            })
            .unzip();
        let counts = Arc::default();
        (Self { lanes: lanes.into(), total: Arc::default(), limit, overload, counts }, receivers)
    }

    /// Live connections, those on their way to a worker included.
    #[must_use]
    pub fn live(&self) -> usize {
        self.total.live.load(Acquire)
    }

    /// Waits until no connection is live.
    pub async fn idle(&self) {
        loop {
            let idle = self.total.idle.notified();
            if self.live() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Connections that were closed because the limit was reached.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Relaxed)
    }

    /// How often the system could not accept: descriptors or memory were short.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.counts.failed.load(Relaxed)
    }

    /// Connections that were closed because following them would have led back to the proxy.
    #[must_use]
    pub fn astray(&self) -> usize {
        self.counts.astray.load(Relaxed)
    }

    /// Learns where a connection was going, and hands it off.
    async fn take(&self, stream: std::net::TcpStream, peer: SocketAddr, listener: &Arc<ListenerInfo>) {
        let destination = match &listener.capture {
            None => None,
            Some(capture) => match capture.destination(&stream, peer) {
                Ok(destination) => Some(destination),
                Err(why) => {
                    let count = self.counts.astray.fetch_add(1, Relaxed) + 1;
                    // Whoever scans ports must not fill the log.
                    if count.is_power_of_two() {
                        let name = &listener.name;
                        tracing::warn!(listener = %name, %peer, count, "a connection was refused: {why}");
                    }
                    return;
                }
            },
        };
        self.hand_off(stream, peer, destination, listener).await;
    }

    /// Gives a connection to the worker with the fewest.
    pub(crate) async fn hand_off(
        &self,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        destination: Option<SocketAddr>,
        listener: &Arc<ListenerInfo>,
    ) {
        if self.live() >= self.limit {
            self.counts.refused.fetch_add(1, Relaxed);
            return;
        }
        let Some(lane) = self.lanes.iter().min_by_key(|lane| lane.live.load(Relaxed)) else { return };
        let live = Live::new(&lane.live, &self.total);
        // A worker that is gone takes nothing: the process is stopping.
        let _ = lane
            .sender
            .send(Accepted { stream, peer, destination, listener: Arc::clone(listener), live })
            .await;
    }
}

/// Binds `address` with `SO_REUSEADDR`. Where traffic is captured an address of IPv6 takes nothing but IPv6, and `Tproxy`
/// is for processes with `CAP_NET_ADMIN`.
///
/// # Errors
/// Those of the system: the port is in use, or may not be bound.
pub fn bind(address: SocketAddr, interception: Interception) -> io::Result<TcpListener> {
    open(address, interception.is_on(), interception)
}

/// The same beside a listener of IPv4 at the same port.
///
/// # Errors
/// As for [`bind`].
pub fn bind_beside(address: SocketAddr, interception: Interception) -> io::Result<TcpListener> {
    open(address, true, interception)
}

fn open(address: SocketAddr, only_v6: bool, interception: Interception) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if only_v6 && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if interception == Interception::Tproxy {
        capture::set_transparent(&socket, address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Keeps an accept loop going; dropped, it lets the loop end.
pub type Open = oneshot::Sender<Infallible>;

/// Accepts until the [`Open`] of `closed` is dropped, then takes what the system has already connected, and closes the
/// listener. A failed accept is waited out, never fatal. Each connection gets the `info` of its moment.
pub async fn accept(
    listener: TcpListener,
    info: Arc<ArcSwap<ListenerInfo>>,
    workers: Workers,
    mut closed: oneshot::Receiver<Infallible>,
) {
    let mut complaint = Complaint::default();
    loop {
        let next = async {
            workers.overload.accepts().await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            accepted = next => accepted.and_then(|(stream, peer)| Ok((prepare(stream)?, peer))),
            _ = &mut closed => break,
        };
        match accepted {
            Ok((stream, peer)) => workers.take(stream, peer, &info.load_full()).await,
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                workers.counts.failed.fetch_add(1, Relaxed);
                if let Some(held_back) = complaint.due() {
                    tracing::warn!(listener = %info.load().name, %error, held_back, "accept failed");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let info = info.load_full();
    if let Err(error) = take_rest(listener, &info, &workers).await {
        tracing::warn!(listener = %info.name, %error, "connections were lost when the listener closed");
    }
}

/// The clients of connections that wait in the system believe to be served: closing the listener would reset them.
/// Asks the system itself, since the runtime may not know of them yet.
async fn take_rest(listener: TcpListener, info: &Arc<ListenerInfo>, workers: &Workers) -> io::Result<()> {
    let listener = listener.into_std()?;
    // Whoever connects faster than that must not keep it open.
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok((stream, peer)) => {
                let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
                if ready.is_ok() {
                    workers.take(stream, peer, info).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Without `TCP_NODELAY` gRPC waits 40 ms for delayed acknowledgements.
fn prepare(stream: TcpStream) -> io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    stream.into_std()
}

/// The client left before it was accepted: the listener itself is well.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    // A socket whose peer is gone answers `setsockopt` with EINVAL on some systems.
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::testing::reserved_address;

    fn info(listener: &TcpListener) -> Arc<ArcSwap<ListenerInfo>> {
        Arc::new(ArcSwap::from_pointee(ListenerInfo {
            name: "test".into(),
            direction: Direction::Outbound,
            address: listener.local_addr().unwrap(),
            capture: None,
            departure: Departure::default(),
        }))
    }

    #[tokio::test]
    async fn the_worker_with_the_fewest_connections_takes_the_next() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Interception::None).unwrap();
        let info = info(&listener);
        let address = info.load().address;
        let (workers, mut lanes) = Workers::new(2, 100, Arc::default());
        let (_open, closed) = oneshot::channel();
        tokio::spawn(accept(listener, info, workers.clone(), closed));
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            first.push(lanes[0].recv().await.unwrap());
            second.push(lanes[1].recv().await.unwrap());
        }
        assert_eq!(workers.live(), 4);
        second.clear();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            second.push(lanes[1].recv().await.unwrap());
        }
        assert!(lanes[0].try_recv().is_err());
    }

    #[tokio::test]
    async fn connections_above_the_limit_are_closed() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Interception::None).unwrap();
        let info = info(&listener);
        let address = info.load().address;
        let (workers, mut lanes) = Workers::new(1, 1, Arc::default());
        let (_open, closed) = oneshot::channel();
        tokio::spawn(accept(listener, info, workers.clone(), closed));
        let _kept = TcpStream::connect(address).await.unwrap();
        let live = lanes[0].recv().await.unwrap();
        let mut refused = TcpStream::connect(address).await.unwrap();
        let read = tokio::io::AsyncReadExt::read(&mut refused, &mut [0; 8]).await;
        assert!(matches!(read, Ok(0) | Err(_)));
        assert_eq!(workers.refused(), 1);
        drop(live);
        let _next = TcpStream::connect(address).await.unwrap();
        assert!(lanes[0].recv().await.is_some());
    }

    #[tokio::test]
    async fn what_the_system_has_connected_is_taken_before_the_listener_closes() {
        let listener = bind(reserved_address(), Interception::None).unwrap();
        let info = info(&listener);
        let address = info.load().address;
        let clients: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let (workers, mut lanes) = Workers::new(1, 100, Arc::default());
        let (open, closed) = oneshot::channel();
        drop(open);
        accept(listener, info, workers, closed).await;
        for client in &clients {
            let peer = lanes[0].try_recv().unwrap().peer;
            assert_eq!(peer, client.local_addr().unwrap());
        }
        assert!(std::net::TcpStream::connect(address).is_err());
    }

    #[tokio::test]
    async fn connections_on_their_way_to_a_worker_are_not_idle() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Interception::None).unwrap();
        let info = info(&listener);
        let _client = std::net::TcpStream::connect(info.load().address).unwrap();
        let (workers, mut lanes) = Workers::new(1, 100, Arc::default());
        let (open, closed) = oneshot::channel();
        drop(open);
        accept(listener, info, workers.clone(), closed).await;
        let mut idle = std::pin::pin!(workers.idle());
        assert!(idle.as_mut().now_or_never().is_none(), "it waits in the lane");
        drop(lanes[0].try_recv().unwrap());
        assert!(idle.now_or_never().is_some());
    }
}
