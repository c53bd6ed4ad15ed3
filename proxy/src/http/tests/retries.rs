//! Retries: where they go, what they send again, and when they end.

use std::{cell::Cell, rc::Rc};

use outrigger_config::snapshot::{Action, Protocol};

use super::*;

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn retrying(attempts: u32, on: RetryOn) -> Forward {
    let attempts = NonZeroU32::new(attempts).unwrap();
    Forward { retry: Some(RetryPolicy { attempts, on, ..default_retry() }), ..forward() }
}

fn on_503() -> RetryOn {
    RetryOn { statuses: [503].into(), ..RetryOn::default() }
}

#[tokio::test(flavor = "local")]
async fn a_retry_avoids_the_host_that_failed_and_stays_in_its_cluster() {
    let bad = raw_origin(|_, _| BUSY.to_owned()).await;
    let good = raw_origin(|_, _| FINE.to_owned()).await;
    let elsewhere = raw_origin(|_, _| panic!("left the chosen cluster")).await;
    let plan = retrying(2, on_503());
    let routes = vec![route("/", Action::Forward(Box::new(plan)))];
    let clusters = vec![
        cluster("chosen", Protocol::Http1, &[bad, good]),
        cluster("other", Protocol::Http1, &[elsewhere]),
    ];
    let bench = Bench::start(snapshot_of(clusters, routes));
    for n in 0..6 {
        assert!(bench.get("/", "").await.starts_with("HTTP/1.1 200"), "request {n}");
    }
    assert!(bench.log(6).await.iter().all(|line| line.contains(&format!("{good} chosen"))));
    assert!(bench.cluster(0).stats.upstream_rq_retry_success.get() > 0);
}

#[tokio::test(flavor = "local")]
async fn retries_of_a_split_request_keep_the_drawn_cluster() {
    let bad = raw_origin(|_, _| BUSY.to_owned()).await;
    let other = raw_origin(|_, _| FINE.to_owned()).await;
    let mut plan = retrying(3, on_503());
    plan.clusters = [weighted(0, 50), weighted(1, 50)].into();
    plan.total_weight = 100;
    let clusters = vec![cluster("bad", Protocol::Http1, &[bad]), cluster("other", Protocol::Http1, &[other])];
    let bench = Bench::start(snapshot_of(clusters, vec![route("/", Action::Forward(Box::new(plan)))]));
    for _ in 0..20 {
        bench.get("/", "").await;
    }
    let lines = bench.log(20).await;
    let failed = lines.iter().filter(|line| line.starts_with("503 URX via_upstream")).count();
    let passed = lines.iter().filter(|line| line.starts_with("200 - via_upstream")).count();
    assert!(failed > 0 && passed > 0 && failed + passed == 20, "{lines:?}");
    assert!(lines.iter().all(|line| line.ends_with(if line.starts_with("503") { " 4" } else { " 1" })));
}

#[tokio::test(flavor = "local")]
async fn a_body_is_sent_again_whole() {
    let tries = Rc::new(Cell::new(0));
    let count = Rc::clone(&tries);
    let origin = origin(false, move |request: Request<Bytes>| {
        count.set(count.get() + 1);
        let status = if count.get() < 3 { 503 } else { 200 };
        let attempt = request.headers()["x-envoy-attempt-count"].to_str().unwrap().to_owned();
        let echo = format!("{attempt}:{}", std::str::from_utf8(request.body()).unwrap());
        async move { Response::builder().status(status).body(text(&echo)).unwrap() }
    })
    .await;
    let bench = Bench::start(to(&[origin], retrying(2, on_503())));
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n";
    let answer = bench.raw(chunked).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("3:abcdef"), "{answer}");
    assert_eq!(bench.log(1).await, [format!("200 - via_upstream {origin} c 6 8 3")]);
}

#[tokio::test(flavor = "local")]
async fn a_body_too_large_to_keep_is_sent_once() {
    let origin = origin(false, |request: Request<Bytes>| async move {
        let answer = request.body().len().to_string();
        Response::builder().status(503).body(text(&answer)).unwrap()
    })
    .await;
    let bench = Bench::start(to(&[origin], retrying(2, on_503())));
    let length = (1 << 20) + 1;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    let answer = bench.raw(&request).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with(&length.to_string()), "{answer}");
    assert_eq!(bench.cluster(0).stats.retry_or_shadow_abandoned.get(), 1);
    assert!(bench.log(1).await[0].starts_with("503 - via_upstream"));
}

#[tokio::test(flavor = "local")]
async fn exhausted_connect_failures_say_so() {
    let port = reserved_address();
    let plan = Forward { retry: Some(default_retry()), ..forward() };
    let bench = Bench::start(to(&[port], plan));
    let answer = bench.get("/", "").await;
    assert!(answer.ends_with("retried and the latest reset reason: remote connection failure"), "{answer}");
    assert!(bench.log(1).await[0].starts_with("503 URX,UF upstream_reset_before_response_started{"));
    let stats = &bench.cluster(0).stats;
    assert_eq!((stats.upstream_rq_retry.get(), stats.upstream_rq_retry_limit_exceeded.get()), (2, 1));
    assert_eq!(bench.cluster(0).breaker.retries.used(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_503_is_not_retried_by_default_and_a_grpc_unavailable_is() {
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let origin = raw_origin(move |_, _| {
        count.set(count.get() + 1);
        BUSY.to_owned()
    })
    .await;
    let plan = || Forward { retry: Some(default_retry()), ..forward() };
    let bench = Bench::start(to(&[origin], plan()));
    assert!(bench.get("/", "").await.starts_with("HTTP/1.1 503"));
    assert_eq!(asked.get(), 1);
    let answers = ["grpc-status: 14\r\n", "grpc-status: 0\r\n"];
    let grpc = raw_origin(move |n, _| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n";
        format!("{head}{}\r\n", answers[n])
    })
    .await;
    let bench = Bench::start(to(&[grpc], plan()));
    assert!(bench.get("/", "").await.contains("grpc-status: 0"));
    assert!(bench.log(1).await[0].ends_with(" 2"));
}

#[tokio::test(flavor = "local")]
async fn retries_above_the_limit_of_the_cluster_are_not_made() {
    let origin = raw_origin(|_, _| BUSY.to_owned()).await;
    let mut snapshot = to(&[origin], retrying(2, on_503()));
    let mut limited = cluster("c", Protocol::Http1, &[origin]);
    limited.limits.max_retries = 0;
    snapshot.clusters = [Arc::new(limited)].into();
    let bench = Bench::start(snapshot);
    assert!(bench.get("/", "").await.starts_with("HTTP/1.1 503"));
    assert!(bench.log(1).await[0].starts_with("503 UO via_upstream"));
}

#[tokio::test(flavor = "local")]
async fn timeouts_end_a_try_and_a_request() {
    let origin = raw_origin(|_, _| "~".to_owned()).await;
    let mut plan = retrying(1, RetryOn { reset: true, ..RetryOn::default() });
    plan.retry.as_mut().unwrap().per_try_timeout = Some(Duration::from_millis(300));
    let bench = Bench::start(to(&[origin], plan));
    let answer = bench.get("/", "").await;
    assert!(answer.starts_with("HTTP/1.1 504") && answer.ends_with("upstream request timeout"), "{answer}");
    assert_eq!(bench.log(1).await, [format!("504 URX,UT upstream_per_try_timeout {origin} c 0 24 2")]);
    let bench =
        Bench::start(to(&[origin], Forward { timeout: Some(Duration::from_millis(300)), ..forward() }));
    assert!(bench.get("/", "").await.starts_with("HTTP/1.1 504"));
    assert_eq!(bench.log(1).await, [format!("504 UT response_timeout {origin} c 0 24 1")]);
    assert_eq!(bench.cluster(0).stats.upstream_rq_timeout.get(), 1);
}
