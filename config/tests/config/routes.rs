//! What a route does: names, destinations, timeouts, retries, header operations.

use std::time::Duration;

use outrigger_config::{
    report::Code,
    snapshot::{Action, HashPolicy, HeaderOps, RetryOn, RetryPolicy, Route, VirtualHost},
};

use crate::support::{
    MESH, RATINGS, REVIEWS, Request, TO_REVIEWS, codes, first_forward, first_route, loaded, outbound, rule,
    rules, snapshot, table,
};

#[test]
fn routes_are_named_by_rule_and_match() {
    let vs = rules(&format!(
        "  - name: a\n    match: [{{ name: m, uri: {{ exact: /m }} }}, {{ uri: {{ exact: /n }} }}]\n    {TO_REVIEWS}\n  \
         - match: [{{ name: o, uri: {{ exact: /o }} }}]\n    {TO_REVIEWS}\n  - {TO_REVIEWS}"
    ));
    let snapshot = snapshot(&[MESH, &vs]);
    let name = |path| Request::to("reviews").path(path).route(table(&snapshot, "8080"));
    assert_eq!(
        (name("/m"), name("/n"), name("/o"), name("/")),
        (Some("a.m"), Some("a"), Some(".o"), Some(""))
    );
}

#[test]
fn spans_are_called_by_destination_and_path() {
    let vs = rules(&format!(
        "  - match: [{{ uri: {{ exact: /x }} }}, {{ uri: {{ prefix: /y }} }}, {{ uri: {{ regex: '/z.+' }} }}]\n    {TO_REVIEWS}\n  \
         - route: [{{ destination: {{ host: reviews }}, weight: 1 }}, {{ destination: {{ host: {RATINGS} }}, weight: 1 }}]"
    ));
    let snapshot = snapshot(&[MESH, &vs]);
    let hosts = &table(&snapshot, "8080").virtual_hosts;
    let operations = |host: &VirtualHost| {
        let text = |route: &Route| route.operation.as_ref().map(|text| text.to_str().unwrap().to_owned());
        host.routes.iter().map(text).collect::<Vec<_>>()
    };
    let reviews = hosts.iter().find(|host| host.name.starts_with("reviews")).unwrap();
    let called = |text: &str| Some(text.to_owned());
    assert_eq!(
        operations(reviews),
        [
            called(&format!("{REVIEWS}:8080/x")),
            called(&format!("{REVIEWS}:8080/y*")),
            called(&format!("{REVIEWS}:8080/z.+")),
            called("reviews:8080/*"),
        ],
        "Istio getRouteOperation"
    );
    assert_eq!(operations(hosts.last().unwrap()), [None], "the last resort is called by the authority");
}

#[test]
fn what_stands_behind_a_catch_all_is_left_out_and_told() {
    let vs = rules(&format!(
        "  - match: [{{ uri: {{ exact: /x }} }}, {{ uri: {{ prefix: / }} }}]\n    {TO_REVIEWS}\n  \
         - name: never\n    {TO_REVIEWS}"
    ));
    let loaded = loaded(&[MESH, &vs]);
    assert_eq!(codes(&loaded.warnings), [Code::UnreachableRule]);
    let hosts = &table(&loaded.snapshot, "8080").virtual_hosts;
    assert_eq!(hosts[0].routes.len(), 2);
}

#[test]
fn the_port_of_a_destination_is_chosen_as_in_istio() {
    let answer = |destination: &str, port: &str| {
        let vs = rules(&format!("  - route: [{{ destination: {destination} }}]"));
        Request::to("reviews").answer(&snapshot(&[MESH, &vs]), port, 0)
    };
    let named = "{ host: reviews, port: { number: 9090 } }";
    assert_eq!(answer(named, "8080"), outbound(9090, "", REVIEWS));
    assert_eq!(answer("{ host: reviews }", "9090"), outbound(9090, "", REVIEWS), "the request's port");
    let only = format!("{{ host: {RATINGS} }}");
    assert_eq!(answer(&only, "9090"), outbound(8080, "", RATINGS), "the service's only port");
}

#[test]
fn weights_of_zero_are_dropped_and_missing_clusters_keep_their_share() {
    let vs = rules(
        "  - route:\n    - { destination: { host: reviews }, weight: 1 }\n    \
         - { destination: { host: reviews, subset: nope }, weight: 3 }\n    \
         - { destination: { host: reviews, port: { number: 9090 } }, weight: 0 }",
    );
    let snapshot = snapshot(&[MESH, &vs]);
    assert_eq!(first_forward(&snapshot).clusters.len(), 2);
    let request = Request::to("reviews");
    let missing =
        (0..100).filter(|draw| request.answer(&snapshot, "8080", *draw).starts_with("missing")).count();
    assert_eq!(missing, 75);
}

fn default_on() -> RetryOn {
    RetryOn {
        connect_failure: true,
        refused_stream: true,
        unavailable: true,
        cancelled: true,
        ..RetryOn::default()
    }
}

fn retry_of(fields: &str) -> (Option<Duration>, Option<RetryPolicy>) {
    let snapshot = snapshot(&[MESH, &rules(&format!("  - {TO_REVIEWS}\n    {fields}"))]);
    let forward = first_forward(&snapshot);
    (forward.timeout, forward.retry.clone())
}

#[test]
fn timeouts_and_retries_are_compiled() {
    let default = RetryPolicy {
        attempts: 2.try_into().unwrap(),
        on: default_on(),
        per_try_timeout: None,
        backoff: Duration::from_millis(25),
        avoid_previous_hosts: true,
    };
    assert_eq!(retry_of(""), (None, Some(default.clone())));
    assert_eq!(retry_of("timeout: 1.5s").0, Some(Duration::from_millis(1500)));
    assert_eq!(retry_of("timeout: 0s").0, None, "zero is no timeout");
    assert_eq!(retry_of("retries: {}").1, None, "attempts 0");
    assert_eq!(retry_of("retries: { attempts: 0 }").1, None);
    assert_eq!(
        retry_of("retries: { attempts: 3, backoff: 50ms, retryIgnorePreviousHosts: false }").1,
        Some(RetryPolicy {
            attempts: 3.try_into().unwrap(),
            backoff: Duration::from_millis(50),
            avoid_previous_hosts: false,
            ..default
        })
    );
    let on =
        "retries: { attempts: 1, retryOn: '5xx,reset,503,retriable-4xx,gateway-error', perTryTimeout: 2s }";
    let (_, policy) = retry_of(on);
    let policy = policy.unwrap();
    assert_eq!(policy.per_try_timeout, Some(Duration::from_secs(2)));
    assert_eq!(
        policy.on,
        RetryOn {
            server_error: true,
            reset: true,
            retriable_4xx: true,
            gateway_error: true,
            statuses: [503].into(),
            ..RetryOn::default()
        }
    );
    let (_, policy) = retry_of("timeout: 2s\n    retries: { attempts: 1, perTryTimeout: 2s }");
    assert_eq!(policy.unwrap().per_try_timeout, None, "not shorter than the timeout");
}

#[test]
fn a_hash_of_a_lone_destination_keeps_its_host() {
    let hash = rule("  trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: x } } }");
    let avoid = |texts: &[&str]| first_forward(&snapshot(texts)).retry.as_ref().unwrap().avoid_previous_hosts;
    assert!(!avoid(&[MESH, &hash]));
    assert!(!avoid(&[MESH, &hash, &rules(&format!("  - {TO_REVIEWS}"))]));
    let two = "  - route: [{ destination: { host: reviews }, weight: 1 }, { destination: { host: reviews }, weight: 1 }]";
    assert!(avoid(&[MESH, &hash, &rules(two)]));
}

#[test]
fn the_hash_policies_of_all_destinations_are_one_list() {
    let hash = rule(
        "  trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: x } } }\n  subsets:\n  \
         - { name: v1, labels: { version: v1 } }\n  \
         - name: v2\n    labels: { version: v2 }\n    \
         trafficPolicy: { loadBalancer: { consistentHash: { httpQueryParameterName: q } } }",
    );
    let two = "  - route: [{ destination: { host: reviews, subset: v1 }, weight: 1 }, \
               { destination: { host: reviews, subset: v2 }, weight: 1 }]";
    let snapshot = snapshot(&[MESH, &hash, &rules(two)]);
    let expected = [HashPolicy::Header("x".parse().unwrap()), HashPolicy::Query("q".into())];
    assert_eq!(*first_forward(&snapshot).hash, expected);
}

fn shown(ops: &HeaderOps) -> String {
    let pairs = |pairs: &[(http::HeaderName, outrigger_config::format::Format)]| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let removed: Vec<_> = ops.remove.iter().map(http::HeaderName::as_str).collect();
    format!("-[{}] =[{}] +[{}]", removed.join(" "), pairs(&ops.set), pairs(&ops.add))
}

const OPERATIONS: &str = "headers:\n      request: { set: { c: r, a: r }, add: { c: r2, d: r }, remove: [y, x] }\n      \
                          response: { set: { a: r } }";
const OF_DESTINATION: &str = "headers: { request: { set: { c: d }, add: { d: d }, remove: [z] } }";

#[test]
fn header_operations_keep_istios_order() {
    let two = rules(&format!(
        "  - {OPERATIONS}\n    route:\n    - {{ destination: {{ host: reviews }}, weight: 1, {OF_DESTINATION} }}\n    \
         - {{ destination: {{ host: reviews }}, weight: 1 }}"
    ));
    let of_two = snapshot(&[MESH, &two]);
    let route = first_route(&of_two);
    assert_eq!(shown(&route.request_headers), "-[x y] =[a=r c=r] +[c=r2 d=r]");
    assert_eq!(shown(&route.response_headers), "-[] =[a=r] +[]");
    let entry = &first_forward(&of_two).clusters[0];
    assert_eq!(shown(&entry.request_headers), "-[z] =[c=d] +[d=d]");
}

#[test]
fn a_lone_destination_has_the_last_word_on_headers() {
    let one = rules(&format!(
        "  - {OPERATIONS}\n    route: [{{ destination: {{ host: reviews }}, {OF_DESTINATION} }}]"
    ));
    let snapshot = snapshot(&[MESH, &one]);
    let expected = "-[x y z] =[a=r c=r c=d] +[d=r d=d]";
    assert_eq!(shown(&first_route(&snapshot).request_headers), expected);
    assert_eq!(shown(&first_forward(&snapshot).clusters[0].request_headers), "-[] =[] +[]");
}

#[test]
fn a_host_header_becomes_the_authority() {
    for field in ["set: { Host: a.example }", "add: { ':authority': a.example }"] {
        for vs in [
            rules(&format!("  - {TO_REVIEWS}\n    headers: {{ request: {{ {field} }} }}")),
            rules(&format!(
                "  - route: [{{ destination: {{ host: reviews }}, headers: {{ request: {{ {field} }} }} }}]"
            )),
        ] {
            let snapshot = snapshot(&[MESH, &vs]);
            assert_eq!(first_forward(&snapshot).authority.as_ref().unwrap(), "a.example");
            assert_eq!(shown(&first_route(&snapshot).request_headers), "-[] =[] +[]");
        }
    }
}

#[test]
fn origins_name_the_match_block() {
    let vs = rules(&format!(
        "  - match:\n    - {{ uri: {{ exact: /x }} }}\n    - {{ uri: {{ exact: / }} }}\n    {TO_REVIEWS}"
    ));
    let snapshot = snapshot(&[MESH, &vs]);
    let origin = first_route(&snapshot).origin.to_string();
    assert_eq!(origin, "VirtualService observability/reviews (1.yaml:9)");
}

#[test]
fn every_route_forwards_or_answers() {
    let snapshot = snapshot(&[MESH]);
    for host in snapshot.route_tables.iter().flat_map(|table| &table.virtual_hosts) {
        for route in &*host.routes {
            let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
            assert!(forward.total_weight > 0 && !forward.clusters.is_empty());
        }
    }
}
