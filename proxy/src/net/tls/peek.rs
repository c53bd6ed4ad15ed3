//! Looks at the first bytes of a connection for a TLS hello, and leaves them in the socket: they go upstream as they came,
//! or to the handshake, and a connection that is refused is closed unread, as Envoy does.

use std::{cell::RefCell, io, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use super::hello::{self, Asked, Hello};
use crate::net::peek::{Seen, peek};

/// From the first byte to the end of the hello.
const LIMIT: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug)]
pub(crate) enum Sniffed {
    /// What the client asks for; `None` if it does not speak TLS.
    Hello(Option<Asked>),
    /// There was no byte in time.
    Silent,
    /// The client closed too early, took too long, or its hello is too long.
    Unfinished,
}

/// Waits for the first byte for as long as `silence`, and for a hello that fits into `space`.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn hello(
    stream: &TcpStream,
    silence: Duration,
    space: &RefCell<Vec<u8>>,
) -> io::Result<Sniffed> {
    if timeout(silence, stream.readable()).await.is_err() {
        return Ok(Sniffed::Silent);
    }
    let whole = peek(stream, space, |bytes| match hello::read(bytes) {
        Hello::Tls(asked) => Some(Some(asked)),
        Hello::Other => Some(None),
        Hello::Partial => None,
    });
    Ok(match timeout(LIMIT, whole).await {
        Ok(seen) => match seen? {
            Seen::Found(asked) => Sniffed::Hello(asked),
            Seen::Unfinished { .. } => Sniffed::Unfinished,
        },
        Err(_) => Sniffed::Unfinished,
    })
}
