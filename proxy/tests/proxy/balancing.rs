//! Which endpoint of the cluster a request goes to.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_config::decide::xxh64;

use crate::support::{
    client::{self, Client},
    mesh::{Mesh, Proxy},
    origin::{Origin, Reply},
};

const BY_SESSION: &str = "loadBalancer: { consistentHash: { httpHeaderName: x-session-id } }";

/// Origins that answer with their own address, the key of the hash ring.
async fn addressed(count: usize) -> Vec<Origin> {
    let mut origins = vec![];
    for _ in 0..count {
        let origin = Origin::http1(|seen| Reply::text(seen.header("host").unwrap())).await;
        origins.push(origin);
    }
    origins
}

fn endpoints<'a>(origins: &[Origin], version: &'a str) -> Vec<(std::net::SocketAddr, &'a str)> {
    origins.iter().map(|origin| (origin.address(), version)).collect()
}

/// Which origin got the request, by the hits it caused.
async fn picked(client: &mut Client, origins: &[Origin], headers: &[(&str, &str)]) -> usize {
    let before: Vec<_> = origins.iter().map(Origin::hits).collect();
    assert_eq!(client.send(client::get("web", "/", headers)).await.status, 200);
    let after = origins.iter().map(Origin::hits);
    let moved: Vec<_> =
        after.zip(before).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
    assert_eq!(moved.len(), 1);
    moved[0]
}

/// Envoy's ring hash for equal weights, as its documentation and source describe it, without any cleverness.
fn ring(origins: &[Origin], minimum: usize) -> BTreeMap<u64, usize> {
    let points = minimum.div_ceil(origins.len());
    let mut ring = BTreeMap::new();
    for (at, origin) in origins.iter().enumerate() {
        for point in 0..points {
            ring.insert(xxh64(format!("{}_{point}", origin.address()).as_bytes(), 0), at);
        }
    }
    ring
}

fn lookup(ring: &BTreeMap<u64, usize>, key: u64) -> usize {
    *ring.range(key..).next().or_else(|| ring.iter().next()).unwrap().1
}

#[tokio::test]
async fn a_session_sticks_to_the_endpoint_of_envoys_ring() {
    let origins = addressed(3).await;
    let proxy = Mesh::new().http("web", &endpoints(&origins, "v1")).policy(BY_SESSION).start().await;
    let ring = ring(&origins, 1024);
    let mut client = Client::http1(proxy.http()).await;
    for session in 0..100 {
        let name = format!("session-{session}");
        let expected = lookup(&ring, xxh64(name.as_bytes(), 0));
        for _ in 0..2 {
            let picked = picked(&mut client, &origins, &[("x-session-id", &name)]).await;
            assert_eq!(picked, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn the_lines_of_the_header_are_sorted_before_hashing() {
    let origins = addressed(4).await;
    let proxy = Mesh::new().http("web", &endpoints(&origins, "v1")).policy(BY_SESSION).start().await;
    let ring = ring(&origins, 1024);
    let mut client = Client::http1(proxy.http()).await;
    for session in 0..20 {
        let (a, b) = (format!("a-{session}"), format!("b-{session}"));
        let expected = lookup(&ring, xxh64(b.as_bytes(), xxh64(a.as_bytes(), 0)));
        for lines in [[&a, &b], [&b, &a]] {
            let lines = lines.map(|line| ("x-session-id", line.as_str()));
            assert_eq!(picked(&mut client, &origins, &lines).await, expected, "{lines:?}");
        }
    }
}

#[tokio::test]
async fn a_session_sticks_within_each_subset() {
    let origins = addressed(5).await;
    let (v1, v2) = origins.split_at(3);
    let all = [endpoints(v1, "v1"), endpoints(v2, "v2")].concat();
    let proxy = Mesh::new()
        .http("web", &all)
        .policy(BY_SESSION)
        .routes(
            "- route:\n  - { destination: { host: web, subset: v1 }, weight: 50 }\n  - { destination: { host: web, subset: v2 }, weight: 50 }",
        )
        .start()
        .await;
    let (ring1, ring2) = (ring(v1, 1024), ring(v2, 1024));
    let mut client = Client::http1(proxy.http()).await;
    let mut subsets = BTreeSet::new();
    for session in 0..30 {
        let name = format!("session-{session}");
        let hash = xxh64(name.as_bytes(), 0);
        // Two weighted destinations put their policy into the route's list twice.
        let key = hash.rotate_left(1) ^ hash;
        for _ in 0..6 {
            let picked = picked(&mut client, &origins, &[("x-session-id", &name)]).await;
            subsets.insert(picked >= 3);
            let expected = if picked < 3 { lookup(&ring1, key) } else { 3 + lookup(&ring2, key) };
            assert_eq!(picked, expected, "{name}");
        }
    }
    assert_eq!(subsets.len(), 2, "both subsets were used");
}

#[tokio::test]
async fn maglev_sticks_too_and_spreads() {
    let origins = addressed(3).await;
    let policy =
        "loadBalancer: { consistentHash: { httpHeaderName: x-session-id, maglev: { tableSize: 65537 } } }";
    let proxy = Mesh::new().http("web", &endpoints(&origins, "v1")).policy(policy).start().await;
    let mut client = Client::http1(proxy.http()).await;
    let mut used = BTreeSet::new();
    for session in 0..40 {
        let name = format!("session-{session}");
        let first = picked(&mut client, &origins, &[("x-session-id", &name)]).await;
        assert_eq!(picked(&mut client, &origins, &[("x-session-id", &name)]).await, first);
        used.insert(first);
    }
    assert_eq!(used.len(), 3);
}

#[tokio::test]
async fn a_request_without_the_header_goes_to_a_random_endpoint() {
    let origins = addressed(3).await;
    let proxy = Mesh::new().http("web", &endpoints(&origins, "v1")).policy(BY_SESSION).start().await;
    let used = spread(&proxy, &origins, 60).await;
    assert!(used.iter().all(|hits| *hits > 0), "{used:?}");
}

async fn spread(proxy: &Proxy, origins: &[Origin], requests: usize) -> Vec<usize> {
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..requests {
        picked(&mut client, origins, &[]).await;
    }
    origins.iter().map(Origin::hits).collect()
}

#[tokio::test]
async fn round_robin_takes_turns_and_least_request_and_random_spread() {
    for (simple, exact) in [("ROUND_ROBIN", true), ("LEAST_REQUEST", false), ("RANDOM", false)] {
        let origins = addressed(3).await;
        let policy = format!("loadBalancer: {{ simple: {simple} }}");
        let proxy = Mesh::new().http("web", &endpoints(&origins, "v1")).policy(&policy).start().await;
        let used = spread(&proxy, &origins, 60).await;
        if exact {
            assert_eq!(used, [20, 20, 20], "{simple}");
        } else {
            assert!(used.iter().all(|hits| *hits > 5), "{simple}: {used:?}");
        }
    }
}
