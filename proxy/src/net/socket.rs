//! The one wrapper around a downstream socket: replays what the sniffer read, passes HTTP/1 through the gate, and
//! lingers when it closes. Bytes on the wire are not counted here: records count them by request.
//!
//! It is `Send`, as an upgraded connection needs it. A refused head is replaced by a stand-in request, so that the
//! refusal is answered, logged and ordered behind earlier answers like any other request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    gate::{Gate, Verdict},
    head::Violation,
    tls::Stream,
};

/// From the first byte of a request head to its last (Envoy `request_headers_timeout`, which is off there).
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a closed connection still reads, so that the last answer is not lost to a reset (Envoy
/// `delayed_close_timeout`).
const LINGER: Duration = Duration::from_secs(1);
/// What hyper is given in the place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";

/// A downstream connection as hyper sees it.
pub(crate) struct Socket {
    stream: Stream,
    view: Arc<SocketView>,
    /// Bytes that may be read next: sniffed, or released by the gate.
    ready: BytesMut,
    /// An incomplete head.
    held: BytesMut,
    gate: Option<Gate>,
    head_timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Something was written since the last flush.
    unflushed: bool,
}

/// What is known of a socket while hyper has it.
#[derive(Debug, Default)]
pub(crate) struct SocketView {
    /// Which request was refused by the gate.
    refusal: OnceLock<(u64, Violation)>,
    quiet: AtomicBool,
}

impl SocketView {
    /// Why request number `index` (from 0) of the connection is a stand-in.
    pub(crate) fn violation(&self, index: u64) -> Option<Violation> {
        self.refusal.get().filter(|(at, _)| *at == index).map(|(_, violation)| *violation)
    }

    /// Whether the last thing that hyper did was to wait for the next head, with nothing left to send. That is HTTP/1
    /// between two requests, if none is under way: within a body, and behind a refused head, it is not.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Relaxed)
    }

    /// Forgets what hyper did last.
    pub(crate) fn forget(&self) {
        self.quiet.store(false, Relaxed);
    }
}

impl Socket {
    /// Wraps a stream of which `sniffed` was read already.
    pub(crate) fn new(stream: Stream, sniffed: BytesMut, http1: bool) -> Self {
        let mut socket = Self {
            stream,
            view: Arc::default(),
            unflushed: false,
            ready: BytesMut::new(),
            held: BytesMut::new(),
            gate: http1.then(Gate::default),
            head_timer: None,
            lingering: None,
            ended: false,
        };
        if http1 {
            socket.held = sniffed;
            socket.release();
        } else {
            socket.ready = sniffed;
        }
        socket
    }

    /// For the service.
    pub(crate) fn view(&self) -> Arc<SocketView> {
        Arc::clone(&self.view)
    }

    /// Waits until the client sends something or closes.
    pub(crate) async fn readable(&self) {
        // An error is seen by the read that follows.
        let _ = self.stream.tcp().readable().await;
    }

    /// hyper waits for bytes: is it between two requests?
    fn note_waiting(&self) {
        let between = self.gate.as_ref().is_some_and(Gate::is_between_requests);
        self.view.quiet.store(between && self.held.is_empty() && !self.unflushed, Relaxed);
    }

    fn note_write(&mut self) {
        self.unflushed = true;
        self.view.forget();
    }

    /// Judges what is held back.
    fn release(&mut self) {
        let Some(gate) = &mut self.gate else { return };
        match gate.admit(&self.held) {
            Verdict::All => {
                self.ready.unsplit(std::mem::take(&mut self.held));
                self.head_timer = None;
            }
            Verdict::Hold(passed) => {
                let passed = self.held.split_to(passed);
                if !passed.is_empty() {
                    self.ready.unsplit(passed);
                    self.head_timer = None;
                }
                self.head_timer.get_or_insert_with(|| Box::pin(sleep(HEAD_TIMEOUT)));
            }
            Verdict::Refuse(passed, violation) => {
                self.held.truncate(passed);
                self.ready.unsplit(std::mem::take(&mut self.held));
                self.refuse(violation);
            }
        }
    }

    fn refuse(&mut self, violation: Violation) {
        let index = self.gate.as_ref().map_or(0, Gate::heads);
        // Only one head is ever refused: nothing passes behind it.
        let _ = self.view.refusal.set((index, violation));
        self.ready.extend_from_slice(STAND_IN);
        self.held = BytesMut::new();
        self.head_timer = None;
    }

    /// Judges bytes that stand in the reader's buffer, in place: a whole head is never copied.
    fn admit(&mut self, buffer: &mut ReadBuf<'_>, start: usize) {
        let Some(gate) = &mut self.gate else { return };
        let fresh = buffer.filled().get(start..).unwrap_or_default();
        if !self.held.is_empty() {
            self.held.extend_from_slice(fresh);
            buffer.set_filled(start);
            self.release();
            return;
        }
        match gate.admit(fresh) {
            Verdict::All => {}
            Verdict::Hold(passed) => {
                self.held.extend_from_slice(fresh.get(passed..).unwrap_or_default());
                buffer.set_filled(start + passed);
                self.head_timer = Some(Box::pin(sleep(HEAD_TIMEOUT)));
            }
            Verdict::Refuse(passed, violation) => {
                buffer.set_filled(start + passed);
                self.refuse(violation);
            }
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let start = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - start;
        self.ended |= count == 0;
        Poll::Ready(Ok(count))
    }

    /// Reads and forgets until the client closes.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 1024];
        while !self.ended {
            ready!(self.poll_stream(cx, &mut ReadBuf::new(&mut space)))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buffer.remaining());
                buffer.put_slice(this.ready.get(..count).unwrap_or_default());
                this.ready.advance(count);
                if this.ready.is_empty() {
                    // The gate is rarely needed: its memory is given back.
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.view.refusal.get().is_some() {
                return this.poll_discard(cx);
            }
            let start = buffer.filled().len();
            let ended = this.ended;
            match this.poll_stream(cx, buffer) {
                Poll::Ready(read) => {
                    if read? == 0 {
                        if !ended {
                            // hyper looks for the end before it hands on a request, which may have come with it.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        return Poll::Ready(Ok(()));
                    }
                    this.admit(buffer, start);
                    if buffer.filled().len() > start {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => {
                    this.note_waiting();
                    let Some(timer) = &mut this.head_timer else { return Poll::Pending };
                    ready!(timer.as_mut().poll(cx));
                    this.refuse(Violation::Timeout);
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Ends the sending side, then reads until the client has closed as well, but no longer than [`LINGER`].
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.view.forget();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.lingering = Some(Box::pin(sleep(LINGER)));
        }
        if this.poll_discard(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Some(timer) = &mut this.lingering {
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
