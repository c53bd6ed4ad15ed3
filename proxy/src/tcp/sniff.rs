//! The server name of a TLS hello, before a connection has a route.

use std::{cell::RefCell, io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::hello::{self, Hello};
use crate::net::peek::{Seen, peek};

/// From the first byte to the end of the hello.
const LIMIT: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
pub(super) enum Sniffed {
    /// The server name that the client asks for; none if it asks for none or does not speak TLS.
    Name(Option<Box<str>>),
    /// There was no byte in time.
    Silent,
    /// The client closed too early, took too long, or its hello is too long.
    Unfinished,
}

/// Waits for the first byte for as long as `silence`, and for a hello that fits into `space`.
///
/// # Errors
/// Those of the socket.
pub(super) async fn server_name(
    stream: &TcpStream,
    silence: Duration,
    space: &RefCell<Vec<u8>>,
) -> io::Result<Sniffed> {
    if timeout(silence, stream.readable()).await.is_err() {
        return Ok(Sniffed::Silent);
    }
    let whole = peek(stream, space, |bytes| match hello::read(bytes) {
        Hello::Tls(name) => Some(name),
        Hello::Other => Some(None),
        Hello::Partial => None,
    });
    Ok(match timeout(LIMIT, whole).await {
        Ok(seen) => match seen? {
            Seen::Found(name) => Sniffed::Name(name),
            Seen::Unfinished { .. } => Sniffed::Unfinished,
        },
        Err(_) => Sniffed::Unfinished,
    })
}
