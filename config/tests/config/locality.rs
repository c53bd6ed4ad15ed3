//! Localities: where endpoints are, and which of them come first.

use std::collections::BTreeMap;

use outrigger_config::{
    LoadOptions,
    snapshot::{Cluster, Locality, Snapshot},
};

use crate::support::{REVIEWS, cluster, options, outbound, rule, source, try_load};

/// Endpoints in these places, 10.1.0.1 and so on.
fn mesh(endpoints: &[&str]) -> String {
    let endpoints: String =
        (1..).zip(endpoints).map(|(n, more)| format!("  - {{ address: 10.1.0.{n}, {more} }}\n")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: reviews }}\nspec:\n  \
         hosts: [{REVIEWS}]\n  resolution: STATIC\n  ports: [{{ number: 8080, name: http }}]\n  \
         endpoints:\n{endpoints}---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: s }}\n\
         spec:\n  egress: [{{ port: {{ number: 8080, name: http }}, bind: 127.0.0.1, captureMode: NONE, \
         hosts: ['*/*'] }}]\n"
    )
}

const PLACES: [&str; 5] =
    ["locality: r/z/s", "locality: r/z/t", "locality: r/y/s, weight: 3", "locality: q/z/s", "locality: p"];

fn at(locality: &str) -> LoadOptions {
    let mut options = options();
    options.node.locality = Locality::parse(locality);
    options
}

fn compiled(places: &[&str], policy: &str, options: &LoadOptions) -> Snapshot {
    let rule = rule(&format!("  trafficPolicy: {{ {policy} }}"));
    try_load(&[&mesh(places), &rule], options).unwrap_or_else(|report| panic!("{report}")).snapshot
}

fn whole(snapshot: &Snapshot) -> &Cluster {
    cluster(snapshot, &outbound(8080, "", REVIEWS))
}

const DETECTS: &str = "outlierDetection: { maxEjectionPercent: 100 }";

fn setting(setting: &str) -> String {
    format!("loadBalancer: {{ localityLbSetting: {setting} }}")
}

/// The priority of each of the places.
fn priorities(policy: &str, options: &LoadOptions) -> Vec<u32> {
    whole(&compiled(&PLACES, policy, options)).endpoints.iter().map(|endpoint| endpoint.priority).collect()
}

fn weights(cluster: &Cluster) -> Option<Vec<String>> {
    let weights = cluster.localities.as_deref()?.iter();
    Some(weights.map(|one| format!("{} {} {}", one.priority, one.locality, one.weight)).collect())
}

#[test]
fn endpoints_have_localities() {
    let places = [
        "locality: r/z/s, labels: { istio-locality: a.b.c }",
        "labels: { istio-locality: a.b.c }",
        "weight: 1",
    ];
    let snapshot = compiled(&places, DETECTS, &options());
    let found: Vec<_> =
        whole(&snapshot).endpoints.iter().map(|endpoint| endpoint.locality.to_string()).collect();
    assert_eq!(found, ["r/z/s", "a/b/c", ""]);
}

#[test]
fn endpoints_of_other_localities_come_after() {
    assert_eq!(priorities(DETECTS, &at("r/z/s")), [0, 1, 2, 3, 3]);
    assert_eq!(priorities(DETECTS, &at("r/z")), [0, 0, 1, 2, 2], "without a gap");
    assert_eq!(priorities(DETECTS, &at("q")), [1, 1, 1, 0, 1]);
    assert_eq!(priorities(DETECTS, &at("")), [0; 5], "nobody knows");
    assert_eq!(priorities("outlierDetection: {}", &at("r/z/s")), [0, 1, 2, 3, 3]);
    assert_eq!(
        priorities("connectionPool: { tcp: { maxConnections: 1 } }", &at("r/z/s")),
        [0; 5],
        "nothing would ever fail"
    );
    let snapshot = compiled(&PLACES, DETECTS, &at("r/z/s"));
    assert_eq!(weights(whole(&snapshot)), None);
    insta::assert_json_snapshot!("locality", whole(&snapshot).to_json()["endpoints"]);
}

#[test]
fn failover_says_which_region_comes_next() {
    let policy = format!("{DETECTS}, {}", setting("{ failover: [{ from: r, to: p }, { from: q, to: r }] }"));
    assert_eq!(priorities(&policy, &at("r/z/s")), [0, 1, 2, 4, 3]);
    assert_eq!(priorities(&policy, &at("q/z/s")), [1, 1, 1, 0, 2]);
    assert_eq!(priorities(&policy, &at("p")), [1, 1, 1, 1, 0]);
    let snapshot = compiled(&PLACES, &policy, &at("q/z/s"));
    let expected = ["0 q/z/s 1", "1 r/y/s 3", "1 r/z/s 1", "1 r/z/t 1", "2 p 1"];
    assert_eq!(weights(whole(&snapshot)).unwrap(), expected, "localities weigh what their endpoints do");
}

#[test]
fn failover_priority_goes_by_labels() {
    let mut options = at("r/z/s");
    options.node.labels = BTreeMap::from([("version".into(), "v1".into()), ("network".into(), "n".into())]);
    let places = [
        "locality: r/z/s, labels: { version: v1, network: n }",
        "locality: r/z/s, labels: { version: v1, network: m }",
        "locality: q/z/s, labels: { version: v1, network: n }",
        "labels: { version: v2 }",
    ];
    let priorities = |list: &str| -> Vec<u32> {
        let policy = format!("{DETECTS}, {}", setting(&format!("{{ {list} }}")));
        let snapshot = compiled(&places, &policy, &options);
        whole(&snapshot).endpoints.iter().map(|endpoint| endpoint.priority).collect()
    };
    assert_eq!(priorities("failoverPriority: [version, network]"), [0, 1, 0, 2]);
    assert_eq!(priorities("failoverPriority: ['version=v2']"), [1, 1, 1, 0]);
    assert_eq!(priorities("failoverPriority: [topology.kubernetes.io/region, network]"), [0, 1, 2, 2]);
    assert_eq!(
        priorities("failoverPriority: [network], failover: [{ from: r, to: q }]"),
        [0, 2, 1, 3],
        "by labels, then by regions"
    );
}

#[test]
fn distribute_gives_localities_their_shares() {
    let policy = setting(
        "{ distribute: [{ from: 'r/y/*', to: { p: 100 } }, { from: 'r/z/*', to: { 'r/*': 81, q/z: 19 } }] }",
    );
    let snapshot = compiled(&PLACES, &policy, &at("r/z/s"));
    let cluster = whole(&snapshot);
    // Five parts of 81 %, three of them for the heavy endpoint, each rounded up.
    assert_eq!(weights(cluster).unwrap(), ["0 q/z/s 19", "0 r/y/s 49", "0 r/z/s 17", "0 r/z/t 17"]);
    assert_eq!(cluster.endpoints.len(), 4, "what is not named gets nothing");
    let snapshot = compiled(&PLACES, &policy, &at("r/y/s"));
    assert_eq!(weights(whole(&snapshot)).unwrap(), ["0 p 100"]);
    let snapshot = compiled(&PLACES, &policy, &at("elsewhere"));
    assert_eq!(whole(&snapshot).endpoints.len(), 5);
    assert_eq!(weights(whole(&snapshot)).unwrap()[0], "0 p 1", "by the weights of the endpoints");
}

#[test]
fn the_setting_of_the_rule_replaces_that_of_the_mesh() {
    let with_mesh = |settings: &str| LoadOptions { mesh: Some(source("mesh.yaml", settings)), ..at("r/z/s") };
    let off = with_mesh("localityLbSetting: { enabled: false }");
    assert_eq!(priorities(DETECTS, &off), [0; 5]);
    assert_eq!(priorities(&format!("{DETECTS}, {}", setting("{ enabled: true }")), &off), [0, 1, 2, 3, 3]);
    let failover = with_mesh("localityLbSetting: { failover: [{ from: r, to: p }] }");
    assert_eq!(priorities(DETECTS, &failover), [0, 1, 2, 4, 3]);
    assert_eq!(priorities(&format!("{DETECTS}, {}", setting("{}")), &failover), [0, 1, 2, 3, 3]);
    assert_eq!(priorities(&format!("{DETECTS}, {}", setting("{ enabled: false }")), &failover), [0; 5]);
}
