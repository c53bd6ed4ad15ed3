//! Destination rules: blocks, layers, choice and merging.

use std::{collections::BTreeMap, time::Duration};

use outrigger_config::{
    report::Code,
    snapshot::{Balancer, Cluster, HashCookie, HashPolicy, Outlier, Protocol, Snapshot, Warmup},
};

use crate::support::{
    MESH, REVIEWS, TO_REVIEWS, cluster, codes, findings, first_forward, loaded, options, outbound, rule,
    rules, snapshot, try_load,
};

fn with_policy(policy: &str) -> Snapshot {
    snapshot(&[MESH, &rule(&format!("  trafficPolicy: {policy}"))])
}

fn whole(snapshot: &Snapshot, port: u16) -> &Cluster {
    cluster(snapshot, &outbound(port, "", REVIEWS))
}

#[test]
fn every_load_balancer_is_compiled() {
    let ring = |minimum| Balancer::RingHash { minimum_ring_size: minimum, maximum_ring_size: 8_388_608 };
    let x = || Some(HashPolicy::Header("x".parse().unwrap()));
    let cookie = |path: Option<&str>, ttl| {
        let path = path.map(Into::into);
        Some(HashPolicy::Cookie(Box::new(HashCookie::new("c".into(), path, ttl, Box::default()))))
    };
    for (block, balancer, hash) in [
        ("{ simple: UNSPECIFIED }", Balancer::LeastRequest, None),
        ("{ simple: LEAST_REQUEST }", Balancer::LeastRequest, None),
        ("{ simple: LEAST_CONN }", Balancer::LeastRequest, None),
        ("{ simple: ROUND_ROBIN }", Balancer::RoundRobin, None),
        ("{ simple: RANDOM }", Balancer::Random, None),
        ("{ consistentHash: { httpHeaderName: X } }", ring(1024), x()),
        ("{ consistentHash: { httpHeaderName: x, ringHash: { minimumRingSize: 7 } } }", ring(7), x()),
        ("{ consistentHash: { httpHeaderName: x, ringHash: {} } }", ring(1024), x()),
        (
            "{ consistentHash: { httpHeaderName: x, maglev: { tableSize: 65537 } } }",
            Balancer::Maglev { table_size: 65537 },
            x(),
        ),
        ("{ consistentHash: { useSourceIp: true } }", ring(1024), Some(HashPolicy::SourceIp)),
        (
            "{ consistentHash: { httpQueryParameterName: q } }",
            ring(1024),
            Some(HashPolicy::Query("q".into())),
        ),
        ("{ consistentHash: { httpCookie: { name: c } } }", ring(1024), cookie(None, None)),
        (
            "{ consistentHash: { httpCookie: { name: c, path: /p, ttl: 0s } } }",
            ring(1024),
            cookie(Some("/p"), Some(Duration::ZERO)),
        ),
    ] {
        let snapshot = with_policy(&format!("{{ loadBalancer: {block} }}"));
        assert_eq!(whole(&snapshot, 8080).balancer, balancer, "{block}");
        assert_eq!(first_forward(&snapshot).hash.first(), hash.as_ref(), "{block}");
    }
}

#[test]
fn the_attributes_of_a_cookie_are_compiled_in_order() {
    let attributes = "[{ name: SameSite, value: Lax }, { name: Secure }]";
    let snapshot = with_policy(&format!(
        "{{ loadBalancer: {{ consistentHash: {{ httpCookie: {{ name: c, ttl: 0s, attributes: {attributes} }} }} }} }}"
    ));
    let Some(HashPolicy::Cookie(cookie)) = first_forward(&snapshot).hash.first() else { panic!("a cookie") };
    let made: Vec<_> = cookie.attributes.iter().map(|one| (&*one.name, &*one.value)).collect();
    assert_eq!(made, [("SameSite", "Lax"), ("Secure", "")]);
}

#[test]
fn every_connection_pool_field_is_compiled() {
    let snapshot = with_policy(
        "{ connectionPool: { tcp: { maxConnections: 1, connectTimeout: 2s, maxConnectionDuration: 3s, \
         idleTimeout: 4s, tcpKeepalive: { probes: 5, time: 6s, interval: 7s } }, http: { \
         http1MaxPendingRequests: 8, http2MaxRequests: 9, maxRequestsPerConnection: 10, maxRetries: 11, \
         idleTimeout: 12s, maxConcurrentStreams: 13, http2KeepAlive: { interval: 14s, timeout: 15s } } } }",
    );
    insta::assert_json_snapshot!("connection_pool", whole(&snapshot, 8080).to_json());
}

#[test]
fn a_warmup_is_compiled() {
    let warmup = |balancer: &str| {
        let warmup = whole(&with_policy(&format!("{{ loadBalancer: {balancer} }}")), 8080).warmup.unwrap();
        (warmup.window.as_secs(), warmup.least, warmup.aggression)
    };
    assert_eq!(warmup("{ warmup: { duration: 20s } }"), (20, 0.1, 1.0));
    assert_eq!(
        warmup("{ simple: ROUND_ROBIN, warmup: { duration: 8s, minimumPercent: 25, aggression: 2.5 } }"),
        (8, 0.25, 2.5)
    );
    let random = with_policy("{ loadBalancer: { simple: RANDOM, warmup: { duration: 20s } } }");
    assert_eq!(whole(&random, 8080).warmup, None);
}

/// As measured with Envoy: a window of 8 s.
#[test]
fn a_warming_endpoint_gets_a_share_by_its_age() {
    let share = |aggression, seconds| {
        let warmup = Warmup { window: Duration::from_secs(8), least: 0.1, aggression };
        warmup.share(Duration::from_secs_f64(seconds))
    };
    for (aggression, seconds, expected) in [
        (1.0, 0.0, 0.1),
        (1.0, 0.8, 0.1),
        (1.0, 4.25, 0.53),
        (1.0, 8.0, 1.0),
        (1.0, 99.0, 1.0),
        (2.0, 2.25, 0.53),
    ] {
        let found = share(aggression, seconds);
        assert!((found - expected).abs() < 0.005, "{aggression} {seconds}: {found}");
    }
}

#[test]
fn a_retry_budget_stands_in_for_max_retries() {
    let budget = |block: &str| {
        let budget = whole(&with_policy(&format!("{{ retryBudget: {block} }}")), 8080).retry_budget.unwrap();
        (budget.percent, budget.min_concurrency)
    };
    assert_eq!(budget("{}"), (20.0, 3));
    assert_eq!(budget("{ percent: 12.5, minRetryConcurrency: 7 }"), (12.5, 7));
    assert_eq!(budget("{ percent: 0, minRetryConcurrency: 0 }"), (0.0, 3), "zero is unset");
    let ported = rule(
        "  trafficPolicy: { retryBudget: {}, portLevelSettings: [{ port: { number: 9090 }, \
         connectionPool: { http: { maxRetries: 1 } } }] }\n  subsets: [{ name: v1, labels: { version: v1 }, \
         trafficPolicy: { retryBudget: { percent: 1 } } }, { name: v2, labels: { version: v2 } }]",
    );
    let snapshot = snapshot(&[MESH, &ported]);
    let percent = |port, subset: &str| {
        cluster(&snapshot, &outbound(port, subset, REVIEWS)).retry_budget.map(|budget| budget.percent)
    };
    assert_eq!(percent(9090, ""), Some(20.0), "a port inherits it, unlike a block");
    assert_eq!((percent(8080, "v1"), percent(8080, "v2")), (Some(1.0), Some(20.0)));
}

#[test]
fn unset_pool_fields_are_istios_defaults() {
    let snapshot = snapshot(&[MESH]);
    let plain = whole(&snapshot, 8080);
    assert_eq!(plain.connect_timeout, Duration::from_secs(10));
    assert_eq!(plain.idle_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(plain.max_requests_per_connection, None);
    assert_eq!(plain.limits, outrigger_config::snapshot::Limits::default());
    assert_eq!((plain.outlier.as_ref(), plain.panic_threshold), (None, 0));
    let idle = |pool: &str| whole(&with_policy(&format!("{{ connectionPool: {pool} }}")), 8080).idle_timeout;
    assert_eq!(idle("{ tcp: { idleTimeout: 5s } }"), Some(Duration::from_secs(5)));
    assert_eq!(idle("{ http: { idleTimeout: 0s } }"), None, "0s never closes");
}

#[test]
fn outlier_detection_is_compiled() {
    let of = |fields: &str| {
        let snapshot = with_policy(&format!("{{ outlierDetection: {fields} }}"));
        let cluster = whole(&snapshot, 8080);
        (cluster.outlier.clone().unwrap(), cluster.panic_threshold)
    };
    let default = Outlier {
        consecutive_5xx: 5,
        consecutive_gateway: 0,
        split_local_origin: false,
        consecutive_local_origin: 5,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 10,
        error_codes: None,
    };
    assert_eq!(of("{}"), (default, 0));
    assert_eq!(of("{ consecutive5xxErrors: 0 }").0.consecutive_5xx, 0);
    assert_eq!(
        of("{ consecutive5xxErrors: 1, consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true, \
            consecutiveLocalOriginFailures: 3, interval: 4s, baseEjectionTime: 5s, maxEjectionPercent: 60, \
            minHealthPercent: 70, outlierDetectionHttpErrorCodes: [500, 503] }"),
        (
            Outlier {
                consecutive_5xx: 1,
                consecutive_gateway: 2,
                split_local_origin: true,
                consecutive_local_origin: 3,
                interval: Duration::from_secs(4),
                base_ejection_time: Duration::from_secs(5),
                max_ejection_percent: 60,
                error_codes: Some([500, 503].into()),
            },
            70
        )
    );
}

#[test]
fn deprecated_fields_warn_and_still_count() {
    let of = |fields: &str| {
        let loaded = loaded(&[MESH, &rule(&format!("  trafficPolicy: {{ outlierDetection: {fields} }}"))]);
        assert!(codes(&loaded.warnings).contains(&Code::Deprecated), "{fields}");
        let outlier = whole(&loaded.snapshot, 8080).outlier.clone().unwrap();
        (outlier.consecutive_5xx, outlier.consecutive_gateway)
    };
    assert_eq!(of("{ consecutiveErrors: 7 }"), (7, 0));
    assert_eq!(of("{ consecutiveErrors: 7, consecutive5xxErrors: 3 }"), (3, 0));
    assert_eq!(of("{ consecutiveErrors: 7, consecutiveGatewayErrors: 2 }"), (5, 2));
    let warmup = loaded(&[MESH, &rule("  trafficPolicy: { loadBalancer: { warmupDurationSecs: 9s } }")]);
    assert_eq!(codes(&warmup.warnings), [Code::Deprecated]);
    assert_eq!(whole(&warmup.snapshot, 8080).warmup.unwrap().window, Duration::from_secs(9));
    let ring = loaded(&[
        MESH,
        &rule(
            "  trafficPolicy: { loadBalancer: { consistentHash: { httpHeaderName: x, minimumRingSize: 9 } } }",
        ),
    ]);
    assert_eq!(codes(&ring.warnings), [Code::Deprecated]);
    let balancer = Balancer::RingHash { minimum_ring_size: 9, maximum_ring_size: 8_388_608 };
    assert_eq!(whole(&ring.snapshot, 8080).balancer, balancer);
}

#[test]
fn the_protocol_follows_the_port() {
    let mesh = |name: &str, protocol: &str| {
        MESH.replace(
            "{ number: 8080, name: http }\n",
            &format!("{{ number: 8080, name: {name}, protocol: {protocol} }}\n"),
        )
    };
    for (name, protocol, expected) in [
        ("http", "''", Protocol::Http1),
        ("http2-x", "''", Protocol::Http2),
        ("GRPC-x", "''", Protocol::Http2),
        ("grpc-web-x", "''", Protocol::Http1),
        ("web", "''", Protocol::Client),
        ("web", "GRPC", Protocol::Http2),
        ("grpc", "HTTP", Protocol::Http1),
        ("web", "HTTP2", Protocol::Http2),
    ] {
        let snapshot = snapshot(&[&mesh(name, protocol)]);
        assert_eq!(whole(&snapshot, 8080).protocol, expected, "{name} {protocol}");
    }
    let http = |fields: &str| {
        whole(&with_policy(&format!("{{ connectionPool: {{ http: {fields} }} }}")), 8080).protocol
    };
    assert_eq!(http("{ h2UpgradePolicy: UPGRADE }"), Protocol::Http2);
    assert_eq!(http("{ useClientProtocol: true }"), Protocol::Client);
    assert_eq!(http("{ h2UpgradePolicy: DEFAULT }"), Protocol::Http1);
}

/// Every layer sets another number of connections and another balancer.
const LAYERS: &str = "  trafficPolicy:
    loadBalancer: { simple: RANDOM }
    connectionPool: { tcp: { maxConnections: 1 } }
    portLevelSettings:
    - port: { number: 9090 }
      connectionPool: { tcp: { maxConnections: 2 } }
  subsets:
  - { name: bare, labels: { version: v1 } }
  - name: own
    labels: { version: v1 }
    trafficPolicy:
      connectionPool: { http: { http2MaxRequests: 3 } }
      portLevelSettings:
      - port: { number: 9090 }
        loadBalancer: { simple: ROUND_ROBIN }
";

#[test]
fn policies_are_layered_block_by_block() {
    const ALL: u32 = u32::MAX;
    let snapshot = snapshot(&[MESH, &rule(LAYERS)]);
    for (port, subset, connections, requests, balancer) in [
        (8080, "", 1, ALL, Balancer::Random),
        // The port's entry replaces the top level as a whole: its balancer is the default again.
        (9090, "", 2, ALL, Balancer::LeastRequest),
        (8080, "bare", 1, ALL, Balancer::Random),
        (9090, "bare", 2, ALL, Balancer::LeastRequest),
        // A block of the subset replaces the block, not its fields.
        (8080, "own", ALL, 3, Balancer::Random),
        // The port's entry of the subset replaces the subset's level, and lies over the port's entry of the top.
        (9090, "own", 2, ALL, Balancer::RoundRobin),
    ] {
        let cluster = cluster(&snapshot, &outbound(port, subset, REVIEWS));
        assert_eq!(
            (cluster.limits.max_connections, cluster.limits.max_requests, &cluster.balancer),
            (connections, requests, &balancer),
            "port {port} subset {subset}"
        );
    }
}

#[test]
fn a_ports_hash_is_seen_where_the_port_is_known() {
    let hash = rule(
        "  trafficPolicy:\n    portLevelSettings:\n    - port: { number: 8080 }\n      \
         loadBalancer: { consistentHash: { httpHeaderName: x } }",
    );
    let hashes = |vs: &str| first_forward(&snapshot(&[MESH, &hash, vs])).hash.len();
    assert_eq!(hashes(""), 1, "without rules the listener's port counts");
    assert_eq!(hashes(&rules(&format!("  - {TO_REVIEWS}"))), 0, "the destination names no port");
    assert_eq!(hashes(&rules("  - route: [{ destination: { host: reviews, port: { number: 8080 } } }]")), 1);
}

#[test]
fn subsets_select_endpoints_in_the_order_of_the_service() {
    let snapshot = snapshot(&[
        MESH,
        &rule(
            "  subsets: [{ name: v1, labels: { version: v1 } }, { name: all }, { name: v2, labels: { version: v2 } }]",
        ),
    ]);
    let keys = |subset: &str| -> Vec<String> {
        let cluster = cluster(&snapshot, &outbound(8080, subset, REVIEWS));
        cluster.endpoints.iter().map(|endpoint| endpoint.key.to_string()).collect()
    };
    assert_eq!(keys("v1"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(keys("v2"), ["10.1.0.3:8080"]);
    assert_eq!(keys("all").len(), 3);
    assert_eq!(keys(""), keys("all"));
}

fn limit_of(host: &str, namespace: &str, extra: &str, connections: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{ name: r{connections}, namespace: {namespace} }}\nspec:\n  host: '{host}'\n  \
         trafficPolicy: {{ connectionPool: {{ tcp: {{ maxConnections: {connections} }} }} }}\n{extra}"
    )
}

#[test]
fn the_rule_of_the_clients_namespace_comes_first() {
    let own = limit_of(REVIEWS, "observability", "", 1);
    let wildcard = limit_of("*.local", "observability", "", 2);
    let root = limit_of(REVIEWS, "istio-system", "", 3);
    let foreign = limit_of(REVIEWS, "other", "", 4);
    let limit = |texts: &[&str]| whole(&snapshot(texts), 8080).limits.max_connections;
    assert_eq!(limit(&[MESH, &foreign, &root, &wildcard, &own]), 1);
    assert_eq!(limit(&[MESH, &foreign, &root, &wildcard]), 2, "own wildcard before root");
    assert_eq!(limit(&[MESH, &foreign, &root]), 3);
    assert_eq!(limit(&[MESH, &foreign]), u32::MAX, "neither the client's nor the service's namespace");
    let ratings = |texts: &[&str]| {
        cluster(&snapshot(texts), &outbound(8080, "", crate::support::RATINGS)).limits.max_connections
    };
    let of_service = limit_of("ratings", "other", "", 5);
    let private = limit_of("ratings", "other", "  exportTo: ['.']\n", 6);
    assert_eq!(ratings(&[MESH, &of_service]), 5);
    assert_eq!(ratings(&[MESH, &private]), u32::MAX);
}

#[test]
fn a_rule_with_a_selector_wins() {
    let plain = limit_of(REVIEWS, "observability", "", 1);
    let chosen = limit_of(REVIEWS, "observability", "  workloadSelector: { matchLabels: { app: me } }\n", 2);
    let limit = |options| {
        let loaded = try_load(&[MESH, &plain, &chosen], &options).unwrap();
        whole(&loaded.snapshot, 8080).limits.max_connections
    };
    assert_eq!(limit(options()), 1);
    let mut me = options();
    me.node.labels = BTreeMap::from([("app".into(), "me".into())]);
    assert_eq!(limit(me), 2);
}

#[test]
fn rules_of_one_host_are_merged() {
    let first = rule("  subsets: [{ name: a, labels: { version: v1 } }]");
    let second = limit_of(
        "reviews",
        "observability",
        "  subsets: [{ name: a }, { name: b, labels: { version: v2 } }]\n",
        7,
    );
    let third = limit_of("reviews", "observability", "", 8);
    let loaded = loaded(&[MESH, &first.replace("name: reviews", "name: a"), &second, &third]);
    assert_eq!(codes(&loaded.warnings), [Code::ConflictingRules, Code::ConflictingRules]);
    assert_eq!(whole(&loaded.snapshot, 8080).limits.max_connections, 7, "the first policy counts");
    let count = |subset: &str| cluster(&loaded.snapshot, &outbound(8080, subset, REVIEWS)).endpoints.len();
    assert_eq!((count("a"), count("b")), (2, 1));
}

#[test]
fn an_ejection_limit_that_never_ejects_is_told() {
    let warns = |percent: u32| {
        let policy = format!("  trafficPolicy: {{ outlierDetection: {{ maxEjectionPercent: {percent} }} }}");
        codes(&findings(&[MESH, &rule(&policy)])).contains(&Code::NeverEjects)
    };
    assert!(warns(10) && warns(33));
    assert!(!warns(34), "one of three");
}
