//! Sends a connection through the rules as the sidecar's own user, and looks where it arrives.
//!
//! What the sidecar sends to an address of its own pod, and 127.0.0.6 is one, goes to its inbound side. So a listener at
//! the inbound port in the sidecar's place must get a connection to any port of 127.0.0.6, and be told that port as the
//! original destination. That proves the way out of the pod's processes and the rewriting of addresses; it does not
//! prove that packets from other pods take the inbound rules. It needs no capability (Istio's `istio-validation`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::{
    Error,
    options::{CaptureOptions, Port},
};

/// Whether a connection of this process is taken for one of the sidecar.
pub(crate) fn is_proxy(options: &CaptureOptions) -> bool {
    options.proxy_users.contains(&rustix::process::geteuid().as_raw())
        || options.proxy_groups.contains(&rustix::process::getegid().as_raw())
}

/// Probes both families; a pod without IPv6 is one without a second probe.
///
/// # Errors
/// The connection that was not captured, and where it went.
pub(crate) fn probe(options: &CaptureOptions, port: Port, timeout: Duration) -> Result<(), Error> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let own = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6));
    captured(loopback, own, options, port, timeout)?;
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let own = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6));
    // The address is there only where the kernel has IPv6.
    match TcpListener::bind((own, 0)) {
        Ok(_) => captured(loopback, own, options, port, timeout),
        Err(_) => Ok(()),
    }
}

fn captured(
    loopback: IpAddr,
    own: IpAddr,
    options: &CaptureOptions,
    port: Port,
    timeout: Duration,
) -> Result<(), Error> {
    let dialled = SocketAddr::new(own, port.get());
    let failed = |why: String| Error::NotCaptured { dialled, why };
    let inbound = SocketAddr::new(loopback, options.inbound_port.get());
    let listener = TcpListener::bind(inbound)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| failed(format!("as nobody can listen at {inbound} for it: {error}")))?;
    let stream = dial(loopback, dialled, timeout).map_err(|error| failed(error.to_string()))?;
    // On loopback a connection that the client sees is in its listener's queue.
    let (arrived, from) = listener.accept().map_err(|_| failed(format!("it did not arrive at {inbound}")))?;
    if stream.local_addr().ok() != Some(from) {
        return Err(failed(format!("another one, from {from}, arrived at {inbound}")));
    }
    match original(&arrived, loopback) {
        Ok(Some(original)) if original == dialled => Ok(()),
        Ok(original) => Err(failed(format!("its original destination was told as {original:?}"))),
        Err(error) => Err(failed(format!("its original destination is not known: {error}"))),
    }
}

/// From loopback's own address: the kernel would choose `::6` to call `::6`, and that source is let through.
fn dial(from: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), timeout)?;
    Ok(socket.into())
}

fn original(stream: &TcpStream, family: IpAddr) -> io::Result<Option<SocketAddr>> {
    let socket = SockRef::from(stream);
    let address = match family {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    Ok(address?.as_socket())
}
