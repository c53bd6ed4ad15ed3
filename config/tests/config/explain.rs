//! What an explanation says. That it agrees with the data path is the proxy's property test.

use outrigger_config::{
    decide::Peers,
    explain::{Explanation, Verdict, explain},
    snapshot::Snapshot,
};
use serde_json::Value;

use crate::support::{
    DESTINATION_RULE, MESH, REGISTRY, Request, VIRTUAL_SERVICE, WEIGHTED, options, rule, rules, snapshot,
    try_load,
};

fn peers() -> Peers {
    Peers { remote: "10.9.0.7:40000".parse().unwrap(), local: "127.0.0.1:8080".parse().unwrap() }
}

fn explained<'s>(snapshot: &'s Snapshot, port: u16, request: &Request, draw: Option<u64>) -> Explanation<'s> {
    let listener = snapshot.listeners.iter().find(|listener| listener.bind.port() == port).unwrap();
    let mut source = || draw.unwrap_or_default();
    explain(snapshot, listener, &request.view(), peers(), draw.map(|_| &mut source as _))
}

/// As text for a golden file.
fn text(texts: &[&str], port: u16, request: &Request, draw: Option<u64>) -> String {
    let snapshot = snapshot(texts);
    explained(&snapshot, port, request, draw).to_string()
}

const CONDITIONS: &str = "  - name: canary
    match:
    - name: pinned
      uri: { prefix: /api }
      headers: { version: { exact: canary }, x-user: { regex: 'a.*' } }
      withoutHeaders: { x-old: {} }
      queryParams: { k: { exact: '1' } }
      method: { exact: POST }
    - uri: { exact: /Health }
      ignoreUriCase: true
    route: [{ destination: { host: reviews, subset: v1 } }]
  - name: rest
    timeout: 2s
    retries: { attempts: 3, perTryTimeout: 500ms, retryOn: '5xx,409' }
    headers: { request: { set: { x-a: b }, remove: [x-c] }, response: { add: { x-d: '%RESPONSE_CODE%' } } }
    route:
    - destination: { host: reviews, subset: v1 }
      weight: 90
      headers: { request: { add: { x-e: f } } }
    - destination: { host: reviews, subset: v9 }
      weight: 10";

const SUBSETS: &str = "  subsets:\n  - { name: v1, labels: { version: v1 } }\n  - { name: v2, labels: { version: v2 } }\n  \
    trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: x-user } } }";

#[test]
fn every_condition_is_told_with_what_was_found() {
    let (rules, rule) = (rules(CONDITIONS), rule(SUBSETS));
    let request = Request::to("reviews:8080").path("/api/x?k=1&k=2").method("POST");
    let request = request.header("version", "canary").header("x-user", "alice");
    let texts = [MESH, &*rules, &*rule];
    insta::assert_snapshot!("explain_all_hold", text(&texts, 8080, &request, None));
    let request = request.header("x-old", "").header("x-old", "2");
    insta::assert_snapshot!("explain_passed_over", text(&texts, 8080, &request, Some(12)));
}

#[test]
fn a_draw_settles_the_destination_and_without_one_it_is_open() {
    let snapshot = snapshot(&[WEIGHTED, DESTINATION_RULE, REGISTRY]);
    let request = Request::to("otlp-collector");
    let cluster = |draw| explained(&snapshot, 4317, &request, Some(draw)).verdict().to_string();
    assert_eq!(cluster(89), "outbound|4317|v1|otlp-collector.observability.svc.cluster.local");
    assert_eq!(cluster(190), "outbound|4317|v2|otlp-collector.observability.svc.cluster.local");
    assert_eq!(explained(&snapshot, 4317, &request, None).verdict(), Verdict::Split);
}

#[test]
fn the_seed_is_explained() {
    let request = Request::to("127.0.0.1:4317").header("x-session-id", "alice").header("version", "canary");
    let texts = [VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY];
    insta::assert_snapshot!("explain_seed", text(&texts, 4317, &request, Some(7)));
    let snapshot = snapshot(&texts);
    insta::assert_json_snapshot!(
        "explain_seed_json",
        explained(&snapshot, 4317, &request, Some(7)).to_json()
    );
}

#[test]
fn a_missing_cluster_is_told_by_what_is_missing() {
    for (destination, why) in [
        ("host: reviews, subset: v9", "defines the subset `v9`; there are v1, v2"),
        ("host: reviews, port: { number: 81 }", "has no port 81; clusters exist for 8080, 9090"),
        ("host: nobody.default.svc.cluster.local", "no service `nobody.default.svc.cluster.local` is known"),
    ] {
        let rules = rules(&format!("  - route: [{{ destination: {{ {destination} }} }}]"));
        let text = text(&[MESH, &rules, &rule(SUBSETS)], 8080, &Request::to("reviews"), None);
        assert!(text.contains(why) && text.contains("503, flag NC"), "{why} in {text}");
    }
}

#[test]
fn an_unknown_host_meets_the_last_resort_and_is_told_what_was_meant() {
    let said = |authority: &str, port| text(&[MESH], port, &Request::to(authority), None);
    let text = said("reviws.observability", 8080);
    assert!(text.contains("allow_any, which takes what no other host takes"), "{text}");
    assert!(text.contains("did you mean `reviews.observability`?"), "{text}");
    let text = said("ratings.other:9090", 9090);
    assert!(text.contains("listener 127.0.0.1_8080 has this host: ask for port 8080"), "{text}");
    assert!(!said("zzz", 8080).contains("did you mean"), "nothing is like it");
    assert!(!said("reviews", 8080).contains("did you mean"), "it was found");
}

#[test]
fn hash_policies_combine_with_their_values() {
    let rule = rule(
        "  trafficPolicy: { loadBalancer: { consistentHash: { httpCookie: { name: sess, path: /p, ttl: 60s } } } }",
    );
    let loaded = try_load(&[MESH, &rule], &options()).unwrap();
    let request = Request::to("reviews");
    let explanation = explained(&loaded.snapshot, 8080, &request, None).to_json();
    let hash = &explanation["route"]["forward"]["hash"][0];
    assert!(hash["set_cookie"].as_str().unwrap().starts_with("sess=\""), "{hash}");
    assert_eq!(hash["value"], Value::Null);
    assert_eq!(explanation["route"]["forward"]["hash_key"], hash["hash"], "a lone policy is the key");
    let request = request.header("cookie", "a=b; sess=alice");
    let explanation = explained(&loaded.snapshot, 8080, &request, None).to_json();
    let hash = &explanation["route"]["forward"]["hash"][0];
    assert_eq!((&hash["value"], &hash["hash"]), (&"alice".into(), &"8332761332120969289".into()));
}

#[test]
fn a_request_that_nothing_takes_is_told_every_reason() {
    let rules = rules(
        "  - match: [{ uri: { exact: /a } }, { uri: { regex: '/b+' } }]\n    route: [{ destination: { host: reviews } }]",
    );
    let snapshot = snapshot(&[MESH, &rules]);
    let request = Request::to("reviews").path("/c");
    let explanation = explained(&snapshot, 8080, &request, None);
    assert_eq!(explanation.verdict(), Verdict::NoRoute);
    let found: Vec<_> = explanation
        .passed
        .iter()
        .map(|trace| format!("{} {}", trace.checks[0].expected, trace.checks[0].found))
        .collect();
    assert_eq!(found, ["is `/a` `/c`", "fits `/b+` `/c`"]);
}
