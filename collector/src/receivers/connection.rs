//! Accepting connections and serving them until the drain: limits, keep-alive, age, GOAWAY.
//!
//! It knows HTTP, not OTLP. The admin listeners use it as well.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reply::Reply;
use crate::config::Connection;

const MAX_HEADER_BYTES: usize = 16 << 10;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_FRAME: u32 = 256 << 10;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the log: `otlp_grpc`, `otlp_http`, `metrics`, `health`.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    socket: TcpListener,
}

/// Which versions of HTTP a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// HTTP/2 with prior knowledge only.
    Http2,
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Both,
}

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind {name} to {endpoint}: {source}")]
pub struct BindError {
    name: String,
    endpoint: String,
    source: std::io::Error,
}

impl Listener {
    /// Binds; `endpoint` is `host:port`.
    pub async fn bind(name: &str, endpoint: &str) -> Result<Self, BindError> {
        let error = |source| BindError { name: name.to_owned(), endpoint: endpoint.to_owned(), source };
        let socket = TcpListener::bind(endpoint).await.map_err(error)?;
        let address = socket.local_addr().map_err(error)?;
        Ok(Self { name: name.to_owned(), address, socket })
    }

    /// Serves until `drain` fires; then accepts no more and lets the requests in flight finish.
    pub async fn serve<H, F>(
        self,
        versions: Versions,
        limits: Connection,
        drain: CancellationToken,
        tasks: TaskTracker,
        handle: H,
    ) where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Response<Reply>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(limits.max_connections.min(Semaphore::MAX_PERMITS)));
        let builder = builder(versions, &limits);
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.socket.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = drain.cancelled() => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = connection(
                        stream,
                        builder.clone(),
                        limits.header_timeout,
                        limits.max_age.map(|age| (age, limits.max_age_grace)),
                        drain.clone(),
                        handle.clone(),
                    );
                    tasks.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "cannot accept a connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn builder(versions: Versions, limits: &Connection) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(64 << 10)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_timeout);
    match versions {
        Versions::Http2 => builder.http2_only(),
        Versions::Both => builder,
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    builder: auto::Builder<TokioExecutor>,
    first_byte: Duration,
    age: Option<(Duration, Duration)>,
    drain: CancellationToken,
    handle: H,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    // Without it small answers wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    // Which version it is shows in the first bytes; whoever never sends one does not keep its place.
    let mut first = [0];
    tokio::select! {
        () = drain.cancelled() => return,
        peeked = timeout(first_byte, stream.peek(&mut first)) => match peeked {
            Ok(Ok(1)) => {}
            _ => return,
        }
    }
    let service = service_fn(move |request| {
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let too_old = async {
        match age {
            Some((age, grace)) => {
                sleep(age).await;
                grace
            }
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        grace = too_old => {
            connection.as_mut().graceful_shutdown();
            timeout(grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
