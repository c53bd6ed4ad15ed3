//! Answers of our own: status, body, flags and details, and that refused heads never reach an upstream.

use http::Request;
use http_body_util::Full;
use outrigger_config::snapshot::{Action, ClusterRef, Protocol};

use super::*;

async fn never_asked() -> SocketAddr {
    raw_origin(|_, head| panic!("reached the upstream: {head}")).await
}

#[tokio::test(flavor = "local")]
async fn bad_heads_are_answered_closed_and_logged_as_envoy_does() {
    let bench = Bench::start(to(&[never_asked().await], forward()));
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n", 400, "", "- missing_host_header"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "Bad Request", "DPE http.invalid_authority"),
        ("GET / HTTP/1.1\r\nHost: a b/c@d\r\n\r\n", 400, "Bad Request", "DPE http.invalid_authority"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", 426, "Upgrade Required", "DPE low_version"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 404, "", "NR route_not_found"),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "Bad Request", "DPE http1.codec_error"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "Bad Request",
            "DPE http1.content_length_and_chunked_not_allowed",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            "Not Implemented",
            "DPE http1.invalid_transfer_encoding",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            400,
            "Bad Request",
            "DPE http1.codec_error",
        ),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "", "- path_normalization_failed"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
            403,
            "",
            "- upgrade_failed",
        ),
    ];
    for (n, (request, status, body, logged)) in cases.into_iter().enumerate() {
        let answer = bench.raw(request).await;
        let (head, got) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request:?}: {answer:?}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {head}");
        assert_eq!(got, body, "{request:?}");
        assert!(head.contains("\r\nconnection: close") && head.contains("\r\nserver: envoy"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let line = bench.log(n + 1).await.remove(n);
        assert!(line.starts_with(&format!("{status} {logged} - - ")), "{request:?}: {line}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_refused_head_behind_a_good_one_is_answered_in_order() {
    let origin = raw_origin(|_, _| "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst".to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    let pipelined = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
                     GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = bench.raw(pipelined).await;
    let statuses: Vec<_> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    // The first body has no line end, so the second status line follows it at once.
    assert_eq!(statuses, ["200", "400"], "{answer}");
    assert!(answer.contains("first"));
}

#[tokio::test(flavor = "local")]
async fn too_many_or_too_large_headers_are_refused() {
    let bench = Bench::start(to(&[never_asked().await], forward()));
    let many = bench.get("/", &"x: 1\r\n".repeat(99)).await;
    assert!(many.starts_with("HTTP/1.1 431 "), "{many}");
    let large = bench.get("/", &format!("x: {}\r\n", "y".repeat(62_000))).await;
    assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
    let lines = bench.log(2).await;
    assert!(lines[0].starts_with("431 DPE http1.too_many_headers"), "{lines:?}");
    assert!(lines[1].starts_with("431 DPE http1.headers_too_large"), "{lines:?}");
}

#[tokio::test(flavor = "local")]
async fn an_http2_request_with_too_many_headers_is_reset() {
    let bench = Bench::start(to(&[never_asked().await], forward()));
    let mut request = Request::get("http://a/");
    for _ in 0..97 {
        request = request.header("x", "1");
    }
    let mut client = bench.http2().await;
    assert!(client.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.is_err());
    assert!(bench.log(1).await[0].contains(" DPE http2.too_many_headers "));
}

#[tokio::test(flavor = "local")]
async fn routing_failures_have_their_flags() {
    let mut dangling = forward();
    dangling.clusters[0].cluster = ClusterRef::Missing("gone".into());
    let routes = vec![
        route("/nc", Action::Forward(Box::new(dangling))),
        route("/direct", answers(http::StatusCode::BAD_GATEWAY)),
        route("/uh", Action::Forward(Box::new(forward()))),
    ];
    let bench = Bench::start(snapshot_of(vec![cluster("c", Protocol::Http1, &[])], routes));
    let cases = [
        ("/nr", "HTTP/1.1 404", "", "404 NR route_not_found - - 0 0"),
        ("/nc", "HTTP/1.1 503", "", "503 NC cluster_not_found - - 0 0"),
        ("/direct", "HTTP/1.1 502", "", "502 - direct_response - - 0 0"),
        ("/uh", "HTTP/1.1 503", "no healthy upstream", "503 UH no_healthy_upstream - c 0 19"),
    ];
    for (n, (path, status, body, logged)) in cases.into_iter().enumerate() {
        let answer = bench.get(path, "").await;
        assert!(answer.starts_with(status) && answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
        assert!(bench.log(n + 1).await[n].starts_with(logged), "{:?}", bench.log(n + 1).await);
    }
    assert_eq!(bench.cluster(0).stats.upstream_rq_5xx.get(), 1);
    let head = bench.raw("HEAD /uh HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(head.contains("content-length: 19\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test(flavor = "local")]
async fn a_refused_connection_is_told_with_its_reason() {
    let port = reserved_address();
    let bench = Bench::start(to(&[port], forward()));
    let answer = bench.get("/", "").await;
    assert!(answer.starts_with("HTTP/1.1 503"));
    assert!(answer.ends_with("before headers. reset reason: remote connection failure"), "{answer}");
    let details = "upstream_reset_before_response_started{remote_connection_failure|\
                   delayed_connect_error:_Connection_refused}";
    assert_eq!(bench.log(1).await, [format!("503 UF {details} {port} c 0 98 1")]);
}

#[tokio::test(flavor = "local")]
async fn an_upstream_that_breaks_off_or_talks_nonsense_is_told_apart() {
    let cases = [
        ("", "503 UC upstream_reset_before_response_started{connection_termination}"),
        ("HTTP/1.1 200 OK\r\nContent-", "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("garbage\r\n\r\n", "502 UPE upstream_reset_before_response_started{protocol_error}"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "502 UPE upstream_reset_before_response_started{protocol_error}",
        ),
    ];
    let origin = raw_origin(move |n, _| cases[n].0.to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    for (n, (_, logged)) in cases.into_iter().enumerate() {
        let answer = bench.get("/", "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {}", &logged[..3])), "{answer}");
        let line = bench.log(n + 1).await.remove(n);
        assert!(line.starts_with(logged), "{line}");
    }
}

#[tokio::test(flavor = "local")]
async fn grpc_gets_every_local_answer_as_trailers_only() {
    let bench = Bench::start(to_protocol(Protocol::Http2, &[], forward()));
    let request = Request::post("http://a/s/M")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = bench.http2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
    assert!(http_body::Body::is_end_stream(response.body()), "headers alone");
    assert_eq!(bench.log(1).await, ["200 UH no_healthy_upstream - c 0 0 0"]);
}

#[tokio::test(flavor = "local")]
async fn an_open_breaker_answers_overloaded() {
    let origin = raw_origin(|_, _| "~".to_owned()).await;
    let mut snapshot = to(&[origin], forward());
    let mut cluster = cluster("c", Protocol::Http1, &[origin]);
    cluster.limits.max_requests = 1;
    snapshot.clusters = [Arc::new(cluster)].into();
    let bench = Bench::start(snapshot);
    let mut first = bench.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually(|| (bench.cluster(0).stats.upstream_rq_total.get() == 1).then_some(())).await;
    let answer = bench.get("/", "").await;
    assert!(
        answer.contains("x-envoy-overloaded: true\r\n") && answer.ends_with("reason: overflow"),
        "{answer}"
    );
    let line = bench.log(1).await.remove(0);
    assert!(line.starts_with("503 UO upstream_reset_before_response_started{overflow}"), "{line}");
}
