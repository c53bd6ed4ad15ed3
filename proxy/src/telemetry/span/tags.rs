//! The attributes of a span that tell of its request: Envoy's tags, and those of the semantic conventions.

use http::{HeaderValue, Method, Version};

use super::{ATTRIBUTES, Kind, SpanPlan};
use crate::telemetry::{
    Record, access_log,
    wire::{Any, attribute},
};

impl SpanPlan {
    /// Envoy `HttpTracerUtility::setCommonTags` and `finalizeDownstreamSpan`: all of them are text.
    pub(super) fn envoy_tags(&self, record: &Record, out: &mut Vec<u8>) {
        let mut number = itoa::Buffer::new();
        let mut tag = |name, value: &[u8]| attribute(ATTRIBUTES, name, Any::Lossy(value), out);
        if let Some(id) = self.header(record, self.seen.request_id) {
            tag("guid:x-request-id", id);
        }
        tag("http.method", method(record).as_bytes());
        tag("http.protocol", protocol(record.version).as_bytes());
        tag("user_agent", self.header(record, self.seen.user_agent).unwrap_or(b"-"));
        tag("downstream_cluster", self.header(record, self.seen.downstream_cluster).unwrap_or(b"-"));
        if let Some(id) = self.header(record, self.seen.client_trace_id) {
            tag("guid:x-client-trace-id", id);
        }
        tag("request_size", number.format(record.body_received).as_bytes());
        tag("response_size", number.format(record.body_sent).as_bytes());
        tag("http.status_code", number.format(record.status).as_bytes());
        if let Some(cluster) = &record.cluster {
            tag("upstream_cluster", cluster.name.as_bytes());
            tag("upstream_cluster.name", cluster.name.as_bytes());
        }
        if let Some(endpoint) = &record.endpoint {
            tag("upstream_address", endpoint.key.as_bytes());
        }
        if record.grpc {
            tag("grpc.path", path(record).as_bytes());
            if let Some(authority) = &record.authority {
                tag("grpc.authority", authority.as_bytes());
            }
            if let Some(kind) = self.header(record, self.seen.content_type) {
                tag("grpc.content_type", kind);
            }
            if let Some(timeout) = self.header(record, self.seen.grpc_timeout) {
                tag("grpc.timeout", timeout);
            }
            if let Some(status) = record.grpc_status {
                tag("grpc.status_code", number.format(status).as_bytes());
            }
            let mut messages = self.seen.grpc_messages.into_iter().rev();
            if let Some(message) = messages.find_map(|slot| self.header(record, slot)) {
                tag("grpc.message", message);
            }
        }
        if is_envoy_error(record) {
            tag("error", b"true");
        }
    }

    /// OpenTelemetry's conventions for HTTP and RPC spans, and the tags that have to be put together.
    pub(super) fn conventions(&self, record: &Record, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        let asked = self.asked_path(record);
        let cut = asked.get(..self.max_path_length).unwrap_or(asked);
        let authority = record.authority.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        scratch.clear();
        scratch.extend_from_slice(b"http://");
        scratch.extend_from_slice(authority);
        scratch.extend_from_slice(cut.as_bytes());
        attribute(ATTRIBUTES, "http.url", Any::Lossy(scratch), out);
        match self.kind {
            Kind::Client => attribute(ATTRIBUTES, "url.full", Any::Lossy(scratch), out),
            Kind::Server => {
                let (path, query) = cut.split_once('?').unwrap_or((cut, ""));
                attribute(ATTRIBUTES, "url.scheme", Any::Text("http"), out);
                attribute(ATTRIBUTES, "url.path", Any::Text(path), out);
                if !query.is_empty() {
                    attribute(ATTRIBUTES, "url.query", Any::Text(query), out);
                }
            }
        }
        if record.flags.is_empty() {
            attribute(ATTRIBUTES, "response_flags", Any::Text("-"), out);
        } else {
            text(scratch, format_args!("{}", record.flags));
            attribute(ATTRIBUTES, "response_flags", Any::Lossy(scratch), out);
        }
        if let Some(peer) = record.downstream_remote {
            scratch.clear();
            access_log::ip(peer.ip(), scratch);
            attribute(ATTRIBUTES, "peer.address", Any::Lossy(scratch), out);
        }
        attribute(ATTRIBUTES, "http.request.method", Any::Text(method(record)), out);
        if record.status != 0 {
            attribute(ATTRIBUTES, "http.response.status_code", Any::Int(record.status.into()), out);
        }
        attribute(ATTRIBUTES, "network.protocol.version", Any::Text(protocol_version(record.version)), out);
        let (host, port) = split_port(authority);
        attribute(ATTRIBUTES, "server.address", Any::Lossy(host), out);
        if let Some(port) = port {
            attribute(ATTRIBUTES, "server.port", Any::Int(port.into()), out);
        }
        if record.grpc {
            attribute(ATTRIBUTES, "rpc.system", Any::Text("grpc"), out);
            let path = path(record);
            let (service, call) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
            attribute(ATTRIBUTES, "rpc.service", Any::Text(service), out);
            attribute(ATTRIBUTES, "rpc.method", Any::Text(call), out);
            if let Some(status) = record.grpc_status {
                attribute(ATTRIBUTES, "rpc.grpc.status_code", Any::Int(status.into()), out);
            }
        }
        if self.is_error(record) {
            match record.details.as_ref().filter(|_| record.status == 0 || !record.flags.is_empty()) {
                Some(details) => attribute(ATTRIBUTES, "error.type", Any::Text(details.as_str()), out),
                None => {
                    text(scratch, format_args!("{}", record.status));
                    attribute(ATTRIBUTES, "error.type", Any::Lossy(scratch), out);
                }
            }
        }
    }

    /// The path before it was rewritten, as in Envoy.
    fn asked_path<'r>(&self, record: &'r Record) -> &'r str {
        let original = self.header(record, self.seen.original_path);
        original.and_then(|original| str::from_utf8(original).ok()).unwrap_or_else(|| path(record))
    }
}

/// Envoy's tag `error`: a 5xx, or one of the gRPC codes that are the server's fault.
pub(super) fn is_envoy_error(record: &Record) -> bool {
    let grpc = matches!(record.grpc_status, Some(2 | 4 | 8 | 12..=15));
    record.status >= 500 || (record.grpc && grpc)
}

fn text(scratch: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    scratch.clear();
    // A vector takes every write.
    let _ = std::io::Write::write_fmt(scratch, what);
}

fn method(record: &Record) -> &str {
    record.method.as_ref().map_or("", Method::as_str)
}

fn path(record: &Record) -> &str {
    record.path.as_ref().map_or("", |path| path.as_str())
}

fn protocol(version: Option<Version>) -> &'static str {
    match version {
        Some(Version::HTTP_10) => "HTTP/1.0",
        Some(Version::HTTP_2) => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn protocol_version(version: Option<Version>) -> &'static str {
    match version {
        Some(Version::HTTP_10) => "1.0",
        Some(Version::HTTP_2) => "2",
        _ => "1.1",
    }
}

/// Host and port of an authority; an IPv6 address stands in brackets.
fn split_port(authority: &[u8]) -> (&[u8], Option<u16>) {
    let Some(colon) = authority.iter().rposition(|byte| *byte == b':') else { return (authority, None) };
    let (host, port) = authority.split_at(colon);
    match std::str::from_utf8(port).ok().and_then(|port| port.get(1..)?.parse().ok()) {
        Some(port) => (host, Some(port)),
        None => (authority, None),
    }
}
