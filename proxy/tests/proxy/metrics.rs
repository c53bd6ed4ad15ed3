//! Istio's metrics as a scraper sees them.

use crate::support::{
    client::{self, Client, Socket, ask},
    mesh::{Mesh, Proxy},
    origin::{Origin, Reply},
    ports::reserved_address,
    wait::until,
};

/// The labels of `istio_requests_total` in their order of emission.
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

async fn page(proxy: &Proxy) -> String {
    let answer = ask(proxy.address("metrics"), client::get("localhost", "/stats/prometheus", &[])).await;
    assert_eq!(answer.status, 200);
    answer.text().to_owned()
}

/// The labels of the only series of a metric.
async fn labels(proxy: &Proxy, metric: &str) -> Vec<(String, String)> {
    proxy.metric(metric, &[], 1.0).await;
    let page = page(proxy).await;
    let line = page.lines().find(|line| line.starts_with(&format!("{metric}{{"))).unwrap();
    let (labels, _) = line.split_once('{').unwrap().1.rsplit_once('}').unwrap();
    labels
        .split("\",")
        .map(|pair| pair.split_once("=\"").unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

fn value<'a>(labels: &'a [(String, String)], name: &str) -> &'a str {
    &labels.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name}")).1
}

#[tokio::test]
async fn a_request_counts_with_istios_labels() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    proxy.get("web", "/").await;
    let labels = labels(&proxy, "istio_requests_total").await;
    let names: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
    // An empty label is the same as none: only gRPC calls have a gRPC status.
    let plain: Vec<_> = LABELS.into_iter().filter(|label| *label != "grpc_response_status").collect();
    assert_eq!(names, plain);
    for (name, expected) in [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("source_app", "client"),
        ("source_version", "v7"),
        ("source_workload_namespace", "default"),
        ("source_cluster", "Kubernetes"),
        ("source_principal", "unknown"),
        ("destination_service", "web.default.svc.cluster.local"),
        ("destination_service_name", "web"),
        ("destination_service_namespace", "default"),
        ("destination_version", "v1"),
        ("destination_app", "web"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "unknown"),
    ] {
        assert_eq!(value(&labels, name), expected, "{name}");
    }
}

#[tokio::test]
async fn a_grpc_call_counts_with_its_status() {
    let origin = Origin::h2c(|_| Reply::grpc_status(5)).await;
    let proxy = Mesh::rpc(&origin).start().await;
    proxy.call("rpc", "/a.B/C", b"m").await;
    let labels = labels(&proxy, "istio_requests_total").await;
    let names: Vec<_> = labels.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, LABELS);
    assert_eq!(value(&labels, "request_protocol"), "grpc");
    assert_eq!((value(&labels, "response_code"), value(&labels, "grpc_response_status")), ("200", "5"));
}

#[tokio::test]
async fn local_failures_count_with_their_flags() {
    let refused = reserved_address();
    let proxy = Mesh::new().http("web", &[(refused, "v1")]).start().await;
    proxy.get("web", "/").await;
    proxy.metric("istio_requests_total", &["response_code=\"503\"", "response_flags=\"URX,UF\""], 1.0).await;
    proxy.get("elsewhere.example", "/").await;
    proxy.metric("istio_requests_total", &["response_flags=\"UH\""], 1.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_counts_once_with_code_0() {
    let origin = Origin::http1(|_| Reply::never()).await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    until("the request", || (origin.hits() == 1).then_some(())).await;
    socket.reset();
    proxy.metric("istio_requests_total", &["response_code=\"0\"", "response_flags=\"DC\""], 1.0).await;
    assert_eq!(proxy.sum("istio_requests_total", &[]).await, 1.0);
}

#[tokio::test]
async fn durations_and_bytes_have_istios_histograms() {
    let origin = Origin::http1(|_| Reply::text(&"x".repeat(3000))).await;
    let proxy = Mesh::web(&origin).start().await;
    ask(proxy.http(), client::post("web", "/", vec![b'y'; 2000])).await;
    for (metric, above, below) in [
        ("istio_request_duration_milliseconds", 0.0, f64::INFINITY),
        ("istio_request_bytes", 2000.0, 4000.0),
        ("istio_response_bytes", 3000.0, 5000.0),
    ] {
        proxy.metric(&format!("{metric}_count"), &[], 1.0).await;
        let sum = proxy.sum(&format!("{metric}_sum"), &[]).await;
        assert!((above..below).contains(&sum), "{metric}: {sum}, headers count as well");
        let page = page(&proxy).await;
        let buckets = page.lines().filter(|line| line.starts_with(&format!("{metric}_bucket"))).count();
        assert_eq!(buckets, 20, "{metric}: 19 bounds and +Inf");
    }
}

#[tokio::test]
async fn counts_survive_a_reload_and_add_up_over_workers() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).workers(2).start().await;
    for _ in 0..10 {
        proxy.get("web", "/").await;
    }
    let rule =
        crate::support::mesh::destination_rule("web", "connectionPool: { tcp: { maxConnections: 7 } }");
    proxy.reload(rule).await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..10 {
        client.send(client::get("web", "/", &[])).await;
    }
    proxy.metric("istio_requests_total", &[], 20.0).await;
    proxy
        .metric("envoy_cluster_upstream_rq_total", &["outbound|8080||web.default.svc.cluster.local"], 20.0)
        .await;
}

#[tokio::test]
async fn unknown_hosts_do_not_make_endless_series() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut client = Client::http1(proxy.http()).await;
    for number in 0..300 {
        client.send(client::get(&format!("host-{number}.example"), "/", &[])).await;
    }
    proxy.metric("istio_requests_total", &[], 300.0).await;
    let page = page(&proxy).await;
    let series = page.lines().filter(|line| line.starts_with("istio_requests_total{")).count();
    assert!(series < 100, "{series}");
}
