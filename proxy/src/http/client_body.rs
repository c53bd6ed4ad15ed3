//! A request's body as the client sends it, read while there is memory for it. What becomes of it is the business of
//! `upload`.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use crate::overload::Allowance;

/// Why a client's body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFailure {
    /// The client left, or reset its stream.
    Left,
    /// Its framing is broken.
    Malformed,
    /// There was no memory for the rest of it.
    Starved,
}

impl BodyFailure {
    fn of(error: &hyper::Error) -> Self {
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            // hyper's chunk decoder knows no better words for what it cannot read.
            let kind = error.downcast_ref().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)) {
                return Self::Malformed;
            }
            if error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_library) {
                return Self::Malformed;
            }
            next = error.source();
        }
        Self::Left
    }
}

/// The body, and what it may fill.
#[derive(Debug)]
pub(crate) struct ClientBody {
    incoming: Incoming,
    allowance: Rc<Allowance>,
    waiting: Option<Waiting>,
}

/// For memory; the client is held back meanwhile.
struct Waiting(Pin<Box<dyn Future<Output = bool>>>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl ClientBody {
    pub(crate) fn new(incoming: Incoming, allowance: Rc<Allowance>) -> Self {
        Self { incoming, allowance, waiting: None }
    }

    /// Length that the client announced.
    pub(super) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let has_room = ready!(self.poll_room(cx));
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            // What needs no memory is taken all the same: the end, or why there is none.
            if !has_room && !data.is_empty() {
                return Poll::Ready(Some(Err(BodyFailure::Starved)));
            }
            self.allowance.spend(data.len());
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyFailure::of(&error))))
    }

    /// Waits until more may be read; `false` if there is no memory for it.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.waiting.is_none() {
            if self.allowance.has_room() {
                return Poll::Ready(true);
            }
            self.waiting = Some(Waiting(Box::pin(self.allowance.room())));
        }
        let found = match &mut self.waiting {
            Some(waiting) => ready!(waiting.0.as_mut().poll(cx)),
            None => true,
        };
        self.waiting = None;
        Poll::Ready(found)
    }
}
