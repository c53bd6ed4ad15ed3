//! A socket under HTTP/2: it reads much at once, and writes what was flushed during one turn of the scheduler together.
//!
//! h2 flushes each DATA frame by itself and reads 8 KiB at a time, so a gRPC message costs three system calls; merged it
//! is one. HTTP/1 asks for one read and one write a message already and is only slowed down. The buffers are lent by the
//! thread: an idle connection holds none.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of a buffer, for either direction.
const BLOCK: usize = 64 * 1024;
/// A write of this size, a full DATA frame, is passed through: to copy it would cost more than the call.
const LARGE: usize = 16 * 1024;
/// Buffers that a thread keeps.
const SPARE: usize = 16;
/// Parts of one vectored write: h2 has a head and a payload, and our bytes stand before them.
const PARTS: usize = 4;

thread_local! {
    static BLOCKS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A socket whose flushes are merged.
#[derive(Debug)]
pub(crate) struct Batched<S: AsyncWrite + Unpin> {
    socket: S,
    /// Read, and not yet asked for.
    read: Block,
    /// Written, and not yet sent.
    unsent: Block,
    /// A flush was asked for in this turn; the task is woken for the next.
    due: bool,
}

/// Bytes in a buffer that is borrowed from the thread while there are any.
#[derive(Debug, Default)]
struct Block {
    space: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Block {
    fn filled(&self) -> &[u8] {
        self.space.as_deref().and_then(|space| space.get(self.start..self.end)).unwrap_or_default()
    }

    /// The room behind what is filled.
    fn room(&mut self) -> &mut [u8] {
        let space = self.space.get_or_insert_with(|| {
            BLOCKS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice())
        });
        space.get_mut(self.end..).unwrap_or_default()
    }

    /// Appends what there is room for.
    fn push(&mut self, data: &[u8]) -> usize {
        let room = self.room();
        let count = room.len().min(data.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), data.get(..count)) {
            to.copy_from_slice(from);
        }
        self.end += count;
        count
    }

    /// Forgets bytes at the front; without any the buffer goes back.
    fn advance(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
            if let Some(space) = self.space.take() {
                BLOCKS.with_borrow_mut(|blocks| {
                    if blocks.len() < SPARE {
                        blocks.push(space);
                    }
                });
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl<S: AsyncWrite + Unpin> Batched<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, read: Block::default(), unsent: Block::default(), due: false }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, self.unsent.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(count);
        }
        // TLS may hold what the system did not take.
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.due = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what waits and `data` behind it; says how much of `data` went.
    fn poll_pass(&mut self, cx: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let ours = self.unsent.filled().len();
            let mut parts = [IoSlice::new(&[]); PARTS];
            let all = std::iter::once(self.unsent.filled()).chain(data.iter().map(|part| &**part));
            for (part, bytes) in parts.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
                *part = IoSlice::new(bytes);
            }
            let count = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &parts))?;
            self.unsent.advance(count.min(ours));
            if count > ours || count == 0 {
                return Poll::Ready(Ok(count.saturating_sub(ours)));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // h2 reads whenever its task runs, so this is where the next turn begins.
        if this.due
            && let Poll::Ready(Err(error)) = this.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        if this.read.is_empty() {
            if buffer.remaining() >= BLOCK {
                return Pin::new(&mut this.socket).poll_read(cx, buffer);
            }
            let mut space = ReadBuf::new(this.read.room());
            let polled = Pin::new(&mut this.socket).poll_read(cx, &mut space);
            this.read.end = space.filled().len();
            if !matches!(polled, Poll::Ready(Ok(()))) {
                this.read.advance(0);
                return polled;
            }
        }
        let filled = this.read.filled();
        let count = filled.len().min(buffer.remaining());
        buffer.put_slice(filled.get(..count).unwrap_or_default());
        this.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let total: usize = data.iter().map(|part| part.len()).sum();
        if total >= LARGE {
            return this.poll_pass(cx, data);
        }
        if this.unsent.end + total > BLOCK {
            ready!(this.poll_send(cx))?;
        }
        Poll::Ready(Ok(data.iter().map(|part| this.unsent.push(part)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Puts it off by one turn of the scheduler: what other tasks hand in until then leaves with it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() && !self.due {
            return Pin::new(&mut self.socket).poll_flush(cx);
        }
        if !self.due {
            self.due = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Batched<S> {
    /// What was flushed in the connection's last turn still leaves, as far as the system takes it.
    fn drop(&mut self) {
        let _ = self.poll_send(&mut Context::from_waker(Waker::noop()));
        self.unsent.advance(BLOCK);
        self.read.advance(BLOCK);
    }
}

#[cfg(test)]
mod tests;
