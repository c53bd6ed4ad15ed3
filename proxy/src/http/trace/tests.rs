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

/// Observed with Envoy.
#[test]
fn b3_ids_may_have_any_length_whose_value_fits() {
    let b3 = |trace: &str, span: &str| {
        hop(Propagation::B3, 0, &[("x-b3-traceid", trace), ("x-b3-spanid", span), ("x-b3-sampled", "1")])
    };
    for (trace, expected) in [
        ("d", "000000000000000d"),
        ("0", "0000000000000000"),
        (&"0".repeat(40), "0000000000000000"),
        (&format!("{:032}", 7), "0000000000000007"),
        (TRACE, TRACE),
    ] {
        let hop = b3(trace, "00200000000000010");
        assert_eq!(hop.text("x-b3-traceid"), Some(expected), "{trace}");
        assert_eq!(hop.text("x-b3-parentspanid"), Some("0200000000000010"));
    }
    for (trace, span) in [("", SPAN), ("-1", SPAN), (&TRACE[1..], SPAN), (TRACE, ""), (TRACE, &TRACE[..17])] {
        assert!(b3(trace, span).context.is_none(), "{trace} {span}");
    }
}

#[test]
fn a_parents_parent_has_to_be_readable_where_there_is_a_parent() {
    let ids = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
    for (value, readable) in [("zz", false), ("", true), ("1", true)] {
        let hop = hop(Propagation::B3, 0, &[ids[0], ids[1], ("x-b3-parentspanid", value)]);
        assert_eq!(hop.context.is_some(), readable, "{value}");
        assert_eq!(hop.text("x-b3-parentspanid"), Some(if readable { SPAN } else { value }));
    }
    let stray = hop(Propagation::B3, 0, &[ids[1], ("x-b3-parentspanid", "zz")]);
    assert_eq!(stray.text("x-b3-parentspanid"), Some("zz"), "of a new trace it passes, as in Envoy");
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
    let undecided = [("traceparent", parent.as_str()), ("x-b3-traceid", short), ("x-b3-spanid", SPAN)];
    assert_eq!(hop(Propagation::B3AndW3c, 0, &undecided).text("x-b3-sampled"), Some("1"), "its flag holds");
    let single = hop(Propagation::B3AndW3c, 10_000, &[("traceparent", &parent), ("b3", "0")]);
    assert_eq!(single.context.unwrap().span.parent_id, None, "a single b3 hides it");
    assert!(single.text("b3").unwrap().ends_with("-0"));
    let bad = hop(Propagation::B3AndW3c, 0, &[("traceparent", "x")]);
    assert!(bad.context.is_some() && bad.text("traceparent").unwrap().starts_with("00-"));
}
