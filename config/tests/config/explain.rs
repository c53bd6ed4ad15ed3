//! What an explanation says. That it agrees with the data path is the proxy's property test.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};
use outrigger_config::{
    decide::Peers,
    explain::{ConnectionExplanation, Explanation, Verdict, explain, explain_connection},
    snapshot::{
        AbortStatus, Action, Cors, DirectResponse, Fault, FaultAbort, FaultDelay, Mirror, PathRewrite,
        Redirect, RedirectScheme, Route, Share, Snapshot, ValueMatch,
    },
};
use serde_json::Value;

use crate::support::{
    DESTINATION_RULE, MESH, REGISTRY, Request, VIRTUAL_SERVICE, WEIGHTED, options, rule, rules, snapshot,
    table, try_load,
};

fn peers() -> Peers {
    Peers { remote: "10.9.0.7:40000".parse().unwrap(), local: "127.0.0.1:8080".parse().unwrap() }
}

fn explained<'s>(snapshot: &'s Snapshot, port: u16, request: &Request, draw: Option<u64>) -> Explanation<'s> {
    let listener = snapshot.listeners.iter().find(|listener| listener.bind.port() == port).unwrap();
    let mut source = || draw.unwrap_or_default();
    explain(snapshot, listener, &request.view(), peers(), draw.map(|_| &mut source as _)).unwrap()
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

/// The first route of `reviews` on port 8080, to be changed.
fn route(snapshot: &mut Snapshot) -> &mut Route {
    let index = table(snapshot, "8080").hosts.find("reviews").unwrap();
    let at = snapshot.route_tables.iter().position(|table| &*table.name == "8080").unwrap();
    let tables = Arc::get_mut(&mut snapshot.route_tables).expect("nobody else has it");
    &mut Arc::get_mut(&mut tables[at].virtual_hosts[index as usize].routes).unwrap()[0]
}

#[test]
fn faults_and_mirrors_are_told_with_their_draws() {
    let mut snapshot = snapshot(&[MESH]);
    let half = Share::percent(50.0).unwrap();
    let changed = route(&mut snapshot);
    changed.fault = Some(Box::new(Fault {
        delay: Some(FaultDelay { share: half, duration: Duration::from_secs(5) }),
        abort: Some(FaultAbort { share: half, status: AbortStatus::Http(StatusCode::IM_A_TEAPOT) }),
    }));
    if let Action::Forward(forward) = &mut changed.action {
        let copy = |share| Mirror { cluster: forward.clusters[0].cluster.clone(), share };
        forward.mirrors = [copy(half), copy(Share::ALL)].into();
    }
    let request = Request::to("reviews");
    let open = explained(&snapshot, 8080, &request, None);
    assert!(matches!(open.verdict(), Verdict::Forward { endpoint: None, .. }), "{open}");
    let text = open.to_string();
    for line in [
        "fault         5s of delay for 50 % of the requests\n",
        "fault         abort with status 418 for 50 % of the requests\n",
        "reviews.observability.svc.cluster.local gets 50 % of the requests\n",
        "reviews.observability.svc.cluster.local gets 100 % of the requests, so this one too\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let hit = explained(&snapshot, 8080, &request, Some(499_999));
    assert_eq!(hit.verdict(), Verdict::Aborted(AbortStatus::Http(StatusCode::IM_A_TEAPOT)));
    assert!(hit.to_string().contains("-> 418, flag FI: a fault aborts it"), "{hit}");
    let missed = explained(&snapshot, 8080, &request, Some(500_000));
    assert!(
        missed.to_string().contains("abort with status 418 for 50 % of the requests, not this one"),
        "{missed}"
    );
    assert_eq!(missed.to_json()["route"]["fault"]["abort_drawn"], false);
    assert_eq!(missed.to_json()["route"]["forward"]["mirrors"][1]["drawn"], true);
}

#[test]
fn cross_origin_rules_are_told_for_the_origin_of_the_request() {
    let mut snapshot = snapshot(&[MESH]);
    let policy = |forward_unmatched_preflights| Cors {
        allow_origins: [ValueMatch::Exact("https://a".into())].into(),
        allow_methods: None,
        allow_headers: None,
        expose_headers: None,
        max_age: None,
        allow_credentials: false,
        forward_unmatched_preflights,
    };
    route(&mut snapshot).cors = Some(Box::new(policy(true)));
    let preflight = |origin: &str| {
        Request::to("reviews")
            .method("OPTIONS")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let said = |snapshot: &Snapshot, request: &Request| explained(snapshot, 8080, request, None).to_string();
    let answered = "-> 200: the proxy answers the preflight";
    assert!(said(&snapshot, &preflight("https://a")).contains(answered));
    let foreign = said(&snapshot, &preflight("https://b"));
    assert!(foreign.contains("the origin `https://b` is not allowed; one that is `https://a`"), "{foreign}");
    assert!(foreign.contains("the preflight goes on") && !foreign.contains(answered), "{foreign}");
    let plain = said(&snapshot, &Request::to("reviews"));
    assert!(plain.contains("no origin header, so it does not apply"), "{plain}");
    let two = preflight("https://a").header("origin", "https://a");
    assert!(!said(&snapshot, &two).contains(answered), "two origins are none");
    route(&mut snapshot).cors = Some(Box::new(policy(false)));
    assert!(said(&snapshot, &preflight("https://b")).contains(answered));
}

#[test]
fn answers_redirects_and_rewrites_are_told() {
    let mut snapshot = snapshot(&[MESH]);
    let said = |snapshot: &Snapshot| {
        explained(snapshot, 8080, &Request::to("reviews").path("/api/x?q=1"), None).to_string()
    };
    let path = PathRewrite::Prefix { matched: 4, value: "/v2".into() };
    if let Action::Forward(forward) = &mut route(&mut snapshot).action {
        forward.rewrite = Some(path.clone());
        forward.authority = Some(HeaderValue::from_static("other"));
    }
    let text = said(&snapshot);
    assert!(text.contains("path          `/v2/x?q=1`: its first 4 bytes become `/v2`"), "{text}");
    assert!(text.contains("authority     becomes `other`"), "{text}");
    let to = Redirect {
        status: StatusCode::FOUND,
        scheme: Some(RedirectScheme::Https),
        authority: Some("b".into()),
        port: NonZeroU16::new(8443),
        path: Some(path),
    };
    route(&mut snapshot).action = Action::Redirect(Box::new(to));
    let text = said(&snapshot);
    let expected = "redirect      302 to `https://b:8443/v2/x?q=1`";
    assert!(text.contains(expected) && text.contains("-> 302: the route sends it elsewhere"), "{text}");
    let direct = DirectResponse { status: StatusCode::IM_A_TEAPOT, body: "short".into() };
    route(&mut snapshot).action = Action::Direct(Box::new(direct));
    let text = said(&snapshot);
    assert!(text.contains("answer        418 with 5 bytes") && text.contains("-> 418: the route answers it"));
}

/// Three services behind one port, and rules for the first: by range, then by weight.
fn raw(protocol: &str) -> Snapshot {
    let rules = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: raw }\nspec:\n  \
        hosts: [a.example.com]\n  tcp:\n  - match: [{ destinationSubnets: [10.0.0.0/8] }]\n    \
        route: [{ destination: { host: d.example.com } }]\n  - route:\n    \
        - { destination: { host: b.example.com }, weight: 90 }\n    \
        - { destination: { host: c.example.com }, weight: 10 }\n";
    snapshot(&[&crate::tcp::mesh(protocol), rules])
}

fn connection<'s>(
    snapshot: &'s Snapshot,
    destination: &str,
    name: Option<&str>,
    draw: Option<u64>,
) -> ConnectionExplanation<'s> {
    let peers = Peers { remote: "10.9.0.7:40000".parse().unwrap(), local: destination.parse().unwrap() };
    let mut source = || draw.unwrap_or_default();
    explain_connection(snapshot, &snapshot.listeners[0], name, peers, draw.map(|_| &mut source as _)).unwrap()
}

#[test]
fn the_route_of_a_connection_is_told_beside_those_that_do_not_take_it() {
    let snapshot = raw("TCP");
    let drawn = connection(&snapshot, "127.0.0.1:7000", Some("a.example.com"), Some(95));
    insta::assert_snapshot!("explain_connection", drawn.to_string());
    insta::assert_json_snapshot!("explain_connection_json", drawn.to_json());
    let open = connection(&snapshot, "127.0.0.1:7000", None, None);
    assert_eq!((open.outcome().as_str(), open.flag()), ("one of several clusters, by weight", None));
    let missing = connection(&snapshot, "10.1.1.1:7000", None, None);
    assert_eq!(missing.outcome(), "closed, flag NC: there is no cluster outbound|7000||d.example.com");
    assert!(missing.to_string().contains("10.0.0.0/8, the longest that holds the address"));
}

#[test]
fn a_server_name_is_told_where_routes_ask_for_one() {
    let snapshot = snapshot(&[&crate::tcp::mesh("TLS")]);
    let named = connection(&snapshot, "127.0.0.1:7000", Some("b.example.com"), None);
    assert_eq!(named.outcome(), "outbound|7000||b.example.com");
    insta::assert_snapshot!("explain_server_name", named.to_string());
    let unnamed = connection(&snapshot, "127.0.0.1:7000", None, None);
    assert_eq!(unnamed.outcome(), "PassthroughCluster");
}

/// Lines of TLS of a request to `reviews` under this rule.
fn secured(mesh: &str, tls: &str) -> (Vec<String>, Value) {
    let rule = rule(&format!("  trafficPolicy: {{ {tls} }}"));
    let snapshot = snapshot(&[mesh, &rule]);
    let explained = explained(&snapshot, 8080, &Request::to("reviews"), None);
    let text = explained.to_string();
    let lines = text.lines().filter_map(|line| line.strip_prefix("tls           ")).map(str::to_owned);
    let json = explained.to_json()["route"]["forward"]["destinations"][0]["tls"].clone();
    (lines.collect(), json)
}

#[test]
fn how_endpoints_are_spoken_to_is_told_where_it_is_not_in_plain_text() {
    let internal = MESH.replace("  resolution: STATIC", "  location: MESH_INTERNAL\n  resolution: STATIC");
    let mutual = internal.replace("version: v1", "version: v1, security.istio.io/tlsMode: istio");
    let sni = "outbound_.8080_._.reviews.observability.svc.cluster.local";
    // A policy that says nothing of TLS.
    const NOTHING: &str = "loadBalancer: { simple: ROUND_ROBIN }";
    let said = |mesh: &str, tls: &str| secured(mesh, tls).0;
    assert_eq!(secured(&internal, NOTHING), (vec![], Value::Null));
    assert_eq!(
        secured(&mutual, NOTHING),
        (
            vec![format!(
                "automatic with endpoints that have a sidecar, ISTIO_MUTUAL: asks for `{sni}`, expects any \
                 workload of cluster.local"
            )],
            "AUTO".into()
        )
    );
    assert_eq!(said(&mutual, "tls: { mode: DISABLE }"), ["DISABLE: plain text, also with a sidecar"]);
    let (lines, json) = secured(MESH, "tls: { mode: SIMPLE, subjectAltNames: [a, b] }");
    assert_eq!(lines, ["SIMPLE: asks for the host of the request, expects a or b"]);
    assert_eq!(json["match_subject_alt_names"], serde_json::json!(["a", "b"]));
    assert_eq!(
        said(MESH, "tls: { mode: MUTUAL, clientCertificate: /c, privateKey: /k, sni: s }"),
        ["MUTUAL: asks for `s`, shows /c, expects who has that name"]
    );
    let tls = "tls: { mode: SIMPLE, insecureSkipVerify: true }";
    assert_eq!(
        said(MESH, tls),
        ["SIMPLE: asks for the host of the request, expects anybody: nothing is verified"]
    );
}

#[test]
fn how_clients_are_taken_is_told() {
    let ingress = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: in }\nspec:\n  ingress:\n  \
        - { port: { number: 7070, name: http }, defaultEndpoint: '127.0.0.1:70' }\n  \
        - { port: { number: 7071, name: tcp }, defaultEndpoint: '127.0.0.1:71' }\n";
    let said = |mode: &str| {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: a }}\n\
             spec: {{ mtls: {{ mode: {mode} }} }}\n"
        );
        let snapshot = snapshot(&[ingress, &policy]);
        let of_requests = explained(&snapshot, 7070, &Request::to("web"), None);
        let peers = Peers { local: "127.0.0.1:7071".parse().unwrap(), ..peers() };
        let of_bytes = explain_connection(&snapshot, &snapshot.listeners[1], None, peers, None).unwrap();
        assert_eq!(of_requests.to_json()["listener"]["tls"], of_bytes.to_json()["listener"]["tls"]);
        let line = |text: String| {
            text.lines().find_map(|line| line.strip_prefix("tls           ")).map(str::to_owned)
        };
        let (one, other) = (line(of_requests.to_string()), line(of_bytes.to_string()));
        assert_eq!(one, other);
        one
    };
    assert_eq!(said("DISABLE"), None);
    assert_eq!(said("STRICT").as_deref(), Some("STRICT: mutual TLS with workloads of cluster.local alone"));
    assert!(
        said("PERMISSIVE").unwrap().starts_with("PERMISSIVE: mutual TLS with workloads of cluster.local, or")
    );
}
