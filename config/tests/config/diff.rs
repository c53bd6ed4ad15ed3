//! Differences of two configurations, and what they do to recorded requests.

use outrigger_config::{
    diff::{Diff, Kind, diff, traffic::Traffic},
    snapshot::{Interception, Snapshot},
};
use serde_json::json;

use crate::support::{
    MESH, RATINGS, REVIEWS, TO_REVIEWS, options, rule, rules, snapshot, try_load, with_mesh,
};

fn compared(old: &[&str], new: &[&str]) -> Diff {
    diff(&snapshot(old), &snapshot(new))
}

fn kinds(diff: &Diff) -> Vec<String> {
    diff.changes.iter().map(|change| format!("{} {}", change.kind.as_str(), change.part)).collect()
}

const SUBSETS: &str =
    "  subsets:\n  - { name: v1, labels: { version: v1 } }\n  - { name: v2, labels: { version: v2 } }";

fn split(v1: u32, v2: u32) -> String {
    rules(&format!(
        "  - name: split\n    route:\n    - {{ destination: {{ host: reviews, subset: v1 }}, weight: {v1} }}\n    \
         - {{ destination: {{ host: reviews, subset: v2 }}, weight: {v2} }}"
    ))
}

#[test]
fn where_something_is_written_is_no_difference() {
    let spaced = format!("# a comment\n\n{MESH}");
    let diff = compared(&[MESH], &[&spaced]);
    assert_eq!((kinds(&diff).len(), diff.to_string()), (0, "no difference\n".to_owned()));
}

#[test]
fn every_part_is_compared_by_its_fields() {
    let old = rules(&format!(
        "  - name: gone\n    match: [{{ uri: {{ exact: /gone }} }}]\n    {TO_REVIEWS}\n  - name: rest\n    timeout: 2s\n    {TO_REVIEWS}"
    ));
    let new = rules(&format!(
        "  - name: fresh\n    match: [{{ uri: {{ exact: /fresh }} }}]\n    {TO_REVIEWS}\n  - name: rest\n    timeout: 3s\n    {TO_REVIEWS}"
    ));
    let limits = rule("  trafficPolicy: { connectionPool: { tcp: { maxConnections: 7 } } }");
    let mesh = MESH
        .replace("10.1.0.2", "10.1.0.9")
        .replace("number: 9090, name: grpc }", "number: 9091, name: grpc }");
    let loaded = try_load(&[&mesh, &new, &limits], &with_mesh("accessLogFile: /dev/stdout")).unwrap();
    insta::assert_snapshot!("diff_text", diff(&snapshot(&[MESH, &old]), &loaded.snapshot).to_string());
    insta::assert_json_snapshot!("diff_json", compared(&[MESH, &old], &[MESH, &new]).to_json());
}

#[test]
fn routes_that_change_places_have_moved() {
    let rule = |name: &str| {
        format!("  - name: {name}\n    match: [{{ uri: {{ prefix: /{name} }} }}]\n    {TO_REVIEWS}\n")
    };
    let all = |names: &[&str]| rules(&names.iter().map(|name| rule(name)).collect::<String>());
    let diff = compared(&[MESH, &all(&["a", "b", "c"])], &[MESH, &all(&["c", "a", "b"])]);
    assert_eq!(kinds(&diff), ["moved route", "moved route"], "on both ports");
    assert!(diff.changes.iter().all(|change| change.name.starts_with("c of ")), "{diff}");
    let line = |origin: &Option<outrigger_config::snapshot::Origin>| origin.as_ref().unwrap().line;
    assert!(diff.changes.iter().all(|change| line(&change.old) > line(&change.new)), "{diff}");
    let diff = compared(&[MESH, &all(&["a", "b"])], &[MESH, &all(&["z", "a", "b"])]);
    assert!(
        diff.changes.iter().all(|change| change.kind == Kind::Added),
        "the others only went down: {diff}"
    );
}

fn line(authority: &str, path: &str, more: &serde_json::Value) -> String {
    let mut value = json!({
        "method": "GET",
        "authority": authority,
        "path": path,
        "downstream_local_address": "127.0.0.1:8080",
    });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value.to_string()
}

fn replayed(old: &Snapshot, new: &Snapshot, lines: &[String]) -> Traffic {
    let mut traffic = Traffic::default();
    lines.iter().for_each(|line| traffic.add(line, old, new));
    traffic
}

#[test]
fn of_a_split_the_share_that_goes_elsewhere_moves() {
    let (old, new) = (split(90, 10), split(70, 30));
    let rule = rule(SUBSETS);
    let (old, new) = (snapshot(&[MESH, &rule, &old]), snapshot(&[MESH, &rule, &new]));
    let mut lines = vec![line("reviews", "/", &json!({})); 10];
    lines.extend(vec![line("ratings.other", "/", &json!({})); 10]);
    lines.push("no JSON".to_owned());
    lines.push(json!({ "method": null, "path": "/", "authority": "reviews" }).to_string());
    let traffic = replayed(&old, &new, &lines);
    assert_eq!((traffic.requests, traffic.skipped, traffic.touched), (20, 2, 10));
    assert!((traffic.moved - 2.0).abs() < 1e-6 && (traffic.moved_percent() - 10.0).abs() < 1e-6, "{traffic}");
    insta::assert_snapshot!("diff_traffic", traffic.to_string());
    assert_eq!(replayed(&old, &old, &lines).touched, 0);
}

#[test]
fn recorded_requests_are_decided_by_what_the_log_has() {
    let to = |block: &str| {
        rules(&format!(
            "  - name: special\n    match: [{block}]\n    route: [{{ destination: {{ host: {RATINGS} }} }}]\n  - name: rest\n    {TO_REVIEWS}"
        ))
    };
    let old = snapshot(&[MESH]);
    for (block, more, path, moves) in [
        ("{ uri: { prefix: /a } }", json!({}), "/ab?c", true),
        ("{ uri: { prefix: /a } }", json!({}), "/b", false),
        ("{ headers: { user-agent: { prefix: curl } } }", json!({ "user_agent": "curl/8" }), "/", true),
        ("{ headers: { x-request-id: { exact: '7' } } }", json!({ "request_id": "7" }), "/", true),
        (
            "{ headers: { x-forwarded-for: { exact: '1.2.3.4' } } }",
            json!({ "x_forwarded_for": "1.2.3.4" }),
            "/",
            true,
        ),
        ("{ headers: { x-other: {} } }", json!({ "x_other": "1" }), "/", false),
        ("{ port: 9090 }", json!({}), "/", false),
        ("{ port: 9090 }", json!({ "downstream_local_address": "127.0.0.1:9090" }), "/", true),
        ("{ port: 9090 }", json!({ "downstream_local_address": "10.0.0.1:9090" }), "/", true),
    ] {
        let vs = to(block);
        let new = snapshot(&[MESH, &vs]);
        let traffic = replayed(&old, &new, &[line("reviews", path, &more)]);
        assert_eq!((traffic.requests, traffic.touched), (1, u64::from(moves)), "{block} {path}");
        assert_eq!(traffic.other_route, u64::from(!moves), "{block}: from `default` to `rest`");
    }
}

#[test]
fn a_host_or_listener_that_is_gone_moves_its_requests() {
    let old = snapshot(&[MESH]);
    let one =
        MESH.split("---").filter(|part| !part.contains("name: ratings")).collect::<Vec<_>>().join("---");
    let new = try_load(&[&one], &options()).unwrap().snapshot;
    let traffic =
        replayed(&old, &new, &[line("ratings.other", "/", &json!({})), line("reviews", "/", &json!({}))]);
    let groups = traffic.groups();
    assert_eq!(groups.len(), 1);
    assert_eq!(
        (&*groups[0].0.old, &*groups[0].0.new),
        (&*format!("outbound|8080||{RATINGS}"), "PassthroughCluster")
    );
    let elsewhere = line("reviews", "/", &json!({ "downstream_local_address": "127.0.0.1:7070" }));
    let traffic = replayed(&old, &new, &[elsewhere]);
    assert_eq!((traffic.requests, traffic.touched), (1, 0), "neither has the listener of {REVIEWS}");
}

#[test]
fn routes_of_connections_are_compared_by_what_they_take() {
    let rule = |weights: (u32, u32), subnet: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: raw }}\nspec:\n  \
             hosts: [a.example.com]\n  tcp:\n  - match: [{{ destinationSubnets: [{subnet}] }}]\n    \
             route: [{{ destination: {{ host: c.example.com }} }}]\n  - route:\n    \
             - {{ destination: {{ host: a.example.com }}, weight: {} }}\n    \
             - {{ destination: {{ host: b.example.com }}, weight: {} }}\n",
            weights.0, weights.1
        )
    };
    let mesh = crate::tcp::mesh("TCP");
    let diff = compared(&[&mesh, &rule((90, 10), "10.0.0.0/8")], &[&mesh, &rule((50, 50), "10.0.0.0/9")]);
    insta::assert_snapshot!("diff_connections", diff.to_string());
    let http = crate::tcp::mesh("HTTP");
    let diff = compared(&[&mesh], &[&http]);
    assert_eq!(
        kinds(&diff)[..6],
        [
            "changed listener",
            "added virtual host",
            "added virtual host",
            "added virtual host",
            "added virtual host",
            "removed route"
        ],
        "{diff}"
    );
    // What was recorded of requests finds none.
    let line = line("a.example.com", "/", &json!({ "downstream_local_address": "127.0.0.1:7000" }));
    let traffic = replayed(&snapshot(&[&http]), &snapshot(&[&mesh]), &[line]);
    assert_eq!((traffic.touched, &*traffic.groups()[0].0.new), (1, "passed on unread"));
}

/// Both an explicit listener of the port and captured traffic to it.
fn captured(more: &str) -> Snapshot {
    let mut options = options();
    options.node.interception = Interception::Redirect;
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n  egress:\n  \
        - { port: { number: 9000, name: http }, bind: 127.0.0.1, captureMode: NONE, hosts: ['./one.default.svc.cluster.local'] }\n  \
        - { hosts: ['*/*'] }\n";
    let loaded = try_load(&[sidecar, more], &options).unwrap_or_else(|report| panic!("{report}"));
    loaded.snapshot
}

fn service_9000(name: &str, protocol: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
         hosts: [{name}.default.svc.cluster.local]\n  resolution: STATIC\n  \
         ports: [{{ number: 9000, name: main, protocol: {protocol} }}]\n  endpoints: [{{ address: 10.1.0.1 }}]\n"
    )
}

#[test]
fn what_silent_clients_are_taken_for_is_compared() {
    let (http, mixed) = (service_9000("one", "HTTP"), service_9000("two", "''"));
    let (old, new) = (captured(&http), captured(&format!("{http}{mixed}")));
    let diff = diff(&old, &new);
    let change = diff.changes.iter().find(|change| change.name == "virtualOutbound for port 9000");
    let change = change.unwrap_or_else(|| panic!("{diff}"));
    let fields: Vec<_> = change.fields.iter().map(|field| (&*field.path, &field.old, &field.new)).collect();
    let (was, is) = (Some(json!("requests")), Some(json!("raw connections")));
    assert_eq!(fields, [("silent_clients", &was, &is)]);
}

#[test]
fn captured_requests_are_decided_by_the_listener_of_captured_traffic() {
    let both = format!("{}{}", service_9000("one", "HTTP"), service_9000("two", "HTTP"));
    let (old, new) = (captured(&service_9000("one", "HTTP")), captured(&both));
    let moved = |local: &str| {
        let line = line("two.default", "/", &json!({ "downstream_local_address": local }));
        replayed(&old, &new, &[line]).touched
    };
    assert_eq!(moved("10.9.0.1:9000"), 1, "the explicit listener has the first service alone");
    assert_eq!(moved("127.0.0.1:9000"), 0);
}
