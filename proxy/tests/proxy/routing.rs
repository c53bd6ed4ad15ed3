//! Which cluster a request goes to, and what is answered when there is none.

use std::collections::BTreeMap;

use crate::support::{
    client::{self, Client, ask},
    mesh::{Mesh, Proxy, Seed},
    origin::{Origin, Reply},
};

/// Two origins that answer with their version.
async fn two() -> (Origin, Origin) {
    (Origin::named("v1").await, Origin::named("v2").await)
}

async fn canaried(http: &str) -> (Proxy, Origin, Origin) {
    let (v1, v2) = two().await;
    let mesh = Mesh::new().http("web", &[(v1.address(), "v1"), (v2.address(), "v2")]);
    (mesh.policy("").routes(http).start().await, v1, v2)
}

#[tokio::test]
async fn a_service_without_rules_is_reached_by_each_of_its_names() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    for host in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "WEB.default",
        "web:8080",
        "web.default.svc.cluster.local:1",
    ] {
        let answer = proxy.get(host, "/").await;
        assert_eq!((answer.status, answer.text()), (200, "web"), "{host}");
    }
}

#[tokio::test]
async fn a_header_match_picks_the_first_rule_that_holds() {
    let (proxy, _v1, _v2) = canaried(
        "- match: [{ headers: { version: { exact: canary } } }]\n  route: [{ destination: { host: web, subset: v2 } }]\n\
         - route: [{ destination: { host: web, subset: v1 } }]",
    )
    .await;
    for (value, expected) in [("canary", "v2"), ("Canary", "v1"), ("canary2", "v1"), (" canary ", "v2")] {
        let answer = proxy.get_with("web", "/", &[("version", value.trim())]).await;
        let expected = if value.trim() == "canary" { "v2" } else { expected };
        assert_eq!(answer.text(), expected, "{value:?}");
    }
    assert_eq!(proxy.get("web", "/").await.text(), "v1", "absent");
    let lines = [("version", "other"), ("version", "canary")];
    assert_eq!(proxy.get_with("web", "/", &lines).await.text(), "v2", "lines are matched one by one");
    let joined = proxy.get_with("web", "/", &[("version", "other, canary")]).await;
    assert_eq!(joined.text(), "v1", "one line is one value");
}

#[tokio::test]
async fn a_split_follows_its_weights() {
    let (proxy, _v1, _v2) = canaried(
        "- route:\n  - { destination: { host: web, subset: v1 }, weight: 90 }\n  - { destination: { host: web, subset: v2 }, weight: 10 }",
    )
    .await;
    let mut client = Client::http1(proxy.http()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..1000 {
        let answer = client.send(client::get("web", "/", &[])).await;
        *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
    }
    // Five standard deviations of a binomial with p = 0.1 are 47; the seed is fixed.
    assert!((53..=147).contains(&counts["v2"]), "{counts:?}");
}

#[tokio::test]
async fn a_lone_destinations_weight_has_no_effect() {
    for weight in [0, 10] {
        let (proxy, _v1, v2) =
            canaried(&format!("- route: [{{ destination: {{ host: web, subset: v2 }}, weight: {weight} }}]"))
                .await;
        for _ in 0..20 {
            assert_eq!(proxy.get("web", "/").await.text(), "v2", "weight {weight}");
        }
        assert_eq!(v2.hits(), 20);
    }
}

#[tokio::test]
async fn a_request_that_no_rule_takes_is_404_nr() {
    let (proxy, v1, v2) = canaried(
        "- match: [{ uri: { prefix: /api } }]\n  route: [{ destination: { host: web, subset: v1 } }]",
    )
    .await;
    assert_eq!(proxy.get("web", "/apiv2?x=/no").await.status, 200, "a prefix is a plain string prefix");
    let answer = proxy.get("web", "/ap").await;
    assert_eq!((answer.status, answer.text()), (404, ""));
    assert_eq!(answer.names(), ["date", "server", "content-length"], "as Envoy orders them");
    let line = &proxy.logged(2).await[1];
    assert_eq!(line["response_flags"], "NR");
    assert_eq!(line["response_code_details"], "route_not_found");
    assert!(line["upstream_cluster"].is_null() && line["upstream_host"].is_null(), "{line}");
    assert_eq!((v1.hits(), v2.hits()), (1, 0));
}

#[tokio::test]
async fn a_dangling_destination_is_503_nc_for_its_share() {
    let (proxy, v1, _v2) = canaried(
        "- match: [{ uri: { exact: /none } }]\n  route: [{ destination: { host: web, subset: v9 } }]\n\
         - match: [{ uri: { exact: /host } }]\n  route: [{ destination: { host: nowhere } }]\n\
         - route:\n  - { destination: { host: web, subset: v1 }, weight: 50 }\n  - { destination: { host: web, subset: v9 }, weight: 50 }",
    )
    .await;
    for path in ["/none", "/host"] {
        let answer = proxy.get("web", path).await;
        assert_eq!((answer.status, answer.text()), (503, ""), "{path}");
    }
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "NC");
    assert_eq!(line["response_code_details"], "cluster_not_found");
    let mut statuses = BTreeMap::new();
    for _ in 0..40 {
        *statuses.entry(proxy.get("web", "/").await.status).or_insert(0) += 1;
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 503], "{statuses:?}");
    assert_eq!(v1.hits(), statuses[&200]);
}

#[tokio::test]
async fn a_subset_that_selects_nothing_is_503_uh() {
    let origin = Origin::named("v1").await;
    let proxy = Mesh::web(&origin)
        .policy("")
        .routes("- route: [{ destination: { host: web, subset: v2 } }]")
        .start()
        .await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (503, "no healthy upstream"));
    assert_eq!(answer.names(), ["content-length", "content-type", "date", "server"]);
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("server"), Some("envoy"));
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "UH");
    assert_eq!(line["response_code_details"], "no_healthy_upstream");
    assert_eq!(line["upstream_cluster"], "outbound|8080|v2|web.default.svc.cluster.local");
    assert!(line["upstream_host"].is_null(), "{line}");
}

#[tokio::test]
async fn an_unknown_host_is_503_uh_or_502_by_the_outbound_policy() {
    let origin = Origin::named("web").await;
    let open = Mesh::web(&origin).start().await;
    let answer = open.get("elsewhere.example", "/").await;
    assert_eq!(answer.status, 503);
    let line = open.logged_one().await;
    assert_eq!((&line["response_flags"], &line["route_name"]), (&"UH".into(), &"allow_any".into()));

    let closed = Mesh::web(&origin).settings("outboundTrafficPolicy: { mode: REGISTRY_ONLY }").start().await;
    let answer = closed.get("elsewhere.example", "/").await;
    assert_eq!((answer.status, answer.text()), (502, ""));
    let line = closed.logged_one().await;
    assert_eq!((&line["response_flags"], &line["route_name"]), (&"-".into(), &"block_all".into()));
    assert_eq!(line["response_code_details"], "direct_response");
    assert_eq!(closed.get("web", "/").await.status, 200);
    assert_eq!(origin.hits(), 1, "an unknown host never reaches a known one");
}

#[tokio::test]
async fn path_conditions_see_the_normalised_path_without_its_query() {
    let (proxy, v1, _v2) = canaried(
        "- match: [{ uri: { exact: /exact } }]\n  route: [{ destination: { host: web, subset: v1 } }]\n\
         - match: [{ uri: { regex: '/r[0-9]+' } }, { queryParams: { q: { exact: 'a%20b' } } }]\n  \
           route: [{ destination: { host: web, subset: v2 } }]",
    )
    .await;
    for (path, status) in [
        ("/exact", 200),
        ("/exact?q", 200),
        ("/x/../exact", 200),
        ("/./exact", 200),
        ("/%65xact", 200),
        ("//exact", 404),
        ("/Exact", 404),
        ("/r12?x", 200),
        ("/r12/", 404),
        ("/any?q=a%20b", 200),
        ("/any?q=x&q=a%20b", 404),
        ("/any?q=a+b", 404),
    ] {
        assert_eq!(proxy.get("web", path).await.status, status, "{path}");
    }
    let targets: Vec<_> = v1.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/exact", "/exact?q", "/exact", "/exact", "/exact"], "forwarded as matched");
}

async fn seed(reading: Seed) -> (Proxy, Vec<Origin>) {
    let mut origins = vec![];
    for name in ["a", "b", "c"] {
        origins.push(Origin::h2c(move |_| Reply::text(name)).await);
        origins.push(Origin::http1(move |_| Reply::text(name)).await);
    }
    let pair = |at: usize| [origins[at].address(), origins[at + 1].address()];
    let proxy = Mesh::seed(reading, [pair(0), pair(2), pair(4)]).start().await;
    (proxy, origins)
}

async fn shares(proxy: &Proxy, canary: bool) -> [usize; 2] {
    let address = proxy.address("127.0.0.1_4318");
    let mut client = Client::http1(address).await;
    let mut counts = [0, 0];
    for session in 0..400 {
        let mut headers = vec![("x-session-id".to_owned(), format!("s{session}"))];
        if canary {
            headers.push(("version".to_owned(), "canary".to_owned()));
        }
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = client.send(client::get("otlp-collector:4318", "/v1/traces", &headers)).await;
        counts[usize::from(answer.text() == "c")] += 1;
    }
    counts
}

#[tokio::test]
async fn the_seed_read_literally_sends_all_but_canaries_to_v1() {
    let (proxy, _origins) = seed(Seed::Literal).await;
    assert_eq!(shares(&proxy, false).await, [400, 0]);
    assert_eq!(shares(&proxy, true).await, [0, 400]);
}

#[tokio::test]
async fn the_seed_as_it_was_meant_splits_90_to_10_with_an_override() {
    let (proxy, _origins) = seed(Seed::Weighted).await;
    let [v1, v2] = shares(&proxy, false).await;
    // Five standard deviations of a binomial with n = 400 and p = 0.1 are 30.
    assert!((10..=70).contains(&v2), "{v1}:{v2}");
    assert_eq!(shares(&proxy, true).await, [0, 400]);
}

#[tokio::test]
async fn the_seed_takes_grpc_and_http_on_their_own_ports_by_address_too() {
    let (proxy, origins) = seed(Seed::Literal).await;
    let call =
        client::grpc("otlp-collector", "/opentelemetry.proto.collector.trace.v1.TraceService/Export", b"");
    assert_eq!(Client::http2(proxy.address("127.0.0.1_4317")).await.send(call).await.status, 200);
    let address = proxy.address("127.0.0.1_4318");
    assert_eq!(ask(address, client::get("127.0.0.1:4318", "/", &[])).await.status, 200);
    let hits: Vec<_> = origins.iter().map(Origin::hits).collect();
    assert_eq!(hits[0] + hits[2], 1, "gRPC went to the gRPC port of a v1: {hits:?}");
    assert_eq!(hits[1] + hits[3], 1, "HTTP went to the HTTP port of a v1: {hits:?}");
}
