//! Clients: hyper over HTTP/1.1 and HTTP/2, h2 by hand for gRPC streams, and a socket for bytes no library would send.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, task::Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{origin::pairs, wait::soon};

/// A request body: whole, or whole with trailers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Payload {
    pub(crate) fn new(data: impl Into<Bytes>) -> Self {
        Self { data: Some(data.into()).filter(|data| !data.is_empty()), trailers: None }
    }

    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    /// The body ended by an error, not by its end.
    pub(crate) cut: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Names of the header lines in order.
    pub(crate) fn names(&self) -> Vec<String> {
        pairs(&self.headers).into_iter().map(|(name, _)| name).collect()
    }

    pub(crate) fn grpc_status(&self) -> Option<&str> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        value.map(|value| value.to_str().unwrap())
    }
}

/// Reads an answer to its end, whatever that end is.
pub(crate) async fn read(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut answer = Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: vec![],
        trailers: HeaderMap::new(),
        cut: false,
    };
    while let Some(frame) = soon("a frame of the answer", body.frame()).await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => answer.body.extend(&data),
            Ok(Err(frame)) => answer.trailers = frame.into_trailers().unwrap_or_default(),
            Err(_) => {
                answer.cut = true;
                break;
            }
        }
    }
    answer
}

/// A connection of a client, kept alive between requests.
#[derive(Debug)]
pub(crate) enum Client {
    Http1(conn::http1::SendRequest<Payload>),
    Http2(conn::http2::SendRequest<Payload>),
}

impl Client {
    pub(crate) async fn http1(address: SocketAddr) -> Self {
        let stream = connect(address).await;
        let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(address: SocketAddr) -> Self {
        let stream = connect(address).await;
        let (sender, connection) =
            conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// The head of the answer, its body still to come.
    pub(crate) async fn open(
        &mut self,
        request: Request<Payload>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        soon("an answer", async {
            match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Self::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        })
        .await
    }

    pub(crate) async fn send(&mut self, request: Request<Payload>) -> Answer {
        let response = self.open(request).await.unwrap();
        read(response).await
    }

    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Starts a request: `get("web", "/x").header(..)`; finish it with [`end`] or a body.
pub(crate) fn request(method: &str, host: &str, path: &str) -> http::request::Builder {
    // An absolute form would be sent as such over HTTP/1.1, so the host is a header; hyper moves it for HTTP/2.
    Request::builder().method(method).uri(path).header("host", host)
}

/// A GET without a body.
pub(crate) fn get(host: &str, path: &str, headers: &[(&str, &str)]) -> Request<Payload> {
    let mut builder = request("GET", host, path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Payload::default()).unwrap()
}

/// A POST with a body.
pub(crate) fn post(host: &str, path: &str, body: impl Into<Bytes>) -> Request<Payload> {
    request("POST", host, path).body(Payload::new(body)).unwrap()
}

/// The same request for HTTP/2, where the authority is part of the URI.
pub(crate) fn over_http2(mut request: Request<Payload>) -> Request<Payload> {
    let host = request.headers_mut().remove("host").unwrap();
    let path = request.uri().path_and_query().unwrap().as_str();
    *request.uri_mut() = format!("http://{}{path}", host.to_str().unwrap()).parse().unwrap();
    request
}

/// A gRPC call with one message.
pub(crate) fn grpc(host: &str, path: &str, message: &[u8]) -> Request<Payload> {
    let request = Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(Payload::new(framed(message))).unwrap()
}

/// A message with gRPC's five bytes in front.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

/// One request on a connection of its own, over HTTP/1.1.
pub(crate) async fn ask(address: SocketAddr, request: Request<Payload>) -> Answer {
    Client::http1(address).await.send(request).await
}

/// Plain bytes to and fro.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(connect(address).await)
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends what the other side takes: it may hang up in the middle.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    /// All until the other side closes or resets.
    pub(crate) async fn rest(&mut self) -> String {
        let mut bytes = vec![];
        let _ = soon("the connection to close", self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads until the text has come; panics if the connection ends before.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut bytes = vec![];
        while !String::from_utf8_lossy(&bytes).contains(text) {
            let read = soon(text, self.0.read_buf(&mut bytes)).await.unwrap();
            assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Leaves with a TCP reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}
