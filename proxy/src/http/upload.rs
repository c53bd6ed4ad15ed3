//! The client's body on its way up.
//!
//! [`Upload`] is streamed to the upstream and kept while it fits, so that a retry can send it again; [`RequestBody`] is
//! one try's view of it. Nothing is collected before it is sent.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::headers::clean_trailers;

/// A larger body is sent once and never again (Envoy `per_connection_buffer_limit_bytes`).
const MAX_KEPT: usize = 1 << 20;
/// Bodies that one worker keeps for retries, together.
const MAX_KEPT_PER_WORKER: usize = 64 << 20;

/// Bytes that the worker may still keep for retries.
#[derive(Debug)]
pub(crate) struct ReplayBudget(Cell<usize>);

impl Default for ReplayBudget {
    fn default() -> Self {
        Self(Cell::new(MAX_KEPT_PER_WORKER))
    }
}

impl ReplayBudget {
    fn take(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        if let Some(left) = left {
            self.0.set(left);
        }
        left.is_some()
    }

    fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
}

/// Why a client's body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFailure {
    /// The client left, or reset its stream.
    Left,
    /// Its framing is broken.
    Malformed,
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

/// The client's body, shared by the tries of one request.
#[derive(Debug)]
pub(crate) struct Upload {
    state: RefCell<State>,
    budget: Rc<ReplayBudget>,
    received: Cell<u64>,
    ended: Cell<Option<Instant>>,
    failure: Cell<Option<BodyFailure>>,
    abandoned: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct State {
    incoming: Incoming,
    /// Length that the client announced.
    length: Option<u64>,
    keeps: bool,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// Number of the try that may read.
    turn: u32,
}

impl Upload {
    /// `keeps`: a retry may follow, so what is sent is kept.
    pub(crate) fn new(incoming: Incoming, keeps: bool, budget: Rc<ReplayBudget>) -> Rc<Self> {
        let ended = incoming.is_end_stream().then(Instant::now);
        let length = incoming.size_hint().exact();
        let state =
            State { incoming, length, keeps, kept: Vec::new(), kept_bytes: 0, trailers: None, turn: 0 };
        Rc::new(Self {
            state: RefCell::new(state),
            budget,
            received: Cell::new(0),
            ended: Cell::new(ended),
            failure: Cell::new(None),
            abandoned: Cell::new(false),
            waiting: RefCell::new(None),
        })
    }

    /// The body for the next try, from its beginning; the one before reads no more. `None` if it cannot be sent again.
    pub(crate) fn body(self: &Rc<Self>) -> Option<RequestBody> {
        let mut state = self.state.borrow_mut();
        if self.failure.get().is_some() || (state.turn > 0 && !state.keeps && self.received.get() > 0) {
            return None;
        }
        state.turn += 1;
        Some(RequestBody {
            upload: Rc::clone(self),
            turn: state.turn,
            next: 0,
            sent: 0,
            trailers_sent: false,
        })
    }

    /// The last try is under way: nothing more is kept.
    pub(crate) fn settle(&self) {
        self.state.borrow_mut().keeps = false;
    }

    /// Body bytes that came.
    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// When the request was complete.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// Waits for that; one task of the request at a time.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        match self.ended.get() {
            Some(ended) => Poll::Ready(ended),
            None => {
                self.waiting.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Why the rest of it will never come.
    pub(crate) fn failure(&self) -> Option<BodyFailure> {
        self.failure.get()
    }

    /// It grew too large to be kept (Envoy `retry_or_shadow_abandoned`).
    pub(crate) fn was_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    fn end(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
        }
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Keeps a frame for the next try; without room nothing is kept any more.
    fn keep(&self, state: &mut State, data: &Bytes) {
        if !state.keeps {
            return;
        }
        if state.kept_bytes + data.len() <= MAX_KEPT && self.budget.take(data.len()) {
            state.kept_bytes += data.len();
            state.kept.push(data.clone());
        } else {
            state.keeps = false;
            self.abandoned.set(true);
        }
    }

    fn forget(&self, state: &mut State) {
        state.kept = Vec::new();
        self.budget.give_back(std::mem::take(&mut state.kept_bytes));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.budget.give_back(self.state.get_mut().kept_bytes);
    }
}

/// The request body as one try sends it.
#[derive(Debug)]
pub(crate) struct RequestBody {
    upload: Rc<Upload>,
    turn: u32,
    /// Index of the kept frame that comes next.
    next: usize,
    sent: u64,
    trailers_sent: bool,
}

/// Why a request body broke off.
#[derive(Debug)]
pub(crate) enum RequestBodyError {
    /// The client left or broke the framing.
    Client,
    /// A later try took over.
    Superseded,
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client's body broke off",
            Self::Superseded => "another try took over",
        })
    }
}

// The client's error is no source: its HTTP/2 reason is no business of the upstream.
impl Error for RequestBodyError {}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let upload = &*this.upload;
        let state = &mut *upload.state.borrow_mut();
        if state.turn != this.turn {
            return Poll::Ready(Some(Err(RequestBodyError::Superseded)));
        }
        if let Some(data) = state.kept.get(this.next) {
            this.next += 1;
            this.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if upload.ended.get().is_some() {
            let trailers = state.trailers.clone().filter(|_| !this.trailers_sent);
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut state.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                upload.failure.set(Some(BodyFailure::of(&error)));
                return Poll::Ready(Some(Err(RequestBodyError::Client)));
            }
            None => {
                upload.end();
                return Poll::Ready(None);
            }
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                clean_trailers(&mut trailers);
                if state.keeps {
                    state.trailers = Some(trailers.clone());
                }
                this.trailers_sent = true;
                upload.end();
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        };
        upload.received.set(upload.received.get() + data.len() as u64);
        this.sent += data.len() as u64;
        upload.keep(state, &data);
        if state.keeps {
            this.next = state.kept.len();
        } else {
            upload.forget(state);
            this.next = 0;
        }
        if state.incoming.is_end_stream() {
            upload.end();
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.state.borrow();
        self.upload.ended.get().is_some()
            && self.next >= state.kept.len()
            && (self.trailers_sent || state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match self.upload.state.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::new(),
        }
    }
}
