//! The answer's body on its way to the client: [`ResponseBody`] passes it on, sees its true end, and never turns a cut
//! answer into a complete one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{
    context::RequestContext, headers::clean_trailers, reply::reset_flag, timeout::Deadline,
    upload::RequestBody,
};
use crate::{
    telemetry::{Details, Flag},
    upstream::pool::{self, ResetReason},
};

/// The answer as the client gets it: it carries the request's context to the true end of the stream.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
}

/// Where the bytes of an answer come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Nowhere: there are none.
    Empty,
    /// From us.
    Text(Bytes),
    /// From the upstream; it ends with an error if it was cut.
    Upstream(pool::ResponseBody<RequestBody>),
}

/// What lives as long as the answer flows.
#[derive(Debug)]
struct Exchange {
    context: RequestContext,
    /// The route's timeout goes on through the body.
    deadline: Option<Deadline>,
    /// HTTP/1: trailers end here, and the body ends at its announced length.
    http1: bool,
    left: Option<u64>,
    /// The last bytes by the announced length, until the upstream's stream has ended as well: hyper asks for nothing
    /// behind them, and would cancel the upstream.
    last: Option<Bytes>,
}

/// The answer was cut: the client's connection or stream ends without a proper end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("upstream ended the response early: {0}")]
    Upstream(ResetReason),
    #[error("response timeout")]
    Timeout,
}

impl ResponseBody {
    pub(crate) fn new(
        source: Source,
        mut context: RequestContext,
        deadline: Option<Deadline>,
        http1: bool,
    ) -> Self {
        let exchange = if source.is_end_stream() {
            context.finish();
            None
        } else {
            let left = source.size_hint().exact();
            Some(Box::new(Exchange { context, deadline, http1, left, last: None }))
        };
        Self { source, exchange }
    }
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResetReason>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => {
                let text = std::mem::take(text);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(text))))
            }
            Self::Upstream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { source, exchange } = self.get_mut();
        let Some(flow) = exchange else { return Poll::Ready(None) };
        if flow.deadline.as_mut().is_some_and(|deadline| Pin::new(deadline).poll(cx).is_ready()) {
            flow.context.cut(Flag::UpstreamRequestTimeout, Details::fixed("response_timeout"));
            *exchange = None;
            *source = Source::Empty;
            return Poll::Ready(Some(Err(Cut::Timeout)));
        }
        loop {
            let frame = match ready!(source.poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(reason)) => {
                    if flow.context.is_starved() {
                        flow.context.cut(Flag::OverloadManager, Details::fixed("overload"));
                    } else {
                        let details = format!("upstream_reset_after_response_started{{{}}}", reason.as_str());
                        flow.context.cut(reset_flag(reason), details.into());
                    }
                    *exchange = None;
                    return Poll::Ready(Some(Err(Cut::Upstream(reason))));
                }
                None => {
                    flow.context.finish();
                    let last = flow.last.take();
                    *exchange = None;
                    return Poll::Ready(last.map(|data| Ok(Frame::data(data))));
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    flow.context.record().body_sent += data.len() as u64;
                    flow.left = flow.left.map(|left| left.saturating_sub(data.len() as u64));
                    if source.is_end_stream() {
                        flow.context.finish();
                        // The end may come with an empty frame: what was held back for it is not lost.
                        let held = flow.last.take().filter(|_| data.is_empty());
                        *exchange = None;
                        return Poll::Ready(Some(Ok(Frame::data(held.unwrap_or(data)))));
                    }
                    if flow.http1 && flow.left == Some(0) && flow.last.is_none() {
                        flow.last = Some(data);
                        continue;
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    clean_trailers(&mut trailers);
                    flow.context.trailers(&trailers);
                    flow.context.finish();
                    let frame = match flow.http1 {
                        true => flow.last.take().map(Frame::data),
                        false => Some(Frame::trailers(trailers)),
                    };
                    *exchange = None;
                    return Poll::Ready(frame.map(Ok));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() && self.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.exchange {
            Some(flow) => match flow.left {
                Some(left) => SizeHint::with_exact(left + flow.last.as_ref().map_or(0, |d| d.len() as u64)),
                None => self.source.size_hint(),
            },
            None => SizeHint::with_exact(0),
        }
    }
}
