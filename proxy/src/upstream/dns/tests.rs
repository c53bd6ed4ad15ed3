//! A name server on loopback, and clusters that follow it.

use std::net::Ipv4Addr;

use outrigger_config::snapshot::Balancer;

use super::{
    super::{ClusterState, testing::ClusterBuilder, testing::snapshot},
    lookup::server::Server,
    *,
};

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const DEADLINE: Duration = Duration::from_secs(10);

fn named(name: &str) -> Target {
    Target::Name(NamedEndpoint {
        name: name.into(),
        port: 8080,
        weight: 3,
        labels: Default::default(),
        locality: Default::default(),
        priority: 0,
        mutual: false,
    })
}

/// A cluster of a name; beside it stands an endpoint that is written as an address, but in round robin.
fn cluster(first_only: bool, name: &str) -> Arc<Snapshot> {
    let builder = ClusterBuilder::new(if first_only { 0 } else { 1 }).balancer(Balancer::RoundRobin);
    snapshot([builder.with(|cluster| {
        let written = cluster.endpoints.iter().map(|endpoint| Target::Address(endpoint.clone()));
        let targets = written.chain([named(name)]).collect();
        let dns = Dns { targets, first_only, refresh: Duration::from_secs(60) };
        cluster.discovery = Discovery::Dns(Box::new(dns));
    })])
}

fn addresses(state: &ClusterState) -> Vec<String> {
    state.hosts().all.iter().map(|host| host.address().to_string()).collect()
}

/// Resolves in the background.
async fn resolving(server: &Server) -> Arc<Upstreams> {
    let lookup = server.start().await;
    let upstreams = Arc::new(Upstreams::new());
    let resolver = Arc::clone(&upstreams);
    tokio::task::spawn_local(async move { resolver.resolve(|| Ok(lookup.clone())).await });
    upstreams
}

async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, holds).await.expect("it holds in time");
}

#[tokio::test(flavor = "local")]
async fn every_address_of_a_name_is_an_endpoint_and_follows_the_name_server() {
    let server = Server::default();
    server.set("web.test", &[A, B], 1);
    let upstreams = resolving(&server).await;
    let snapshot = cluster(false, "web.test");
    upstreams.prepare(&snapshot, DEADLINE).await;
    upstreams.publish(Arc::clone(&snapshot));
    let state = upstreams.cluster("outbound|80||test").unwrap();
    assert_eq!(addresses(&state), ["10.0.0.1:8080", "10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(state.hosts().all[1].endpoint.weight, 3);

    let kept = state.hosts().all[2].id();
    server.set("web.test", &[B], 1);
    until(|| addresses(&state).len() == 2).await;
    assert_eq!(addresses(&state), ["10.0.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(state.hosts().all[1].id(), kept, "its health and connections are kept");

    let asked = server.asked("web.test");
    server.forget("web.test");
    until(|| state.stats.update_failure.get() > 0).await;
    assert!(server.asked("web.test") > asked);
    assert_eq!(addresses(&state), ["10.0.0.1:8080", "10.1.0.2:8080"], "the last good answer is kept");
    upstreams.publish(snapshot);
    assert_eq!(addresses(&state), ["10.0.0.1:8080", "10.1.0.2:8080"], "over a reload too");
}

#[tokio::test(flavor = "local")]
async fn round_robin_uses_the_first_address_of_the_latest_answer() {
    let server = Server::default();
    server.set("web.test", &[A, B], 1);
    let upstreams = resolving(&server).await;
    let snapshot = cluster(true, "web.test");
    upstreams.prepare(&snapshot, DEADLINE).await;
    upstreams.publish(snapshot);
    let state = upstreams.cluster("outbound|80||test").unwrap();
    assert_eq!(addresses(&state), ["10.1.0.1:8080"]);
    server.set("web.test", &[B, A], 1);
    until(|| addresses(&state) == ["10.1.0.2:8080"]).await;
}

#[tokio::test(flavor = "local")]
async fn a_configuration_waits_for_its_names_but_not_for_ever() {
    let upstreams = Upstreams::new();
    let snapshot = cluster(false, "web.test");
    // Nobody resolves.
    upstreams.prepare(&snapshot, Duration::from_millis(1)).await;
    let failing = upstreams.resolve(|| Err("no file".to_owned()));
    tokio::select! {
        () = upstreams.prepare(&snapshot, DEADLINE) => {}
        never = failing => match never {},
    }
    assert!(upstreams.names().is_failing("web.test"), "a failure ends the wait");
}
