//! The balancers against published vectors, naive models and what was observed with Envoy.

use std::{collections::HashMap, time::Duration};

use outrigger_config::snapshot::Balancer;
use proptest::prelude::*;
use rand::SeedableRng;
use serde_json::Value;
use tokio::time::Instant;
use twox_hash::XxHash64;

use super::{maglev::Maglev, ring_hash::Ring, *};
use crate::upstream::{
    Outcome,
    testing::{ClusterBuilder, outlier, state},
};

const RING: Balancer = Balancer::RingHash { minimum_ring_size: 1024, maximum_ring_size: 8_388_608 };
const MAGLEV: Balancer = Balancer::Maglev { table_size: 65_537 };

fn vectors() -> Value {
    serde_json::from_str(include_str!("hash_vectors.json")).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_str().map_or_else(|| value.as_u64(), |text| text.parse().ok()).unwrap()
}

fn hosts(case: &Value) -> Vec<(&str, u32)> {
    let hosts = case["hosts"].as_array().unwrap();
    hosts.iter().map(|host| (host[0].as_str().unwrap(), host[1].as_u64().unwrap() as u32)).collect()
}

fn shares_of<'k>(hosts: &[(&'k str, u32)]) -> Vec<(&'k str, f64)> {
    super::shares(hosts.iter().copied())
}

fn xxh64(key: &str) -> u64 {
    XxHash64::oneshot(0, key.as_bytes())
}

#[test]
fn keys_hash_as_published() {
    for (key, hash) in vectors()["xxh64"].as_object().unwrap() {
        assert_eq!(xxh64(key), number(hash), "{key}");
    }
}

#[test]
fn rings_are_as_published() {
    let vectors = vectors();
    let cases = vectors["ring"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let hosts = hosts(case);
        let ring = Ring::new(&shares_of(&hosts), number(&case["minimum_ring_size"]), 8_388_608);
        let name = |index: usize| hosts[index].0;
        let points = ring.points();
        assert_eq!(points.len() as u64, number(&case["entries"]));
        for (point, expected) in points.iter().zip(case["first3"].as_array().unwrap()) {
            assert_eq!(
                (point.0, name(point.1 as usize)),
                (number(&expected[0]), expected[1].as_str().unwrap())
            );
        }
        assert_eq!(points[points.len() - 1].0, number(&case["last"][0]));
        for (host, count) in case["per_host"].as_object().unwrap() {
            let found = points.iter().filter(|point| name(point.1 as usize) == host).count();
            assert_eq!(found as u64, number(count), "{host}");
        }
        for (key, host) in case["choose"].as_object().unwrap() {
            assert_eq!(name(ring.pick(xxh64(key), 0)), host.as_str().unwrap(), "{key}");
        }
        assert_eq!(name(ring.pick(0, 0)), case["choose_hash0"].as_str().unwrap());
        assert_eq!(name(ring.pick(u64::MAX, 0)), case["choose_hashmax"].as_str().unwrap());
    }
}

#[test]
fn maglev_tables_are_as_published() {
    let vectors = vectors();
    let cases = vectors["maglev"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let hosts = hosts(case);
        let maglev = Maglev::new(&shares_of(&hosts), number(&case["table_size"]));
        let name = |index: usize| hosts[index].0;
        for (slot, host) in case["first8"].as_array().unwrap().iter().enumerate() {
            assert_eq!(name(maglev.table()[slot] as usize), host.as_str().unwrap());
        }
        for host in case["build"].as_array().unwrap() {
            let found = maglev.table().iter().filter(|index| name(**index as usize) == host["host"]).count();
            assert_eq!(found as u64, number(&host["entries"]));
        }
        for (attempt, field) in ["choose", "choose_attempt1"].into_iter().enumerate() {
            for (key, host) in case[field].as_object().unwrap() {
                assert_eq!(
                    name(maglev.pick(xxh64(key), attempt as u64)),
                    host.as_str().unwrap(),
                    "{field} {key}"
                );
            }
        }
    }
}

/// The expected values of Envoy's own `ring_hash_lb_test` ("Basic", "HostWeightedTinyRing").
#[test]
fn rings_are_those_of_envoys_own_tests() {
    let names: Vec<String> = (90..=95).map(|port| format!("127.0.0.1:{port}")).collect();
    let equal: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let ring = Ring::new(&shares_of(&equal), 12, 8_388_608);
    let expected = [
        (833_437_586_790_550_860, 94),
        (928_266_305_478_181_108, 92),
        (1_033_482_794_131_418_490, 90),
        (3_551_244_743_356_806_947, 95),
        (3_851_675_632_748_031_481, 93),
        (5_583_722_120_771_150_861, 91),
        (6_311_230_543_546_372_928, 91),
        (7_700_377_290_971_790_572, 93),
        (13_144_177_310_400_110_813, 95),
        (13_444_792_449_719_432_967, 92),
        (15_516_499_411_664_133_160, 94),
        (16_117_243_373_044_804_889, 90),
    ];
    assert_eq!(ring.points(), expected.map(|(hash, port)| (hash, port - 90)));
    // A further attempt is the next point, and the last is followed by the first.
    assert_eq!(ring.pick(928_266_305_478_181_108, 0), 2);
    assert_eq!(ring.pick(928_266_305_478_181_108, 1), 0);
    assert_eq!(ring.pick(u64::MAX, 1), 2);

    let weighted: Vec<(&str, u32)> = names.iter().take(3).map(String::as_str).zip(1..).collect();
    let ring = Ring::new(&shares_of(&weighted), 6, 6);
    let expected = [
        (928_266_305_478_181_108, 92),
        (4_443_673_547_860_492_590, 92),
        (5_583_722_120_771_150_861, 91),
        (6_311_230_543_546_372_928, 91),
        (13_444_792_449_719_432_967, 92),
        (16_117_243_373_044_804_889, 90),
    ];
    assert_eq!(ring.points(), expected.map(|(hash, port)| (hash, port - 90)));
}

/// The expected values of Envoy's own `maglev_lb_test` ("Basic", "Weighted").
#[test]
fn maglev_tables_are_those_of_envoys_own_tests() {
    let names: Vec<String> = (90..=95).map(|port| format!("127.0.0.1:{port}")).collect();
    let equal: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let ports = |maglev: &Maglev| maglev.table().iter().map(|host| host + 90).collect::<Vec<_>>();
    assert_eq!(ports(&Maglev::new(&shares_of(&equal), 7)), [92, 94, 90, 91, 95, 90, 93]);
    let weighted: Vec<(&str, u32)> = names.iter().take(2).map(String::as_str).zip(1..).collect();
    assert_eq!(
        ports(&Maglev::new(&shares_of(&weighted), 17)),
        [91, 90, 90, 91, 90, 91, 91, 90, 91, 91, 91, 91, 91, 90, 91, 90, 91]
    );
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn weighted(balancer: Balancer, weights: &[u32]) -> Arc<ClusterState> {
    let endpoints: Vec<_> =
        (1..).map(|n| format!("10.0.0.{n}:80")).zip(weights.iter().copied()).take(250).collect();
    let endpoints = endpoints.iter().map(|(address, weight)| (address.as_str(), *weight));
    state(ClusterBuilder::new(0).endpoints(endpoints).balancer(balancer))
}

/// Picks `count` times; the answer is the index of each host.
fn picks(cluster: &Arc<ClusterState>, count: usize) -> Vec<usize> {
    let (balancers, mut rng) = (Balancers::new(), rng());
    let index =
        |host: &Arc<Host>| cluster.hosts().all.iter().position(|other| other.id() == host.id()).unwrap();
    (0..count).map(|_| index(&balancers.pick(cluster, None, &[], &mut rng).unwrap())).collect()
}

fn shares(cluster: &Arc<ClusterState>, count: usize) -> Vec<f64> {
    let picks = picks(cluster, count);
    let hosts = cluster.hosts().all.len();
    (0..hosts).map(|host| picks.iter().filter(|pick| **pick == host).count() as f64 / count as f64).collect()
}

fn is_rotation(picks: &[usize], cycle: &[usize]) -> bool {
    (0..cycle.len())
        .any(|start| picks.iter().enumerate().all(|(i, pick)| *pick == cycle[(start + i) % cycle.len()]))
}

#[test]
fn round_robin_repeats_the_cycles_observed_with_envoy() {
    for (weights, cycle) in [(&[1, 2, 3][..], &[2, 1, 2, 0, 1, 2][..]), (&[1, 4], &[1, 1, 1, 0, 1])] {
        let picks = picks(&weighted(Balancer::RoundRobin, weights), 60);
        assert!(is_rotation(&picks, cycle), "{picks:?}");
    }
    let picks = picks(&weighted(Balancer::RoundRobin, &[5, 5, 5]), 30);
    assert!(is_rotation(&picks, &[0, 1, 2]), "{picks:?}");
}

#[test]
fn round_robin_starts_at_random() {
    let cluster = weighted(Balancer::RoundRobin, &[1, 1, 1, 1]);
    let starts: std::collections::HashSet<_> = (0..50)
        .map(|seed| {
            Balancers::new().pick(&cluster, None, &[], &mut SmallRng::seed_from_u64(seed)).unwrap().id()
        })
        .collect();
    assert_eq!(starts.len(), 4);
}

#[test]
fn least_request_picks_the_less_busy_of_two_with_replacement() {
    let cluster = weighted(Balancer::LeastRequest, &[1, 1, 1]);
    let busy = cluster.acquire_request(&cluster.hosts().all[0]).unwrap();
    let share = shares(&cluster, 90_000)[0];
    assert!((share - 1.0 / 9.0).abs() < 0.01, "one busy host of three got {share}");
    drop(busy);
    let cluster = weighted(Balancer::LeastRequest, &[1, 1]);
    let _busy = cluster.acquire_request(&cluster.hosts().all[0]).unwrap();
    let share = shares(&cluster, 90_000)[0];
    assert!((share - 0.25).abs() < 0.01, "one busy host of two got {share}");
}

#[test]
fn least_request_with_weights_divides_by_the_load() {
    let cluster = weighted(Balancer::LeastRequest, &[1, 3]);
    let idle = picks(&cluster, 40);
    assert!(is_rotation(&idle, &[0, 1, 1, 1]), "{idle:?}");
    let heavy = cluster.hosts().all[1].clone();
    let one = cluster.acquire_request(&heavy).unwrap();
    assert!((shares(&cluster, 10_000)[0] - 0.4).abs() < 0.01);
    let two = cluster.acquire_request(&heavy).unwrap();
    assert!((shares(&cluster, 10_000)[0] - 0.5).abs() < 0.01);
    drop((one, two));
}

#[test]
fn random_ignores_weights() {
    let share = shares(&weighted(Balancer::Random, &[1, 3]), 40_000)[0];
    assert!((share - 0.5).abs() < 0.01, "{share}");
}

#[test]
fn one_key_stays_on_one_host_and_no_key_goes_anywhere() {
    for balancer in [RING, MAGLEV] {
        let cluster = weighted(balancer, &[1, 1, 1]);
        let (balancers, mut rng) = (Balancers::new(), rng());
        let first = balancers.pick(&cluster, Some(42), &[], &mut rng).unwrap().id();
        assert!((0..100).all(|_| balancers.pick(&cluster, Some(42), &[], &mut rng).unwrap().id() == first));
        assert!(shares(&cluster, 3000).iter().all(|share| *share > 0.25));
    }
}

#[test]
fn a_host_to_avoid_is_picked_again_five_times_at_most() {
    for balancer in [RING, MAGLEV, Balancer::RoundRobin, Balancer::LeastRequest, Balancer::Random] {
        let cluster = weighted(balancer.clone(), &[1, 1, 1]);
        let all = cluster.hosts().all.to_vec();
        let (balancers, mut rng) = (Balancers::new(), rng());
        let mut missed = 0;
        for hash in 0..2000_u64 {
            let hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let host = balancers.pick(&cluster, Some(hash), &all[..1], &mut rng).unwrap();
            missed += usize::from(host.id() == all[0].id());
            assert!(balancers.pick(&cluster, Some(hash), &all, &mut rng).is_some(), "the sixth is taken");
        }
        assert!(missed < 20, "{balancer:?}: {missed}");
    }
}

fn ring(set: &HostSet) -> Option<&Ring> {
    match &set.groups[0].picker {
        Picker::Ring { made, .. } => made.get(),
        _ => None,
    }
}

#[test]
fn a_ring_is_made_when_it_is_asked_for_and_ready_from_then_on() {
    let cluster = state(ClusterBuilder::new(4).balancer(RING).outlier(outlier(1)));
    assert!(ring(&cluster.hosts()).is_none(), "nobody asked");
    Balancers::new().pick(&cluster, Some(7), &[], &mut rng()).unwrap();
    assert!(ring(&cluster.hosts()).is_some());
    let victim = cluster.hosts().all[0].clone();
    cluster.report(&victim, Outcome::Status(500), Instant::now());
    cluster.refresh();
    let set = cluster.hosts();
    assert!(set.healthy == 3 && ring(&set).is_some(), "the next one is made off the workers");
    let large = Balancer::RingHash { minimum_ring_size: 100_000, maximum_ring_size: 8 << 20 };
    assert!(ring(&state(ClusterBuilder::new(4).balancer(large)).hosts()).is_some(), "too large for a worker");
}

#[test]
fn the_re_picks_of_a_ring_are_its_next_points() {
    let cluster = weighted(RING, &[1, 1, 1, 1]);
    let set = cluster.hosts();
    let (balancers, mut rng) = (Balancers::new(), rng());
    balancers.pick(&cluster, Some(0), &[], &mut rng).unwrap();
    let ring = ring(&set).unwrap();
    for key in 0..200_u64 {
        let hash = XxHash64::oneshot(0, &key.to_le_bytes());
        let first = set.all[ring.pick(hash, 0)].clone();
        let second = balancers.pick(&cluster, Some(hash), std::slice::from_ref(&first), &mut rng).unwrap();
        let expected = (0..6).map(|k| ring.pick(hash, k)).find(|index| set.all[*index].id() != first.id());
        let expected = expected.unwrap_or_else(|| ring.pick(hash, 5));
        assert_eq!(second.id(), set.all[expected].id());
    }
}

#[test]
fn tables_hold_healthy_hosts_only() {
    for balancer in [RING, MAGLEV] {
        let cluster = state(ClusterBuilder::new(4).balancer(balancer.clone()).outlier(outlier(1)));
        let all = cluster.hosts().all.to_vec();
        cluster.report(&all[2], Outcome::Status(500), Instant::now());
        let (balancers, mut rng) = (Balancers::new(), rng());
        // At once, while the old table is still there, and the same hosts once it is rebuilt.
        let key = |n: u64| XxHash64::oneshot(0, &n.to_le_bytes());
        let mut before = Vec::new();
        for n in 0..500 {
            before.push(balancers.pick(&cluster, Some(key(n)), &[], &mut rng).unwrap().id());
        }
        assert!(!before.contains(&all[2].id()));
        cluster.refresh();
        assert_eq!(cluster.hosts().groups[0].candidates.len(), 3);
        let without = [&all[0], &all[1], &all[3]].map(|host| (&*host.endpoint.key, 1));
        let names: Vec<_> = match balancer {
            Balancer::Maglev { table_size } => {
                let table = Maglev::new(&shares_of(&without), table_size);
                (0..500).map(|n| without[table.pick(key(n), 0)].0).collect()
            }
            _ => {
                let table = Ring::new(&shares_of(&without), 1024, 8_388_608);
                (0..500).map(|n| without[table.pick(key(n), 0)].0).collect()
            }
        };
        for (n, name) in names.iter().enumerate() {
            let host = balancers.pick(&cluster, Some(key(n as u64)), &[], &mut rng).unwrap();
            assert_eq!(&*host.endpoint.key, *name);
        }
    }
}

#[test]
fn panic_uses_all_hosts_strictly_below_the_threshold() {
    let build = |threshold| {
        let cluster =
            state(ClusterBuilder::new(4).outlier(outlier(1)).with(|c| c.panic_threshold = threshold));
        for index in 0..2 {
            cluster.report(&cluster.hosts().all[index].clone(), Outcome::Status(500), Instant::now());
        }
        cluster
    };
    let at = build(50);
    assert_eq!((at.hosts().groups[0].panic, at.hosts().groups[0].candidates.len()), (false, 2));
    let below = build(51);
    assert_eq!((below.hosts().groups[0].panic, below.hosts().groups[0].candidates.len()), (true, 4));
    assert_eq!(picks(&below, 8).len(), 8);
    assert_eq!((below.stats.lb_healthy_panic.get(), at.stats.lb_healthy_panic.get()), (8, 0));
}

#[test]
fn without_a_healthy_host_there_is_none_to_pick() {
    let cluster = state(ClusterBuilder::new(2).outlier(outlier(1)));
    for host in cluster.hosts().all.iter() {
        cluster.report(host, Outcome::Status(500), Instant::now());
    }
    assert!(Balancers::new().pick(&cluster, None, &[], &mut rng()).is_none());
    for balancer in [RING, MAGLEV, Balancer::Random] {
        let empty = state(ClusterBuilder::new(0).balancer(balancer));
        assert!(Balancers::new().pick(&empty, Some(1), &[], &mut rng()).is_none());
    }
}

#[test]
fn a_schedule_follows_the_host_set() {
    let cluster = state(ClusterBuilder::new(3).outlier(outlier(1)));
    let (balancers, mut rng) = (Balancers::new(), rng());
    let mut pick = || balancers.pick(&cluster, None, &[], &mut rng).unwrap();
    let gone = pick();
    cluster.report(&gone, Outcome::Status(500), Instant::now());
    assert!((0..12).all(|_| pick().id() != gone.id()));
}

/// Maglev as its paper tells it: whole permutations, then turns.
fn naive_maglev(hosts: &[(String, u32)], size: u64) -> Vec<String> {
    let mut sorted = hosts.to_vec();
    sorted.sort();
    let total: f64 = sorted.iter().map(|host| f64::from(host.1)).sum();
    let most = sorted.iter().map(|host| f64::from(host.1) / total).fold(0.0, f64::max);
    let permutation = |name: &str| -> Vec<u64> {
        let offset = xxh64(name) % size;
        let skip = XxHash64::oneshot(1, name.as_bytes()) % (size - 1) + 1;
        (0..size).map(|j| (offset + skip * j) % size).collect()
    };
    let permutations: Vec<_> = sorted.iter().map(|host| permutation(&host.0)).collect();
    let mut targets = vec![0.0; sorted.len()];
    let mut table = HashMap::new();
    for round in 1.. {
        for (index, (name, weight)) in sorted.iter().enumerate() {
            if table.len() as u64 == size {
                return (0..size)
                    .map(|slot| table[&slot])
                    .map(|index: usize| sorted[index].0.clone())
                    .collect();
            }
            if f64::from(round) * (f64::from(*weight) / total) >= targets[index] {
                targets[index] += most;
                let slot = permutations[index].iter().find(|slot| !table.contains_key(*slot)).unwrap();
                table.insert(*slot, index);
            }
            let _ = name;
        }
    }
    unreachable!()
}

/// The point of `hash` by looking at every point there is.
fn naive_ring(ring: &Ring, hash: u64) -> usize {
    let at_or_after = ring.points().iter().filter(|point| point.0 >= hash).min();
    at_or_after.or(ring.points().iter().min()).unwrap().1 as usize
}

fn some_hosts() -> impl Strategy<Value = Vec<(String, u32)>> {
    prop::collection::btree_map(1_u16..500, 1_u32..20, 1..8)
        .prop_map(|hosts| {
            hosts.into_iter().map(|(n, weight)| (format!("10.0.{}.{}:80", n / 250, n % 250), weight))
        })
        .prop_map(Iterator::collect)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn maglev_agrees_with_the_naive_model(hosts in some_hosts(), size in prop::sample::select(vec![101_u64, 251, 509])) {
        let borrowed: Vec<_> = hosts.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let maglev = Maglev::new(&shares_of(&borrowed), size);
        let names: Vec<_> = maglev.table().iter().map(|index| hosts[*index as usize].0.clone()).collect();
        prop_assert_eq!(names, naive_maglev(&hosts, size));
    }

    #[test]
    fn ring_agrees_with_the_naive_model(hosts in some_hosts(), minimum in 1_u64..300, hashes in prop::collection::vec(any::<u64>(), 20)) {
        let borrowed: Vec<_> = hosts.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let ring = Ring::new(&shares_of(&borrowed), minimum, 8_388_608);
        prop_assert!(ring.points().len() as u64 >= minimum);
        for hash in hashes {
            prop_assert_eq!(ring.pick(hash, 0), naive_ring(&ring, hash));
        }
        // Each host has its first points, without gaps, in proportion to its weight.
        let total: u64 = hosts.iter().map(|host| u64::from(host.1)).sum();
        for (index, (name, weight)) in hosts.iter().enumerate() {
            let count = ring.points().iter().filter(|point| point.1 as usize == index).count();
            let share = ring.points().len() as f64 * f64::from(*weight) / total as f64;
            // Rounded up once for the host and once for the whole ring.
            prop_assert!((count as f64 - share).abs() < 2.0, "{} of {}", count, share);
            for j in 0..count {
                let hash = xxh64(&format!("{name}_{j}"));
                prop_assert!(ring.points().binary_search(&(hash, index as u32)).is_ok());
            }
        }
    }

    #[test]
    fn a_schedule_is_fair_over_whole_cycles(weights in prop::collection::vec(1_u32..10, 2..6)) {
        let total: u32 = weights.iter().sum();
        let share = |i: usize| Share { weight: weights[i].into(), load: 1 };
        let mut edf = edf::Edf::new(weights.len(), share);
        let mut counts = vec![0; weights.len()];
        for _ in 0..total * 20 {
            counts[edf.pick(share)] += 1;
        }
        for (count, weight) in counts.iter().zip(&weights) {
            prop_assert_eq!(*count, weight * 20);
        }
    }
}

/// A window of 100 s, a tenth at least.
fn warming(balancer: &Balancer) -> ClusterBuilder {
    let warmup = Warmup { window: Duration::from_secs(100), least: 0.1, aggression: 1.0 };
    ClusterBuilder::new(2).balancer(balancer.clone()).with(|c| c.warmup = Some(warmup))
}

fn counts(cluster: &Arc<ClusterState>, in_all: usize) -> Vec<usize> {
    let picks = picks(cluster, in_all);
    (0..cluster.hosts().all.len()).map(|host| picks.iter().filter(|pick| **pick == host).count()).collect()
}

/// As observed with Envoy, with either balancer.
#[tokio::test(start_paused = true)]
async fn a_new_host_warms_up() {
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest] {
        let cluster = state(warming(&balancer));
        assert_eq!(counts(&cluster, 200), [100, 100], "the first ones are as new as each other");
        tokio::time::advance(Duration::from_secs(101)).await;
        let mut three = warming(&balancer).0;
        three.endpoints = ClusterBuilder::new(3).0.endpoints;
        cluster.update(&Arc::new(three), Instant::now());
        // Of 2.1, of 2.5 and of 3.
        for (expected, seconds) in [(95, 50), (400, 50), (667, 0)] {
            let third = counts(&cluster, 2_000)[2];
            assert!(third.abs_diff(expected) <= 4, "{balancer:?}: {third} and not {expected}");
            tokio::time::advance(Duration::from_secs(seconds)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_returns_from_an_ejection_is_not_new() {
    let cluster = state(warming(&Balancer::RoundRobin).outlier(outlier(1)));
    tokio::time::advance(Duration::from_secs(101)).await;
    let host = cluster.hosts().all[0].clone();
    cluster.report(&host, Outcome::Status(503), Instant::now());
    assert_eq!(counts(&cluster, 10), [0, 10]);
    while host.is_ejected() {
        tokio::time::advance(Duration::from_millis(500)).await;
        cluster.sweep(Instant::now());
    }
    assert_eq!(counts(&cluster, 10), [5, 5]);
}
