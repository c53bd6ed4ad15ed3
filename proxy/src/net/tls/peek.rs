//! Looks at the first bytes of a connection for a TLS hello, and leaves them in the socket: they go upstream as they came,
//! or to the handshake, and a connection that is refused is closed unread, as Envoy does.

use std::{cell::RefCell, future::poll_fn, io, time::Duration};

use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::hello::{self, Asked, Hello};

/// From the first byte to the end of the hello.
const LIMIT: Duration = Duration::from_secs(5);

/// What the client asks for, `Some(None)` if it does not speak TLS. `idle` limits the wait for the first byte, `space`
/// the length of a hello. `None`: the client sent nothing, closed too early, took too
/// long, or its hello is too long.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn hello(
    stream: &TcpStream,
    idle: Duration,
    space: &RefCell<Vec<u8>>,
) -> io::Result<Option<Option<Asked>>> {
    if timeout(idle, stream.readable()).await.is_err() {
        return Ok(None);
    }
    let whole = async {
        loop {
            let closed = stream.ready(Interest::READABLE).await?.is_read_closed();
            let (length, found) = peek(stream, space).await?;
            match found {
                Hello::Tls(asked) => return Ok(Some(Some(asked))),
                Hello::Other => return Ok(Some(None)),
                Hello::Partial if closed || length == space.borrow().len() => return Ok(None),
                // What was peeked at is still there: wait for the next event, not for bytes.
                Hello::Partial => {
                    let _: io::Result<()> =
                        stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
                }
            }
        }
    };
    timeout(LIMIT, whole).await.unwrap_or(Ok(None))
}

async fn peek(stream: &TcpStream, space: &RefCell<Vec<u8>>) -> io::Result<(usize, Hello)> {
    poll_fn(|cx| {
        let space = &mut *space.borrow_mut();
        let mut buffer = ReadBuf::new(space);
        stream.poll_peek(cx, &mut buffer).map_ok(|length| (length, hello::read(buffer.filled())))
    })
    .await
}
