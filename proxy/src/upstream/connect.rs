//! Opens connections to endpoints, and counts what comes back over those of requests.

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use outrigger_config::snapshot::Keepalive;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
};

use super::{ClusterState, ConnectionPermit, Host, LocalEnd};
use crate::net::tls::{Parties, Speaks, Stream, TlsFailure};

/// Counts the bytes that came over one connection, and sees its end: whether a failed request was answered at all, and
/// whose end it was.
#[derive(Debug, Default)]
pub(super) struct Meter {
    received: AtomicU64,
    hung_up: AtomicBool,
    first: AtomicWaker,
}

impl Meter {
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Whether the peer has closed or reset the connection, as far as anybody looked.
    pub(super) fn hung_up(&self) -> bool {
        self.hung_up.load(Relaxed)
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Err(_))) {
            self.hung_up.store(true, Relaxed);
        }
    }

    /// Whether anything has come yet; if not, the task is woken by the first bytes.
    pub(super) fn poll_first(&self, cx: &Context<'_>) -> Poll<()> {
        if self.received() == 0 {
            self.first.register(cx.waker());
        }
        if self.received() == 0 { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// An open connection to an endpoint; its permit ends with the socket, however that comes about.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Stream,
    parties: Option<Arc<Parties>>,
    meter: Arc<Meter>,
    _permit: ConnectionPermit,
}

impl Socket {
    /// Connects without a deadline: the caller sets one.
    pub(super) async fn connect(
        to: Destination<'_>,
        speaks: Speaks,
        keepalive: Option<Keepalive>,
        permit: ConnectionPermit,
    ) -> io::Result<Self> {
        let (stream, parties) = connect(to, speaks, keepalive).await?;
        Ok(Self { stream, parties, meter: Arc::default(), _permit: permit })
    }

    pub(super) fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.tcp().local_addr()
    }

    /// Who is at the other end, if the connection is secured.
    pub(super) fn parties(&self) -> Option<Arc<Parties>> {
        self.parties.clone()
    }

    pub(super) fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

/// Where a connection goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) cluster: &'a ClusterState,
    pub(super) host: &'a Host,
    /// The host of the request, where the hello of TLS asks for it.
    pub(super) asked_for: Option<&'a str>,
}

/// Connects, and shakes hands where the connection is to be secured.
pub(super) async fn connect(
    to: Destination<'_>,
    speaks: Speaks,
    keepalive: Option<Keepalive>,
) -> io::Result<(Stream, Option<Arc<Parties>>)> {
    let Destination { cluster, host, asked_for } = to;
    let Some(security) = host.security() else {
        return Ok((Stream::Plain(connect_tcp(host, keepalive).await?), None));
    };
    let secured = async {
        let offer = security.offer(asked_for, speaks)?;
        offer.shake(connect_tcp(host, keepalive).await?).await
    };
    // Boxed: a handshake is large, and a connection without one is to be small.
    let secured = Box::pin(secured).await;
    match &secured {
        Ok(_) => cluster.tls.ssl_handshake.inc(),
        Err(error) => cluster.tls.failed(error),
    }
    secured
}

async fn connect_tcp(host: &Host, keepalive: Option<Keepalive>) -> io::Result<TcpStream> {
    let stream = match host.local_end() {
        LocalEnd::Any => TcpStream::connect(host.address()).await?,
        local => bound(local, host.address())?.connect(host.address()).await?,
    };
    // Without it gRPC waits 40 ms for the peer's delayed acknowledgement.
    stream.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        SockRef::from(&stream).set_tcp_keepalive(&probes(keepalive))?;
    }
    Ok(stream)
}

/// A socket for a connection to `address`.
fn bound(local: LocalEnd, address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let ip = match local {
        LocalEnd::Any => return Ok(socket),
        LocalEnd::Own(ip) => ip,
        LocalEnd::Client(ip) => {
            let options = SockRef::from(&socket);
            if ip.is_ipv4() {
                options.set_ip_transparent_v4(true)
            } else {
                options.set_ip_transparent_v6(true)
            }?;
            options.set_mark(CLIENT_MARK)?;
            ip
        }
    };
    // The port is chosen when the destination is known, so that destinations share it (as Envoy does). A kernel that
    // does not know the option chooses at once, and has fewer of them.
    let _ = setsockopt(&socket, IpBindAddressNoPort, &true);
    socket.bind(SocketAddr::new(ip, 0))?;
    Ok(socket)
}

/// Istio: rules for `TPROXY` lead the answers to connections with this mark back to the proxy.
const CLIENT_MARK: u32 = 1337;

/// Why a connection could not be made, as the transport failure reason shows it.
pub(crate) fn transport_failure(error: &io::Error) -> Cow<'static, str> {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Cow::Borrowed("delayed_connect_error:_Connection_refused");
    }
    let text = error.to_string();
    if TlsFailure::within(error).is_some() {
        return Cow::Owned(format!("TLS_error:_{}", text.replace(' ', "_")));
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    Cow::Owned(format!("delayed_connect_error:_{}", text.replace(' ', "_")))
}

fn probes(keepalive: Keepalive) -> TcpKeepalive {
    let mut probes = TcpKeepalive::new();
    if let Some(count) = keepalive.probes {
        probes = probes.with_retries(count);
    }
    if let Some(time) = keepalive.time {
        probes = probes.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    probes
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let bytes = (buf.filled().len() - before) as u64;
        if bytes == 0 {
            self.meter.hung_up.store(true, Relaxed);
        }
        result?;
        if self.meter.received.fetch_add(bytes, Relaxed) == 0 {
            self.meter.first.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.meter.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.meter.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::IpAddr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_bound_connection_takes_its_port_with_its_destination() {
        for (own, origin) in [("127.0.0.6", "127.0.0.1"), ("::1", "::1")] {
            let (own, origin): (IpAddr, IpAddr) = (own.parse().unwrap(), origin.parse().unwrap());
            let Ok(listener) = TcpListener::bind(SocketAddr::new(origin, 0)).await else {
                assert!(origin.is_ipv6(), "not every machine has IPv6, but this is IPv4");
                continue;
            };
            let address = listener.local_addr().unwrap();
            let socket = bound(LocalEnd::Own(own), address).unwrap();
            assert_eq!(socket.local_addr().unwrap(), SocketAddr::new(own, 0), "no port is taken yet");
            let stream = socket.connect(address).await.unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!((peer, peer.ip()), (stream.local_addr().unwrap(), own));
            assert_ne!(peer.port(), 0);
        }
    }
}
