//! The route timeout, the client's `grpc-timeout` and the connect timeout.

use crate::support::{
    client::{self, Client, ask},
    mesh::{Mesh, Proxy, virtual_service},
    origin::{Gate, Origin, Reply, Step},
    wait::until,
};

const ROUTE: &str = "- route: [{ destination: { host: web } }]\n  timeout: ";

#[tokio::test]
async fn an_answer_that_does_not_come_in_time_is_504_ut() {
    let origin = Origin::http1(|_| Reply::never()).await;
    let proxy = Mesh::web(&origin).routes(&format!("{ROUTE}300ms")).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "UT");
    assert_eq!(line["response_code_details"], "response_timeout");
    assert_eq!(line["upstream_host"], origin.address().to_string());
    assert!(line["duration"].as_u64().unwrap() >= 300, "{line}");
    until("the request", || (origin.hits() == 1).then_some(())).await;
    assert_eq!(origin.only().header("x-envoy-expected-rq-timeout-ms"), Some("300"));
    until("the upstream request to be cancelled", || (origin.open() == 0).then_some(())).await;
}

/// Whether `/clusters` shows the one endpoint of `web` as ejected.
async fn is_ejected(proxy: &Proxy, origin: &Origin) -> bool {
    let web = "outbound|8080||web.default.svc.cluster.local";
    let flags = proxy.cluster(web, Some(origin.address()), "health_flags").await;
    flags.expect("health_flags on /clusters") != "healthy"
}

fn ejecting(errors: u32) -> String {
    format!(
        "connectionPool: {{ tcp: {{ maxConnections: 1 }} }}\n\
         outlierDetection: {{ consecutive5xxErrors: {errors}, maxEjectionPercent: 100 }}"
    )
}

#[tokio::test]
async fn a_timeout_blames_the_host_that_has_the_request() {
    let origin = Origin::http1(|_| Reply::never()).await;
    let proxy = Mesh::web(&origin).policy(&ejecting(1)).routes(&format!("{ROUTE}300ms")).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 504);
    assert!(is_ejected(&proxy, &origin).await);
}

#[tokio::test]
async fn a_timeout_in_the_back_off_blames_no_host_a_second_time() {
    let origin = Origin::http1(|_| Reply::status(503)).await;
    let routes = format!("{ROUTE}300ms\n  retries: {{ attempts: 1, retryOn: 5xx, backoff: 1000s }}");
    let proxy = Mesh::web(&origin).policy(&ejecting(2)).routes(&routes).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 504);
    assert_eq!(origin.hits(), 1, "the time was up before the retry");
    assert!(!is_ejected(&proxy, &origin).await, "one failure counted twice");
}

#[tokio::test]
async fn a_timeout_in_the_line_for_a_connection_blames_no_host() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Reply::after(&held).and(Reply::text("held"))).await;
    let routes = format!(
        "- match: [{{ uri: {{ exact: /held }} }}]\n  route: [{{ destination: {{ host: web }} }}]\n{ROUTE}300ms"
    );
    let proxy = Mesh::web(&origin).policy(&ejecting(1)).routes(&routes).start().await;
    let address = proxy.http();
    let first = tokio::spawn(async move { ask(address, client::get("web", "/held", &[])).await });
    until("the held request", || (origin.hits() == 1).then_some(())).await;
    assert_eq!(proxy.get("web", "/").await.status, 504);
    assert_eq!(origin.hits(), 1, "the second one waited in line");
    assert!(!is_ejected(&proxy, &origin).await, "it was not even asked");
    gate.open();
    assert_eq!(first.await.unwrap().text(), "held");
}

#[tokio::test]
async fn without_a_timeout_nothing_is_announced_nor_cut() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Reply::after(&held).and(Reply::text("late"))).await;
    let proxy = Mesh::web(&origin).start().await;
    let address = proxy.http();
    let answer = tokio::spawn(async move { ask(address, client::get("web", "/", &[])).await });
    until("the request", || (origin.hits() == 1).then_some(())).await;
    assert!(!answer.is_finished());
    gate.open();
    assert_eq!(answer.await.unwrap().text(), "late");
    assert_eq!(origin.only().header("x-envoy-expected-rq-timeout-ms"), None);
}

#[tokio::test]
async fn a_timeout_inside_the_body_cuts_the_answer() {
    let origin =
        Origin::http1(|_| Reply::status(200).header("content-length", "10").data("half").and(Reply::never()))
            .await;
    let proxy = Mesh::web(&origin).routes(&format!("{ROUTE}2s")).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text(), answer.cut), (200, "half", true));
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UT".into(), &"response_timeout".into())
    );
}

#[tokio::test]
async fn a_grpc_timeout_is_honoured_and_answers_14() {
    let origin = Origin::h2c(|_| Reply::never()).await;
    let proxy = Mesh::rpc(&origin).start().await;
    let mut call = client::grpc("rpc", "/a.B/C", b"m");
    call.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let answer = Client::http2(proxy.grpc()).await.send(call).await;
    assert_eq!((answer.status, answer.grpc_status()), (200, Some("14")));
    assert_eq!(
        answer.header("grpc-message").map(|message| message.replace("%20", " ")).as_deref(),
        Some("upstream request timeout")
    );
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"UT".into(), &200.into()));
    until("the call", || (origin.hits() == 1).then_some(())).await;
    assert_eq!(origin.only().header("grpc-timeout"), Some("300m"));
}

#[tokio::test]
async fn a_grpc_timeout_is_capped_by_the_routes_and_rewritten_in_milliseconds() {
    let origin = Origin::h2c(|_| Reply::grpc_status(0)).await;
    let route = "- route: [{ destination: { host: rpc } }]\n  timeout: 20s";
    let proxy = Mesh::rpc(&origin).rules(virtual_service("rpc", route)).start().await;
    for (sent, forwarded) in [(Some("10S"), "10000m"), (Some("1H"), "20000m"), (None, "20000m")] {
        let mut call = client::grpc("rpc", "/a.B/C", b"m");
        call.headers_mut().extend(
            sent.map(|value| (http::HeaderName::from_static("grpc-timeout"), value.parse().unwrap())),
        );
        assert_eq!(Client::http2(proxy.grpc()).await.send(call).await.grpc_status(), Some("0"));
        assert_eq!(origin.requests().last().unwrap().header("grpc-timeout"), Some(forwarded), "{sent:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_closes_before_its_headers_are_done_is_502() {
    // Not a timeout but its neighbour: nothing of a half head may count as an answer.
    let origin = Origin::http1(|_| Reply::raw("HTTP/1.1 200 OK\r\ncontent-").then(Step::Close)).await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 502);
    assert_eq!(proxy.logged_one().await["response_flags"], "UPE");
}
