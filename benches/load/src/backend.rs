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
    Outcome,
    identity::{Identities, Party},
    machine,
    serve::{self, Listening, Protocol},
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
pub(crate) struct Endpoints {
    pub(crate) h1: Vec<SocketAddr>,
    pub(crate) h2: Vec<SocketAddr>,
}

/// The service as it is, and as a workload behind a sidecar: the proxy alone gets in there, by mutual TLS.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    plain: Endpoints,
    mutual: Endpoints,
}

impl Backend {
    pub(crate) fn endpoints(&self, mtls: bool) -> &Endpoints {
        if mtls { &self.mutual } else { &self.plain }
    }
}

/// Starts it in a thread of its own.
pub(crate) fn start(identities: &Identities) -> Outcome<Backend> {
    let mut listeners = Vec::new();
    let mut listen = |protocol, mtls: bool| -> Outcome<Vec<SocketAddr>> {
        let server = || identities.server(Party::Origin, Party::Proxy, protocol);
        let tls = mtls.then(server).transpose()?;
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let (listener, address) = machine::listener()?;
            listeners.push(Listening { listener, protocol, tls: tls.clone() });
            addresses.push(address);
        }
        Ok(addresses)
    };
    let mut both = |mtls| Ok(Endpoints { h1: listen(Protocol::H1, mtls)?, h2: listen(Protocol::H2, mtls)? });
    let made: Outcome<_> = both(false).and_then(|plain| Ok(Backend { plain, mutual: both(true)? }));
    let backend = made?;
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
