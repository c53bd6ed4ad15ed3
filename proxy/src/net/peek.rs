//! Looks at the first bytes of a connection, and leaves them in the socket: they go upstream as they came, and a
//! connection that is refused is closed unread, as Envoy does.

use std::{cell::RefCell, future::poll_fn, io};

use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen<T> {
    /// Enough.
    Found(T),
    /// No more will come, or there is no room for it: the client has closed its side, or filled `space`. There was
    /// something, or nothing at all.
    Unfinished { empty: bool },
}

/// Shows `read` more and more of the beginning until that has found something. Waits without an end.
///
/// # Errors
/// Those of the socket.
pub(crate) async fn peek<T>(
    stream: &TcpStream,
    space: &RefCell<Vec<u8>>,
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Seen<T>> {
    loop {
        let closed = stream.ready(Interest::READABLE).await?.is_read_closed();
        let (length, found) = look(stream, space, &read).await?;
        match found {
            Some(found) => return Ok(Seen::Found(found)),
            None if closed || length == space.borrow().len() => {
                return Ok(Seen::Unfinished { empty: length == 0 });
            }
            // What was peeked at is still there: wait for the next event, not for bytes.
            None => {
                let _: io::Result<()> =
                    stream.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
            }
        }
    }
}

async fn look<T>(
    stream: &TcpStream,
    space: &RefCell<Vec<u8>>,
    read: &impl Fn(&[u8]) -> Option<T>,
) -> io::Result<(usize, Option<T>)> {
    poll_fn(|cx| {
        let space = &mut *space.borrow_mut();
        let mut buffer = ReadBuf::new(space);
        stream.poll_peek(cx, &mut buffer).map_ok(|length| (length, read(buffer.filled())))
    })
    .await
}
