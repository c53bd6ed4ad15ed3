//! Bodies to their true end: cut answers stay cut, a client that leaves is logged and gives everything back.

use std::net::Shutdown;

use http::Request;
use http_body_util::Full;
use outrigger_config::snapshot::Protocol;
use socket2::SockRef;

use super::*;

#[tokio::test(flavor = "local")]
async fn a_cut_upstream_body_is_never_a_complete_answer() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ];
    let origin = raw_origin(move |n, _| answers[n % 2].to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    let short = bench.get("/", "").await;
    assert!(short.contains("content-length: 10") && short.ends_with("abc"), "{short}");
    let chunked = bench.get("/", "").await;
    assert!(chunked.contains("abc") && !chunked.ends_with("0\r\n\r\n"), "{chunked}");
    for line in bench.log(2).await {
        assert!(line.starts_with("200 UPE upstream_reset_after_response_started{protocol_error}"), "{line}");
    }
    // Over HTTP/2 the stream is reset.
    let request = || Request::get("http://a/").body(Full::new(Bytes::new())).unwrap();
    let mut client = bench.http2().await;
    for _ in 0..2 {
        let response = client.send_request(request()).await.unwrap();
        assert!(whole_with_trailers(response.into_body()).await.is_err());
    }
}

#[tokio::test(flavor = "local")]
async fn a_client_that_leaves_is_logged_and_gives_its_permit_back() {
    let origin = raw_origin(|_, _| "~".to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    let mut client = bench.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually(|| (bench.cluster(0).breaker.requests.used() == 1).then_some(())).await;
    drop(client);
    assert_eq!(bench.log(1).await, [format!("0 DC downstream_remote_disconnect {origin} c 0 0 1")]);
    let cluster = bench.cluster(0);
    eventually(|| (cluster.breaker.requests.used() == 0).then_some(())).await;
    let stats = &cluster.stats;
    // It did not wait in line any more.
    assert_eq!(
        (stats.upstream_rq_cancelled.get(), stats.upstream_cx_destroy_local_with_active_rq.get()),
        (0, 1)
    );
}

#[tokio::test(flavor = "local")]
async fn a_request_whose_end_comes_with_it_is_logged() {
    let origin = raw_origin(|_, _| "~".to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    let client = bench.client().await;
    // Nobody reads in between: there is no await.
    client.0.try_write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert_eq!(bench.log(1).await, [format!("0 DC downstream_remote_disconnect {origin} c 0 0 1")]);
    let direct = answers(http::StatusCode::NO_CONTENT);
    bench.publish(snapshot_of(Vec::new(), vec![route("/", direct)]));
    let mut client = bench.client().await;
    client.0.try_write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    SockRef::from(&client.0).shutdown(Shutdown::Write).unwrap();
    assert!(client.rest().await.starts_with("HTTP/1.1 204"), "what can be answered at once is");
}

#[tokio::test(flavor = "local")]
async fn a_client_that_leaves_in_the_body_is_logged_with_its_status() {
    let origin = raw_origin(|_, _| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc~".to_owned()).await;
    let bench = Bench::start(to(&[origin], forward()));
    let mut client = bench.client().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("abc").await;
    drop(client);
    assert_eq!(bench.log(1).await, [format!("200 DC downstream_remote_disconnect {origin} c 0 3 1")]);
}

#[tokio::test(flavor = "local")]
async fn a_complete_answer_by_its_length_is_no_cancellation_of_an_http2_upstream() {
    let origin = origin(true, |_| async {
        http::Response::builder().header("content-length", "2").body(text("ok")).unwrap()
    })
    .await;
    let bench = Bench::start(to_protocol(Protocol::Http2, &[origin], forward()));
    for _ in 0..3 {
        assert!(bench.get("/", "").await.ends_with("ok"));
    }
    let cluster = bench.cluster(0);
    eventually(|| (cluster.breaker.requests.used() == 0).then_some(())).await;
    assert_eq!(cluster.stats.upstream_rq_tx_reset.get(), 0);
    assert!(bench.log(3).await.iter().all(|line| line.starts_with("200 - via_upstream ")));
}

#[tokio::test(flavor = "local")]
async fn the_route_timeout_goes_on_through_the_body() {
    let origin = raw_origin(|_, _| "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc~".to_owned()).await;
    let plan = Forward { timeout: Some(Duration::from_secs(1)), ..forward() };
    let bench = Bench::start(to(&[origin], plan));
    let answer = bench.get("/", "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abc"), "{answer}");
    assert_eq!(bench.log(1).await, [format!("200 UT response_timeout {origin} c 0 3 1")]);
}

#[tokio::test(flavor = "local")]
async fn a_slow_upload_does_not_use_up_the_timeout() {
    let origin = origin(false, |request: Request<Bytes>| async move {
        http::Response::new(text(std::str::from_utf8(request.body()).unwrap()))
    })
    .await;
    let plan = Forward { timeout: Some(Duration::from_secs(1)), ..forward() };
    let bench = Bench::start(to(&[origin], plan));
    let mut client = bench.client().await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\nabc").await;
    // The input of this test is a slow client: nothing is waited for.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.send("def").await;
    assert!(client.rest().await.ends_with("abcdef"));
}
