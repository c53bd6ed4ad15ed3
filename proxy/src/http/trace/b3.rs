//! B3 in one header or in several (Envoy Zipkin tracer).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::span::{Parent, Text, Trace, low, parse};

const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACEID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPANID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_PARENTSPANID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// The caller's span, and whether it came in a single header.
pub(super) fn read(headers: &HeaderMap) -> (Parent, bool) {
    if let Some(single) = headers.get(&B3) {
        return (parse_single(single.as_bytes()).unwrap_or(Parent::Unreadable), true);
    }
    let sampled = headers.get(&X_B3_SAMPLED).map(|flag| flag == "1" || flag == "true");
    let parent = match (headers.get(&X_B3_TRACEID), headers.get(&X_B3_SPANID)) {
        (Some(trace), Some(span)) => match (trace_id(trace.as_bytes()), parse(span.as_bytes(), 16)) {
            (Some((trace_id, short)), Some(span)) => {
                Parent::Span { trace_id, short, span_id: low(span), sampled }
            }
            _ => Parent::Unreadable,
        },
        _ => Parent::None { sampled },
    };
    (parent, false)
}

/// `{16|32 hex}-{16 hex}[-{0|1|d}[-{16 hex}]]`, or the flag alone.
fn parse_single(text: &[u8]) -> Option<Parent> {
    if text.len() > 68 {
        return None;
    }
    if let [flag] = text {
        return Some(Parent::None { sampled: Some(single_flag(&[*flag])?) });
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let (trace_id, short) = trace_id(parts.next()?)?;
    let span_id = low(parse(parts.next()?, 16)?);
    let sampled = parts.next().map(|flag| single_flag(flag).ok_or(())).transpose().ok()?;
    if let Some(parent) = parts.next() {
        parse(parent, 16)?;
    }
    parts.next().is_none().then_some(Parent::Span { trace_id, short, span_id, sampled })
}

fn single_flag(flag: &[u8]) -> Option<bool> {
    match flag {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    }
}

pub(super) fn write(trace: &Trace, headers: &mut HeaderMap) {
    let span = &trace.span;
    let trace_id = match trace.short {
        true => Text::new().hex64(low(span.trace_id)),
        false => Text::new().hex128(span.trace_id),
    };
    if trace.single_b3 {
        let flag: &[u8] = if span.sampled { b"-1" } else { b"-0" };
        let text = trace_id.put(b"-").hex64(span.span_id).put(flag);
        let text = match span.parent_id {
            Some(parent) => text.put(b"-").hex64(parent),
            None => text,
        };
        return text.insert(headers, B3);
    }
    trace_id.insert(headers, X_B3_TRACEID);
    Text::new().hex64(span.span_id).insert(headers, X_B3_SPANID);
    match span.parent_id {
        Some(parent) => Text::new().hex64(parent).insert(headers, X_B3_PARENTSPANID),
        None => drop(headers.remove(X_B3_PARENTSPANID)),
    }
    headers.insert(X_B3_SAMPLED, HeaderValue::from_static(if span.sampled { "1" } else { "0" }));
}

fn trace_id(digits: &[u8]) -> Option<(u128, bool)> {
    match digits.len() {
        16 => Some((parse(digits, 16)?, true)),
        _ => Some((parse(digits, 32)?, false)),
    }
}
