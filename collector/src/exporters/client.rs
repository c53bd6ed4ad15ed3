//! What both OTLP exporters share: a pooled client, a bounded answer, gzip.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;

use super::{Failure, interrupted};
use crate::offload;

pub(super) const USER_AGENT: &str = concat!("outrigger-otlp-collector/", env!("CARGO_PKG_VERSION"));

/// OTLP's limit for answers.
const MAX_ANSWER: usize = 4 << 20;

pub(super) type Pool = Client<HttpConnector, Full<Bytes>>;

/// A pool of HTTP/1.1 connections, or one HTTP/2 connection.
pub(super) fn pool(http2: bool, connect: Duration) -> Pool {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect));
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .http2_only(http2)
        .http2_keep_alive_interval(Some(Duration::from_secs(20)))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(connector)
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) head: Response<()>,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

/// Sends and reads the answer to its end, all within the time limit.
pub(super) async fn exchange(
    pool: &Pool,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Answer, Failure> {
    let attempt = async {
        let response = pool.request(request).await.map_err(|error| Failure::passing(chain(&error)))?;
        let (parts, body) = response.into_parts();
        let (body, trailers) = read(body).await?;
        Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
    };
    match timeout(limit, attempt).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::passing(format!("no answer within {limit:?}"))),
    }
}

async fn read(body: Incoming) -> Result<(Bytes, HeaderMap), Failure> {
    let mut body = Limited::new(body, MAX_ANSWER);
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            },
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Failure::refused("the answer is larger than 4 MiB"));
            }
            Err(error) => return Err(Failure::passing(format!("the answer broke off: {error}"))),
        }
    }
    Ok((bytes.into(), trailers))
}

/// Compresses a body.
pub(super) async fn gzip(payload: Bytes) -> Result<Bytes, Failure> {
    let length = payload.len();
    let compress = move || -> std::io::Result<Bytes> {
        let mut encoder = GzEncoder::new(Vec::with_capacity(payload.len() / 3), Compression::new(3));
        encoder.write_all(&payload)?;
        encoder.finish().map(Bytes::from)
    };
    let compressed = offload::run(length, compress).await.map_err(interrupted)?;
    compressed.map_err(|error| Failure::passing(error.to_string()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
