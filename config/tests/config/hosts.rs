//! Which host is meant, and which virtual service speaks for it.

use outrigger_config::report::Code;

use crate::support::{
    MESH, RATINGS, REVIEWS, Request, TO_REVIEWS, codes, findings, loaded, outbound, rules, snapshot, table,
};

#[test]
fn short_names_take_the_namespace_of_the_rule() {
    let to = |host: &str, namespace: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{ name: a, namespace: {namespace} }}\nspec:\n  hosts: [{REVIEWS}]\n  http:\n  \
             - route: [{{ destination: {{ host: {host} }} }}]\n"
        )
    };
    let answer = |host: &str, namespace: &str| {
        Request::to("reviews").answer(&snapshot(&[MESH, &to(host, namespace)]), "8080", 0)
    };
    assert_eq!(answer("reviews", "observability"), outbound(8080, "", REVIEWS));
    assert_eq!(answer("ratings", "other"), outbound(8080, "", RATINGS));
    assert_eq!(answer(RATINGS, "observability"), outbound(8080, "", RATINGS));
    assert_eq!(answer("Ratings", "other"), outbound(8080, "", RATINGS), "case does not count");
    let missing = "missing outbound|8080||ratings.observability.svc.cluster.local";
    assert_eq!(answer("ratings", "observability"), missing, "not the namespace of the service");
    assert_eq!(answer("ratings.other", "observability"), "missing outbound|8080||ratings.other");
}

#[test]
fn a_service_answers_to_all_its_names() {
    let snapshot = snapshot(&[MESH]);
    let reviews = outbound(8080, "", REVIEWS);
    for host in [
        "reviews",
        "reviews:8080",
        "REVIEWS:1",
        "reviews.observability",
        "reviews.observability.svc",
        REVIEWS,
        "reviews.observability.svc.cluster.local.",
        "10.0.0.1:8080",
    ] {
        assert_eq!(Request::to(host).answer(&snapshot, "8080", 0), reviews, "{host}");
    }
    let ratings = outbound(8080, "", RATINGS);
    assert_eq!(Request::to("ratings.other").answer(&snapshot, "8080", 0), ratings);
    assert_eq!(
        Request::to("ratings").answer(&snapshot, "8080", 0),
        "PassthroughCluster",
        "another namespace"
    );
    assert_eq!(Request::to("reviews").answer(&snapshot, "9090", 0), outbound(9090, "", REVIEWS));
    assert_eq!(
        Request::to("ratings.other").answer(&snapshot, "9090", 0),
        "PassthroughCluster",
        "no such port"
    );
}

#[test]
fn a_specific_host_beats_a_wildcard() {
    let vs = |name: &str, host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\n\
             spec:\n  hosts: ['{host}']\n  http:\n  - name: {name}\n    {TO_REVIEWS}\n"
        )
    };
    let (a, b, c) = (vs("a", "*.local"), vs("b", "*.observability.svc.cluster.local"), vs("c", REVIEWS));
    let route = |texts: &[&str], host: &str| {
        let snapshot = snapshot(texts);
        Request::to(host).route(table(&snapshot, "8080")).unwrap().to_owned()
    };
    assert_eq!(route(&[MESH, &a, &b, &c], "reviews"), "c");
    assert_eq!(route(&[MESH, &a, &b], "reviews"), "b");
    assert_eq!(route(&[MESH, &a, &b], "ratings.other"), "a");
    assert_eq!(route(&[MESH, &b], "ratings.other"), "default");
}

#[test]
fn the_older_virtual_service_keeps_a_host() {
    let vs = |name: &str, created: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{ name: {name}, creationTimestamp: '{created}' }}\nspec:\n  hosts: [reviews]\n  \
             http:\n  - name: {name}\n    {TO_REVIEWS}\n"
        )
    };
    let (young, old) = (vs("a", "2026-02-01T00:00:00Z"), vs("b", "2026-01-01T00:00:00Z"));
    let loaded = loaded(&[MESH, &young, &old]);
    assert_eq!(Request::to("reviews").route(table(&loaded.snapshot, "8080")), Some("b"));
    assert_eq!(codes(&loaded.warnings), [Code::ConflictingHosts]);
    assert_eq!(&*loaded.warnings.diagnostics[0].place.file, "1.yaml", "the loser is told");
}

#[test]
fn a_virtual_service_without_mesh_is_not_applied() {
    let gateways = |list: &str| {
        let vs = rules(&format!("  - name: vs\n    {TO_REVIEWS}\n  gateways: {list}"));
        let snapshot = snapshot(&[MESH, &vs]);
        Request::to("reviews").route(table(&snapshot, "8080")).unwrap().to_owned()
    };
    assert_eq!(gateways("[front]"), "default");
    assert_eq!(gateways("[front, mesh]"), "vs");
}

#[test]
fn exports_limit_who_sees_a_resource() {
    let vs = |exports: &str| {
        let vs = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{ name: a, namespace: other }}\nspec:\n  hosts: [{REVIEWS}]\n  exportTo: {exports}\n  \
             http:\n  - name: vs\n    {TO_REVIEWS}\n"
        );
        let snapshot = snapshot(&[MESH, &vs]);
        Request::to("reviews").route(table(&snapshot, "8080")).unwrap().to_owned()
    };
    for (exports, route) in [
        ("['.']", "default"),
        ("[third]", "default"),
        ("['*']", "vs"),
        ("[observability]", "vs"),
        ("[]", "vs"),
    ] {
        assert_eq!(vs(exports), route, "{exports}");
    }
    for exports in ["['.']", "['~']"] {
        let hidden = MESH.replace("hosts: [ratings", &format!("exportTo: {exports}\n  hosts: [ratings"));
        let answer = Request::to("ratings.other").answer(&snapshot(&[&hidden]), "8080", 0);
        assert_eq!(answer, "PassthroughCluster", "{exports}");
    }
}

#[test]
fn hosts_without_a_service_count_on_port_80_only() {
    let listener = MESH.replace(
        "  egress:\n",
        "  egress:\n  - { port: { number: 80, name: http }, bind: 127.0.0.1, hosts: ['*/*'] }\n",
    );
    let vs = rules(&format!("  - name: vs\n    {TO_REVIEWS}")).replace("[reviews]", "['*.example.com']");
    let loaded = loaded(&[&listener, &vs]);
    assert_eq!(codes(&loaded.warnings), [Code::UnknownHost]);
    let to = |port| Request::to("www.example.com").route(table(&loaded.snapshot, port));
    assert_eq!((to("80"), to("8080")), (Some("vs"), Some("allow_any")));
}

#[test]
fn two_services_of_one_address_are_told() {
    let twin = MESH.replace("hosts: [ratings", "addresses: [10.0.0.1]\n  hosts: [ratings");
    assert_eq!(codes(&findings(&[&twin])), [Code::DomainTaken]);
    let snapshot = snapshot(&[&twin]);
    assert_eq!(Request::to("10.0.0.1").answer(&snapshot, "8080", 0), outbound(8080, "", REVIEWS));
}
