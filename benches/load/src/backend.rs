//! The origin behind every proxy: answers of 1 KiB over HTTP/1.1 and HTTP/2, gRPC with trailers.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;

use crate::{
    Outcome, machine,
    serve::{self, Protocol},
};

/// Length of every answer.
pub(crate) const ANSWER: usize = 1024;
/// One gRPC message of an answer's length: not compressed, four bytes of length, then the message.
static GRPC_ANSWER: [u8; ANSWER] = {
    let mut bytes = [0; ANSWER];
    let length = ((ANSWER - 5) as u32).to_be_bytes();
    [bytes[1], bytes[2], bytes[3], bytes[4]] = length;
    bytes
};
static PLAIN_ANSWER: [u8; ANSWER] = [b'x'; ANSWER];

/// Where the three endpoints of the service listen, as in the seed: two of v1, then one of v2.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub(crate) h1: Vec<SocketAddr>,
    pub(crate) h2: Vec<SocketAddr>,
}

/// Starts it in a thread of its own.
pub(crate) fn start() -> Outcome<Backend> {
    let mut backend = Backend { h1: Vec::new(), h2: Vec::new() };
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let (h1, address) = machine::listener()?;
        backend.h1.push(address);
        let (h2, address) = machine::listener()?;
        backend.h2.push(address);
        listeners.extend([(h1, Protocol::H1), (h2, Protocol::H2)]);
    }
    serve::in_thread("backend", listeners, answer)?;
    Ok(backend)
}

async fn answer(request: Request<Incoming>) -> Outcome<Response<Either<Full<Bytes>, GrpcAnswer>>> {
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/grpc");
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    if !grpc {
        return Ok(Response::new(Either::Left(Full::new(Bytes::from_static(&PLAIN_ANSWER)))));
    }
    let mut response = Response::new(Either::Right(GrpcAnswer::Message));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// A message, then trailers.
enum GrpcAnswer {
    Message,
    Trailers,
    End,
}

impl Body for GrpcAnswer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (frame, next) = match *self {
            Self::Message => (Frame::data(Bytes::from_static(&GRPC_ANSWER)), Self::Trailers),
            Self::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                (Frame::trailers(trailers), Self::End)
            }
            Self::End => return Poll::Ready(None),
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::End)
    }
}
