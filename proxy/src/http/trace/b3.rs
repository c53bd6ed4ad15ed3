//! B3 in one header or in several (Envoy Zipkin tracer).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::span::{Parent, Text, Trace};

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
        (Some(trace), Some(span)) => {
            let grandparent = headers.get(&X_B3_PARENTSPANID).filter(|id| !id.is_empty());
            let readable = grandparent.is_none_or(|id| number(id.as_bytes()).is_some());
            match (trace_id(trace.as_bytes()), number(span.as_bytes())) {
                (Some(trace_id), Some(span_id)) if readable => Parent::Span { trace_id, span_id, sampled },
                _ => Parent::Unreadable,
            }
        }
        _ => Parent::None { sampled },
    };
    (parent, false)
}

/// `{16|32 hex}-{16 hex}[-{0|1|d}[-{16 hex}]]`, or the flag alone.
fn parse_single(text: &[u8]) -> Option<Parent> {
    if let [flag] = text {
        return Some(Parent::None { sampled: Some(single_flag(*flag)?) });
    }
    let (trace, rest) = text.split_at_checked(if text.get(32) == Some(&b'-') { 32 } else { 16 })?;
    let (span, rest) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let (sampled, rest) = match rest {
        [] => (None, rest),
        [b'-', flag, rest @ ..] => (Some(single_flag(*flag)?), rest),
        _ => return None,
    };
    match rest {
        [] => {}
        [b'-', grandparent @ ..] if grandparent.len() == 16 => drop(number(grandparent)?),
        _ => return None,
    }
    Some(Parent::Span { trace_id: trace_id(trace)?, span_id: number(span)?, sampled })
}

fn single_flag(flag: u8) -> Option<bool> {
    match flag {
        b'1' | b'd' => Some(true),
        b'0' => Some(false),
        _ => None,
    }
}

pub(super) fn write(trace: &Trace, headers: &mut HeaderMap) {
    let span = &trace.span;
    let trace_id = match u64::try_from(span.trace_id) {
        Ok(short) => Text::new().hex64(short),
        Err(_) => Text::new().hex128(span.trace_id),
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
    if let Some(parent) = span.parent_id {
        Text::new().hex64(parent).insert(headers, X_B3_PARENTSPANID);
    }
    headers.insert(X_B3_SAMPLED, HeaderValue::from_static(if span.sampled { "1" } else { "0" }));
}

/// Two halves of 16 digits, or one number.
fn trace_id(digits: &[u8]) -> Option<u128> {
    match digits.split_at_checked(16) {
        Some((high, low)) if low.len() == 16 => {
            Some(u128::from(number(high)?) << 64 | u128::from(number(low)?))
        }
        _ => number(digits).map(u128::from),
    }
}

/// Any number of hex digits whose value fits, as Envoy reads ids.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value.checked_mul(16)? | u64::from(digit))
    })
}
