//! Copies bytes both ways between two sockets until both sides have ended, one is reset, or time is up.
//!
//! All connections of a worker read into one buffer. Only what a slow receiver does not take is kept by the connection,
//! and only until nothing more comes: one that waits holds no buffer at all.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::net::tls::Stream;

/// The buffer of a worker.
pub(crate) const BUFFER: usize = 64 * 1024;
/// Reads of one connection before others have their turn.
const TURN: usize = 8;

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides have sent their last; the client did so second.
    ByClient,
    /// The same, and the endpoint was second.
    ByUpstream,
    /// The client has reset its connection.
    ClientReset,
    /// The endpoint has reset its connection.
    UpstreamReset,
    /// Nothing passed for too long.
    Idle,
    /// It is too old.
    TooOld,
}

/// When a connection is ended although both sides are well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The longest time in which nothing passes.
    pub(super) idle: Option<Duration>,
    /// When it is too old.
    pub(super) deadline: Option<Instant>,
}

/// Where bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From the client to the endpoint.
    Up,
    /// From the endpoint to the client.
    Down,
}

/// Copies to the end. `count` sees the bytes that were read from the client, and those that were written to it.
pub(super) async fn relay(
    client: &mut Stream,
    upstream: &mut Stream,
    buffer: &RefCell<Vec<u8>>,
    limits: Limits,
    mut count: impl FnMut(Way, u64),
) -> Ended {
    let (mut up, mut down) = (Half::default(), Half::default());
    let mut timer = Timer::new(limits);
    poll_fn(|cx| {
        let buffer = &mut *buffer.borrow_mut();
        let mut moved = false;
        let mut seen = |way, bytes| {
            moved = true;
            count(way, bytes);
        };
        let upwards = up.poll(client, upstream, buffer, cx, |step| {
            if let Step::Read(bytes) = step {
                seen(Way::Up, bytes);
            }
        });
        if let Poll::Ready(Err(side)) = upwards {
            return Poll::Ready(match side {
                Side::From => Ended::ClientReset,
                Side::To => Ended::UpstreamReset,
            });
        }
        let downwards = down.poll(upstream, client, buffer, cx, |step| {
            if let Step::Written(bytes) = step {
                seen(Way::Down, bytes);
            }
        });
        match (upwards, downwards) {
            (_, Poll::Ready(Err(Side::From))) => return Poll::Ready(Ended::UpstreamReset),
            (_, Poll::Ready(Err(Side::To))) => return Poll::Ready(Ended::ClientReset),
            (Poll::Ready(Ok(Shut::Now)), Poll::Ready(Ok(Shut::Before))) => {
                return Poll::Ready(Ended::ByClient);
            }
            (Poll::Ready(Ok(_)), Poll::Ready(Ok(_))) => return Poll::Ready(Ended::ByUpstream),
            _ => {}
        }
        timer.poll(moved, cx)
    })
    .await
}

/// Which side of a half failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// When a half ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shut {
    Now,
    Before,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Read(u64),
    Written(u64),
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    /// What the receiver has not taken yet, from `sent` on.
    held: Vec<u8>,
    sent: usize,
    /// The sender has sent its last.
    ended: bool,
    /// The receiver knows.
    shut: bool,
}

impl Half {
    /// Ready when the sender's end has been passed on.
    fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
        mut step: impl FnMut(Step),
    ) -> Poll<Result<Shut, Side>> {
        if self.shut {
            return Poll::Ready(Ok(Shut::Before));
        }
        for _ in 0..TURN {
            while let Some(rest @ [_, ..]) = self.held.get(self.sent..) {
                let written = ready!(write(to, rest, cx)).map_err(|_| Side::To)?;
                step(Step::Written(written as u64));
                self.sent += written;
            }
            self.held.clear();
            self.sent = 0;
            if self.ended {
                // A socket that is closed already needs no shutdown.
                let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                self.held = Vec::new();
                self.shut = true;
                return Poll::Ready(Ok(Shut::Now));
            }
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                // TLS that ends without saying so: an end all the same for bytes of which nothing is known.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Side::From)),
                Poll::Pending => {
                    self.held = Vec::new();
                    // TLS may hold what the socket did not take.
                    return match Pin::new(&mut *to).poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Side::To)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                }
            }
            let fresh = read.filled();
            self.ended = fresh.is_empty();
            if self.ended {
                continue;
            }
            step(Step::Read(fresh.len() as u64));
            let mut written = 0;
            while let Some(rest @ [_, ..]) = fresh.get(written..) {
                match write(to, rest, cx) {
                    Poll::Ready(result) => {
                        let taken = result.map_err(|_| Side::To)?;
                        step(Step::Written(taken as u64));
                        written += taken;
                    }
                    Poll::Pending => {
                        self.held.extend_from_slice(rest);
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn write(to: &mut Stream, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    Pin::new(to).poll_write(cx, bytes)
}

/// Fires when time is up; it is moved only when it fires.
struct Timer {
    limits: Limits,
    last: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn new(limits: Limits) -> Self {
        let last = Instant::now();
        let mut timer = Self { limits, last, sleep: None };
        timer.sleep = timer.next().map(|at| Box::pin(sleep_until(at)));
        timer
    }

    fn next(&self) -> Option<Instant> {
        let idle = self.limits.idle.map(|idle| self.last + idle);
        [idle, self.limits.deadline].into_iter().flatten().min()
    }

    fn poll(&mut self, moved: bool, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.sleep.is_none() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if moved {
            self.last = now;
        }
        let next = self.next();
        let Some((sleep, next)) = self.sleep.as_mut().zip(next) else { return Poll::Pending };
        while sleep.as_mut().poll(cx).is_ready() {
            if next <= now {
                let old = self.limits.deadline.is_some_and(|deadline| deadline <= now);
                return Poll::Ready(if old { Ended::TooOld } else { Ended::Idle });
            }
            sleep.as_mut().reset(next);
        }
        Poll::Pending
    }
}
