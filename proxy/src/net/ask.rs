//! One request on a connection of its own, read up to a limit: what probes, the scrape of the application and the
//! command line ask. Not for the data path, which has pools.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// An answer, as far as it was to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
    /// False if the body goes on after the limit.
    pub(crate) whole: bool,
    pub(crate) trailers: HeaderMap,
}

/// Asks over HTTP/1.1 and reads at most `limit` bytes of the answer's body. The caller sets a deadline.
pub(crate) async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> hyper::Result<Answer> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    converse(async move { sender.send_request(request).await }, connection, limit).await
}

/// The same over HTTP/2 with prior knowledge.
pub(crate) async fn over_http2(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> hyper::Result<Answer> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    converse(async move { sender.send_request(request).await }, connection, limit).await
}

/// Drives the connection for as long as its only exchange takes.
async fn converse(
    send: impl Future<Output = hyper::Result<Response<Incoming>>>,
    connection: impl Future<Output = hyper::Result<()>>,
    limit: usize,
) -> hyper::Result<Answer> {
    let exchange = async { read(send.await?, limit).await };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // A connection that has ended leaves an answer, or the reason why there is none.
        _ = &mut connection => exchange.await,
    }
}

async fn read(response: Response<Incoming>, limit: usize) -> hyper::Result<Answer> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = incoming.frame().await.transpose()? {
        match frame.into_data() {
            Ok(data) => {
                let room = limit - body.len();
                body.extend_from_slice(data.get(..room).unwrap_or(&data));
                if data.len() > room {
                    return Ok(Answer { head, body: body.freeze(), whole: false, trailers });
                }
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok(Answer { head, body: body.freeze(), whole: true, trailers })
}
