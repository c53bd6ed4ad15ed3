//! Where a captured connection was going before rules of the kernel led it here: asked once, when it is accepted. What
//! would lead back to the proxy is refused.
//!
//! Tests that have no such rules give [`Workers::hand_off`](super::listen::Workers) a destination of their own.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use outrigger_config::snapshot::{Direction, Interception};
use socket2::{SockRef, Socket};

/// How a listener learns destinations.
#[derive(Debug, Clone)]
pub struct Capture {
    /// By which rules connections come.
    pub mode: Interception,
    /// Which way they go.
    pub direction: Direction,
    /// The ports of all listeners of captured traffic.
    pub ports: Box<[u16]>,
}

/// Why a connection is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Astray {
    /// It was going to the listener itself.
    #[error("nothing redirected it, a client must not call this port itself")]
    Direct,
    /// It was going to the other listener of captured traffic.
    #[error("its destination is a port of the proxy for captured traffic")]
    Loop,
}

impl Capture {
    /// The destination of a connection that was accepted.
    ///
    /// # Errors
    /// It would lead back to the proxy.
    pub fn destination(&self, stream: &TcpStream, peer: SocketAddr) -> Result<SocketAddr, Astray> {
        let local = stream.local_addr().map_err(|_| Astray::Direct)?;
        let destination = original_destination(stream, local);
        let destination = match self.mode {
            // A transparent socket has the address of the destination. Istio's rules redirect outbound traffic all the same.
            Interception::Tproxy => destination.unwrap_or(local),
            // Without an entry for it in the connection table it was not redirected.
            Interception::Redirect | Interception::None => destination.map_err(|_| Astray::Direct)?,
        };
        let unmoved = destination == local;
        if unmoved && (self.mode != Interception::Tproxy || self.ports.contains(&local.port())) {
            return Err(Astray::Direct);
        }
        self.judge(destination, peer)
    }

    /// Inbound, the destination is an address of the pod; outbound it is one if it is the client's, or loopback.
    fn judge(&self, destination: SocketAddr, peer: SocketAddr) -> Result<SocketAddr, Astray> {
        let here = match self.direction {
            Direction::Inbound => true,
            Direction::Outbound => destination.ip().is_loopback() || destination.ip() == peer.ip(),
        };
        match here && self.ports.contains(&destination.port()) {
            true => Err(Astray::Loop),
            false => Ok(destination),
        }
    }
}

/// Netfilter keeps it in the connection table.
fn original_destination(stream: &TcpStream, local: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let destination = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    destination?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Lets a socket have an address that is not of this machine.
///
/// # Errors
/// The process has no `CAP_NET_ADMIN`.
pub(crate) fn set_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn capture(direction: Direction) -> Capture {
        Capture { mode: Interception::Redirect, direction, ports: [15001, 15006].into() }
    }

    #[test]
    fn a_connection_that_nothing_redirected_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        let destination = capture(Direction::Outbound).destination(&stream, peer);
        assert_eq!(destination, Err(Astray::Direct));
        let transparent = Capture {
            mode: Interception::Tproxy,
            ports: [listener.local_addr().unwrap().port()].into(),
            ..capture(Direction::Inbound)
        };
        assert_eq!(transparent.destination(&stream, peer), Err(Astray::Direct));
        let elsewhere = Capture { ports: [15006].into(), ..transparent };
        let local = stream.local_addr().unwrap();
        assert_eq!(elsewhere.destination(&stream, peer), Ok(local), "a transparent socket's own address");
        drop(client);
    }

    #[test]
    fn what_leads_back_to_the_proxy_is_refused() {
        let peer = "10.0.0.7:40000".parse().unwrap();
        let judge =
            |direction, destination: &str| capture(direction).judge(destination.parse().unwrap(), peer);
        for (own, direction) in [
            ("10.0.0.7:15001", Direction::Outbound),
            ("10.0.0.7:15006", Direction::Outbound),
            ("127.0.0.2:15001", Direction::Outbound),
            ("[::1]:15006", Direction::Outbound),
            ("10.0.0.9:15001", Direction::Inbound),
            ("[fd00::9]:15006", Direction::Inbound),
        ] {
            assert_eq!(judge(direction, own), Err(Astray::Loop), "{own}");
        }
        for (other, direction) in [
            ("10.0.0.9:15006", Direction::Outbound),
            ("10.0.0.7:80", Direction::Outbound),
            ("127.0.0.2:80", Direction::Outbound),
            ("10.0.0.9:8080", Direction::Inbound),
        ] {
            assert_eq!(judge(direction, other), Ok(other.parse().unwrap()), "{other}");
        }
    }
}
