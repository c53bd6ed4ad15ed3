//! Copies for mirrors: what they carry, what they count as, and that the caller never notices them.

use http::HeaderMap;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use crate::support::{
    client::{self, Client, Payload, Socket, ask, over_http2},
    mesh::{Mesh, Proxy, destination_rule, virtual_service},
    origin::{Gate, Origin, Reply, Seen},
    ports::reserved_address,
    wait::{soon, until},
};

const SHADOW: &str = "outbound|8080||shadow.default.svc.cluster.local";
const WEB: &str = "outbound|8080||web.default.svc.cluster.local";
const MIRROR: &str = "mirror: { host: shadow }";

/// `web` forwards to one origin, and its copies go to `shadow`.
fn mesh(web: &Origin, shadow: &Origin, fields: &str) -> Mesh {
    Mesh::web(web)
        .http("shadow", &[(shadow.address(), "v1")])
        .routes(&format!("- route: [{{ destination: {{ host: web }} }}]\n  {fields}"))
}

async fn arrived(origin: &Origin, count: usize) -> Vec<Seen> {
    until("the copies", || Some(origin.requests()).filter(|seen| seen.len() >= count)).await
}

/// Waits until no copy is under way.
async fn settled(proxy: &Proxy) {
    proxy.metric("envoy_cluster_upstream_rq_active", &[SHADOW], 0.0).await;
}

#[tokio::test]
async fn a_copy_is_taken_behind_the_header_operations_and_says_what_it_is() {
    let (web, shadow) = (Origin::named("web").await, Origin::named("shadow").await);
    let fields = format!(
        "{MIRROR}\n  timeout: 5s\n  headers: {{ request: {{ set: {{ x-op: set }}, remove: [x-gone] }} }}"
    );
    let proxy = mesh(&web, &shadow, &fields).start().await;
    let request = client::request("POST", "web", "/path?q")
        .header("x-gone", "1")
        .header("x-forwarded-for", "1.2.3.4")
        .body(Payload::new("the body"));
    let answer = ask(proxy.http(), request.unwrap()).await;
    assert_eq!(answer.text(), "web");
    let copy = arrived(&shadow, 1).await.remove(0);
    let original = web.only();
    assert_eq!(
        (&copy.method, &copy.target, &copy.body),
        (&original.method, &original.target, &original.body)
    );
    let mut expected = original.headers;
    expected.iter_mut().filter(|(name, _)| name == "x-forwarded-for").for_each(|(_, v)| *v += ",127.0.0.1");
    expected.push(("x-envoy-internal".into(), "true".into()));
    assert_eq!(copy.headers, expected);
    for (name, value) in [("x-op", "set"), ("x-envoy-attempt-count", "1"), ("host", "web")] {
        assert_eq!(copy.header(name), Some(value));
    }
}

#[tokio::test]
async fn a_copy_is_counted_by_its_cluster_and_told_nowhere_else() {
    let (web, shadow) = (Origin::named("web").await, Origin::http1(|_| Reply::status(500)).await);
    let proxy = mesh(&web, &shadow, MIRROR).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    proxy.metric("envoy_cluster_upstream_rq", &[SHADOW, "response_code_class=\"5xx\""], 1.0).await;
    proxy.metric("envoy_cluster_upstream_rq_total", &[SHADOW], 1.0).await;
    proxy.metric("envoy_cluster_upstream_rq_total", &[WEB], 1.0).await;
    settled(&proxy).await;
    proxy.get("web", "/marker").await;
    let log = proxy.logged(2).await;
    let paths: Vec<_> = log.iter().map(|line| &line["path"]).collect();
    assert_eq!(paths, ["/", "/marker"]);
    proxy.metric("istio_requests_total", &[], 2.0).await;
}

#[tokio::test]
async fn the_caller_never_notices_a_mirror_that_is_silent_or_broken() {
    let web = Origin::named("web").await;
    let silent = Origin::http1(|_| Reply::never()).await;
    let proxy = mesh(&web, &silent, MIRROR).start().await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..3 {
        assert_eq!(client.send(client::post("web", "/", "body")).await.text(), "web");
    }
    arrived(&silent, 3).await;
    for shadow in [reserved_address(), Origin::hangs_up().await.address()] {
        let rule = format!("- route: [{{ destination: {{ host: web }} }}]\n  {MIRROR}");
        let proxy = Mesh::web(&web).http("shadow", &[(shadow, "v1")]).routes(&rule).start().await;
        assert_eq!(ask(proxy.http(), client::post("web", "/", "body")).await.text(), "web");
        assert_eq!(proxy.logged_one().await["response_flags"], "-");
        proxy.metric("envoy_cluster_upstream_rq", &[SHADOW, "response_code_class=\"5xx\""], 1.0).await;
    }
    let proxy = mesh(&web, &silent, "mirror: { host: nowhere }").start().await;
    assert_eq!(proxy.get("web", "/").await.text(), "web");
}

#[tokio::test]
async fn a_request_is_copied_once_however_often_it_is_tried() {
    let (web, shadow) = (Origin::http1(|_| Reply::status(503)).await, Origin::named("shadow").await);
    let retries = format!("{MIRROR}\n  retries: {{ attempts: 2, retryOn: 5xx, backoff: 1ms }}");
    let proxy = mesh(&web, &shadow, &retries).start().await;
    assert_eq!(ask(proxy.http(), client::post("web", "/", "body")).await.status, 503);
    assert_eq!(web.hits(), 3);
    arrived(&shadow, 1).await;
    settled(&proxy).await;
    assert_eq!(shadow.only().body, b"body");
    proxy.metric("envoy_cluster_upstream_rq_retry", &[SHADOW], 0.0).await;
}

/// A proxy whose origin refuses every connection, and the mirror of its requests.
async fn before_nobody() -> (Proxy, Origin) {
    let (refused, shadow) = (reserved_address(), Origin::named("shadow").await);
    let mesh = Mesh::new().http("web", &[(refused, "v1")]).http("shadow", &[(shadow.address(), "v1")]);
    let routes = format!("- route: [{{ destination: {{ host: web }} }}]\n  {MIRROR}");
    (mesh.routes(&routes).start().await, shadow)
}

#[tokio::test]
async fn a_request_that_reaches_nobody_is_copied_with_its_body() {
    let (proxy, shadow) = before_nobody().await;
    // So little that it is read well within the second that there is for the rest of a body.
    let body = vec![b'x'; 60_000];
    assert_eq!(ask(proxy.http(), client::post("web", "/", body.clone())).await.status, 503);
    let copy = arrived(&shadow, 1).await.remove(0);
    assert!(copy.body == body, "{} bytes", copy.body.len());
}

#[tokio::test]
async fn a_client_that_stops_sending_is_let_go_though_a_copy_waits_for_the_rest() {
    let (proxy, shadow) = before_nobody().await;
    let mut client = Socket::connect(proxy.http()).await;
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nhalf").await;
    let answer = soon("the end of the connection", client.rest()).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    settled(&proxy).await;
    assert_eq!(shadow.hits(), 0, "no request was complete");
}

#[tokio::test]
async fn what_no_host_takes_is_not_copied() {
    let shadow = Origin::named("shadow").await;
    let rule = format!("- route: [{{ destination: {{ host: web }} }}]\n  {MIRROR}");
    let to_shadow = virtual_service("shadow", "- route: [{ destination: { host: shadow } }]");
    let proxy = Mesh::new()
        .http("web", &[])
        .http("shadow", &[(shadow.address(), "v1")])
        .routes(&rule)
        .rules(&to_shadow)
        .start()
        .await;
    assert_eq!(ask(proxy.http(), client::post("web", "/copy", "body")).await.status, 503);
    proxy.get("shadow", "/marker").await;
    assert_eq!(shadow.only().target, "/marker", "no healthy host");

    let gate = Gate::new();
    let held = gate.clone();
    let web = Origin::http1(move |_| Reply::after(&held).and(Reply::text("web"))).await;
    let shadow = Origin::named("shadow").await;
    let proxy = mesh(&web, &shadow, MIRROR)
        .policy("connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 1 } }")
        .start()
        .await;
    let address = proxy.http();
    let request = move |path: &'static str| ask(address, client::get("web", path, &[]));
    let first = tokio::spawn(request("/first"));
    until("the first request", || (web.hits() == 1).then_some(())).await;
    let second = tokio::spawn(request("/second"));
    proxy.metric("envoy_cluster_upstream_rq_pending_active", &[WEB], 1.0).await;
    assert_eq!(proxy.get("web", "/third").await.status, 503);
    gate.open();
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
    assert_eq!(proxy.get("web", "/marker").await.status, 200);
    let targets: Vec<_> = arrived(&shadow, 3).await.into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/first", "/second", "/marker"], "the third was refused by a circuit breaker");
}

#[tokio::test]
async fn one_draw_decides_for_all_mirrors() {
    let web = Origin::named("web").await;
    let (one, other) = (Origin::named("one").await, Origin::named("other").await);
    let half = "percentage: { value: 50 }";
    let fields = format!(
        "mirrors: [{{ destination: {{ host: shadow }}, {half} }}, {{ destination: {{ host: other }}, {half} }}]"
    );
    let proxy = mesh(&web, &one, &fields).http("other", &[(other.address(), "v1")]).start().await;
    let mut client = Client::http1(proxy.http()).await;
    for number in 0..100 {
        client.send(client::get("web", &format!("/{number}"), &[])).await;
    }
    settled(&proxy).await;
    proxy.metric("envoy_cluster_upstream_rq_active", &["||other."], 0.0).await;
    let paths = |origin: &Origin| {
        let mut paths: Vec<_> = origin.requests().into_iter().map(|seen| seen.target).collect();
        paths.sort();
        paths
    };
    until("both to have the same", || (paths(&one) == paths(&other)).then_some(())).await;
    assert!((25..=75).contains(&one.hits()), "{} of 100", one.hits());
}

#[tokio::test]
async fn a_mirror_that_takes_too_little_loses_its_copy_and_the_upload_goes_on() {
    let web = Origin::named("web").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rule = format!("- route: [{{ destination: {{ host: web }} }}]\n  {MIRROR}");
    let shadow = listener.local_addr().unwrap();
    let proxy = Mesh::web(&web).http("shadow", &[(shadow, "v1")]).routes(&rule).start().await;
    let body = vec![b'x'; 32 << 20];
    let (answer, stalled) = tokio::join!(
        ask(proxy.http(), client::post("web", "/", body.clone())),
        soon("the mirror's connection", listener.accept())
    );
    assert_eq!((answer.status, web.only().body.len()), (200, body.len()));
    proxy.metric("envoy_cluster_retry_or_shadow_abandoned", &[WEB], 1.0).await;
    let (mut stalled, _): (TcpStream, _) = stalled.unwrap();
    let mut got = Vec::new();
    // Whether by a reset or in order, it ends.
    let _ = soon("the end of the copy", stalled.read_to_end(&mut got)).await;
    assert!(got.len() < body.len(), "{} bytes", got.len());
}

#[tokio::test]
async fn trailers_are_copied_too() {
    let (web, shadow) = (Origin::echo().await, Origin::h2c(|_| Reply::grpc_status(0)).await);
    let rule = "- route: [{ destination: { host: rpc } }]\n  mirror: { host: shadow }";
    let proxy = Mesh::rpc(&web)
        .grpc("shadow", &[(shadow.address(), "v1")])
        .rules(virtual_service("rpc", rule))
        .start()
        .await;
    let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]);
    let body = Payload::new(client::framed(b"m")).with_trailers(trailers);
    let request =
        client::request("POST", "rpc", "/a.B/C").header("content-type", "application/grpc").body(body);
    let answer = Client::http2(proxy.grpc()).await.send(over_http2(request.unwrap())).await;
    assert_eq!(answer.grpc_status(), Some("0"));
    let copy = arrived(&shadow, 1).await.remove(0);
    assert_eq!((copy.body, copy.trailers), (client::framed(b"m"), vec![("x-end".into(), "1".into())]));
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_copy_with_it() {
    let (web, shadow) = (Origin::named("web").await, Origin::named("shadow").await);
    let proxy = mesh(&web, &shadow, MIRROR).start().await;
    let mut client = Socket::connect(proxy.http()).await;
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nhalf").await;
    until("the mirror's connection", || (shadow.open() == 1).then_some(())).await;
    drop(client);
    until("its end", || (shadow.open() == 0).then_some(())).await;
    assert_eq!((shadow.hits(), shadow.connections()), (0, 1), "no request was complete");
    settled(&proxy).await;
}

#[tokio::test]
async fn circuit_breakers_bound_the_copies_under_way() {
    let (web, shadow) = (Origin::named("web").await, Origin::http1(|_| Reply::never()).await);
    let proxy = mesh(&web, &shadow, MIRROR)
        .rules(destination_rule("shadow", "connectionPool: { http: { http2MaxRequests: 2 } }"))
        .start()
        .await;
    for _ in 0..5 {
        assert_eq!(proxy.get("web", "/").await.status, 200);
    }
    proxy.metric("envoy_cluster_upstream_rq_active_overflow", &[SHADOW], 3.0).await;
    proxy.metric("envoy_cluster_upstream_rq_active", &[SHADOW], 2.0).await;
    assert_eq!(arrived(&shadow, 2).await.len(), 2);
}

#[tokio::test]
async fn a_copy_has_the_routes_timeout() {
    let (web, shadow) = (Origin::named("web").await, Origin::http1(|_| Reply::never()).await);
    let fields = format!("{MIRROR}\n  timeout: 3s\n  retries: {{ attempts: 1, perTryTimeout: 2s }}");
    let proxy = mesh(&web, &shadow, &fields).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    proxy.metric("envoy_cluster_upstream_rq_timeout", &[SHADOW], 1.0).await;
    assert_eq!(web.only().header("x-envoy-expected-rq-timeout-ms"), Some("2000"));
    assert_eq!(shadow.only().header("x-envoy-expected-rq-timeout-ms"), Some("3000"), "it has one try");
    until("the end of its connection", || (shadow.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn copies_are_not_sampled() {
    let (web, shadow) = (Origin::named("web").await, Origin::named("shadow").await);
    let settings =
        "defaultConfig: { tracing: { sampling: 100, zipkin: { address: 'zipkin.istio-system:9411' } } }";
    let proxy = mesh(&web, &shadow, MIRROR).settings(settings).start().await;
    proxy.get("web", "/").await;
    let copy = arrived(&shadow, 1).await.remove(0);
    assert_eq!(web.only().header("x-b3-sampled"), Some("1"));
    assert_eq!(copy.header("x-b3-sampled"), Some("0"));
    assert_eq!(copy.header("x-b3-traceid"), web.only().header("x-b3-traceid"));
}

#[tokio::test]
async fn copies_end_with_the_process() {
    let (web, shadow) = (Origin::named("web").await, Origin::http1(|_| Reply::never()).await);
    let proxy = mesh(&web, &shadow, MIRROR).start().await;
    proxy.get("web", "/").await;
    arrived(&shadow, 1).await;
    proxy.shut_down();
    proxy.ended().await;
    until("the end of the copy", || (shadow.open() == 0).then_some(())).await;
}
