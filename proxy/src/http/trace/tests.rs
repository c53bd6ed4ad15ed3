use http::HeaderValue;
use rand::SeedableRng;

use super::*;

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
const SPAN: &str = "a2fb4a1d1a96d312";
/// Draws 99 of 10,000.
const ID: &str = "00000063-0000-4000-8000-000000000000";

struct Hop {
    headers: HeaderMap,
    context: Option<Trace>,
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
    let tracing = Tracing { propagation, sampling, ..Tracing::default() };
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
    assert!(forced.context.unwrap().span.sampled);
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
    assert_eq!(flag_alone.context.unwrap().span.parent_id, None);
}

#[test]
fn an_unreadable_context_passes_unchanged_without_a_span() {
    let huge = "0".repeat(5000);
    for value in ["x", "", "1-2", &format!("{TRACE}-{SPAN}-2"), &format!("{TRACE}-{SPAN}-1-{SPAN}-1"), &huge]
    {
        let hop = hop(Propagation::B3, 10_000, &[("b3", value)]);
        assert!(hop.context.is_none(), "{value}");
        assert_eq!(hop.text("b3"), Some(value));
    }
    let multi = hop(Propagation::B3, 10_000, &[("x-b3-traceid", "zz"), ("x-b3-spanid", SPAN)]);
    assert!(multi.context.is_none());
    let zero = format!("00-{}-{SPAN}-01", "0".repeat(32));
    for value in ["x", &zero, &huge, &format!("00-{TRACE}-{SPAN}-01-"), &format!("00-{TRACE}-{SPAN}-+1")] {
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
