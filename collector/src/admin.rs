//! `/metrics`, `/health/live` and `/health/ready`.
//!
//! A destination that is down never makes the collector unready: every replica would vanish at once, and the
//! senders would lose what the queues could still take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::exporters::Sender;
use crate::metrics::Metrics;
use crate::receivers::reply::Reply;

/// What the admin listeners know.
#[derive(Debug)]
pub struct Admin {
    /// Rendered at each scrape.
    pub metrics: Arc<Metrics>,
    /// For the state of the queues.
    pub senders: Vec<Arc<Sender>>,
    /// Set from the beginning of the drain.
    pub draining: AtomicBool,
}

impl Admin {
    /// Answers on the port of metrics.
    pub fn metrics(&self, request: &Request<Incoming>) -> Response<Reply> {
        if let Some(refusal) = only_reads(request, &["/metrics"]) {
            return refusal;
        }
        match self.metrics.render() {
            Ok(text) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", String::new()),
        }
    }

    /// Answers on the port of health checks.
    pub fn health(&self, request: &Request<Incoming>) -> Response<Reply> {
        if let Some(refusal) = only_reads(request, &["/health/live", "/health/ready", "/"]) {
            return refusal;
        }
        if request.uri().path() == "/health/live" {
            return answer(
                StatusCode::OK,
                "application/json",
                "{\"status\":\"live\",\"reasons\":[]}".to_owned(),
            );
        }
        let draining = self.draining.load(Ordering::Acquire);
        let (status, word, reasons) = match draining {
            true => (StatusCode::SERVICE_UNAVAILABLE, "draining", vec!["the collector is stopping"]),
            false => (StatusCode::OK, "ready", Vec::new()),
        };
        let exporters: serde_json::Map<String, serde_json::Value> = self
            .senders
            .iter()
            .map(|sender| {
                let state = serde_json::json!({
                    "queue_size": sender.metrics().queue_size.value(),
                    "queue_items": sender.metrics().queue_items.value(),
                    "last_error": sender.last_error(),
                });
                (sender.name().to_owned(), state)
            })
            .collect();
        let body = serde_json::json!({ "status": word, "reasons": reasons, "exporters": exporters });
        answer(status, "application/json", body.to_string())
    }
}

fn only_reads(request: &Request<Incoming>, paths: &[&str]) -> Option<Response<Reply>> {
    if !paths.contains(&request.uri().path()) {
        return Some(answer(StatusCode::NOT_FOUND, "text/plain", "no such path\n".to_owned()));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new());
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Some(refusal);
    }
    None
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Reply> {
    let mut response = Response::new(Reply::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
