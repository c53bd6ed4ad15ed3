//! The admin pages by their paths.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use regex::RegexBuilder;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{certs, clusters, config_dump, explain, json, page, post_required, text};
use crate::{
    app::{Bound, Command, ConfigStatus, Control, Ending, Pings},
    application::Application,
    dns_proxy::DnsProxy,
    drain::{Drain, Phase},
    net::tls::Secrets,
    telemetry::{CLASSIC, Metrics, OPEN_METRICS, Sample},
    upstream::{Published, Upstreams},
};

/// What the pages show and change.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Arc<ConfigStatus>,
    pub(crate) drain: Arc<Drain>,
    pub(crate) bound: Arc<Bound>,
    pub(crate) workers: Pings,
    pub(crate) control: Control,
    pub(crate) started: Instant,
    pub(crate) concurrency: usize,
    pub(crate) application: Application,
    /// Set by `/healthcheck/fail`.
    pub(crate) unhealthy: AtomicBool,
    pub(crate) secrets: Arc<Secrets>,
    /// If DNS is captured.
    pub(crate) dns: Option<Arc<DnsProxy>>,
    /// It was once: a later change of the configuration takes that from nobody.
    pub(crate) was_ready: AtomicBool,
}

/// Who asks: whoever is not in the pod learns nothing of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Operator,
    Anybody,
}

/// Path, whether it is POST only, and what it does.
const PAGES: [(&str, bool, &str); 15] = [
    ("/certs", false, "certificates in use, and when they end"),
    ("/clusters", false, "upstream cluster status (format=json)"),
    ("/config_dump", false, "the configuration in force, and why the last one was refused"),
    ("/drain_listeners", true, "drain the listeners (graceful, skip_exit)"),
    ("/explain", true, "where a request goes, and why: `GET http://host:port/`, lines of headers; or JSON"),
    ("/healthcheck/fail", true, "answer unready"),
    ("/healthcheck/ok", true, "answer ready again"),
    ("/help", false, "this list"),
    ("/listeners", false, "bound listeners (format=json)"),
    ("/quitquitquit", true, "exit now"),
    ("/ready", false, "LIVE, or why not"),
    ("/reload", true, "read the configuration now"),
    ("/server_info", false, "version, state and node"),
    ("/stats", false, "statistics (filter=regex, usedonly, format=json or prometheus)"),
    ("/stats/prometheus", false, "statistics for Prometheus"),
];

/// A worker that does not answer for so long is not ready.
const PING: Duration = Duration::from_secs(1);
/// Memory that a filter may compile to.
const MAX_REGEX: usize = 1 << 20;

impl Admin {
    /// Answers a request to the admin port.
    pub(super) async fn page(&self, request: &Parts, body: Incoming) -> Response {
        let path = request.uri.path();
        let query = Query(request.uri.query().unwrap_or_default());
        let by_post = PAGES.iter().any(|(page, by_post, _)| *page == path && *by_post);
        if by_post && request.method != Method::POST {
            return post_required(&request.method);
        }
        match path {
            "/" | "/help" => text(StatusCode::OK, format!("admin commands are:\n{}", help())),
            "/certs" => json(&certs::page(&self.secrets)),
            "/clusters" if query.is_json() => json(&clusters::as_json(&self.upstreams.clusters())),
            "/clusters" => text(StatusCode::OK, clusters::text(&self.upstreams.clusters())),
            "/config_dump" => json(&config_dump::dump(&self.published.load().snapshot, &self.config)),
            "/explain" => explain::answer(&self.published, &self.bound, body, query.is_json()).await,
            "/listeners" => self.listeners(query),
            "/stats" if query.get("format") == Some("prometheus") => self.scrape(request),
            "/stats" => self.stats(query),
            "/stats/prometheus" | "/metrics" => self.scrape(request),
            "/ready" => self.ready(Reader::Operator).await,
            "/server_info" => json(&self.server_info()),
            "/drain_listeners" => self.drain_listeners(query),
            "/quitquitquit" => self.ask(Command::End(Ending::Now)),
            "/reload" => self.ask(Command::Reload),
            "/healthcheck/fail" => self.set_healthy(false),
            "/healthcheck/ok" => self.set_healthy(true),
            _ => text(StatusCode::NOT_FOUND, format!("invalid path. admin commands are:\n{}", help())),
        }
    }

    /// The metrics, in the format that the scraper asks for.
    pub(super) fn scrape(&self, request: &Parts) -> Response {
        if wants_open_metrics(&request.headers) {
            page(StatusCode::OK, OPEN_METRICS, self.metrics.open_metrics())
        } else {
            page(StatusCode::OK, CLASSIC, self.metrics.classic())
        }
    }

    /// Ready: not draining, every worker answers, and no port has waited for certificates of its own from the beginning.
    /// The configuration was loaded and the listeners were bound before this could be asked.
    pub(super) async fn ready(&self, reader: Reader) -> Response {
        if self.drain.phase() > Phase::Serving || self.unhealthy.load(Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n");
        }
        if !self.was_ready.load(Relaxed)
            && let Some(closed) = self.published.load().closed_port()
        {
            let why = match reader {
                Reader::Operator => &*closed,
                Reader::Anybody => "its certificates are missing: `outrigger admin GET /ready` says which",
            };
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("PRE_INITIALIZING: a port serves nobody, {why}\n"),
            );
        }
        match timeout(PING, self.workers.all_answer()).await {
            Ok(true) => {
                self.was_ready.store(true, Relaxed);
                text(StatusCode::OK, "LIVE\n")
            }
            _ => text(StatusCode::SERVICE_UNAVAILABLE, "PRE_INITIALIZING\n"),
        }
    }

    fn listeners(&self, query: Query<'_>) -> Response {
        let listeners = self.bound.listeners();
        if query.is_json() {
            let statuses: Vec<_> =
                listeners.iter().map(|(name, address)| listener_status(name, *address)).collect();
            return json(&json!({ "listener_statuses": statuses }));
        }
        let lines = listeners.iter().map(|(name, address)| format!("{name}::{address}\n"));
        text(StatusCode::OK, lines.collect::<String>())
    }

    fn stats(&self, query: Query<'_>) -> Response {
        let filter =
            query.get("filter").map(|regex| RegexBuilder::new(&decoded(regex)).size_limit(MAX_REGEX).build());
        let filter = match filter.transpose() {
            Ok(filter) => filter,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("invalid regex: {error}\n")),
        };
        let used_only = query.has("usedonly");
        let mut stats: Vec<(String, f64)> = self
            .metrics
            .samples()
            .map(|sample| (stat_name(&sample), sample.value))
            .filter(|(name, value)| {
                filter.as_ref().is_none_or(|filter| filter.is_match(name)) && !(used_only && *value == 0.0)
            })
            .collect();
        stats.sort_by(|left, right| left.0.cmp(&right.0));
        if query.is_json() {
            let stats: Vec<_> =
                stats.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            return json(&json!({ "stats": stats }));
        }
        let lines = stats.iter().map(|(name, value)| format!("{name}: {value}\n"));
        text(StatusCode::OK, lines.collect::<String>())
    }

    fn server_info(&self) -> Value {
        let snapshot = &self.published.load().snapshot;
        let uptime = format!("{}s", self.started.elapsed().as_secs());
        json!({
            "version": format!("outrigger/{}", env!("CARGO_PKG_VERSION")),
            "state": if self.drain.phase() == Phase::Serving { "LIVE" } else { "DRAINING" },
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "command_line_options": {"concurrency": self.concurrency},
            "node": {"id": snapshot.node.id()},
        })
    }

    fn drain_listeners(&self, query: Query<'_>) -> Response {
        if query.has("inboundonly") {
            return text(StatusCode::BAD_REQUEST, "inboundonly is not supported: listeners drain together\n");
        }
        let graceful = query.has("graceful");
        self.ask(Command::DrainListeners { graceful, close: !(graceful && query.has("skip_exit")) })
    }

    fn set_healthy(&self, healthy: bool) -> Response {
        self.unhealthy.store(!healthy, Relaxed);
        text(StatusCode::OK, "OK\n")
    }

    pub(super) fn ask(&self, command: Command) -> Response {
        if self.control.ask(command) {
            text(StatusCode::OK, "OK\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "busy\n")
        }
    }
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let open = |value: &str| value.contains("application/openmetrics-text");
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(open))
}

/// The query of an admin path.
#[derive(Debug, Clone, Copy)]
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn get(self, key: &str) -> Option<&'a str> {
        self.0.split('&').find_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == key).then_some(value)
        })
    }

    fn has(self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn is_json(self) -> bool {
        self.get("format") == Some("json")
    }
}

/// Percent sequences as bytes, those that are broken left as they stand; the result as far as it is UTF-8.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Envoy's dotted name: `cluster.<name>.upstream_rq_total`.
fn stat_name(sample: &Sample) -> String {
    let name = &*sample.name;
    let label = |key: &str| sample.labels.iter().find(|(name, _)| *name == key).map(|(_, value)| &**value);
    match (name.strip_prefix("envoy_cluster_").map(dotted), label("cluster_name")) {
        (Some(stat), Some(cluster)) => match label("response_code_class") {
            Some(class) => format!("cluster.{cluster}.{stat}_{class}"),
            None => format!("cluster.{cluster}.{stat}"),
        },
        _ => match (name.strip_prefix("envoy_server_"), name.strip_prefix("envoy_http_")) {
            (Some(stat), _) => format!("server.{stat}"),
            (_, Some(stat)) => format!("http.{}", dotted(stat)),
            (None, None) => name.to_owned(),
        },
    }
}

/// The statistics that Envoy groups have a dot where Prometheus has an underscore.
fn dotted(stat: &str) -> Cow<'_, str> {
    for (group, named) in [
        ("circuit_breakers_default_", "circuit_breakers.default."),
        ("http2_", "http2."),
        ("outlier_detection_", "outlier_detection."),
        ("fault_", "fault."),
        ("cors_", "cors."),
    ] {
        if let Some(rest) = stat.strip_prefix(group) {
            return format!("{named}{rest}").into();
        }
    }
    stat.into()
}

fn listener_status(name: &str, address: SocketAddr) -> Value {
    let socket = json!({"address": address.ip().to_string(), "port_value": address.port()});
    json!({"name": name, "local_address": {"socket_address": socket}})
}

fn help() -> String {
    PAGES.iter().fold(String::new(), |mut list, (path, by_post, what)| {
        let post = if *by_post { " (POST)" } else { "" };
        let written = writeln!(list, "  {path}{post}: {what}");
        debug_assert!(written.is_ok(), "a string takes every write");
        list
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Kind;

    #[test]
    fn statistics_of_filters_stand_under_http() {
        let name = "envoy_http_fault_aborts_injected".into();
        let sample = Sample { name, help: "", kind: Kind::Counter, labels: Vec::new(), value: 0.0 };
        assert_eq!(stat_name(&sample), "http.fault.aborts_injected");
    }

    #[test]
    fn statistics_of_a_group_have_its_name_and_a_dot() {
        for (name, expected) in [
            ("circuit_breakers_default_rq_pending_open", "circuit_breakers.default.rq_pending_open"),
            ("outlier_detection_ejections_active", "outlier_detection.ejections_active"),
            ("http2_keepalive_timeout", "http2.keepalive_timeout"),
            ("upstream_cx_total", "upstream_cx_total"),
        ] {
            let name = format!("envoy_cluster_{name}").into();
            let labels = vec![("cluster_name", "outbound|80||a".into())];
            let sample = Sample { name, help: "", kind: Kind::Gauge, labels, value: 0.0 };
            assert_eq!(stat_name(&sample), format!("cluster.outbound|80||a.{expected}"));
        }
    }

    #[test]
    fn a_filter_is_decoded() {
        assert_eq!(decoded("cluster%5C.a%7Cb%2"), "cluster\\.a|b%2");
        assert_eq!(Query("usedonly&filter=a").get("filter"), Some("a"));
        assert!(Query("usedonly&filter=a").has("usedonly") && !Query("x=usedonly").has("usedonly"));
    }
}
