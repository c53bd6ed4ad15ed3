//! The small server behind the pages: HTTP/1, as many connections as are sensible, and no wait without an end.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::response::Response;
use http::{Request, request::Parts};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::net::complaint::Complaint;

/// Wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);

/// What a listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time; further ones wait to be accepted.
    connections: usize,
    /// From the end of one answer to the end of the next request's head, and for the last answer of a connection.
    patience: Duration,
    /// After that a connection ends with its next answer, so that slow readers do not keep all places.
    life: Duration,
}

/// So Prometheus, which asks every 15 s or later, connects for each scrape.
pub(super) const LIMITS: Limits =
    Limits { connections: 64, patience: Duration::from_secs(10), life: Duration::from_secs(60) };

/// Answers by `page`, which is told who asks, until dropped.
pub(super) async fn serve<P, F>(listener: TcpListener, limits: Limits, page: P)
where
    P: Fn(SocketAddr, Parts, Incoming) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut complaint = Complaint::default();
    // The semaphore is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let page = page.clone();
                tokio::spawn(async move {
                    converse(stream, peer, limits, page).await;
                    drop(place);
                });
            }
            Err(error) => {
                if let Some(held_back) = complaint.due() {
                    tracing::warn!(%error, held_back, "accept failed on a listener of our own pages");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection. How it ends is the client's business.
async fn converse<P, F>(stream: TcpStream, peer: SocketAddr, limits: Limits, page: P)
where
    P: Fn(SocketAddr, Parts, Incoming) -> F + Send,
    F: Future<Output = Response>,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let answer = page(peer, parts, body);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.patience)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(limits.life) => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(limits.patience, connection).await;
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::text;

    const LONG: Duration = Duration::from_secs(3600);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

    async fn page(_: SocketAddr, _: Parts, _: Incoming) -> Response {
        text(StatusCode::OK, "here")
    }

    async fn start(limits: Limits) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, limits, page));
        address
    }

    async fn rest(client: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(Duration::from_secs(10), client.read_to_string(&mut text)).await.expect("in time").unwrap();
        text
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_a_head_is_closed() {
        let limits = Limits { connections: 9, patience: Duration::from_millis(50), life: LONG };
        let address = start(limits).await;
        for bytes in [&b""[..], b"GET / HT"] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(bytes).await.unwrap();
            assert!(!rest(&mut client).await.contains("200"));
        }
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_a_place() {
        let address = start(Limits { connections: 1, patience: LONG, life: LONG }).await;
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(GET).await.unwrap();
        let early = timeout(Duration::from_millis(50), second.readable()).await;
        assert!(early.is_err(), "served beside the first");
        drop(first);
        assert!(rest(&mut second).await.ends_with("\r\n\r\nhere"));
    }

    #[tokio::test]
    async fn a_connection_ends_after_its_life() {
        let limits = Limits { connections: 1, patience: LONG, life: Duration::from_millis(50) };
        let mut client = TcpStream::connect(start(limits).await).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(rest(&mut client).await.ends_with("\r\n\r\nhere"));
    }
}
