//! HTTP/2 with prior knowledge: GET, and unary gRPC calls with messages of 8 KiB.

use std::{
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::{JoinSet, spawn_local};

use super::{SESSIONS, Tally};
use crate::{
    Outcome,
    backend::ANSWER,
    door::Door,
    intent::{HOST, SESSION},
    serve::Local,
};

/// Length of a gRPC call's body.
const CALL: usize = 8192;
static MESSAGE: [u8; CALL] = {
    let mut bytes = [b'y'; CALL];
    let length = ((CALL - 5) as u32).to_be_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]] = [0, length[0], length[1], length[2], length[3]];
    bytes
};

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Get,
    Grpc,
}

/// A client's connection; clones share it.
pub(crate) type Sender = http2::SendRequest<Message>;

/// A message that does not say its length beforehand, as gRPC libraries send theirs.
pub(crate) struct Message(Option<Bytes>);

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// The parts of requests, made beforehand.
#[derive(Debug)]
pub(crate) struct Requests {
    call: Call,
    uri: Uri,
    sessions: Vec<HeaderValue>,
}

impl Requests {
    pub(crate) fn new(call: Call) -> Outcome<Rc<Self>> {
        let path = match call {
            Call::Get => "/v1/things/42",
            Call::Grpc => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        };
        let sessions = (0..SESSIONS).map(|session| HeaderValue::try_from(format!("session-{session:04}")));
        Ok(Rc::new(Self {
            call,
            uri: format!("http://{HOST}{path}").parse()?,
            sessions: sessions.collect::<Result<_, _>>()?,
        }))
    }

    fn of(&self, number: usize) -> Request<Message> {
        let grpc = self.call == Call::Grpc;
        let mut request = Request::new(Message(grpc.then_some(Bytes::from_static(&MESSAGE))));
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static("bench-load"));
        if let Some(session) = self.sessions.get(number % SESSIONS) {
            headers.insert(SESSION, session.clone());
        }
        if grpc {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            *request.method_mut() = Method::POST;
        }
        request
    }

    /// Sends a request, and reads and checks its answer.
    pub(crate) async fn exchange(&self, sender: &mut Sender, number: usize) -> Outcome<()> {
        sender.ready().await?;
        let response = sender.send_request(self.of(number)).await?;
        let status = response.status();
        let mut headers = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => length += data.len(),
                Err(frame) => {
                    headers = frame.trailers_ref().and_then(|trailers| trailers.get("grpc-status")).cloned();
                }
            }
        }
        let grpc_status = headers.as_ref().map(HeaderValue::as_bytes);
        let wanted = (self.call == Call::Grpc).then_some(&b"0"[..]);
        if status != 200 || length != ANSWER || grpc_status != wanted {
            return Err(
                format!("not the right answer: {status}, {length} bytes, grpc-status {headers:?}").into()
            );
        }
        Ok(())
    }
}

/// Opens a connection.
pub(crate) async fn open(door: &Door) -> Outcome<Sender> {
    let stream = door.open().await?;
    let mut builder = http2::Builder::new(Local);
    let (sender, connection) = builder.timer(TokioTimer::new()).handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}

/// Connections with streams that send one request after the other.
pub(crate) async fn closed(
    door: &Door,
    connections: usize,
    streams: usize,
    call: Call,
    tally: &Rc<Tally>,
    tasks: &mut JoinSet<()>,
) -> Outcome<()> {
    let requests = Requests::new(call)?;
    for connection in 0..connections {
        let sender = open(door).await?;
        for stream in 0..streams {
            let (tally, requests, mut sender) = (Rc::clone(tally), Rc::clone(&requests), sender.clone());
            tasks.spawn_local(async move {
                for number in (connection * streams + stream..).step_by(connections * streams) {
                    if !tally.begin() {
                        break;
                    }
                    tally.count(requests.exchange(&mut sender, number).await);
                }
            });
        }
    }
    Ok(())
}
