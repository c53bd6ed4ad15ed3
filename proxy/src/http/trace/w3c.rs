//! W3C trace context: `traceparent` and `tracestate` (Envoy OpenTelemetry tracer).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::span::{Parent, Text, low, parse};
use crate::telemetry::SpanContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `{2}-{32}-{16}-{2}`: any version, either case, no all-zero id.
pub(super) fn read(headers: &HeaderMap) -> Parent {
    let Some(header) = headers.get(&TRACEPARENT) else { return Parent::None { sampled: None } };
    parse_traceparent(header.as_bytes()).unwrap_or(Parent::Unreadable)
}

fn parse_traceparent(text: &[u8]) -> Option<Parent> {
    if text.len() != 55 {
        return None;
    }
    let mut parts = text.split(|byte| *byte == b'-');
    parse(parts.next()?, 2)?;
    let trace_id = parse(parts.next()?, 32).filter(|id| *id != 0)?;
    let span_id = parse(parts.next()?, 16).filter(|id| *id != 0)?;
    let flags = parse(parts.next()?, 2)?;
    let span_id = low(span_id);
    parts.next().is_none().then_some(Parent::Span { trace_id, span_id, sampled: Some(flags & 1 == 1) })
}

/// Passes the caller's state on; without a parent it belongs to no trace.
pub(super) fn write_state(span: &SpanContext, headers: &mut HeaderMap) {
    if span.parent_id.is_none() || !headers.contains_key(&TRACESTATE) {
        headers.insert(TRACESTATE, HeaderValue::from_static(""));
    }
}

pub(super) fn write_parent(span: &SpanContext, headers: &mut HeaderMap) {
    let flags: &[u8] = if span.sampled { b"-01" } else { b"-00" };
    let text = Text::new().put(b"00-").hex128(span.trace_id).put(b"-").hex64(span.span_id).put(flags);
    text.insert(headers, TRACEPARENT);
}
