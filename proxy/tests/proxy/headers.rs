//! What is added to, removed from and changed in the headers, both ways.

use crate::support::{
    client::{self, Client, Socket},
    mesh::Mesh,
    origin::{Origin, Reply},
};

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket
        .send(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: close, x-secret\r\nX-Secret: 1\r\nx-kept: 1\r\nkeep-alive: timeout=5\r\n\
             proxy-connection: keep-alive\r\nte: trailers, deflate\r\nConnection: x-other\r\nx-other: 1\r\n\r\n",
        )
        .await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 200"));
    let seen = origin.only();
    for gone in ["connection", "x-secret", "x-other", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("x-kept"), Some("1"));
    assert!(seen.all("te").all(|value| value == "trailers"), "{:?}", seen.headers);
}

#[tokio::test]
async fn connection_cannot_remove_what_the_request_needs() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket
        .send(
            "POST / HTTP/1.1\r\nhost: web\r\nconnection: host, content-length, x-forwarded-proto, x-request-id, close\r\ncontent-length: 4\r\n\r\nbody",
        )
        .await;
    let answer = socket.rest().await;
    if answer.starts_with("HTTP/1.1 200") {
        let seen = origin.only();
        assert_eq!(seen.body, b"body");
        assert_eq!(seen.header("host"), Some("web"));
        assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
        assert!(seen.header("x-request-id").is_some());
    } else {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!(origin.hits(), 0);
    }
}

#[tokio::test]
async fn hop_by_hop_headers_of_an_answer_are_not_passed_on() {
    let origin = Origin::http1(|_| {
        Reply::text("web")
            .header("keep-alive", "timeout=5")
            .header("connection", "keep-alive")
            .header("proxy-connection", "x")
            .header("x-kept", "1")
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(answer.header("x-kept"), Some("1"));
    assert_eq!((answer.header("keep-alive"), answer.header("connection")), (None, None));
}

#[tokio::test]
async fn an_h2c_upgrade_is_ignored_and_its_headers_removed() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket
        .send(
            "GET / HTTP/1.1\r\nhost: web\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
        )
        .await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 200"));
    let seen = origin.only();
    assert_eq!(
        (seen.header("upgrade"), seen.header("http2-settings"), seen.header("connection")),
        (None, None, None)
    );
}

#[tokio::test]
async fn headers_are_added_in_envoys_order_after_the_clients_own() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin)
        .settings("enableTracing: false")
        .routes(
            "- route: [{ destination: { host: web } }]\n  timeout: 5s\n  headers: { request: { set: { x-op: '1' } } }",
        )
        .start()
        .await;
    proxy.get_with("web", "/", &[("b", "2"), ("a", "1"), ("b", "3")]).await;
    let seen = origin.only();
    let names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "host",
            "b",
            "b",
            "a",
            "x-forwarded-proto",
            "x-request-id",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-attempt-count",
            "x-op"
        ],
        "equal names stand together, all else in order"
    );
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-envoy-attempt-count"), Some("1"));
    assert_eq!(seen.all("b").collect::<Vec<_>>(), ["2", "3"]);
}

#[tokio::test]
async fn an_answer_gets_service_time_date_and_server() {
    let origin =
        Origin::http1(|_| Reply::text("web").header("server", "origin/1").header("x-envoy-mine", "1")).await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(answer.header("server"), Some("envoy"));
    assert_eq!(answer.header("x-envoy-mine"), Some("1"));
    assert!(answer.header("date").is_some());
    answer.header("x-envoy-upstream-service-time").unwrap().parse::<u64>().unwrap();

    let origin = Origin::http1(|_| Reply::text("web").header("date", "Thu, 01 Jan 1970 00:00:00 GMT")).await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.get("web", "/").await.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"), "kept");
}

#[tokio::test]
async fn internal_headers_of_the_client_are_stripped() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let spoofed = [
        "x-envoy-force-trace",
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-internal",
        "x-envoy-expected-rq-timeout-ms",
        "x-forwarded-client-cert",
    ];
    let mut headers: Vec<_> = spoofed.iter().map(|name| (*name, "1")).collect();
    headers.extend([
        ("x-envoy-attempt-count", "9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "h"),
    ]);
    proxy.get_with("web", "/", &headers).await;
    let seen = origin.only();
    for name in spoofed {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.all("x-envoy-attempt-count").collect::<Vec<_>>(), ["1"]);
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"), "kept");
    assert_eq!(seen.header("x-forwarded-host"), Some("h"), "kept");
    assert_eq!(seen.header("x-forwarded-for"), None, "not added");
}

#[tokio::test]
async fn header_operations_apply_in_istios_order() {
    let origin = Origin::http1(|_| Reply::text("web").header("x-up", "1").header("x-gone", "1")).await;
    let proxy = Mesh::new()
        .http("web", &[(origin.address(), "v1"), (origin.address(), "v2")])
        .policy("")
        .routes(
            "- headers:\n    request: { remove: [x-both], set: { x-both: route, x-set: route, host: other.example }, add: { x-add: route } }\n    \
             response: { remove: [x-gone], set: { x-up: route }, add: { x-down: '%REQ(x-in)%-%%' } }\n  route:\n  \
             - destination: { host: web, subset: v1 }\n    weight: 50\n    headers: &ops { request: { set: { x-set: destination }, add: { x-add: destination } } }\n  \
             - destination: { host: web, subset: v2 }\n    weight: 50\n    headers: { request: { set: { x-set: destination }, add: { x-add: destination } } }"
                .replace("&ops ", "")
                .as_str(),
        )
        .start()
        .await;
    let answer = proxy.get_with("web", "/", &[("x-both", "client"), ("x-in", "in")]).await;
    let seen = origin.only();
    assert_eq!(seen.all("x-both").collect::<Vec<_>>(), ["route"], "removed, then set");
    assert_eq!(
        seen.all("x-set").collect::<Vec<_>>(),
        ["route"],
        "of several destinations the route's set wins"
    );
    assert_eq!(seen.all("x-add").collect::<Vec<_>>(), ["destination", "route"]);
    assert_eq!(seen.header("host"), Some("other.example"));
    assert_eq!(answer.header("x-up"), Some("route"));
    assert_eq!(answer.header("x-gone"), None);
    assert_eq!(answer.header("x-down"), Some("in-%"));
}

#[tokio::test]
async fn cookie_lines_of_http1_are_one_line_in_http2_and_te_trailers_passes() {
    let origin = Origin::h2c(|_| Reply::grpc_status(0)).await;
    let proxy = Mesh::rpc(&origin).start().await;
    let mut call = client::grpc("rpc", "/a.B/C", b"");
    call.headers_mut().append("cookie", "a=1".parse().unwrap());
    call.headers_mut().append("cookie", "b=2".parse().unwrap());
    Client::http2(proxy.grpc()).await.send(call).await;
    let seen = origin.only();
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.all("cookie").collect::<Vec<_>>().join("; "), "a=1; b=2");
}
