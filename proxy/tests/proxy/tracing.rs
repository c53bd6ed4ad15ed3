//! `x-request-id`, its trace nibble, and the propagation of B3 and W3C contexts.

use crate::support::{
    mesh::{Mesh, Proxy},
    origin::{Origin, Seen},
};

const ZIPKIN: &str =
    "defaultConfig: { tracing: { sampling: 100, zipkin: { address: 'zipkin.istio-system:9411' } } }";
const NEVER: &str =
    "defaultConfig: { tracing: { sampling: 0.01, zipkin: { address: 'zipkin.istio-system:9411' } } }";
const OFF: &str = "enableTracing: false";
const OTEL: &str = "defaultConfig: { tracing: { sampling: 100 } }\nextensionProviders:\n\
    - name: otel\n  opentelemetry: { service: otel.observability.svc.cluster.local, port: 4317 }\n\
    defaultProviders: { tracing: [otel] }";

async fn traced(settings: &str) -> (Proxy, Origin) {
    let origin = Origin::named("web").await;
    (Mesh::web(&origin).settings(settings).start().await, origin)
}

async fn sent(settings: &str, headers: &[(&str, &str)]) -> Seen {
    let (proxy, origin) = traced(settings).await;
    assert_eq!(proxy.get_with("web", "/", headers).await.status, 200);
    origin.only()
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let made = sent(OFF, &[]).await.header("x-request-id").unwrap().to_owned();
    assert_eq!((made.len(), made.as_bytes()[14]), (36, b'4'), "{made}");
    for id in ["my-own", "5F9C1F2E-1B7A-4D5E-8C3B-0A1B2C3D4E5F"] {
        assert_eq!(sent(OFF, &[("x-request-id", id)]).await.header("x-request-id"), Some(id));
    }
    let made = sent("", &[("x-request-id", "")]).await.header("x-request-id").unwrap().to_owned();
    assert_eq!(made.len(), 36, "an empty one counts as absent");
}

#[tokio::test]
async fn the_request_id_does_not_come_back_and_stands_in_the_log() {
    let (proxy, origin) = traced("").await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(answer.header("x-request-id"), None);
    assert_eq!(proxy.logged_one().await["request_id"], origin.only().header("x-request-id").unwrap());
}

#[tokio::test]
async fn a_sampled_request_is_marked_in_its_id() {
    let seen = sent(ZIPKIN, &[]).await;
    assert_eq!(seen.header("x-request-id").unwrap().as_bytes()[14], b'9');
    assert_eq!(seen.header("x-b3-sampled"), Some("1"));
    // The first eight digits modulo 10000 are 9999, far above a hundredth of a percent.
    let id = "0000270f-0000-4000-8000-000000000000";
    let seen = sent(NEVER, &[("x-request-id", id)]).await;
    assert_eq!(seen.header("x-request-id"), Some(id));
    assert_eq!(seen.header("x-b3-sampled"), Some("0"));
    for nibble in ["9", "a", "b"] {
        let id = format!("0000270f-0000-{nibble}000-8000-000000000000");
        let seen = sent(NEVER, &[("x-request-id", &id)]).await;
        assert_eq!(
            (seen.header("x-request-id"), seen.header("x-b3-sampled")),
            (Some(id.as_str()), Some("1"))
        );
    }
    // 0 mod 10000 is below any positive share.
    let seen = sent(NEVER, &[("x-request-id", "00000000-0000-4000-8000-000000000000")]).await;
    assert_eq!(seen.header("x-request-id"), Some("00000000-0000-9000-8000-000000000000"));
}

#[tokio::test]
async fn a_new_trace_is_written_as_b3_multi() {
    let seen = sent(ZIPKIN, &[]).await;
    let trace = seen.header("x-b3-traceid").unwrap();
    assert!(is_hex(trace, 32), "{trace}");
    assert_eq!(
        seen.header("x-b3-spanid"),
        Some(&trace[16..]),
        "the span id of a new trace is its lower half"
    );
    assert_eq!((seen.header("x-b3-parentspanid"), seen.header("b3")), (None, None));
}

#[tokio::test]
async fn b3_multi_is_continued() {
    let trace = "463ac35c9f6413ad48485a3953bb6124";
    let parent = [
        ("x-b3-traceid", trace),
        ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ("x-b3-parentspanid", "0020000000000001"),
        ("x-b3-sampled", "0"),
    ];
    let seen = sent(ZIPKIN, &parent).await;
    assert_eq!(seen.header("x-b3-traceid"), Some(trace));
    assert_eq!(seen.header("x-b3-parentspanid"), Some("a2fb4a1d1a96d312"));
    assert_ne!(seen.header("x-b3-spanid"), Some("a2fb4a1d1a96d312"));
    assert_eq!(seen.header("x-b3-sampled"), Some("0"), "the parent's flag overrides");
    assert_eq!(seen.all("x-b3-traceid").count(), 1);
}

#[tokio::test]
async fn b3_single_in_is_b3_single_out() {
    let seen = sent(ZIPKIN, &[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d")]).await;
    let parts: Vec<_> = seen.header("b3").unwrap().split('-').collect();
    let [trace, span, sampled, parent] = parts[..] else { panic!("{parts:?}") };
    assert_eq!((trace, sampled, parent), ("80f198ee56343ba864fe8b2a57d3eff7", "1", "e457b5a2e4d86bd1"));
    assert!(is_hex(span, 16) && span != parent, "{span}");
    assert_eq!(seen.header("x-b3-traceid"), None);
}

#[tokio::test]
async fn a_broken_context_passes_unchanged() {
    let seen = sent(ZIPKIN, &[("b3", "nonsense")]).await;
    assert_eq!((seen.header("b3"), seen.header("x-b3-traceid")), (Some("nonsense"), None));
    let bad = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    let seen = sent(OTEL, &[("traceparent", bad)]).await;
    assert_eq!(seen.header("traceparent"), Some(bad));
}

#[tokio::test]
async fn w3c_is_continued_with_its_state() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let seen = sent(OTEL, &[("traceparent", &parent), ("tracestate", "a=1,b=2")]).await;
    let parts: Vec<_> = seen.header("traceparent").unwrap().split('-').collect();
    let [version, same, span, flags] = parts[..] else { panic!("{parts:?}") };
    assert_eq!((version, same, flags), ("00", trace, "01"));
    assert!(is_hex(span, 16) && span != "b7ad6b7169203331", "{span}");
    assert_eq!(seen.header("tracestate"), Some("a=1,b=2"));

    let seen = sent(OTEL, &[("traceparent", &format!("00-{trace}-b7ad6b7169203331-00"))]).await;
    assert!(seen.header("traceparent").unwrap().ends_with("-00"), "an unsampled parent stays unsampled");
    let fresh = sent(OTEL, &[]).await;
    assert!(is_hex(fresh.header("traceparent").unwrap().split('-').nth(1).unwrap(), 32));
}

#[tokio::test]
async fn with_tracing_off_trace_headers_pass_as_they_came() {
    let all = [
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124"),
    ];
    let seen = sent(OFF, &all).await;
    for (name, value) in all {
        assert_eq!(seen.all(name).collect::<Vec<_>>(), [value]);
    }
}

#[tokio::test]
async fn without_any_tracing_configuration_b3_and_w3c_are_both_written() {
    let seen = sent("", &[]).await;
    let trace = seen.header("x-b3-traceid").unwrap();
    assert!(is_hex(trace, 32), "{trace}");
    assert_eq!(seen.header("traceparent").unwrap().split('-').nth(1), Some(trace));
    let w3c = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = sent("", &[("traceparent", w3c)]).await;
    assert_eq!(seen.header("x-b3-traceid"), Some("0af7651916cd43dd8448eb211c80319c"), "the fallback");
    assert_eq!(seen.header("x-b3-parentspanid"), Some("b7ad6b7169203331"));
}
