//! The webhook's pages: reviews, and what probes ask for. Who may wait how long for what.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{Method, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use outrigger_inject::review;
use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::Semaphore, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use super::Injector;
use crate::net::pages::{Door, Limits};

/// An API server has few connections, and keeps them.
const LIMITS: Limits = Limits { connections: 256, patience: PATIENCE, life: Duration::from_secs(3600) };
/// For a request's body.
const HASTE: Duration = Duration::from_secs(3);
/// For a request's head, and for a review's turn. The API server waits 10 s itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// A review holds one pod. Anybody who reaches the port may send one, and it costs a multiple of its length.
const MAX_BODY: usize = 1 << 20;
/// Bodies that are held at a time.
const BODIES: usize = 16;

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
    let door = Door { listener, tls: Some(tls.into()), limits: LIMITS, stop };
    door.serve(move |_, request, body| answer(request, body, Arc::clone(&injector))).await;
}

async fn answer(request: Parts, body: Incoming, injector: Arc<Injector>) -> Response {
    match (&request.method, request.uri.path()) {
        (&Method::POST, "/inject") => inject(body, injector).await,
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

async fn inject(body: Incoming, injector: Arc<Injector>) -> Response {
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

fn page(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    *response.status_mut() = status;
    response
}
