//! Delegates: virtual services without hosts, in the place of the rules that refer to them.

use std::time::Duration;

use outrigger_config::{
    report::Code,
    snapshot::{Action, Route, Snapshot},
};

use crate::support::{
    MESH, Request, TO_REVIEWS, complaints, delegate, findings, first_forward, loaded, options, outbound,
    quiet, rules, snapshot, table,
};

const ROOT: &str = "  - match: [{ uri: { prefix: /a } }]\n    delegate: { name: rest }";

/// The names of the routes of `reviews`, in order.
fn names(snapshot: &Snapshot) -> Vec<&str> {
    routes(snapshot).iter().map(|route| &*route.name).collect()
}

fn routes(snapshot: &Snapshot) -> &[Route] {
    &table(snapshot, "8080").virtual_hosts[0].routes
}

fn to(subset: &str) -> String {
    format!("route: [{{ destination: {{ host: reviews, subset: {subset} }} }}]")
}

#[test]
fn a_delegates_rules_stand_in_the_place_of_the_entry() {
    let root = rules(&format!("{ROOT}\n  - {TO_REVIEWS}"));
    let rest =
        delegate(&format!("  - match: [{{ uri: {{ prefix: /a/b }} }}]\n    {}\n  - {}", to("v1"), to("v2")));
    let snapshot = snapshot(&[MESH, &root, &rest]);
    let answer = |path: &str| Request::to("reviews").path(path).answer(&snapshot, "8080", 0);
    let host = "reviews.observability.svc.cluster.local";
    let missing = |subset| format!("missing {}", outbound(8080, subset, host));
    assert_eq!(answer("/a/b/c"), missing("v1"));
    assert_eq!(answer("/a/c"), missing("v2"), "without a match it has the root's");
    assert_eq!(answer("/b"), outbound(8080, "", host), "the rest is the root's");
    let origins: Vec<_> = routes(&snapshot).iter().map(|route| route.origin.to_string()).collect();
    assert_eq!(
        origins,
        [
            "VirtualService observability/rest (2.yaml:6)",
            "VirtualService observability/rest (2.yaml:8)",
            "VirtualService observability/reviews (1.yaml:9)"
        ]
    );
}

#[test]
fn a_virtual_service_without_hosts_is_no_error() {
    let report = findings(&[MESH, &delegate(&format!("  - {TO_REVIEWS}"))]);
    assert_eq!(complaints(&report), [Code::UnusedDelegate], "{report}");
    quiet(&[&rules("  - delegate: { name: rest }"), &delegate(&format!("  - {TO_REVIEWS}"))], &options());
}

#[test]
fn a_delegate_is_looked_up_in_its_namespace() {
    let rest = delegate(&format!("  - name: found\n    {TO_REVIEWS}"));
    let other = rest.replace("name: rest }", "name: rest, namespace: other }");
    let rule = |namespace: &str| rules(&format!("  - delegate: {{ name: rest{namespace} }}"));
    let findings = |texts: &[&str]| complaints(&findings(texts));
    assert_eq!(findings(&[MESH, &rule(""), &rest]), []);
    assert_eq!(
        findings(&[MESH, &rule(""), &other]),
        [Code::MissingDelegate, Code::UnusedDelegate],
        "the default is the root's namespace"
    );
    let snapshot = snapshot(&[MESH, &rule(", namespace: other"), &other]);
    assert_eq!(names(&snapshot), ["found"]);
    let Action::Forward(forward) = &routes(&snapshot)[0].action else { panic!("it forwards") };
    assert!(
        format!("{:?}", forward.clusters[0].cluster).contains("reviews.other.svc"),
        "short names are its own"
    );
}

#[test]
fn an_entry_whose_delegate_is_missing_or_not_exported_is_dropped() {
    let root = rules(&format!("{ROOT}\n  - name: last\n    {TO_REVIEWS}"));
    let report = loaded(&[MESH, &root]);
    assert_eq!(complaints(&report.warnings), [Code::MissingDelegate]);
    assert_eq!(names(&report.snapshot), ["last"]);
    let hidden = delegate(&format!("  - {TO_REVIEWS}")).replace("spec:", "spec:\n  exportTo: [other]");
    let report = loaded(&[MESH, &root, &hidden]);
    assert_eq!(complaints(&report.warnings), [Code::MissingDelegate], "{}", report.warnings);
    assert_eq!(names(&report.snapshot), ["last"]);
    let shown = hidden.replace("[other]", "[other, observability]");
    assert_eq!(names(&snapshot(&[MESH, &root, &shown])), ["", "last"]);
}

#[test]
fn names_of_root_and_delegate_are_joined() {
    let named = |root: &str, block: &str, leaf: &str, narrow: &str| {
        let root = rules(&format!(
            "  - {root}match: [{{ {block}uri: {{ prefix: /a }} }}]\n    delegate: {{ name: rest }}"
        ));
        let rest =
            delegate(&format!("  - {leaf}match: [{{ {narrow}uri: {{ prefix: /a/b }} }}]\n    {TO_REVIEWS}"));
        names(&snapshot(&[MESH, &root, &rest]))[0].to_owned()
    };
    assert_eq!(named("name: r\n    ", "name: m, ", "name: l\n    ", "name: n, "), "r-l.m-n");
    assert_eq!(named("name: r\n    ", "", "", "name: n, "), "r.n");
    assert_eq!(named("", "name: m, ", "name: l\n    ", ""), "l.m");
}

#[test]
fn what_a_delegate_leaves_open_it_has_from_its_root() {
    let root = "  - delegate: { name: rest }\n    timeout: 3s\n    retries: { attempts: 7 }\n    rewrite: { uri: /r }\n    \
                headers: { response: { set: { x-root: '1' } } }";
    let of =
        |leaf: &str| snapshot(&[MESH, &rules(root), &delegate(&format!("  - {TO_REVIEWS}\n    {leaf}"))]);
    let inherited = of("name: x");
    let forward = first_forward(&inherited);
    assert_eq!(forward.timeout, Some(Duration::from_secs(3)));
    assert_eq!(forward.retry.as_ref().unwrap().attempts.get(), 7);
    assert!(forward.rewrite.is_some());
    assert_eq!(routes(&inherited)[0].response_headers.set[0].0, "x-root");
    let own =
        of("timeout: 1s\n    retries: { attempts: 1 }\n    headers: { response: { set: { x-leaf: '1' } } }");
    let forward = first_forward(&own);
    assert_eq!(forward.timeout, Some(Duration::from_secs(1)));
    assert_eq!(forward.retry.as_ref().unwrap().attempts.get(), 1);
    let set = &routes(&own)[0].response_headers.set;
    assert_eq!((set.len(), set[0].0.as_str()), (1, "x-leaf"), "not merged");
    assert_eq!(first_forward(&of("timeout: 0s")).timeout, None, "it says that there is none");
}

#[test]
fn a_roots_direct_response_answers_for_routes_but_not_for_redirects() {
    let root = rules("  - delegate: { name: rest }\n    directResponse: { status: 418 }");
    let answer = |leaf: &str| {
        let snapshot = snapshot(&[MESH, &root, &delegate(&format!("  - {leaf}"))]);
        Request::to("reviews").answer(&snapshot, "8080", 0)
    };
    assert_eq!(answer(TO_REVIEWS), "418");
    assert_eq!(answer("redirect: { uri: /x, redirectCode: 302 }"), "302");
    assert_eq!(answer("directResponse: { status: 201 }"), "201");
}

/// Whether a block of a delegate fits a block of its root.
fn fits(root: &str, leaf: &str) -> bool {
    let root = rules(&format!("  - match: [{{ {root} }}]\n    delegate: {{ name: rest }}"));
    let report = findings(&[MESH, &root, &delegate(&format!("  - match: [{{ {leaf} }}]\n    {TO_REVIEWS}"))]);
    match &*complaints(&report) {
        [] => true,
        [Code::ConflictingDelegate] => false,
        _ => panic!("{report}"),
    }
}

#[test]
fn a_delegates_match_must_narrow_its_roots() {
    for (root, leaf, fit) in [
        ("uri: { prefix: /a }", "uri: { prefix: /a/b }", true),
        ("uri: { prefix: /a }", "uri: { exact: /ab }", true),
        ("uri: { prefix: /a/b }", "uri: { prefix: /a }", false),
        ("uri: { exact: /a }", "uri: { exact: /a }", true),
        ("uri: { exact: /a }", "uri: { exact: /ab }", false),
        ("uri: { exact: /a }", "uri: { prefix: /a }", false),
        ("uri: { regex: '/a.*' }", "uri: { prefix: /a }", false),
        ("uri: { prefix: /a }", "uri: { regex: '/a.*' }", false),
        ("uri: { regex: '/a.*' }", "method: { exact: GET }", true),
        ("method: { exact: GET }", "uri: { regex: '/a.*' }", true),
        ("uri: { prefix: '' }", "uri: { prefix: /a }", false),
        ("uri: { prefix: /a }", "uri: { prefix: /a/b }, ignoreUriCase: true", false),
        ("method: { exact: GET }", "method: { exact: PUT }", false),
        ("headers: { x: { prefix: a } }", "headers: { x: { exact: ab } }", true),
        ("headers: { x: { exact: a } }", "headers: { x: { exact: b } }", false),
        ("headers: { x: { exact: a } }", "headers: { y: { exact: b } }", true),
        ("headers: { x: {} }", "headers: { x: { exact: b } }", false),
        ("headers: { x: { exact: a } }", "withoutHeaders: { x: { exact: b } }", true),
        ("queryParams: { x: { exact: a } }", "queryParams: { x: { exact: b } }", false),
        ("port: 8080", "port: 9090", false),
        ("port: 8080", "uri: { prefix: /a }", true),
        ("sourceNamespace: a", "sourceNamespace: b", false),
        ("sourceNamespace: a", "sourceNamespace: a", true),
        ("sourceNamespace: a", "uri: { prefix: /a }", false),
        ("uri: { prefix: /a }", "sourceNamespace: a", true),
        ("sourceLabels: { a: '1' }", "sourceLabels: { a: '2' }", false),
        ("sourceLabels: { a: '1' }", "sourceLabels: { b: '2' }", true),
        ("gateways: [mesh]", "gateways: [mesh]", true),
        ("gateways: [a]", "gateways: [mesh]", false),
        ("gateways: [a]", "uri: { prefix: /a }", true),
    ] {
        assert_eq!(fits(root, leaf), fit, "{leaf} under {root}");
    }
}

#[test]
fn a_merged_match_asks_for_what_both_ask() {
    let root = rules(
        "  - match: [{ uri: { prefix: /a }, headers: { x: { exact: '1' } }, withoutHeaders: { z: { prefix: a } } }, \
         { uri: { prefix: /b } }]\n    delegate: { name: rest }",
    );
    let rest = delegate(&format!(
        "  - match: [{{ headers: {{ y: {{ exact: '2' }} }}, withoutHeaders: {{ z: {{ exact: ab }} }} }}]\n    {TO_REVIEWS}"
    ));
    let snapshot = snapshot(&[MESH, &root, &rest]);
    assert_eq!(names(&snapshot).len(), 2, "one for each pair");
    let taken = |path: &str, headers: &[(&str, &str)]| {
        let request = Request::to("reviews").path(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        request.route(table(&snapshot, "8080")).is_some()
    };
    assert!(taken("/a", &[("x", "1"), ("y", "2")]));
    assert!(!taken("/a", &[("y", "2")]), "the root's header");
    assert!(!taken("/a", &[("x", "1")]), "the delegate's header");
    assert!(!taken("/c", &[("x", "1"), ("y", "2")]), "the root's path");
    assert!(taken("/b", &[("y", "2")]), "the other block of the root");
    assert!(
        taken("/a", &[("x", "1"), ("y", "2"), ("z", "ac")]),
        "of one header the delegate's condition counts"
    );
    assert!(!taken("/a", &[("x", "1"), ("y", "2"), ("z", "ab")]));
}

#[test]
fn a_rule_that_fits_one_block_of_its_root_stays() {
    let root =
        rules("  - match: [{ uri: { prefix: /a } }, { uri: { prefix: /b } }]\n    delegate: { name: rest }");
    let rest = |blocks: &str| delegate(&format!("  - match: [{blocks}]\n    {TO_REVIEWS}"));
    let one = rest("{ uri: { prefix: /b/c } }");
    assert_eq!(names(&snapshot(&[MESH, &root, &one])).len(), 1);
    let two = rest("{ uri: { prefix: /b/c } }, { uri: { prefix: /d } }");
    assert_eq!(
        complaints(&findings(&[MESH, &root, &two])),
        [Code::ConflictingDelegate],
        "every block must fit one"
    );
}

#[test]
fn the_age_of_the_root_decides_not_that_of_its_delegate() {
    let aged = |text: String, name: &str, created: &str| {
        text.replace(&format!("name: {name} }}"), &format!("name: {name}, creationTimestamp: {created} }}"))
    };
    let root = aged(rules("  - delegate: { name: rest }"), "reviews", "2024-01-02T00:00:00Z");
    let other =
        rules(&format!("  - name: other\n    {TO_REVIEWS}")).replace("name: reviews }", "name: second }");
    let other = aged(other, "second", "2024-01-03T00:00:00Z");
    for created in ["2024-01-01T00:00:00Z", "2024-01-04T00:00:00Z"] {
        let rest = aged(delegate(&format!("  - name: rest\n    {TO_REVIEWS}")), "rest", created);
        let report = loaded(&[MESH, &other, &root, &rest]);
        assert_eq!(names(&report.snapshot), ["rest"], "a delegate of {created}");
        assert_eq!(complaints(&report.warnings), [Code::ConflictingHosts], "the younger root");
    }
}

#[test]
fn one_delegate_may_serve_several_entries() {
    let root = rules(
        "  - name: one\n    match: [{ uri: { prefix: /a } }]\n    delegate: { name: rest }\n  \
         - name: two\n    match: [{ uri: { prefix: /b } }]\n    delegate: { name: rest }",
    );
    let rest = delegate(&format!("  - name: x\n    {TO_REVIEWS}"));
    assert_eq!(names(&quiet(&[&root, &rest], &options())), ["one-x", "two-x"]);
}

#[test]
fn what_no_request_reaches_is_told_after_the_merge() {
    let root = rules(&format!("  - delegate: {{ name: rest }}\n  - {TO_REVIEWS}"));
    let rest = delegate(&format!("  - match: [{{ uri: {{ prefix: /a }} }}]\n    {TO_REVIEWS}"));
    assert_eq!(complaints(&findings(&[MESH, &root, &rest])), [], "the delegate leaves something");
    let all = delegate(&format!("  - {TO_REVIEWS}"));
    let report = findings(&[MESH, &root, &all]);
    assert_eq!(complaints(&report), [Code::UnreachableRule]);
    assert_eq!(
        report.diagnostics[0].label,
        "the rule of VirtualService observability/rest (2.yaml:6) takes every request"
    );
}
