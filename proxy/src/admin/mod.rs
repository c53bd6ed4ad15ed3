//! The pages that people and machines ask: Envoy's admin paths, those of Istio's agent, the scrape, and readiness.
//!
//! All of it runs on the control thread. Changes are POST only, and the admin port answers to loopback names only while
//! it is bound to loopback, so that a web page cannot reach it by rebinding a name.

mod agent;
mod certs;
mod clusters;
mod config_dump;
mod explain;
mod pages;
mod server;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use agent::serve_agent;
pub(crate) use certs::certificate_samples;
pub(crate) use clusters::cluster_samples;
pub(crate) use pages::Admin;
use pages::Reader;
pub(crate) use server::{Server, server_samples};

use crate::net::pages::{Door, Limits};

/// So Prometheus, which asks every 15 s or later, connects for each scrape.
const LIMITS: Limits =
    Limits { connections: 64, patience: Duration::from_secs(10), life: Duration::from_secs(60) };

/// It is open for as long as the process lives.
fn door(listener: TcpListener) -> Door {
    Door { listener, tls: None, limits: LIMITS, stop: CancellationToken::new() }
}

/// Serves the admin pages until dropped.
pub(crate) fn serve_admin(listener: TcpListener, admin: Arc<Admin>) -> impl Future<Output = ()> + Send {
    let local = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    door(listener).serve(move |_, request, body| {
        let admin = Arc::clone(&admin);
        async move {
            if local && !names_loopback(&request) {
                return text(StatusCode::FORBIDDEN, "the admin port answers to loopback names only\n");
            }
            admin.page(&request, body).await
        }
    })
}

/// Serves the scrape of the sidecar alone until dropped.
pub(crate) fn serve_metrics(listener: TcpListener, admin: Arc<Admin>) -> impl Future<Output = ()> + Send {
    door(listener).serve(move |_, request, _| {
        let admin = Arc::clone(&admin);
        async move {
            match request.uri.path() {
                "/metrics" | "/stats/prometheus" => admin.scrape(&request),
                _ => text(StatusCode::NOT_FOUND, "try /metrics or /stats/prometheus\n"),
            }
        }
    })
}

/// Serves readiness until dropped.
pub(crate) fn serve_health(listener: TcpListener, admin: Arc<Admin>) -> impl Future<Output = ()> + Send {
    door(listener).serve(move |_, request, _| {
        let admin = Arc::clone(&admin);
        async move {
            match request.uri.path() {
                "/healthz/ready" => admin.ready(Reader::Anybody).await,
                _ => text(StatusCode::NOT_FOUND, "try /healthz/ready\n"),
            }
        }
    })
}

/// A request without any Host did not come from a browser.
fn names_loopback(request: &Parts) -> bool {
    let host = match (request.uri.authority(), request.headers.get(header::HOST)) {
        (Some(authority), _) => Some(authority.as_str().as_bytes()),
        (None, host) => host.map(HeaderValue::as_bytes),
    };
    let Some(host) = host else { return true };
    std::str::from_utf8(host).is_ok_and(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').unwrap_or_default(),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    page(status, "text/plain; charset=UTF-8", body.into())
}

fn json(body: &serde_json::Value) -> Response {
    page(StatusCode::OK, "application/json", format!("{body:#}\n"))
}

/// Envoy's headers of every page: nothing is cached, and nothing is taken for HTML.
fn page(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Envoy's answer to a change that was not asked for by POST.
fn post_required(method: &Method) -> Response {
    let body = format!("Method {method} not allowed, POST required.");
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, body);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_pass() {
        for host in
            ["localhost", "LocalHost:15000", "127.0.0.1", "127.8.0.1:1", "[::1]", "[::1]:15000", "::1"]
        {
            assert_eq!(is_loopback(host), host != "::1", "{host}");
        }
        for host in
            ["evil", "evil:15000", "localhost.evil", "10.0.0.1", "[::1", "", "[fe80::1]:1", "127.0.0.1.evil"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
