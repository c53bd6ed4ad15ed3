//! The client's body on its way up.
//!
//! [`Upload`] is streamed to the upstream and kept while it fits, so that a retry can send it again; [`RequestBody`] is
//! one try's view of it. Nothing is collected before it is sent. A mirror's upload is a copy of it, see [`tap`].

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    client_body::{BodyFailure, ClientBody},
    headers::clean_trailers,
    replay::{Kept, ReplayBudget},
    tap::{Feed, Tap, tap},
};

/// The client's body, shared by the tries of one request.
#[derive(Debug)]
pub(crate) struct Upload {
    state: RefCell<State>,
    received: Cell<u64>,
    ended: Cell<Option<Instant>>,
    failure: Cell<Option<BodyFailure>>,
    abandoned: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct State {
    source: Source,
    /// Copies of what is read here.
    feeds: Vec<Feed>,
    /// Length that the client announced.
    length: Option<u64>,
    keeps: bool,
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// Number of the try that may read.
    turn: u32,
}

/// Who sends it.
#[derive(Debug)]
enum Source {
    Client(ClientBody),
    /// The upload of the request that is mirrored.
    Copy(Tap),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        match self {
            Self::Client(body) => body.poll_frame(cx),
            Self::Copy(tap) => tap.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Copy(tap) => tap.is_end_stream(),
        }
    }
}

impl State {
    fn finish_copies(&mut self, trailers: Option<&HeaderMap>) {
        self.feeds.drain(..).for_each(|feed| feed.finish(trailers));
    }

    fn forget_if_read(&mut self) {
        if !self.keeps && self.kept.is_read() {
            self.kept.forget();
        }
    }
}

impl Upload {
    /// `keeps`: a retry may follow, so what is sent is kept.
    pub(crate) fn new(body: ClientBody, keeps: bool, budget: Rc<ReplayBudget>) -> Rc<Self> {
        let length = body.length();
        Self::of(Source::Client(body), length, keeps, budget)
    }

    fn of(source: Source, length: Option<u64>, keeps: bool, budget: Rc<ReplayBudget>) -> Rc<Self> {
        let ended = source.is_end_stream().then(Instant::now);
        let kept = Kept::new(budget);
        let state = State { source, feeds: Vec::new(), length, keeps, kept, trailers: None, turn: 0 };
        Rc::new(Self {
            state: RefCell::new(state),
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
        state.kept.rewind();
        Some(RequestBody { upload: Rc::clone(self), turn: state.turn, sent: 0, trailers_sent: false })
    }

    /// The upload of a mirror, which gets all that this one reads. Asked for before anything was read.
    pub(crate) fn copy(&self) -> Rc<Self> {
        let mut state = self.state.borrow_mut();
        let budget = state.kept.budget();
        let (feed, tap) = tap(Rc::clone(budget));
        let budget = Rc::clone(budget);
        match self.ended.get() {
            Some(_) => feed.finish(None),
            None => state.feeds.push(feed),
        }
        Self::of(Source::Copy(tap), state.length, false, budget)
    }

    /// Whether anyone still wants a copy of the rest.
    pub(crate) fn is_copied(&self) -> bool {
        let feeds = &mut self.state.borrow_mut().feeds;
        feeds.retain(Feed::is_wanted);
        !feeds.is_empty()
    }

    /// What the tries have left unread, if it is for a copy to have.
    pub(crate) fn rest(self: &Rc<Self>) -> Option<RequestBody> {
        if !self.is_copied() || self.failure.get().is_some() {
            return None;
        }
        let mut state = self.state.borrow_mut();
        state.turn += 1;
        Some(RequestBody { upload: Rc::clone(self), turn: state.turn, sent: 0, trailers_sent: false })
    }

    /// Of a copy: waits until its end will never come; `true` if it was taken too slowly, or memory is short.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match &self.state.borrow().source {
            Source::Client(_) => Poll::Pending,
            Source::Copy(tap) => tap.poll_cut(cx),
        }
    }

    /// The last try is under way: nothing more is kept, and what it has sent is forgotten.
    pub(crate) fn settle(&self) {
        let mut state = self.state.borrow_mut();
        state.keeps = false;
        state.forget_if_read();
    }

    /// Whether it is complete and nothing came.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended.get().is_some() && self.received.get() == 0 && self.state.borrow().trailers.is_none()
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

    /// It grew too large to be kept, or memory is short (Envoy `retry_or_shadow_abandoned`).
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
        if !state.kept.keep(data) {
            state.keeps = false;
            state.kept.forget();
            self.abandoned.set(true);
        }
    }
}

/// The request body as one try sends it.
#[derive(Debug)]
pub(crate) struct RequestBody {
    upload: Rc<Upload>,
    turn: u32,
    sent: u64,
    trailers_sent: bool,
}

/// Why a request body broke off.
#[derive(Debug)]
pub(crate) enum RequestBodyError {
    /// The client left or broke the framing, or there was no memory for more.
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
        if let Some(data) = state.kept.read() {
            state.forget_if_read();
            this.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if upload.ended.get().is_some() {
            let trailers = state.trailers.clone().filter(|_| !this.trailers_sent);
            this.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(state.source.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(failure)) => {
                upload.failure.set(Some(failure));
                state.feeds.clear();
                return Poll::Ready(Some(Err(RequestBodyError::Client)));
            }
            None => {
                upload.end();
                state.finish_copies(None);
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
                state.finish_copies(Some(&trailers));
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        };
        upload.received.set(upload.received.get() + data.len() as u64);
        this.sent += data.len() as u64;
        upload.keep(state, &data);
        state.feeds.retain(|feed| feed.push(&data));
        if state.source.is_end_stream() {
            upload.end();
            state.finish_copies(None);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.state.borrow();
        self.upload.ended.get().is_some()
            && self.turn == state.turn
            && state.kept.is_read()
            && (self.trailers_sent || state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match self.upload.state.borrow().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use hyper::{Response, body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{io::AsyncWriteExt, sync::mpsc, task::spawn_local};

    use super::*;

    /// The body of a request that hyper has read.
    async fn incoming(chunks: &str) -> ClientBody {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let (found, mut bodies) = mpsc::channel(1);
        let service = service_fn(move |request: http::Request<Incoming>| {
            let found = found.clone();
            async move {
                found.send(request.into_body()).await.unwrap();
                // Unanswered, so that the body stays alive.
                std::future::pending::<Result<Response<String>, Infallible>>().await
            }
        });
        spawn_local(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        let head = "POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write_all(format!("{head}{chunks}").as_bytes()).await.unwrap();
        ClientBody::new(bodies.recv().await.unwrap(), Rc::default())
    }

    async fn frame(body: &mut RequestBody) -> Option<Bytes> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        frame.unwrap().into_data().ok()
    }

    const CHUNKS: &str = "4\r\nhalf\r\n4\r\nrest\r\n0\r\n\r\n";

    #[tokio::test(flavor = "local")]
    async fn what_the_final_try_has_sent_is_forgotten_when_it_is_settled() {
        let budget = Rc::new(ReplayBudget::default());
        let upload = Upload::new(incoming(CHUNKS).await, true, Rc::clone(&budget));
        let mut body = upload.body().unwrap();
        while frame(&mut body).await.is_some() {}
        assert_eq!(budget.in_use(), 8);
        upload.settle();
        assert_eq!(budget.in_use(), 0, "while the answer flows");
    }

    #[tokio::test(flavor = "local")]
    async fn what_the_final_try_has_yet_to_send_is_kept_until_then() {
        let budget = Rc::new(ReplayBudget::default());
        let upload = Upload::new(incoming(CHUNKS).await, true, Rc::clone(&budget));
        let mut first = upload.body().unwrap();
        while frame(&mut first).await.is_some() {}
        let mut second = upload.body().unwrap();
        upload.settle();
        assert_eq!(budget.in_use(), 8);
        assert_eq!(frame(&mut second).await.unwrap(), "half");
        assert_eq!((budget.in_use(), second.is_end_stream()), (8, false));
        assert_eq!(frame(&mut second).await.unwrap(), "rest");
        assert_eq!((budget.in_use(), second.is_end_stream()), (0, true));
        assert!(frame(&mut second).await.is_none());
    }
}
