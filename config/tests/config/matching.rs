//! Every field of `HTTPMatchRequest`, each seen to let requests in and out.

use std::collections::BTreeMap;

use outrigger_config::LoadOptions;

use crate::support::{MESH, Request, TO_REVIEWS, options, rules, table, try_load};

fn takes(block: &str, request: &Request) -> bool {
    takes_for(block, request, &options())
}

fn takes_for(block: &str, request: &Request, options: &LoadOptions) -> bool {
    let vs = rules(&format!(
        "  - name: hit\n    match: [{block}]\n    {TO_REVIEWS}\n  - name: miss\n    {TO_REVIEWS}"
    ));
    let loaded = try_load(&[MESH, &vs], options).unwrap_or_else(|report| panic!("{report}"));
    request.route(table(&loaded.snapshot, "8080")) == Some("hit")
}

fn get(path: &str) -> Request {
    Request::to("reviews").path(path)
}

#[test]
fn every_match_field_is_honoured() {
    let with = |name: &str, value: &str| Request::to("reviews").header(name, value);
    for (block, hit, miss) in [
        ("{ uri: { exact: /a } }", get("/a?x=1"), get("/ab")),
        ("{ uri: { prefix: /a } }", get("/ab"), get("/b")),
        ("{ uri: { regex: '/a+' } }", get("/aaa?b"), get("/aab")),
        ("{ uri: { exact: /a }, ignoreUriCase: true }", get("/A"), get("/AB")),
        ("{ uri: { prefix: /a }, ignoreUriCase: true }", get("/Ab"), get("/B")),
        ("{ uri: { prefix: /a }, ignoreUriCase: false }", get("/a"), get("/A")),
        ("{ scheme: { exact: https } }", get("/").scheme("https"), get("/")),
        ("{ method: { exact: POST } }", get("/").method("POST"), get("/")),
        ("{ method: { regex: 'PO.*' } }", get("/").method("POST"), get("/")),
        ("{ authority: { exact: 'reviews:8080' } }", Request::to("reviews:8080"), get("/")),
        ("{ authority: { prefix: review } }", get("/"), Request::to("10.0.0.1")),
        ("{ headers: { x: { exact: a } } }", with("x", "a"), with("x", "ab")),
        ("{ headers: { x: { prefix: a } } }", with("x", "ab"), with("x", "ba")),
        ("{ headers: { x: { regex: 'a.' } } }", with("x", "ab"), with("x", "abc")),
        ("{ headers: { x: {} } }", with("x", ""), get("/")),
        ("{ headers: { x: { regex: '*' } } }", with("x", "any"), get("/")),
        ("{ headers: { X-Y: { exact: a } } }", with("x-y", "a"), get("/")),
        ("{ headers: { ':path': { exact: '/a?b' } } }", get("/a?b"), get("/a")),
        ("{ headers: { ':method': { exact: GET } } }", get("/"), get("/").method("PUT")),
        ("{ headers: { ':authority': { exact: reviews } } }", get("/"), Request::to("reviews:1")),
        ("{ headers: { x: { exact: yes } } }", with("x", "yes"), with("x", "true")),
        ("{ headers: { x: { exact: 010 } } }", with("x", "010"), with("x", "10")),
        ("{ withoutHeaders: { x: { exact: a } } }", get("/"), with("x", "a")),
        ("{ withoutHeaders: { x: {} } }", get("/"), with("x", "")),
        ("{ queryParams: { k: { exact: a } } }", get("/?j=1&k=a"), get("/?k=b")),
        ("{ queryParams: { k: { exact: '' } } }", get("/?k"), get("/")),
        ("{ queryParams: { k: { prefix: a } } }", get("/?k=ab"), get("/?k=ba")),
        ("{ queryParams: { k: { regex: '[0-9]' } } }", get("/?k=7"), get("/?k=77")),
        ("{ queryParams: { k: {} } }", get("/?k=x"), get("/?K=x")),
        ("{ uri: { prefix: /a }, headers: { x: { exact: a } } }", with("x", "a").path("/a"), with("x", "a")),
        ("{ uri: { exact: /a } }, { uri: { exact: /b } }", get("/b"), get("/c")),
    ] {
        assert!(takes(block, &hit), "{block} takes the request");
        assert!(!takes(block, &miss), "{block} leaves the request");
    }
}

#[test]
fn static_conditions_are_decided_when_compiling() {
    let mut canary = options();
    canary.node.labels = BTreeMap::from([("track".into(), "canary".into()), ("app".into(), "a".into())]);
    for (block, plain, labelled) in [
        ("{ port: 8080 }", true, true),
        ("{ port: 9090 }", false, false),
        ("{ sourceLabels: { track: canary } }", false, true),
        ("{ sourceLabels: { track: stable } }", false, false),
        ("{ sourceNamespace: observability }", true, true),
        ("{ sourceNamespace: other }", false, false),
        ("{ gateways: [front] }", false, false),
        ("{ gateways: [front, mesh] }", true, true),
        ("{ gateways: [mesh], sourceLabels: { track: stable }, sourceNamespace: other }", true, true),
    ] {
        assert_eq!(takes(block, &get("/")), plain, "{block}");
        assert_eq!(takes_for(block, &get("/"), &canary), labelled, "{block} with labels");
    }
}

#[test]
fn nothing_left_means_the_services_own_route() {
    let vs = rules(&format!("  - name: hit\n    match: [{{ port: 9090 }}]\n    {TO_REVIEWS}"));
    let loaded = try_load(&[MESH, &vs], &options()).unwrap();
    assert_eq!(get("/").route(table(&loaded.snapshot, "8080")), Some("default"));
    assert_eq!(get("/").route(table(&loaded.snapshot, "9090")), Some("hit"));
}

#[test]
fn a_request_that_no_rule_takes_has_no_route() {
    let vs = rules(&format!("  - match: [{{ uri: {{ exact: /a }} }}]\n    {TO_REVIEWS}"));
    let loaded = try_load(&[MESH, &vs], &options()).unwrap();
    assert_eq!(get("/b").answer(&loaded.snapshot, "8080", 0), "404", "no fallback to the service");
}
