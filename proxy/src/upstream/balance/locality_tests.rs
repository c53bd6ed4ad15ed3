//! Priorities and weighted localities, as observed with Envoy. `e2e/locality_diff.py` asks it the same.

use std::collections::{BTreeMap, HashMap};

use outrigger_config::snapshot::{Balancer, Endpoint, Locality, LocalityWeight};
use rand::SeedableRng;
use tokio::time::Instant;

use super::*;
use crate::upstream::{
    Outcome,
    testing::{ClusterBuilder, outlier, state},
};

/// Hosts with a priority and a region, 10.0.0.1:80 and so on; each can be ejected by one error.
fn placed(hosts: &[(u32, &str)], balancer: Balancer, weights: &[(u32, &str, u32)]) -> Arc<ClusterState> {
    let endpoints = (1..).zip(hosts).map(|(n, (priority, region))| {
        Arc::new(Endpoint {
            address: format!("10.0.0.{n}:80").parse().unwrap(),
            key: format!("10.0.0.{n}:80").into(),
            hostname: "".into(),
            weight: 1,
            labels: BTreeMap::new(),
            locality: Locality::parse(region),
            priority: *priority,
            mutual: false,
        })
    });
    let weights = weights.iter().map(|(priority, region, weight)| LocalityWeight {
        priority: *priority,
        locality: Locality::parse(region),
        weight: *weight,
    });
    let localities = (weights.len() > 0).then(|| weights.collect());
    state(ClusterBuilder::new(0).balancer(balancer).outlier(outlier(1)).with(|c| {
        c.endpoints = endpoints.collect();
        c.localities = localities;
    }))
}

fn eject(cluster: &ClusterState, hosts: &[usize]) {
    for index in hosts {
        cluster.report(&cluster.hosts().all[*index].clone(), Outcome::Status(503), Instant::now());
    }
    cluster.refresh();
}

/// How often each host is picked of 1000 times.
fn counts(cluster: &Arc<ClusterState>) -> Vec<usize> {
    let (balancers, mut rng) = (Balancers::new(), SmallRng::seed_from_u64(7));
    let mut counts = HashMap::new();
    for _ in 0..1000 {
        if let Some(host) = balancers.pick(cluster, None, &[], &mut rng) {
            *counts.entry(host.id()).or_insert(0) += 1;
        }
    }
    cluster.hosts().all.iter().map(|host| counts.get(&host.id()).copied().unwrap_or(0)).collect()
}

fn close(found: &[usize], expected: &[usize]) {
    assert!(found.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 45), "{found:?} and not {expected:?}");
    assert_eq!(found.len(), expected.len());
}

const TWO_PRIORITIES: [(u32, &str); 8] =
    [(0, "a"), (0, "a"), (0, "a"), (0, "a"), (1, "b"), (1, "b"), (1, "b"), (1, "b")];

#[test]
fn a_priority_that_is_short_of_hosts_spills_over() {
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::Random] {
        let cluster = placed(&TWO_PRIORITIES, balancer, &[]);
        close(&counts(&cluster), &[250, 250, 250, 250, 0, 0, 0, 0]);
        eject(&cluster, &[0]);
        close(&counts(&cluster), &[0, 333, 333, 333, 0, 0, 0, 0]);
        assert_eq!(counts(&cluster)[4..], [0; 4], "105 % of what is needed");
        eject(&cluster, &[1]);
        close(&counts(&cluster), &[0, 0, 350, 350, 75, 75, 75, 75]);
        eject(&cluster, &[2, 4, 5, 6]);
        close(&counts(&cluster), &[0, 0, 0, 500, 0, 0, 0, 500]);
        eject(&cluster, &[3, 7]);
        assert_eq!(counts(&cluster), [0; 8], "nobody is left");
    }
}

#[test]
fn the_hash_says_the_priority_and_the_host() {
    for balancer in [
        Balancer::RingHash { minimum_ring_size: 1024, maximum_ring_size: 4096 },
        Balancer::Maglev { table_size: 251 },
    ] {
        let cluster = placed(&TWO_PRIORITIES, balancer, &[]);
        eject(&cluster, &[0, 1]);
        let (balancers, mut rng) = (Balancers::new(), SmallRng::seed_from_u64(7));
        let mut first = 0;
        for hash in (0..1000_u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
            let mut pick = || balancers.pick(&cluster, Some(hash), &[], &mut rng).unwrap();
            let host = pick();
            assert_eq!(host.id(), pick().id());
            assert_eq!(host.endpoint.priority == 0, hash % 100 < 70, "{hash}");
            first += usize::from(host.endpoint.priority == 0);
        }
        assert!(first.abs_diff(700) < 50, "{first}");
    }
}

#[test]
fn localities_share_by_weight_and_by_what_they_can_take() {
    let weights = [(0, "a", 80), (0, "b", 20)];
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::Random] {
        let cluster = placed(&[(0, "a"), (0, "a"), (0, "b")], balancer.clone(), &weights);
        close(&counts(&cluster), &[400, 400, 200]);
        eject(&cluster, &[0]);
        // 80 at 70 % to 20.
        close(&counts(&cluster), &[0, 737, 263]);
        eject(&cluster, &[1]);
        assert_eq!(counts(&cluster), [0, 0, 1000]);
    }
    let exact = counts(&placed(&[(0, "a"), (0, "a"), (0, "b")], Balancer::RoundRobin, &weights));
    assert_eq!(exact, [400, 400, 200], "in turn, not by chance");
}

#[test]
fn tables_share_by_the_weights_of_localities() {
    let weights = [(0, "a", 80), (0, "b", 20)];
    let ring = Balancer::RingHash { minimum_ring_size: 1000, maximum_ring_size: 8192 };
    let cluster = placed(&[(0, "a"), (0, "a"), (0, "b")], ring, &weights);
    let points = |cluster: &ClusterState| {
        let table = Ring::new(&cluster.hosts().groups[0].table(), 1000, 8192);
        [0, 1, 2].map(|host| table.points().iter().filter(|(_, index)| *index == host).count())
    };
    assert_eq!(points(&cluster), [400, 400, 200]);
    eject(&cluster, &[1]);
    assert_eq!(points(&cluster), [800, 200, 0], "what is left of a locality has all of its share");
}
