//! Asking a sidecar that runs in the same pod: what `admin`, `healthcheck` and `run` have in common.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header::CONNECTION, header::HOST};
use http_body_util::Full;
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    time::{Instant, sleep, timeout_at},
};

use crate::net::ask;

/// A longer page is cut: the largest is the configuration of a large mesh.
const MAX_PAGE: usize = 256 << 20;
/// Between two looks at a sidecar that is not ready.
const AGAIN: Duration = Duration::from_millis(50);

/// What a sidecar said.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("{0} does not answer: {1}")]
    Exchange(SocketAddr, hyper::Error),
    #[error("{0} does not answer in time")]
    Late(SocketAddr),
    #[error("not ready: {0} says {1} {2}")]
    NotReady(SocketAddr, u16, String),
}

impl Unanswered {
    /// Whether nobody listens there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Connect(_, error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// One thread is enough for one question.
pub(super) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Asks once.
pub(super) async fn ask(
    address: SocketAddr,
    method: &Method,
    path: &Uri,
    deadline: Instant,
) -> Result<Page, Unanswered> {
    let exchange = async {
        let stream =
            TcpStream::connect(address).await.map_err(|error| Unanswered::Connect(address, error))?;
        let mut request = Request::new(Full::default());
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, http::HeaderValue::from_static("localhost"));
        headers.insert(CONNECTION, http::HeaderValue::from_static("close"));
        ask::over_http1(stream, request, MAX_PAGE).await.map_err(|error| Unanswered::Exchange(address, error))
    };
    let answer = timeout_at(deadline, exchange).await.map_err(|_| Unanswered::Late(address))??;
    Ok(Page { status: answer.head.status, body: answer.body })
}

/// Whether the sidecar is ready; asks until it is or `deadline` is over, at least once, and tells the last reason.
pub(super) async fn ready(health: SocketAddr, deadline: Instant) -> Result<(), Unanswered> {
    let path = Uri::from_static("/healthz/ready");
    let first_answer = deadline.max(Instant::now() + Duration::from_secs(1));
    let mut answer = ask(health, &Method::GET, &path, first_answer).await;
    loop {
        let why = match answer {
            Ok(page) if page.status == StatusCode::OK => return Ok(()),
            Ok(page) => {
                let text = String::from_utf8_lossy(&page.body).trim().to_owned();
                Unanswered::NotReady(health, page.status.as_u16(), text)
            }
            Err(why) => why,
        };
        if Instant::now() + AGAIN >= deadline {
            return Err(why);
        }
        sleep(AGAIN).await;
        answer = ask(health, &Method::GET, &path, deadline).await;
    }
}
