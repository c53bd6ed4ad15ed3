//! The body of an upstream response: it holds the connection until its true end, and never ends cleanly when it was cut.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Payload, ResetReason, lease::Flight};

/// Dropped before its end, it cancels the request and gives back all that it held.
#[derive(Debug)]
pub struct ResponseBody<B: Payload> {
    incoming: Incoming,
    /// `None` once the response has ended.
    flight: Option<Flight<B>>,
    /// An end without an end-of-stream flag is believed: the headers or trailers said all.
    complete: bool,
}

impl<B: Payload> ResponseBody<B> {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap, flight: Flight<B>) -> Self {
        // HTTP/1 errors are explicit; in HTTP/2 hyper takes RST_STREAM(NO_ERROR) for an end (see `poll_frame`).
        let complete = flight.is_h1() || headers.contains_key(GRPC_STATUS);
        let mut body = Self { incoming, flight: Some(flight), complete };
        body.end_if_complete();
        body
    }

    fn end_if_complete(&mut self) {
        if self.incoming.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(flight) = self.flight.take() {
            flight.finish();
        }
    }

    fn fail(&mut self, reason: ResetReason) -> Poll<Option<Result<Frame<Bytes>, ResetReason>>> {
        if let Some(flight) = self.flight.take() {
            flight.fail(reason);
        }
        Poll::Ready(Some(Err(reason)))
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl<B: Payload> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = ResetReason;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResetReason>>> {
        if self.flight.is_none() {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.complete |= frame.is_trailers();
                self.end_if_complete();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let h1 = self.flight.as_ref().is_some_and(Flight::is_h1);
                let reason = if h1 { ResetReason::of_h1(&error, true) } else { ResetReason::of_h2(&error) };
                self.fail(reason)
            }
            // The peer may end a complete response with RST_STREAM(NO_ERROR) (RFC 9113 8.1), and hyper takes that for
            // an end even if it comes in the middle: believe it only where something else says that this was all.
            None if self.complete
                || self.incoming.is_end_stream()
                || self.incoming.size_hint().exact() == Some(0) =>
            {
                self.end();
                Poll::Ready(None)
            }
            None => self.fail(ResetReason::RemoteReset),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.flight.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
