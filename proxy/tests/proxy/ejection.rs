//! Outlier detection as users see it: on `/clusters`, in the metrics, and in where requests go.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::support::{
    client::{self, Client},
    mesh::{Mesh, Proxy},
    origin::{Origin, Reply, Step},
    ports::reserved_address,
    wait::eventually,
};

const WEB: &str = "outbound|8080||web.default.svc.cluster.local";
const NO_RETRY: &str = "- route: [{ destination: { host: web } }]\n  retries: { attempts: 0 }";

/// An origin whose health the test decides.
async fn fickle() -> (Origin, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&broken);
    let origin =
        Origin::http1(
            move |_| {
                if state.load(Ordering::SeqCst) { Reply::status(500) } else { Reply::text("fine") }
            },
        )
        .await;
    (origin, broken)
}

async fn flags(proxy: &Proxy, host: SocketAddr) -> String {
    proxy.cluster(WEB, Some(host), "health_flags").await.expect("health_flags on /clusters")
}

async fn mesh(endpoints: &[(SocketAddr, &str)], outlier: &str) -> Proxy {
    let policy = format!("loadBalancer: {{ simple: ROUND_ROBIN }}\noutlierDetection: {{ {outlier} }}");
    Mesh::new().http("web", endpoints).policy(&policy).routes(NO_RETRY).start().await
}

#[tokio::test]
async fn five_consecutive_5xx_eject_and_the_sweep_brings_back() {
    let (bad, broken) = fickle().await;
    let good = Origin::named("good").await;
    let endpoints = [(bad.address(), "v1"), (good.address(), "v1")];
    let outlier = |base: &str| {
        format!("consecutive5xxErrors: 5, interval: 100ms, baseEjectionTime: {base}, maxEjectionPercent: 50")
    };
    let proxy = mesh(&endpoints, &outlier("100s")).await;
    broken.store(true, Ordering::SeqCst);
    let mut client = Client::http1(proxy.http()).await;
    let mut failures = 0;
    while bad.hits() < 5 {
        assert_eq!(flags(&proxy, bad.address()).await, "healthy", "after {failures} failures");
        failures += usize::from(client.send(client::get("web", "/", &[])).await.status == 500);
    }
    assert_eq!(failures, 5);
    assert_eq!(flags(&proxy, bad.address()).await, "/failed_outlier_check", "at once");
    assert_eq!(flags(&proxy, good.address()).await, "healthy");
    for _ in 0..10 {
        assert_eq!(client.send(client::get("web", "/", &[])).await.text(), "good");
    }
    assert_eq!(bad.hits(), 5, "ejected hosts get nothing");
    proxy.metric("envoy_cluster_outlier_detection_ejections_enforced_total", &[WEB], 1.0).await;

    // A short ejection, of which nothing is looked at but its end.
    let proxy = mesh(&endpoints, &outlier("300ms")).await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..10 {
        client.send(client::get("web", "/", &[])).await;
    }
    assert_eq!(bad.hits(), 10);
    broken.store(false, Ordering::SeqCst);
    eventually("the host to return", async || {
        (flags(&proxy, bad.address()).await == "healthy").then_some(())
    })
    .await;
    proxy.metric("envoy_cluster_outlier_detection_ejections_enforced_total", &[WEB], 1.0).await;
    for _ in 0..4 {
        assert_eq!(client.send(client::get("web", "/", &[])).await.status, 200);
    }
    assert_eq!(bad.hits(), 12, "it gets its share again");
    proxy.metric("envoy_cluster_outlier_detection_ejections_active", &[WEB], 0.0).await;
}

#[tokio::test]
async fn a_success_in_between_starts_the_count_again() {
    let failures = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let origin = Origin::http1(move |_| match failures.fetch_add(1, Ordering::SeqCst) % 5 {
        4 => Reply::status(404),
        _ => Reply::status(500),
    })
    .await;
    let proxy = mesh(&[(origin.address(), "v1")], "consecutive5xxErrors: 5, maxEjectionPercent: 100").await;
    for _ in 0..20 {
        proxy.get("web", "/").await;
    }
    assert_eq!(flags(&proxy, origin.address()).await, "healthy", "a 404 is a success");
}

#[tokio::test]
async fn the_share_of_ejected_hosts_may_reach_its_limit_and_not_pass_it() {
    // 100 * 1 / 2 <= 50: one of two goes, the second stays.
    let (one, broken_one) = fickle().await;
    let (two, broken_two) = fickle().await;
    broken_one.store(true, Ordering::SeqCst);
    broken_two.store(true, Ordering::SeqCst);
    let outlier = "consecutive5xxErrors: 1, interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 50";
    let proxy = mesh(&[(one.address(), "v1"), (two.address(), "v1")], outlier).await;
    for _ in 0..6 {
        assert_eq!(proxy.get("web", "/").await.status, 500);
    }
    let states = [flags(&proxy, one.address()).await, flags(&proxy, two.address()).await];
    assert_eq!(states.iter().filter(|state| *state == "healthy").count(), 1, "{states:?}");
    let overflow = proxy.sum("envoy_cluster_outlier_detection_ejections_overflow", &[WEB]).await;
    assert!(overflow >= 1.0, "{overflow}");
}

#[tokio::test]
async fn by_default_a_small_cluster_never_ejects() {
    let (origin, broken) = fickle().await;
    broken.store(true, Ordering::SeqCst);
    let good = Origin::named("good").await;
    let proxy = mesh(&[(origin.address(), "v1"), (good.address(), "v1")], "consecutive5xxErrors: 1").await;
    for _ in 0..4 {
        proxy.get("web", "/").await;
    }
    assert_eq!(flags(&proxy, origin.address()).await, "healthy", "100 * 1 / 2 > 10");
}

#[tokio::test]
async fn with_all_hosts_ejected_the_answer_is_503_uh() {
    let (origin, broken) = fickle().await;
    broken.store(true, Ordering::SeqCst);
    let outlier = "consecutive5xxErrors: 1, interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 100";
    let proxy = mesh(&[(origin.address(), "v1")], outlier).await;
    assert_eq!(proxy.get("web", "/").await.status, 500);
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (503, "no healthy upstream"));
    assert_eq!(proxy.logged(2).await[1]["response_flags"], "UH");
}

#[tokio::test]
async fn in_panic_all_hosts_are_used() {
    let (origin, broken) = fickle().await;
    broken.store(true, Ordering::SeqCst);
    let outlier = "consecutive5xxErrors: 1, interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 100, minHealthPercent: 50";
    let proxy = mesh(&[(origin.address(), "v1")], outlier).await;
    for _ in 0..3 {
        assert_eq!(proxy.get("web", "/").await.status, 500);
    }
    assert_eq!(origin.hits(), 3);
}

#[tokio::test]
async fn refused_connections_and_timeouts_count() {
    let refused = reserved_address();
    let outlier = "consecutive5xxErrors: 2, interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 100";
    let proxy = mesh(&[(refused, "v1")], outlier).await;
    for _ in 0..2 {
        assert_eq!(proxy.get("web", "/").await.status, 503);
    }
    assert_eq!(flags(&proxy, refused).await, "/failed_outlier_check");

    let silent = Origin::http1(|_| Reply::never()).await;
    let policy = format!("outlierDetection: {{ {outlier} }}");
    let routes = format!("{NO_RETRY}\n  timeout: 50ms");
    let proxy = Mesh::web(&silent).policy(&policy).routes(&routes).start().await;
    for _ in 0..2 {
        assert_eq!(proxy.get("web", "/").await.status, 504);
    }
    assert_eq!(flags(&proxy, silent.address()).await, "/failed_outlier_check");
}

#[tokio::test]
async fn resets_are_gateway_errors_and_split_ones_never_add_up() {
    let common = "interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 100";
    for (counts, ejects) in [
        ("consecutive5xxErrors: 0, consecutiveGatewayErrors: 2", true),
        (
            "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1",
            false,
        ),
        ("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1", true),
    ] {
        let closing = Origin::http1(|_| Reply::default().then(Step::Close)).await;
        let proxy = mesh(&[(closing.address(), "v1")], &format!("{counts}, {common}")).await;
        for _ in 0..2 {
            assert_eq!(proxy.get("web", "/").await.status, 503);
        }
        let expected = if ejects { "/failed_outlier_check" } else { "healthy" };
        assert_eq!(flags(&proxy, closing.address()).await, expected, "{counts}");
    }
}

#[tokio::test]
async fn ejection_survives_a_reload() {
    let (bad, broken) = fickle().await;
    let good = Origin::named("good").await;
    broken.store(true, Ordering::SeqCst);
    let outlier = "consecutive5xxErrors: 1, interval: 100s, baseEjectionTime: 100s, maxEjectionPercent: 50";
    let proxy = mesh(&[(bad.address(), "v1"), (good.address(), "v1")], outlier).await;
    while bad.hits() == 0 {
        proxy.get("web", "/").await;
    }
    let policy = format!("loadBalancer: {{ simple: RANDOM }}\noutlierDetection: {{ {outlier} }}");
    proxy.reload(crate::support::mesh::destination_rule("web", &policy)).await;
    assert_eq!(flags(&proxy, bad.address()).await, "/failed_outlier_check");
    for _ in 0..10 {
        assert_eq!(proxy.get("web", "/").await.text(), "good");
    }
}

#[tokio::test]
async fn another_priority_takes_over_from_one_that_is_ejected() {
    let (near, broken) = fickle().await;
    let far = Origin::named("far").await;
    let endpoints = [(far.address(), "v1"), (near.address(), "v2")];
    let mesh = |base: &str| {
        let policy = format!(
            "loadBalancer: {{ localityLbSetting: {{ failoverPriority: ['version=v2'] }} }}\n\
             outlierDetection: {{ consecutive5xxErrors: 1, interval: 100ms, baseEjectionTime: {base}, maxEjectionPercent: 100 }}"
        );
        Mesh::new().http("web", &endpoints).policy(&policy).routes(NO_RETRY)
    };
    let proxy = mesh("100s").start().await;
    for (host, priority) in [(&near, "0"), (&far, "1")] {
        let shown = proxy.cluster(WEB, Some(host.address()), "priority").await;
        assert_eq!(shown.as_deref(), Some(priority));
    }
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..10 {
        client.send(client::get("web", "/", &[])).await;
    }
    assert_eq!((near.hits(), far.hits()), (10, 0));
    broken.store(true, Ordering::SeqCst);
    assert_eq!(client.send(client::get("web", "/", &[])).await.status, 500);
    broken.store(false, Ordering::SeqCst);
    assert_eq!(client.send(client::get("web", "/", &[])).await.status, 200);
    assert_eq!((near.hits(), far.hits()), (11, 1), "at once");

    // A short ejection, of which nothing is looked at but its end.
    let proxy = mesh("300ms").start().await;
    let mut client = Client::http1(proxy.http()).await;
    broken.store(true, Ordering::SeqCst);
    assert_eq!(client.send(client::get("web", "/", &[])).await.status, 500);
    broken.store(false, Ordering::SeqCst);
    eventually("the first priority takes all again", async || {
        (flags(&proxy, near.address()).await == "healthy").then_some(())
    })
    .await;
    proxy.metric("envoy_cluster_outlier_detection_ejections_enforced_total", &[WEB], 1.0).await;
    client.send(client::get("web", "/", &[])).await;
    assert_eq!((near.hits(), far.hits()), (13, 1));
}
