//! The services of a mesh, their policies, and the listener.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::{PORT, one_of, rules::rule, sometimes};

pub(crate) fn mesh(endpoints: Vec<SocketAddr>) -> impl Strategy<Value = String> {
    let endpoints = move || endpoints.clone();
    let services = (
        service("a", "a.default.svc.cluster.local", endpoints()),
        service("b", "b.default.svc.cluster.local", endpoints()),
        service("wild", "'*.wild.test'", endpoints()),
    )
        .prop_map(|(a, b, wild)| a + &b + &wild);
    let policies = (sometimes(70, destination_rule("a")), sometimes(50, destination_rule("b")))
        .prop_map(|(a, b)| a.unwrap_or_default() + &b.unwrap_or_default());
    let rules = (
        sometimes(90, virtual_service("a", "[a]")),
        sometimes(30, virtual_service("b", "[b.default.svc.cluster.local]")),
        sometimes(30, virtual_service("wild", "['*.wild.test']")),
    )
        .prop_map(|(a, b, wild)| [a, b, wild].into_iter().flatten().collect::<String>());
    (services, policies, rules, one_of(["ALLOW_ANY", "REGISTRY_ONLY"])).prop_map(
        |(services, policies, rules, outbound)| {
            let sidecar = format!(
                "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  \
                 outboundTrafficPolicy: {{ mode: {outbound} }}\n  egress:\n  - {{ port: {{ number: {PORT}, name: http }}, \
                 bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }}\n"
            );
            services + &policies + &rules + &sidecar
        },
    )
}

/// One to four of the endpoints, with versions and now and then with weights.
fn service(
    name: &'static str,
    host: &'static str,
    endpoints: Vec<SocketAddr>,
) -> impl Strategy<Value = String> {
    let most = endpoints.len().min(4);
    let chosen = prop::sample::subsequence(endpoints, 1..=most).prop_shuffle();
    let details = prop::collection::vec((one_of(["v1", "v2"]), sometimes(20, 1_u32..5)), 4);
    (chosen, details).prop_map(move |(chosen, details)| {
        let address = if name == "a" { "  addresses: [10.96.0.1]\n" } else { "" };
        let mut text = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: [{host}]\n{address}  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{ number: {PORT}, name: http, protocol: HTTP }}, {{ number: 9090, name: other, protocol: HTTP }}]\n  \
             endpoints:\n"
        );
        for (endpoint, (version, weight)) in chosen.iter().zip(details) {
            let weight = weight.map(|weight| format!(", weight: {weight}")).unwrap_or_default();
            let (ip, port) = (endpoint.ip(), endpoint.port());
            text += &format!(
                "  - {{ address: {ip}, ports: {{ http: {port}, other: {port} }}, labels: {{ version: {version} }}{weight} }}\n"
            );
        }
        text
    })
}

fn balancer() -> impl Strategy<Value = &'static str> {
    one_of([
        "{ simple: ROUND_ROBIN }",
        "{ simple: LEAST_REQUEST }",
        "{ simple: RANDOM }",
        "{ consistentHash: { httpHeaderName: x-user } }",
        "{ consistentHash: { httpHeaderName: x-user, maglev: { tableSize: 13 } } }",
        "{ consistentHash: { httpHeaderName: x-user, ringHash: { minimumRingSize: 8 } } }",
        "{ consistentHash: { httpCookie: { name: sess, path: /, ttl: 60s } } }",
        "{ consistentHash: { httpCookie: { name: sess, ttl: 0s } } }",
        "{ consistentHash: { useSourceIp: true } }",
        "{ consistentHash: { httpQueryParameterName: k } }",
    ])
}

fn destination_rule(name: &'static str) -> impl Strategy<Value = String> {
    (sometimes(70, balancer()), sometimes(30, balancer()), any::<bool>()).prop_map(
        move |(whole, subset, subsets)| {
            let policy = |indent: &str, balancer: Option<&str>| {
                balancer
                    .map(|balancer| format!("{indent}trafficPolicy: {{ loadBalancer: {balancer} }}\n"))
                    .unwrap_or_default()
            };
            let subsets = if subsets || whole.is_none() {
                format!(
                    "  subsets:\n  - name: v1\n    labels: {{ version: v1 }}\n{}  - name: v2\n    labels: {{ version: v2 }}\n",
                    policy("    ", subset)
                )
            } else {
                String::new()
            };
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{ name: {name} }}\nspec:\n  \
                 host: {name}\n{}{subsets}",
                policy("  ", whole)
            )
        },
    )
}

fn virtual_service(name: &'static str, hosts: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(rule(), 1..5).prop_map(move |rules| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: {hosts}\n  http:\n{}",
            rules.concat()
        )
    })
}
