//! Ports that stay closed, for the tests of all modules and those in `tests`.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// An address of loopback that refuses connections until a test listens there with `SO_REUSEADDR`, as all listeners of
/// ours do. Nobody else gets its port, for as long as the process lives.
pub(crate) fn reserved_address() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Bound, and never listening: the system gives the port to no bind that lets it choose.
    std::mem::forget(socket);
    address
}
