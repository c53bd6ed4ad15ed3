//! The webhook's server: TLS, HTTP/1.1, small limits, and an end that lets the last answers out.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_inject::review;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{AbortHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::Injector;

/// Connections at a time: an API server has few.
const CONNECTIONS: u32 = 256;
/// Handshakes at a time; a further one ends the oldest, so that who says nothing cannot keep others out.
const HANDSHAKES: usize = 256;
/// For a handshake, and for a request's body.
const HASTE: Duration = Duration::from_secs(3);
/// For a request's head, and for a review's turn. The API server waits 10 s itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// A review holds one pod. Anybody who reaches the port may send one, and it costs a multiple of its length.
const MAX_BODY: usize = 1 << 20;
/// Bodies that are held at a time.
const BODIES: usize = 16;
/// Wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);

/// What bounds the memory of reviews. A body that comes slowly must not keep other reviews from theirs.
#[derive(Debug)]
pub(super) struct Turns {
    bodies: Arc<Semaphore>,
    review: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { bodies: Arc::new(Semaphore::new(BODIES)), review: Arc::new(Semaphore::new(1)) }
    }
}

/// Serves until told, and then until the open requests are answered.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    injector: Arc<Injector>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let acceptor = TlsAcceptor::from(tls);
    let accept = async {
        // Most have ended; to end those again does nothing.
        let mut handshakes: VecDeque<AbortHandle> = VecDeque::with_capacity(HANDSHAKES);
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if handshakes.len() == HANDSHAKES
                        && let Some(oldest) = handshakes.pop_front()
                    {
                        oldest.abort();
                    }
                    let (acceptor, injector, stop) = (acceptor.clone(), Arc::clone(&injector), stop.clone());
                    let places = Arc::clone(&places);
                    let handshake = tokio::spawn(async move {
                        let Ok(Ok(stream)) = timeout(HASTE, acceptor.accept(stream)).await else { return };
                        // The semaphore is never closed.
                        let Ok(place) = places.acquire_owned().await else { return };
                        tokio::spawn(async move {
                            converse(stream, injector, stop).await;
                            drop(place);
                        });
                    });
                    handshakes.push_back(handshake.abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    // All places are free again when all connections have ended.
    let _ = timeout(PATIENCE, places.acquire_many(CONNECTIONS)).await;
}

/// One connection. How it ends is the client's business.
async fn converse(stream: TlsStream<TcpStream>, injector: Arc<Injector>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let injector = Arc::clone(&injector);
        async move { Ok::<_, Infallible>(answer(request, injector).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = timeout(PATIENCE, connection).await;
}

async fn answer(request: Request<Incoming>, injector: Arc<Injector>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/inject") => inject(request.into_body(), injector).await,
        (&Method::GET, "/healthz") => page(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") if injector.trusted.load(Relaxed) => page(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server does not know our certificate authority yet\n",
        ),
        (_, "/inject" | "/healthz" | "/readyz") => {
            page(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        }
        _ => page(StatusCode::NOT_FOUND, "not found\n"),
    }
}

async fn inject(body: Incoming, injector: Arc<Injector>) -> Response<Full<Bytes>> {
    let busy = || page(StatusCode::SERVICE_UNAVAILABLE, "too many reviews at a time\n");
    let turns = &injector.turns;
    let Ok(Ok(place)) = timeout(PATIENCE, Arc::clone(&turns.bodies).acquire_owned()).await else {
        return busy();
    };
    #[expect(clippy::disallowed_methods, reason = "limited")]
    let body = match timeout(HASTE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return page(StatusCode::PAYLOAD_TOO_LARGE, "the review is larger than 1 MiB\n");
        }
        Ok(Err(_)) => return page(StatusCode::BAD_REQUEST, "the body broke off\n"),
        Err(_) => return page(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
    };
    let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(&turns.review).acquire_owned()).await else {
        return busy();
    };
    // On a thread of its own: probes are answered meanwhile. It is not ended when its client goes, so that the turn is
    // over with it and not before.
    let reviewed = spawn_blocking(move || {
        let reviewed = review(&body, &injector.options, injector.on_failure);
        drop((turn, place));
        reviewed
    });
    let Ok(reviewed) = reviewed.await else {
        return page(StatusCode::INTERNAL_SERVER_ERROR, "the review failed\n");
    };
    match reviewed {
        Ok(answer) => {
            tracing::info!(pod = answer.summary, "reviewed");
            let mut response = page(StatusCode::OK, answer.body);
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            tracing::warn!(%error, "a request that is no review");
            page(StatusCode::BAD_REQUEST, format!("{error}\n"))
        }
    }
}

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
