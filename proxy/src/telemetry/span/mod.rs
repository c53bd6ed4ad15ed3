//! A record as an OTLP span: Envoy's and Istio's tags beside those of the semantic conventions.
//!
//! Written only for requests that are sampled, at the end of their stream. What does not change from request to request
//! is encoded once. (Trace headers are the business of `http::trace`.)

mod tags;

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header::USER_AGENT};
use outrigger_config::snapshot::{Direction, Node, TagValue, Tracing};

use super::{
    Environment, Record, Target,
    access_log::{End, Steps},
    capture::{Captures, Part, Slot},
    wire::{self, Any, attribute},
};

/// This hop's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// 16 bytes; of a 64-bit B3 id the upper half is zero.
    pub trace_id: u128,
    /// This hop's own.
    pub span_id: u64,
    /// The caller's span, if there was one.
    pub parent_id: Option<u64>,
    /// Whether the span is recorded.
    pub sampled: bool,
}

/// How spans of one direction are written.
#[derive(Debug)]
pub(super) struct SpanPlan {
    pub(super) target: Arc<Target>,
    kind: Kind,
    max_path_length: usize,
    /// Encoded attributes that every span has.
    fixed: Box<[u8]>,
    seen: Seen,
    tags: Box<[Tag]>,
}

/// OTLP's `SpanKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server = 2,
    Client = 3,
}

/// Slots of the request headers that tags show.
#[derive(Debug)]
struct Seen {
    request_id: Slot,
    user_agent: Slot,
    client_trace_id: Slot,
    downstream_cluster: Slot,
    trace_state: Slot,
    grpc_timeout: Slot,
    content_type: Slot,
    original_path: Slot,
    /// `grpc-message` of an answer that is trailers only, and of trailers.
    grpc_messages: [Slot; 2],
}

/// A tag of the user's own whose value depends on the request.
#[derive(Debug)]
struct Tag {
    name: Arc<str>,
    value: Dynamic,
}

#[derive(Debug)]
enum Dynamic {
    Header { slot: Slot, default: Option<Arc<str>> },
    Format(Steps),
}

impl SpanPlan {
    pub(super) fn new(
        tracing: &Tracing,
        direction: Direction,
        node: &Node,
        environment: Environment,
        target: Arc<Target>,
        captures: &mut Captures,
    ) -> Self {
        let mut fixed = Vec::new();
        let mut fix = |name: &str, value: &str| attribute(ATTRIBUTES, name, Any::Text(value), &mut fixed);
        fix("component", "proxy");
        fix("node_id", &node.id());
        if tracing.istio_tags {
            for (name, value) in istio_tags(node) {
                fix(name, &value);
            }
        }
        let mut tags = Vec::new();
        for tag in &tracing.custom_tags {
            let value = match &tag.value {
                TagValue::Literal(value) => {
                    fix(&tag.name, value);
                    continue;
                }
                TagValue::Environment { name, default } => {
                    let value = environment.0(name);
                    if let Some(value) = value.as_deref().or(default.as_deref()) {
                        fix(&tag.name, value);
                    }
                    continue;
                }
                TagValue::Header { name, default } => {
                    Dynamic::Header { slot: captures.slot(Part::Request, name), default: default.clone() }
                }
                TagValue::Format(format) => Dynamic::Format(Steps::new(format, node, captures)),
            };
            tags.push(Tag { name: Arc::clone(&tag.name), value });
        }
        let mut request = |name| captures.slot(Part::Request, &HeaderName::from_static(name));
        let seen = Seen {
            request_id: request("x-request-id"),
            user_agent: request(USER_AGENT.as_str()),
            client_trace_id: request("x-client-trace-id"),
            downstream_cluster: request("x-envoy-downstream-service-cluster"),
            trace_state: request("tracestate"),
            grpc_timeout: request("grpc-timeout"),
            content_type: request("content-type"),
            original_path: request("x-envoy-original-path"),
            grpc_messages: [Part::Response, Part::Trailers]
                .map(|part| captures.slot(part, &HeaderName::from_static("grpc-message"))),
        };
        Self {
            target,
            kind: match direction {
                Direction::Inbound => Kind::Server,
                Direction::Outbound => Kind::Client,
            },
            max_path_length: tracing.max_path_length,
            fixed: fixed.into(),
            seen,
            tags: tags.into(),
        }
    }

    /// Appends the span of a record that has ended. `scratch` is overwritten.
    pub(super) fn encode(
        &self,
        record: &Record,
        span: &SpanContext,
        end: &End,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        wire::bytes(1, &span.trace_id.to_be_bytes(), out);
        wire::bytes(2, &span.span_id.to_be_bytes(), out);
        if let Some(state) = self.header(record, self.seen.trace_state).filter(|state| !state.is_empty()) {
            wire::lossy(3, state, out);
        }
        if let Some(parent) = span.parent_id {
            wire::bytes(4, &parent.to_be_bytes(), out);
        }
        wire::lossy(5, self.name(record), out);
        wire::uint(6, self.kind as u64, out);
        wire::fixed64(7, wire::nanoseconds(record.started), out);
        wire::fixed64(8, wire::nanoseconds(record.started + end.took), out);
        out.extend_from_slice(&self.fixed);
        self.envoy_tags(record, out);
        self.conventions(record, scratch, out);
        self.custom_tags(record, end, scratch, out);
        if self.is_error(record) {
            wire::message(15, out, |out| wire::uint(3, 2, out));
        }
        // The low bits are W3C's flags; a parent comes from another process.
        let remote = if span.parent_id.is_some() { 0x300 } else { 0x100 };
        wire::fixed32(16, remote | u32::from(span.sampled), out);
    }

    /// The operation of the route, or of the caller's sidecar; else the authority, as in Envoy.
    fn name<'r>(&self, record: &'r Record) -> &'r [u8] {
        let name = record.operation.as_ref().or(record.authority.as_ref());
        name.map(HeaderValue::as_bytes).filter(|name| !name.is_empty()).unwrap_or(b"unknown")
    }

    fn header<'r>(&self, record: &'r Record, slot: Slot) -> Option<&'r [u8]> {
        record.captured.get(slot).map(HeaderValue::as_bytes)
    }

    fn custom_tags(&self, record: &Record, end: &End, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
        for tag in &self.tags {
            match &tag.value {
                Dynamic::Header { slot, default } => {
                    let value = self.header(record, *slot).or(default.as_ref().map(|value| value.as_bytes()));
                    if let Some(value) = value {
                        attribute(ATTRIBUTES, &tag.name, Any::Lossy(value), out);
                    }
                }
                Dynamic::Format(steps) => {
                    scratch.clear();
                    steps.plain(record, end, scratch);
                    attribute(ATTRIBUTES, &tag.name, Any::Lossy(scratch), out);
                }
            }
        }
    }

    /// The conventions: a client's span fails from 400 on, a server's from 500 on, and a request that got no answer.
    fn is_error(&self, record: &Record) -> bool {
        let client = self.kind == Kind::Client;
        tags::is_envoy_error(record) || record.status == 0 || (client && record.status >= 400)
    }
}

/// Field of a span.
const ATTRIBUTES: u32 = 9;

/// Istio's, with its words for what is unknown.
fn istio_tags(node: &Node) -> [(&'static str, String); 5] {
    let label = |names: [&str; 3]| {
        let values = names.into_iter().filter_map(|name| node.labels.get(name));
        values.map(|value| value.to_string()).find(|value| !value.is_empty())
    };
    let or = |value: &str, default: &str| if value.is_empty() { default } else { value }.to_owned();
    let service = label(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = label(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    [
        ("istio.canonical_service", service.unwrap_or_else(|| or(&node.workload, "unknown"))),
        ("istio.canonical_revision", revision.unwrap_or_else(|| "latest".to_owned())),
        ("istio.mesh_id", or(&node.mesh, "unknown")),
        ("istio.namespace", or(&node.namespace, "default")),
        ("istio.cluster_id", or(&node.cluster, "unknown")),
    ]
}
