//! What a reload carries over.

use outrigger_config::{
    Loader, Source,
    snapshot::{Balancer, ClusterId, Limits, Node, Source as From},
};

use super::{
    testing::{ClusterBuilder, endpoint, outlier, snapshot, state},
    *,
};

const FIRST: ClusterId = ClusterId(0);

fn ejected(upstreams: &Upstreams) -> Arc<Host> {
    let published = upstreams.publish(snapshot([ClusterBuilder::new(3).outlier(outlier(1))]));
    let cluster = published.cluster(FIRST);
    let host = cluster.hosts().all[1].clone();
    cluster.report(&host, Outcome::Status(503), Instant::now());
    assert!(host.is_ejected());
    host
}

#[test]
fn a_reload_keeps_ejections_counters_and_permits() {
    let upstreams = Upstreams::new();
    let host = ejected(&upstreams);
    let before = upstreams.clusters().remove(0);
    let held = before.acquire_request(&host).unwrap();
    // The endpoints come in another order, one of them with another weight, and one is new.
    let published = upstreams.publish(snapshot([ClusterBuilder::new(0)
        .endpoints([("10.0.0.2:8080", 5), ("10.0.0.9:8080", 1), ("10.0.0.1:8080", 1)])
        .outlier(outlier(1))
        .limits(Limits { max_requests: 1, ..Limits::default() })]));
    let after = published.cluster(FIRST);
    assert!(Arc::ptr_eq(&before, after));
    let set = after.hosts();
    assert_eq!((set.all[0].id(), set.all[0].endpoint.weight), (host.id(), 5));
    assert!(set.all[0].is_ejected() && set.all[0].ejection() == host.ejection());
    assert_eq!(set.groups[0].candidates.len(), 2);
    assert_eq!((set.all[0].stats().rq_error.get(), set.all[0].active()), (1, 1));
    assert_eq!(after.stats.outlier_detection_ejections_active.get(), 1);
    assert!(after.acquire_request(&host).is_err(), "the new limit counts the old request");
    drop(held);
    assert!(after.acquire_request(&host).is_ok());
    // It returns at a sweep as if nothing had happened.
    while let Some(tick) = upstreams.next_sweep()
        && host.is_ejected()
    {
        upstreams.sweep(tick);
    }
    assert_eq!(after.hosts().groups[0].candidates.len(), 3);
}

#[test]
fn an_unchanged_cluster_keeps_its_host_set() {
    let upstreams = Upstreams::new();
    let build = || ClusterBuilder::new(3).balancer(Balancer::Maglev { table_size: 251 });
    let first = upstreams.publish(snapshot([build()]));
    let version = first.cluster(FIRST).hosts().version;
    let second = upstreams.publish(snapshot([build()]));
    assert_eq!(second.cluster(FIRST).hosts().version, version);
    let third = upstreams.publish(snapshot([build().balancer(Balancer::Random)]));
    assert_ne!(third.cluster(FIRST).hosts().version, version);
}

#[test]
fn one_changed_endpoint_rebuilds_one_cluster_and_the_others_are_the_same_objects() {
    let service = |name: &str, address: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  \
             hosts: [{name}.shop]\n  resolution: STATIC\n  ports: [{{ number: 8080, name: http }}]\n  \
             endpoints: [{{ address: {address} }}, {{ address: 10.0.0.2 }}]\n---\napiVersion: networking.istio.io/v1\n\
             kind: DestinationRule\nmetadata: {{ name: {name} }}\nspec:\n  host: {name}.shop\n  \
             trafficPolicy: {{ outlierDetection: {{ consecutive5xxErrors: 1, maxEjectionPercent: 100 }} }}\n---\n"
        )
    };
    let sidecar = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: default }\nspec:\n  egress:\n  \
         - { port: { number: 8080, name: http, protocol: HTTP }, bind: 127.0.0.1, captureMode: NONE, hosts: [\"*/*\"] }\n";
    let mut loader = Loader::new(Node { namespace: "default".into(), ..Node::default() }, Default::default());
    let mut load = |address: &str| {
        let names = ["a", "b", "c", "d"];
        let services = names.map(|name| service(name, if name == "c" { address } else { "10.0.0.1" }));
        let source = Source { name: "mesh.yaml".into(), text: services.concat() + sidecar };
        Arc::new(loader.load(&[source], None).unwrap().snapshot)
    };
    let upstreams = Upstreams::new();
    let before = upstreams.publish(load("10.0.0.1"));
    let ids = (0..5).map(ClusterId);
    for id in ids.clone() {
        let cluster = before.cluster(id);
        if let Some(host) = cluster.hosts().all.get(1) {
            cluster.report(host, Outcome::Status(503), Instant::now());
        }
    }
    let sets: Vec<_> = ids.clone().map(|id| before.cluster(id).hosts().version).collect();
    let after = upstreams.publish(load("10.0.0.9"));
    let mut rebuilt = Vec::new();
    for id in ids {
        let (old, new) = (before.cluster(id), after.cluster(id));
        assert!(Arc::ptr_eq(old, new), "{}", new.name);
        assert_eq!(
            new.hosts().all.iter().filter(|host| host.is_ejected()).count(),
            new.hosts().all.len() / 2
        );
        let same = Arc::ptr_eq(&before.snapshot[id], &after.snapshot[id]);
        assert_eq!(same, sets[id.0 as usize] == new.hosts().version, "{}", new.name);
        rebuilt.extend((!same).then(|| new.name.to_string()));
    }
    assert_eq!(rebuilt, ["outbound|8080||c.shop"]);
}

#[test]
fn membership_changes_when_endpoints_come_or_leave_and_not_with_health_or_weight() {
    let upstreams = Upstreams::new();
    let publish = |endpoints: &[(&str, u32)]| {
        let cluster = ClusterBuilder::new(0).endpoints(endpoints.iter().copied()).outlier(outlier(1));
        upstreams.publish(snapshot([cluster])).cluster(FIRST).clone()
    };
    let (one, heavy, two) = (("10.0.0.1:80", 1), ("10.0.0.1:80", 5), ("10.0.0.2:80", 1));
    let cluster = publish(&[one]);
    let changes = || cluster.stats.membership_change.get();
    assert_eq!(changes(), 1);
    cluster.report(&cluster.hosts().all[0].clone(), Outcome::Status(503), Instant::now());
    publish(&[heavy]);
    assert_eq!((changes(), cluster.hosts().healthy), (1, 0));
    publish(&[heavy, two]);
    publish(&[two, heavy]);
    assert_eq!(changes(), 2);
    publish(&[two]);
    assert_eq!(changes(), 3);
    publish(&[one]);
    assert_eq!(changes(), 4);
}

#[test]
fn an_endpoint_that_left_counts_as_ejected_no_more() {
    let upstreams = Upstreams::new();
    let host = ejected(&upstreams);
    let published = upstreams.publish(snapshot([ClusterBuilder::new(1).outlier(outlier(1))]));
    let cluster = published.cluster(FIRST);
    assert!(host.is_removed() && !cluster.hosts().all[0].is_removed());
    assert_eq!(cluster.stats.outlier_detection_ejections_active.get(), 0);
    cluster.report(&host, Outcome::Status(503), Instant::now());
    assert_eq!(cluster.stats.outlier_detection_ejections_active.get(), 0, "nor is it ejected again");
}

#[test]
fn detection_that_is_switched_off_lets_all_return() {
    let upstreams = Upstreams::new();
    let host = ejected(&upstreams);
    let published = upstreams.publish(snapshot([ClusterBuilder::new(3)]));
    assert!(!host.is_ejected());
    assert_eq!(published.cluster(FIRST).hosts().groups[0].candidates.len(), 3);
    assert_eq!(upstreams.next_sweep(), None);
}

#[test]
fn clusters_of_one_address_do_not_share_health() {
    let upstreams = Upstreams::new();
    let named = |name: &str| ClusterBuilder::new(2).outlier(outlier(1)).with(|c| c.name = name.into());
    let published = upstreams.publish(snapshot([named("v1"), named("all")]));
    let (one, all) = (published.cluster(FIRST), published.cluster(ClusterId(1)));
    one.report(&one.hosts().all[0].clone(), Outcome::Reset, Instant::now());
    assert_eq!((one.hosts().groups[0].candidates.len(), all.hosts().groups[0].candidates.len()), (1, 2));
    let names: Vec<_> = upstreams.clusters().iter().map(|cluster| cluster.name.to_string()).collect();
    assert_eq!(names, ["all", "v1"]);
}

#[test]
fn a_running_request_keeps_its_snapshot() {
    let upstreams = Upstreams::new();
    let old = upstreams.publish(snapshot([ClusterBuilder::new(1)]));
    let new = upstreams.publish(snapshot([]));
    assert!(new.snapshot.clusters.is_empty() && upstreams.clusters().is_empty());
    assert_eq!(old.snapshot[FIRST].name, old.cluster(FIRST).name);
    assert_eq!(*old.cluster(FIRST).config().endpoints[0], *endpoint("10.0.0.1:8080", 1));
    assert!(old.cluster(FIRST).hosts().all[0].is_removed(), "its connections end");
}

#[tokio::test(start_paused = true)]
async fn the_control_thread_rebuilds_tables() {
    let upstreams = Upstreams::new();
    let ring = Balancer::RingHash { minimum_ring_size: 64, maximum_ring_size: 1024 };
    let published = upstreams.publish(snapshot([ClusterBuilder::new(3).balancer(ring).outlier(outlier(1))]));
    let cluster = published.cluster(FIRST);
    cluster.report(&cluster.hosts().all[0].clone(), Outcome::Status(500), Instant::now());
    assert_eq!(cluster.hosts().groups[0].candidates.len(), 3, "not on the worker");
    tokio::select! {
        never = upstreams.maintain() => match never {},
        () = async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(cluster.hosts().groups[0].candidates.len(), 2);
}

#[test]
fn connections_to_the_workload_come_from_istios_address() {
    for (source, end) in
        [(From::System, LocalEnd::Any), (From::Inbound, LocalEnd::Own("127.0.0.6".parse().unwrap()))]
    {
        let cluster = state(ClusterBuilder::new(1).with(|cluster| cluster.source = source));
        let host = Arc::clone(&cluster.hosts().all[0]);
        assert_eq!(host.local_end(), end);
    }
}
