//! Connections to endpoints: how many, for how long, and what happens when there are not enough.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    client::{self, Answer, Client, Socket, over_http2, read},
    mesh::{Mesh, Proxy},
    origin::{Gate, Origin, Reply, Step},
    wait::{eventually, soon, until},
};

const WEB: &str = "outbound|8080||web.default.svc.cluster.local";

fn overflowed(answer: &Answer) {
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    );
    assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
    assert_eq!(answer.names(), ["x-envoy-overloaded", "content-length", "content-type", "date", "server"]);
}

/// An origin that answers `/held` only when the gate opens.
async fn held() -> (Origin, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |seen| match seen.target.as_str() {
        "/held" => Reply::after(&held).and(Reply::text("held")),
        _ => Reply::text("free"),
    })
    .await;
    (origin, gate)
}

/// Sends a request whose answer is held back, and returns once the origin has it.
async fn hold(proxy: &Proxy, origin: &Origin) -> tokio::task::JoinHandle<Answer> {
    let (address, before) = (proxy.http(), origin.hits());
    let task = tokio::spawn(async move { client::ask(address, client::get("web", "/held", &[])).await });
    until("the held request", || (origin.hits() > before).then_some(())).await;
    task
}

async fn gauge(proxy: &Proxy, origin: &Origin, key: &str) -> String {
    proxy.cluster(WEB, Some(origin.address()), key).await.unwrap_or_else(|| panic!("no {key} on /clusters"))
}

async fn settles(proxy: &Proxy, origin: &Origin, key: &str, value: &str) {
    eventually(&format!("{key} = {value}"), async || {
        (gauge(proxy, origin, key).await == value).then_some(())
    })
    .await;
}

#[tokio::test]
async fn beyond_max_connections_requests_wait_for_their_turn() {
    let (origin, gate) = held().await;
    let proxy = Mesh::web(&origin).policy("connectionPool: { tcp: { maxConnections: 1 } }").start().await;
    let first = hold(&proxy, &origin).await;
    let address = proxy.http();
    let second = tokio::spawn(async move { client::ask(address, client::get("web", "/second", &[])).await });
    settles(&proxy, &origin, "rq_active", "1").await;
    proxy.metric("envoy_cluster_upstream_rq_pending_active", &[WEB], 1.0).await;
    gate.open();
    assert_eq!(soon("the first", first).await.unwrap().text(), "held");
    assert_eq!(soon("the second", second).await.unwrap().text(), "free");
    assert_eq!(origin.connections(), 1, "both went over the one connection");
}

#[tokio::test]
async fn beyond_the_pending_limit_a_request_overflows_at_once() {
    let (origin, gate) = held().await;
    let proxy = Mesh::web(&origin)
        .policy("connectionPool: { tcp: { maxConnections: 1 }, http: { http1MaxPendingRequests: 1 } }")
        .start()
        .await;
    let first = hold(&proxy, &origin).await;
    let address = proxy.http();
    let second = tokio::spawn(async move { client::ask(address, client::get("web", "/second", &[])).await });
    proxy.metric("envoy_cluster_upstream_rq_pending_active", &[WEB], 1.0).await;
    overflowed(&proxy.get("web", "/third").await);
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "UO");
    assert_eq!(line["response_code_details"], "upstream_reset_before_response_started{overflow}");
    assert!(line["upstream_host"].is_null(), "{line}");
    assert_eq!(line["upstream_cluster"], WEB);
    proxy.metric("envoy_cluster_upstream_rq_pending_overflow", &[WEB], 1.0).await;
    gate.open();
    assert_eq!(soon("the first", first).await.unwrap().status, 200);
    assert_eq!(soon("the second", second).await.unwrap().status, 200);
    assert_eq!(proxy.get("web", "/fourth").await.status, 200, "the permits came back");
}

#[tokio::test]
async fn beyond_http2_max_requests_a_request_overflows_and_is_not_retried() {
    let (origin, gate) = held().await;
    let proxy = Mesh::web(&origin)
        .policy("connectionPool: { http: { http2MaxRequests: 1 } }")
        .routes("- route: [{ destination: { host: web } }]\n  retries: { attempts: 3, retryOn: '5xx,reset,gateway-error' }")
        .start()
        .await;
    let first = hold(&proxy, &origin).await;
    overflowed(&proxy.get("web", "/second").await);
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "UO");
    assert_eq!(line["upstream_host"], origin.address().to_string());
    gate.open();
    assert_eq!(soon("the first", first).await.unwrap().status, 200);
    assert_eq!(origin.hits(), 1);
    assert_eq!(proxy.get("web", "/third").await.status, 200);
}

#[tokio::test]
async fn a_connection_carries_exactly_max_requests() {
    let origin = Origin::named("web").await;
    let proxy =
        Mesh::web(&origin).policy("connectionPool: { http: { maxRequestsPerConnection: 3 } }").start().await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..7 {
        assert_eq!(client.send(client::get("web", "/", &[])).await.status, 200);
    }
    let on: Vec<_> = origin.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(on, [0, 0, 0, 1, 1, 1, 2]);
    assert!(origin.requests().iter().all(|seen| seen.header("connection").is_none()), "not announced");
    until("full connections to close", || (origin.open() == 1).then_some(())).await;
}

#[tokio::test]
async fn an_http2_connection_carries_exactly_max_requests() {
    let origin = Origin::h2c(|_| Reply::grpc_status(0)).await;
    let proxy = Mesh::rpc(&origin)
        .rules(crate::support::mesh::destination_rule(
            "rpc",
            "connectionPool: { http: { maxRequestsPerConnection: 3 } }",
        ))
        .start()
        .await;
    let mut client = Client::http2(proxy.grpc()).await;
    for _ in 0..7 {
        assert_eq!(client.send(client::grpc("rpc", "/a.B/C", b"x")).await.grpc_status(), Some("0"));
    }
    let on: Vec<_> = origin.requests().iter().map(|seen| seen.connection).collect();
    assert_eq!(on, [0, 0, 0, 1, 1, 1, 2]);
    until("full connections to close", || (origin.open() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_vanishes_gives_everything_back() {
    let (origin, _gate) = held().await;
    let proxy = Mesh::web(&origin)
        .policy("connectionPool: { tcp: { maxConnections: 1 }, http: { http2MaxRequests: 1, http1MaxPendingRequests: 1 } }")
        .start()
        .await;
    for round in 0..3 {
        let mut socket = Socket::connect(proxy.http()).await;
        let before = origin.hits();
        socket.send("GET /held HTTP/1.1\r\nhost: web\r\n\r\n").await;
        until("the held request", || (origin.hits() > before).then_some(())).await;
        assert_eq!(gauge(&proxy, &origin, "rq_active").await, "1");
        socket.reset();
        settles(&proxy, &origin, "rq_active", "0").await;
        until("the upstream connection to close", || (origin.open() == 0).then_some(())).await;
        settles(&proxy, &origin, "cx_active", "0").await;
        let answer = proxy.get("web", "/next").await;
        assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
    }
    let log = proxy.logged(6).await;
    let left: Vec<_> = log.iter().filter(|line| line["path"] == "/held").collect();
    assert_eq!(left.len(), 3);
    for line in left {
        assert_eq!((&line["response_flags"], &line["response_code"]), (&"DC".into(), &0.into()), "{line}");
        assert_eq!(line["response_code_details"], "downstream_remote_disconnect");
    }
}

#[tokio::test]
async fn a_reset_http2_stream_gives_everything_back() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::h2c(move |seen| match seen.target.as_str() {
        "/held" => Reply::after(&held).and(Reply::text("held")),
        _ => Reply::text("free"),
    })
    .await;
    let proxy = Mesh::rpc(&origin)
        .rules(crate::support::mesh::destination_rule(
            "rpc",
            "connectionPool: { http: { http2MaxRequests: 1 } }",
        ))
        .start()
        .await;
    let mut client = Client::http2(proxy.grpc()).await;
    {
        let call = client.open(client::grpc("rpc", "/held", b""));
        tokio::pin!(call);
        let there = until("the held request", || (origin.hits() == 1).then_some(()));
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = there => {}
        }
        // Dropping the future resets the stream.
    }
    eventually("room for another call", async || {
        let answer = client.send(client::grpc("rpc", "/next", b"")).await;
        (answer.text() == "free").then_some(())
    })
    .await;
    assert_eq!(origin.connections(), 1, "the other streams of the connection were spared");
}

#[tokio::test]
async fn idle_connections_are_used_again_newest_first() {
    let (origin, gate) = held().await;
    let proxy = Mesh::web(&origin).start().await;
    let (first, second) = (hold(&proxy, &origin).await, hold(&proxy, &origin).await);
    gate.open();
    for held in [first, second] {
        assert_eq!(soon("an answer", held).await.unwrap().status, 200);
    }
    assert_eq!(origin.connections(), 2);
    for _ in 0..5 {
        assert_eq!(proxy.get("web", "/").await.status, 200);
    }
    assert_eq!(origin.connections(), 2, "no new one");
    let on: std::collections::BTreeSet<_> =
        origin.requests()[2..].iter().map(|seen| seen.connection).collect();
    assert_eq!(on.len(), 1, "one of the two is enough for one request at a time");
}

#[tokio::test]
async fn an_idle_connection_closes_at_its_time() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).policy("connectionPool: { http: { idleTimeout: 1s } }").start().await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    until("the idle connection to close", || (origin.open() == 0).then_some(())).await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn an_upstreams_connection_close_causes_a_new_connection_and_no_error() {
    let origin = Origin::http1(|_| Reply::text("bye").header("connection", "close").then(Step::Close)).await;
    let proxy = Mesh::web(&origin).start().await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..5 {
        let answer = client.send(client::get("web", "/", &[])).await;
        assert_eq!((answer.status, answer.text()), (200, "bye"));
    }
    assert_eq!(origin.connections(), 5);
}

#[tokio::test]
async fn a_connection_that_closed_while_idle_is_never_an_error() {
    // Closes silently after each answer, as an upstream with a short keep-alive does.
    let origin = Origin::http1(|_| Reply::text("once").then(Step::Close)).await;
    let proxy = Mesh::web(&origin)
        .routes("- route: [{ destination: { host: web } }]\n  retries: { attempts: 0 }")
        .start()
        .await;
    let mut client = Client::http1(proxy.http()).await;
    for number in 0..50 {
        let answer = client.send(client::post("web", "/", format!("body {number}"))).await;
        assert_eq!((answer.status, answer.text()), (200, "once"), "request {number}");
    }
    let bodies: Vec<_> = origin.requests().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies.len(), 50, "none was sent twice");
}

/// An origin that takes a second request on its first connection, and closes it without an answer.
async fn stale() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http1(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        1 => Reply::default().then(Step::Close),
        _ => Reply::text("fine"),
    })
    .await
}

#[tokio::test]
async fn a_pooled_connection_that_closes_under_a_repeatable_request_is_never_an_error() {
    for method in ["GET", "HEAD", "OPTIONS"] {
        let origin = stale().await;
        let proxy = Mesh::web(&origin).start().await;
        let mut client = Client::http1(proxy.http()).await;
        for number in 0..3 {
            let request = client::request(method, "web", "/").body(client::Payload::default()).unwrap();
            assert_eq!(client.send(request).await.status, 200, "{method} {number}");
        }
        let log = proxy.logged(3).await;
        assert!(log.iter().all(|line| line["response_flags"] == "-"), "{log:?}");
        let on: Vec<_> = origin.requests().iter().map(|seen| seen.connection).collect();
        assert_eq!(on, [0, 0, 1, 1], "{method}");
        let seen = origin.requests();
        assert_eq!(seen[2].header("x-envoy-attempt-count"), Some("1"), "no retry was spent");
    }
}

#[tokio::test]
async fn a_pooled_connection_that_closes_under_another_request_is_503_uc() {
    for (method, body) in [("POST", ""), ("GET", "a body")] {
        let origin = stale().await;
        let proxy = Mesh::web(&origin).start().await;
        let mut client = Client::http1(proxy.http()).await;
        let request = || client::request(method, "web", "/").body(client::Payload::new(body)).unwrap();
        assert_eq!(client.send(request()).await.status, 200);
        assert_eq!(client.send(request()).await.status, 503, "{method}");
        assert_eq!(proxy.logged(2).await[1]["response_flags"], "UC", "{method}");
        assert_eq!(origin.hits(), 2, "{method} was sent twice");
    }
}

#[tokio::test]
async fn a_request_is_sent_again_once_at_most() {
    let gate = Gate::new();
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    // Four connections that were used before, and then every request is lost.
    let origin = Origin::http1(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0..=3 => Reply::after(&held).and(Reply::text("fine")),
        _ => Reply::default().then(Step::Close),
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let mut calls = vec![];
    for number in 1..=4 {
        let address = proxy.http();
        calls.push(tokio::spawn(async move { client::ask(address, client::get("web", "/", &[])).await }));
        until("the request", || (origin.hits() == number).then_some(())).await;
    }
    gate.open();
    for call in calls {
        assert_eq!(soon("an answer", call).await.unwrap().status, 200);
    }
    assert_eq!(proxy.get("web", "/").await.status, 503);
    assert_eq!(origin.hits(), 4 + 2);
}

#[tokio::test]
async fn http2_requests_share_a_connection_up_to_max_concurrent_streams() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::h2c(move |_| Reply::after(&held).and(Reply::text("held"))).await;
    let proxy = Mesh::rpc(&origin)
        .rules(crate::support::mesh::destination_rule(
            "rpc",
            "connectionPool: { http: { maxConcurrentStreams: 2 } }",
        ))
        .start()
        .await;
    let mut calls = vec![];
    for number in 1..=6 {
        let mut client = Client::http2(proxy.grpc()).await;
        calls.push(tokio::spawn(async move { client.send(client::grpc("rpc", "/", b"")).await }));
        until("the call", || (origin.hits() == number).then_some(())).await;
    }
    assert_eq!(origin.connections(), 3);
    gate.open();
    for call in calls {
        assert_eq!(soon("an answer", call).await.unwrap().text(), "held");
    }
}

#[tokio::test]
async fn http1_and_http2_are_both_spoken_on_one_listener() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut http2 = Client::http2(proxy.http()).await;
    assert_eq!(http2.send(over_http2(client::get("web", "/", &[]))).await.text(), "web");
    let mut http1 = Client::http1(proxy.http()).await;
    let response = http1.open(client::get("web", "/", &[])).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
    assert_eq!(read(response).await.text(), "web");
}

#[tokio::test]
async fn an_upstream_that_accepts_and_hangs_up_costs_its_requests_and_nothing_else() {
    let (bad, good) = (Origin::hangs_up().await, Origin::named("good").await);
    for grpc in [false, true] {
        let mesh = if grpc { Mesh::rpc(&bad) } else { Mesh::web(&bad) };
        let proxy = mesh.http("fine", &[(good.address(), "v1")]).start().await;
        for _ in 0..10 {
            let mut calls = tokio::task::JoinSet::new();
            let (http, grpc_address) = (proxy.http(), grpc.then(|| proxy.grpc()));
            for _ in 0..20 {
                calls.spawn(async move {
                    match grpc_address {
                        None => client::ask(http, client::get("web", "/", &[])).await.status == 503,
                        Some(address) => {
                            let call = client::grpc("rpc", "/", b"m");
                            Client::http2(address).await.send(call).await.grpc_status() == Some("14")
                        }
                    }
                });
            }
            let fine = calls.join_all().await;
            assert!(fine.iter().all(|fine| *fine), "{fine:?}");
        }
        assert_eq!(proxy.get("fine", "/").await.text(), "good");
        let cluster = if grpc { "||rpc." } else { "||web." };
        proxy.metric("envoy_cluster_upstream_cx_active", &[cluster], 0.0).await;
    }
}
