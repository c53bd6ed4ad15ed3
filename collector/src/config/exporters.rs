//! The `exporters` section.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme, Uri};

use super::expand::Environment;
use super::fields::{Fields, nearest, scalar_text};
use super::model::{Batch, Exporter, ExporterKind, OtlpGrpc, OtlpHttp, Queue, Retry};
use super::report::Report;
use super::yaml::{Entry, Node};
use crate::signal::Signal;

const KINDS: [&str; 7] = ["otlp_grpc", "otlp", "otlp_http", "otlphttp", "file", "debug", "nop"];

pub(super) fn read(entry: &Entry, environment: &Environment, report: &mut Report) -> Option<Exporter> {
    let path = format!("exporters.{}", entry.key);
    let mut fields = Fields::open(&entry.node, &path, report);
    let kind = entry.key.split('/').next().unwrap_or_default();
    let kind = match kind {
        "otlp_grpc" | "otlp" => ExporterKind::OtlpGrpc(otlp_grpc(&mut fields, environment, report)?),
        "otlp_http" | "otlphttp" => ExporterKind::OtlpHttp(otlp_http(&mut fields, environment, report)?),
        "file" => file(&mut fields, report)?,
        "debug" => {
            let verbosity = [("basic", false), ("normal", false), ("detailed", true)];
            let detailed = fields.choice("verbosity", &verbosity, report).unwrap_or(false);
            ExporterKind::Debug { detailed }
        }
        "nop" => ExporterKind::Nop,
        _ => {
            report.error(&entry.place, &path, "unknown exporter", nearest(kind, KINDS.into_iter()));
            return None;
        }
    };
    let queue = queue(&mut fields, report);
    let retry = retry(&mut fields, report);
    fields.finish(report);
    Some(Exporter { name: entry.key.clone(), kind, queue, retry })
}

fn otlp_grpc(fields: &mut Fields<'_>, environment: &Environment, report: &mut Report) -> Option<OtlpGrpc> {
    let common = common(fields, Duration::from_secs(5), report);
    let endpoint = endpoint(fields, "endpoint", report)
        .or_else(|| inherited(environment, "OTEL_EXPORTER_OTLP_ENDPOINT", fields, report));
    let Some(endpoint) = endpoint else {
        missing(fields, "endpoint", report);
        return None;
    };
    Some(OtlpGrpc { endpoint, headers: common.headers, gzip: common.gzip, timeout: common.timeout })
}

fn otlp_http(fields: &mut Fields<'_>, environment: &Environment, report: &mut Report) -> Option<OtlpHttp> {
    let common = common(fields, Duration::from_secs(30), report);
    let json = fields.choice("encoding", &[("proto", false), ("json", true)], report).unwrap_or(false);
    let base = endpoint(fields, "endpoint", report);
    let own = [
        endpoint(fields, "traces_endpoint", report),
        endpoint(fields, "metrics_endpoint", report),
        endpoint(fields, "logs_endpoint", report),
    ];
    let base = match base {
        None if own.iter().all(Option::is_none) => {
            inherited(environment, "OTEL_EXPORTER_OTLP_ENDPOINT", fields, report)
        }
        base => base,
    };
    if base.is_none() && own.iter().all(Option::is_none) {
        missing(fields, "endpoint", report);
        return None;
    }
    let mut own = own.into_iter();
    let endpoints = Signal::ALL.map(|signal| match own.next().flatten() {
        Some(endpoint) => Some(endpoint),
        None => base.as_ref().and_then(|base| join(base, signal.http_path())),
    });
    Some(OtlpHttp { endpoints, headers: common.headers, gzip: common.gzip, timeout: common.timeout, json })
}

fn file(fields: &mut Fields<'_>, report: &mut Report) -> Option<ExporterKind> {
    fields.choice("format", &[("json", ())], report);
    // It always appends: cutting the file at a start would lose what it holds.
    if fields.bool("append", report) == Some(false) {
        let hint = "remove the key: the file is always appended to";
        report.error(&fields.place, &fields.at("append"), "not built", Some(hint.to_owned()));
    }
    let path = fields.text("path", report);
    if path.is_none() {
        missing(fields, "path", report);
    }
    path.map(|path| ExporterKind::File { path: path.into() })
}

struct Common {
    headers: http::HeaderMap,
    gzip: bool,
    timeout: Duration,
}

fn common(fields: &mut Fields<'_>, timeout: Duration, report: &mut Report) -> Common {
    let headers = headers(fields, report);
    let gzip = fields.choice("compression", &[("gzip", true), ("none", false), ("", false)], report);
    let timeout = fields.duration("timeout", report).filter(|timeout| !timeout.is_zero()).unwrap_or(timeout);
    if let Some(mut tls) = fields.fields("tls", report) {
        if tls.bool("insecure", report) != Some(true) {
            report.error(
                &tls.place,
                &tls.path,
                "TLS is not built yet",
                Some("let the sidecar do it".to_owned()),
            );
        }
        tls.finish(report);
    }
    Common { headers, gzip: gzip.unwrap_or(true), timeout }
}

fn headers(fields: &mut Fields<'_>, report: &mut Report) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    let path = fields.at("headers");
    for entry in fields.named("headers", report) {
        let name = http::HeaderName::try_from(entry.key.as_str());
        let value = scalar_text(&entry.node).and_then(|text| http::HeaderValue::try_from(text).ok());
        match (name, value) {
            (Ok(name), Some(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            (Err(_), _) => {
                report.error(&entry.place, &path, format!("\"{}\" is not a header name", entry.key), None);
            }
            (_, None) => report.error(&entry.place, &path, format!("bad value for {}", entry.key), None),
        }
    }
    headers
}

fn queue(fields: &mut Fields<'_>, report: &mut Report) -> Queue {
    let mut queue = Queue::default();
    let Some(mut section) = fields.fields("sending_queue", report) else { return queue };
    if section.bool("enabled", report) == Some(false) {
        let hint = "remove the key: what is accepted is always queued";
        report.error(&section.place, &section.at("enabled"), "not built", Some(hint.to_owned()));
    }
    let bytes = section.choice("sizer", &[("requests", false), ("bytes", true)], report).unwrap_or(false);
    let size = section.positive("queue_size", report);
    match size {
        Some(size) if bytes => queue.max_bytes = size,
        Some(size) => queue.max_requests = size,
        None => {}
    }
    if let Some(size) = section.positive("max_bytes", report) {
        queue.max_bytes = size;
    }
    if section.bool("block_on_overflow", report) == Some(false) {
        queue.block_for = Duration::ZERO;
    }
    if let Some(block_for) = section.duration("block_for", report) {
        queue.block_for = block_for;
    }
    if let Some(consumers) = section.positive("num_consumers", report) {
        queue.consumers = consumers;
    }
    section.unbuilt("storage", "the queue is in memory; remove the key", report);
    section.unbuilt("wait_for_result", "remove the key", report);
    if let Some(mut section) = section.fields("batch", report) {
        let mut batch = Batch::default();
        section.choice("sizer", &[("items", ())], report);
        if let Some(size) = section.number("min_size", report) {
            batch.min_items = size;
        }
        if let Some(size) = section.number("max_size", report) {
            batch.max_items = size;
        }
        if let Some(timeout) = section.duration("flush_timeout", report) {
            batch.flush_timeout = timeout;
        }
        section.finish(report);
        queue.batch = Some(batch);
    }
    section.finish(report);
    queue
}

fn retry(fields: &mut Fields<'_>, report: &mut Report) -> Retry {
    let mut retry = Retry::default();
    let Some(mut section) = fields.fields("retry_on_failure", report) else { return retry };
    if section.bool("enabled", report) == Some(false) {
        report.warn(&section.place, &section.at("enabled"), "ignored: what was accepted is never dropped");
    }
    if section.duration("max_elapsed_time", report).is_some_and(|limit| !limit.is_zero()) {
        report.warn(
            &section.place,
            &section.at("max_elapsed_time"),
            "ignored: what was accepted is never dropped",
        );
    }
    if let Some(initial) = section.duration("initial_interval", report) {
        retry.initial = initial.max(Duration::from_millis(1));
    }
    if let Some(max) = section.duration("max_interval", report) {
        retry.max = max;
    }
    if let Some(multiplier) = section.float("multiplier", report) {
        retry.multiplier = multiplier.max(1.0);
    }
    if let Some(jitter) = section.float("randomization_factor", report) {
        retry.jitter = jitter.clamp(0.0, 1.0);
    }
    section.finish(report);
    retry.max = retry.max.max(retry.initial);
    retry
}

fn endpoint(fields: &mut Fields<'_>, key: &'static str, report: &mut Report) -> Option<Uri> {
    let node = fields.node(key)?;
    let text = scalar_text(node).unwrap_or_default();
    uri(&text, node, &fields.at(key), report)
}

fn inherited(environment: &Environment, name: &str, fields: &Fields<'_>, report: &mut Report) -> Option<Uri> {
    let text = environment.get(name).filter(|text| !text.is_empty())?;
    let node = Node::empty(fields.place.clone());
    uri(text, &node, &format!("{} (from {name})", fields.at("endpoint")), report)
}

fn uri(text: &str, node: &Node, path: &str, report: &mut Report) -> Option<Uri> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match full.parse::<Uri>() {
        Ok(uri)
            if uri.scheme() == Some(&Scheme::HTTP)
                && uri.authority().is_some_and(|a| !a.host().is_empty()) =>
        {
            Some(uri)
        }
        Ok(uri) if uri.scheme() == Some(&Scheme::HTTPS) => {
            let hint = "write http:// and let the sidecar do TLS".to_owned();
            report.error(&node.place, path, "TLS is not built yet", Some(hint));
            None
        }
        _ => {
            let hint = "for example http://collector:4317".to_owned();
            report.error(&node.place, path, format!("\"{text}\" is not an address"), Some(hint));
            None
        }
    }
}

fn missing(fields: &Fields<'_>, key: &str, report: &mut Report) {
    // Another error for the same key says more.
    let path = fields.at(key);
    if !report.errors.iter().any(|error| error.path.starts_with(&path)) {
        report.error(&fields.place, &path, "is required", None);
    }
}

/// `base` is a folder: `v1/traces` goes behind whatever path it has.
fn join(base: &Uri, path: &str) -> Option<Uri> {
    let authority: Authority = base.authority()?.clone();
    let path = format!("{}{path}", base.path().trim_end_matches('/'));
    let path: PathAndQuery = path.parse().ok()?;
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build().ok()
}
