//! Trace context: read from the client's headers, decided upon, and written for the upstream: B3 (Envoy Zipkin
//! tracer) and W3C (Envoy OpenTelemetry tracer), each with its own rule for the parent's sampling flag.
//!
//! Spans are not built here. A malformed, huge or repeated header is never an error: at worst there is no span, and
//! the headers pass as they came.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::snapshot::{Propagation, Tracing};
use rand::{RngExt, rngs::SmallRng};

use super::request_id::{self, TraceReason, X_REQUEST_ID};

const B3: HeaderName = HeaderName::from_static("b3");
const X_B3_TRACEID: HeaderName = HeaderName::from_static("x-b3-traceid");
const X_B3_SPANID: HeaderName = HeaderName::from_static("x-b3-spanid");
const X_B3_PARENTSPANID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");

/// The span of this hop.
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
    /// The id came, and goes on, as 16 digits.
    short: bool,
    single_b3: bool,
}

/// What the headers say about the caller.
enum Parent {
    /// Nothing usable: a new trace, with the caller's decision if it stated one.
    None {
        sampled: Option<bool>,
    },
    Span {
        trace_id: u128,
        short: bool,
        span_id: u64,
        sampled: Option<bool>,
    },
    /// Not readable: no span, headers pass unchanged.
    Unreadable,
}

/// Decides about sampling, notes it in `x-request-id`, and opens this hop's span. `None`: tracing is off, or the
/// caller's context cannot be read.
pub(crate) fn begin(tracing: &Tracing, headers: &mut HeaderMap, rng: &mut SmallRng) -> Option<SpanContext> {
    if tracing.propagation == Propagation::Off {
        return None;
    }
    let local = decide(tracing.sampling, headers);
    let (parent, single_b3) = match tracing.propagation {
        Propagation::Off => return None,
        Propagation::B3 => read_b3(headers),
        Propagation::B3AndW3c => match read_b3(headers) {
            // A readable decision without ids does not hide a traceparent; a bad traceparent is ignored.
            (Parent::None { sampled }, single) => match read_w3c(headers) {
                parent @ Parent::Span { .. } => (parent, single),
                _ => (Parent::None { sampled }, single),
            },
            found => found,
        },
        Propagation::W3c => (read_w3c(headers), false),
    };
    let context = match parent {
        Parent::Unreadable => return None,
        Parent::None { sampled } => {
            let trace_id = nonzero(rng);
            SpanContext {
                trace_id,
                span_id: if tracing.propagation == Propagation::W3c { nonzero64(rng) } else { low(trace_id) },
                parent_id: None,
                sampled: sampled.unwrap_or(local),
                short: false,
                single_b3,
            }
        }
        Parent::Span { trace_id, short, span_id, sampled } => SpanContext {
            trace_id,
            span_id: nonzero64(rng),
            parent_id: Some(span_id),
            sampled: match tracing.propagation {
                Propagation::W3c => sampled.unwrap_or(false) && local,
                _ => sampled.unwrap_or(local),
            },
            short,
            single_b3,
        },
    };
    Some(context)
}

impl SpanContext {
    /// Writes the context for the upstream.
    pub(crate) fn inject(&self, propagation: Propagation, headers: &mut HeaderMap) {
        match propagation {
            Propagation::Off => {}
            Propagation::B3 => self.write_b3(headers),
            Propagation::B3AndW3c => {
                self.write_b3(headers);
                self.write_traceparent(headers);
            }
            Propagation::W3c => {
                // Without a parent the state belongs to no trace.
                if self.parent_id.is_none() || !headers.contains_key(&TRACESTATE) {
                    headers.insert(TRACESTATE, HeaderValue::from_static(""));
                }
                self.write_traceparent(headers);
            }
        }
    }

    fn write_b3(&self, headers: &mut HeaderMap) {
        let mut text = String::with_capacity(68);
        if self.single_b3 {
            self.write_trace_id(&mut text);
            // Writing to a string cannot fail.
            let _ = write!(text, "-{:016x}-{}", self.span_id, u8::from(self.sampled));
            if let Some(parent) = self.parent_id {
                let _ = write!(text, "-{parent:016x}");
            }
            insert(headers, B3, &text);
            return;
        }
        self.write_trace_id(&mut text);
        insert(headers, X_B3_TRACEID, &text);
        insert(headers, X_B3_SPANID, hex(&mut text, self.span_id));
        match self.parent_id {
            Some(parent) => insert(headers, X_B3_PARENTSPANID, hex(&mut text, parent)),
            None => drop(headers.remove(X_B3_PARENTSPANID)),
        }
        headers.insert(X_B3_SAMPLED, HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
    }

    fn write_trace_id(&self, text: &mut String) {
        let _ = match self.short {
            true => write!(text, "{:016x}", low(self.trace_id)),
            false => write!(text, "{:032x}", self.trace_id),
        };
    }

    fn write_traceparent(&self, headers: &mut HeaderMap) {
        let flags = u8::from(self.sampled);
        let text = format!("00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id);
        insert(headers, TRACEPARENT, &text);
    }
}

/// Envoy `mutateTracingRequestHeader`: the nibble of an earlier hop, a client's wish, then the share.
fn decide(sampling: u16, headers: &mut HeaderMap) -> bool {
    let Some(id) = headers.get(&X_REQUEST_ID) else { return false };
    let Some((reason, draw)) = request_id::read(id) else { return false };
    if reason == TraceReason::Traced {
        return true;
    }
    let (nibble, sampled) = match draw < sampling {
        _ if headers.contains_key(&X_CLIENT_TRACE_ID) => (b'b', true),
        true => (b'9', true),
        false => (b'4', false),
    };
    if let Some(id) = request_id::with_nibble(id, nibble) {
        headers.insert(X_REQUEST_ID, id);
    }
    sampled
}

fn read_b3(headers: &HeaderMap) -> (Parent, bool) {
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

/// `{2}-{32}-{16}-{2}`: any version, either case, no all-zero id.
fn read_w3c(headers: &HeaderMap) -> Parent {
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
    parts.next().is_none().then_some(Parent::Span {
        trace_id,
        short: false,
        span_id,
        sampled: Some(flags & 1 == 1),
    })
}

fn trace_id(digits: &[u8]) -> Option<(u128, bool)> {
    match digits.len() {
        16 => Some((parse(digits, 16)?, true)),
        _ => Some((parse(digits, 32)?, false)),
    }
}

/// Exactly `length` hex digits.
fn parse(digits: &[u8], length: usize) -> Option<u128> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |id, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(id << 4 | u128::from(digit))
    })
}

fn hex(text: &mut String, id: u64) -> &str {
    text.clear();
    let _ = write!(text, "{id:016x}");
    text
}

fn insert(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

/// Lower 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low(id: u128) -> u64 {
    id as u64
}

fn nonzero(rng: &mut SmallRng) -> u128 {
    rng.random::<u128>().max(1)
}

fn nonzero64(rng: &mut SmallRng) -> u64 {
    rng.random::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
    const SPAN: &str = "a2fb4a1d1a96d312";
    /// Draws 99 of 10,000.
    const ID: &str = "00000063-0000-4000-8000-000000000000";

    struct Hop {
        headers: HeaderMap,
        context: Option<SpanContext>,
    }

    impl Hop {
        fn text(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(|value| value.to_str().unwrap())
        }
    }

    fn hop(propagation: Propagation, sampling: u16, lines: &[(&'static str, &str)]) -> Hop {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(ID));
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let tracing = Tracing { propagation, sampling };
        let context = begin(&tracing, &mut headers, &mut SmallRng::seed_from_u64(1));
        if let Some(context) = &context {
            context.inject(propagation, &mut headers);
        }
        Hop { headers, context }
    }

    #[test]
    fn off_leaves_every_header_alone() {
        let hop = hop(Propagation::Off, 10_000, &[("traceparent", "x"), ("b3", "1")]);
        assert!(hop.context.is_none());
        assert_eq!(
            (hop.text("traceparent"), hop.text("b3"), hop.text("x-request-id")),
            (Some("x"), Some("1"), Some(ID))
        );
    }

    #[test]
    fn the_request_id_decides_and_carries_the_decision() {
        let sampled = hop(Propagation::B3, 100, &[]);
        assert_eq!(sampled.text("x-request-id"), Some("00000063-0000-9000-8000-000000000000"));
        assert_eq!(sampled.text("x-b3-sampled"), Some("1"));
        let unsampled = hop(Propagation::B3, 99, &[]);
        assert_eq!(unsampled.text("x-request-id"), Some(ID));
        assert_eq!(unsampled.text("x-b3-sampled"), Some("0"));
        let forced = hop(Propagation::B3, 0, &[("x-client-trace-id", "1")]);
        assert_eq!(forced.text("x-request-id"), Some("00000063-0000-b000-8000-000000000000"));
        assert!(forced.context.unwrap().sampled);
    }

    #[test]
    fn a_new_b3_trace_has_its_lower_half_as_span_and_no_parent() {
        let hop = hop(Propagation::B3, 0, &[("x-b3-traceid", TRACE)]);
        let trace = hop.text("x-b3-traceid").unwrap();
        assert!(trace.len() == 32 && trace != TRACE);
        assert_eq!(hop.text("x-b3-spanid"), Some(&trace[16..]));
        assert_eq!(hop.text("x-b3-parentspanid"), None);
        assert_eq!(hop.text("traceparent"), None);
    }

    #[test]
    fn b3_multi_continues_the_trace_and_the_callers_flag_overrides() {
        for (flag, expected) in [("1", "1"), ("true", "1"), ("0", "0")] {
            let lines = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", flag)];
            let hop = hop(Propagation::B3, if expected == "1" { 0 } else { 10_000 }, &lines);
            assert_eq!(hop.text("x-b3-traceid"), Some(TRACE));
            assert_eq!(hop.text("x-b3-parentspanid"), Some(SPAN));
            assert_ne!(hop.text("x-b3-spanid"), Some(SPAN));
            assert_eq!(hop.text("x-b3-sampled"), Some(expected));
            assert_eq!(hop.text("b3"), None);
        }
        let unsaid = hop(Propagation::B3, 10_000, &[("x-b3-traceid", &TRACE[16..]), ("x-b3-spanid", SPAN)]);
        assert_eq!(unsaid.text("x-b3-sampled"), Some("1"));
        assert_eq!(unsaid.text("x-b3-traceid"), Some(&TRACE[16..]));
    }

    #[test]
    fn a_single_b3_in_gives_a_single_b3_out() {
        for (value, sampled) in [
            (format!("{TRACE}-{SPAN}"), "0"),
            (format!("{TRACE}-{SPAN}-1"), "1"),
            (format!("{TRACE}-{SPAN}-d"), "1"),
            (format!("{TRACE}-{SPAN}-1-{SPAN}"), "1"),
        ] {
            let hop = hop(Propagation::B3, 0, &[("b3", &value), ("x-b3-traceid", "kept")]);
            let out = hop.text("b3").unwrap();
            assert!(out.starts_with(&format!("{TRACE}-")) && out.ends_with(&format!("-{sampled}-{SPAN}")));
            assert_eq!(hop.text("x-b3-traceid"), Some("kept"));
            assert_eq!(hop.text("x-b3-spanid"), None);
        }
        let flag_alone = hop(Propagation::B3, 0, &[("b3", "d")]);
        assert!(flag_alone.text("b3").unwrap().ends_with("-1"));
        assert_eq!(flag_alone.context.unwrap().parent_id, None);
    }

    #[test]
    fn an_unreadable_context_passes_unchanged_without_a_span() {
        let huge = "0".repeat(5000);
        for value in
            ["x", "", "1-2", &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-{SPAN}-1"), &huge]
        {
            let hop = hop(Propagation::B3, 10_000, &[("b3", value)]);
            assert!(hop.context.is_none(), "{value}");
            assert_eq!(hop.text("b3"), Some(value));
        }
        let multi = hop(Propagation::B3, 10_000, &[("x-b3-traceid", "zz"), ("x-b3-spanid", SPAN)]);
        assert!(multi.context.is_none());
        let zero = format!("00-{}-{SPAN}-01", "0".repeat(32));
        for value in ["x", &zero, &huge, &format!("00-{TRACE}-{SPAN}-01-"), &format!("00-{TRACE}-{SPAN}-+1")]
        {
            let hop = hop(Propagation::W3c, 10_000, &[("traceparent", value)]);
            assert!(hop.context.is_none(), "{value}");
            assert_eq!((hop.text("traceparent"), hop.text("tracestate")), (Some(value), None));
        }
    }

    #[test]
    fn w3c_is_sampled_only_if_parent_and_hop_agree() {
        for (flags, sampling, expected) in
            [("01", 10_000, "01"), ("01", 0, "00"), ("00", 10_000, "00"), ("03", 10_000, "01")]
        {
            let parent = format!("ff-{}-{SPAN}-{flags}", TRACE.to_ascii_uppercase());
            let hop = hop(Propagation::W3c, sampling, &[("traceparent", &parent), ("tracestate", "a=b")]);
            let out = hop.text("traceparent").unwrap();
            assert!(out.starts_with(&format!("00-{TRACE}-")) && !out.contains(SPAN), "{out}");
            assert!(out.ends_with(expected), "{out}");
            assert_eq!(hop.text("tracestate"), Some("a=b"));
        }
        let orphan = hop(Propagation::W3c, 10_000, &[("tracestate", "a=b")]);
        assert!(orphan.text("traceparent").unwrap().ends_with("-01"));
        assert_eq!(orphan.text("tracestate"), Some(""));
    }

    #[test]
    fn both_formats_are_written_and_w3c_is_the_fallback() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let fallback = hop(Propagation::B3AndW3c, 0, &[("traceparent", &parent)]);
        assert_eq!(fallback.text("x-b3-traceid"), Some(TRACE));
        assert_eq!(fallback.text("x-b3-sampled"), Some("1"));
        let span = fallback.text("x-b3-spanid").unwrap();
        assert_eq!(fallback.text("traceparent"), Some(format!("00-{TRACE}-{span}-01").as_str()));
        let short = &TRACE[16..];
        let first = hop(
            Propagation::B3AndW3c,
            0,
            &[("traceparent", &parent), ("x-b3-traceid", short), ("x-b3-spanid", SPAN)],
        );
        assert!(first.text("traceparent").unwrap().starts_with(&format!("00-{short:0>32}-")));
        let bad = hop(Propagation::B3AndW3c, 0, &[("traceparent", "x")]);
        assert!(bad.context.is_some() && bad.text("traceparent").unwrap().starts_with("00-"));
    }
}
