//! `otlp-collector healthcheck`: asks a collector that runs whether it is ready, for images that have no shell.
//! It reads no configuration, so it has to be told an address other than the usual one.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Docker's own limit is 3 s in our images; the reason has to be printed before that.
const LIMIT: Duration = Duration::from_secs(2);

/// Why a collector is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// Nobody listens there.
    #[error("{address}: {error}")]
    Unreachable {
        /// Who was asked.
        address: String,
        /// What came of it.
        error: std::io::Error,
    },
    /// It is not HTTP, or ended early.
    #[error("{address}: {error}")]
    Broken {
        /// Who was asked.
        address: String,
        /// What came of it.
        error: hyper::Error,
    },
    /// It answered, and said no.
    #[error("{address}: /health/ready answers {status}")]
    Refused {
        /// Who was asked.
        address: String,
        /// The answer.
        status: StatusCode,
    },
    /// It did not answer within two seconds.
    #[error("{address}: no answer within {LIMIT:?}")]
    Silent {
        /// Who was asked.
        address: String,
    },
}

/// Succeeds if `/health/ready` at `address`, a `host:port`, answers 200.
pub(crate) async fn ask(address: &str) -> Result<(), NotReady> {
    timeout(LIMIT, answer(address))
        .await
        .unwrap_or_else(|_| Err(NotReady::Silent { address: address.to_owned() }))
}

async fn answer(address: &str) -> Result<(), NotReady> {
    let unreachable = |error| NotReady::Unreachable { address: address.to_owned(), error };
    let broken = |error| NotReady::Broken { address: address.to_owned(), error };
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/health/ready");
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    match sender.send_request(request).await.map_err(broken)?.status() {
        StatusCode::OK => Ok(()),
        status => Err(NotReady::Refused { address: address.to_owned(), status }),
    }
}
