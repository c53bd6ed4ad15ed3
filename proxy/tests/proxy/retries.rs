//! Which failures are worth another try, where the try goes, and what is sent again.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::support::{
    client::{self, Client, ask},
    mesh::{Mesh, virtual_service},
    origin::{Origin, Reply, Step},
    ports::reserved_address,
};

/// Fails with the given reply so many times, then answers `done`.
async fn flaky(failures: usize, failure: Reply) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::http1(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) < failures { failure.clone() } else { Reply::text("done") }
    })
    .await
}

fn retrying(on: &str, more: &str) -> String {
    format!(
        "- route: [{{ destination: {{ host: web }} }}]\n  retries: {{ attempts: 2, retryOn: '{on}', backoff: 1ms{more} }}"
    )
}

#[tokio::test]
async fn a_refused_connection_is_tried_on_another_endpoint_by_default() {
    let (refused, good) = (reserved_address(), Origin::named("good").await);
    let proxy = Mesh::new()
        .http("web", &[(refused, "v1"), (good.address(), "v1")])
        .policy("loadBalancer: { simple: ROUND_ROBIN }")
        .start()
        .await;
    let mut client = Client::http1(proxy.http()).await;
    for number in 0..10 {
        let answer = client.send(client::post("web", "/", "the body")).await;
        assert_eq!((answer.status, answer.text()), (200, "good"), "request {number}");
    }
    assert!(good.requests().iter().all(|seen| seen.body == b"the body"));
    let attempts: Vec<_> =
        good.requests().iter().map(|seen| seen.header("x-envoy-attempt-count").map(str::to_owned)).collect();
    assert!(attempts.contains(&Some("2".to_owned())), "{attempts:?}");
}

#[tokio::test]
async fn two_retries_that_fail_are_503_urx_uf() {
    let refused = reserved_address();
    let proxy = Mesh::new().http("web", &[(refused, "v1")]).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.text(),
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure"
    );
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "URX,UF");
    assert_eq!(
        line["response_code_details"],
        "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
    );
    assert_eq!(line["upstream_transport_failure_reason"], "delayed_connect_error:_Connection_refused");
    assert_eq!(line["upstream_host"], refused.to_string());
    assert!(line["upstream_local_address"].is_null(), "{line}");
    let web = "outbound|8080||web.default.svc.cluster.local";
    proxy.metric("envoy_cluster_upstream_rq_retry", &[web], 2.0).await;
    proxy.metric("envoy_cluster_upstream_rq_retry_limit_exceeded", &[web], 1.0).await;
}

#[tokio::test]
async fn without_retries_a_refused_connection_is_503_uf() {
    let refused = reserved_address();
    let proxy = Mesh::new()
        .http("web", &[(refused, "v1")])
        .routes("- route: [{ destination: { host: web } }]\n  retries: { attempts: 0 }")
        .start()
        .await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        )
    );
    assert_eq!(proxy.logged_one().await["response_flags"], "UF");
}

#[tokio::test]
async fn the_default_list_does_not_retry_503_nor_a_cut_connection() {
    for (failure, status, flags) in [
        (Reply::status(503), 503, "-"),
        (Reply::default().then(Step::Close), 503, "UC"),
        (Reply::default().then(Step::Abort), 503, "UC"),
    ] {
        let origin = flaky(1, failure.clone()).await;
        let proxy = Mesh::web(&origin).start().await;
        assert_eq!(proxy.get("web", "/").await.status, status, "{failure:?}");
        assert_eq!(origin.hits(), 1, "{failure:?}");
        assert_eq!(proxy.logged_one().await["response_flags"], flags, "{failure:?}");
    }
}

#[tokio::test]
async fn each_word_of_retry_on_covers_its_failures() {
    for (on, failure, retried) in [
        ("5xx", Reply::status(500), true),
        ("5xx", Reply::default().then(Step::Close), true),
        ("5xx", Reply::status(409), false),
        ("gateway-error", Reply::status(502), true),
        ("gateway-error", Reply::status(500), false),
        ("reset", Reply::default().then(Step::Close), true),
        ("reset", Reply::status(503), false),
        ("connect-failure", Reply::default().then(Step::Close), false),
        ("retriable-4xx", Reply::status(409), true),
        ("retriable-4xx", Reply::status(429), false),
        ("503,429", Reply::status(429), true),
        ("503", Reply::status(500), false),
    ] {
        let origin = flaky(1, failure.clone()).await;
        let proxy = Mesh::web(&origin).routes(&retrying(on, "")).start().await;
        let answer = proxy.get("web", "/").await;
        assert_eq!(origin.hits(), if retried { 2 } else { 1 }, "{on}: {failure:?}");
        assert_eq!(answer.status == 200, retried, "{on}: {failure:?}");
    }
}

#[tokio::test]
async fn attempts_used_up_pass_the_last_answer_with_urx() {
    let origin = Origin::http1(|_| Reply::status(503).data("still broken")).await;
    let proxy = Mesh::web(&origin).routes(&retrying("5xx", "")).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (503, "still broken"));
    assert_eq!(origin.hits(), 3, "attempts counts retries, not tries");
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"URX".into(), &"via_upstream".into())
    );
    let counts: Vec<_> = origin
        .requests()
        .iter()
        .map(|seen| seen.header("x-envoy-attempt-count").unwrap().to_owned())
        .collect();
    assert_eq!(counts, ["1", "2", "3"]);
}

#[tokio::test]
async fn grpc_words_look_at_the_status_in_the_headers() {
    for (code, tries) in [(14, 2), (1, 2), (13, 1), (0, 1)] {
        let count = Arc::new(AtomicUsize::new(0));
        let origin = Origin::h2c(move |_| {
            Reply::grpc_status(if count.fetch_add(1, Ordering::SeqCst) == 0 { code } else { 0 })
        })
        .await;
        let proxy = Mesh::rpc(&origin).start().await;
        let answer = proxy.call("rpc", "/a.B/C", b"m").await;
        assert_eq!(origin.hits(), tries, "unavailable and cancelled are retried by default, {code}");
        let expected = if tries == 2 { "0".to_owned() } else { code.to_string() };
        assert_eq!(answer.grpc_status(), Some(expected.as_str()));
    }
}

#[tokio::test]
async fn a_refused_stream_and_a_goaway_below_it_are_retried_by_default() {
    for step in [Step::ResetStream(h2::Reason::REFUSED_STREAM), Step::GoAway] {
        let count = AtomicUsize::new(0);
        let failure = step.clone();
        let origin = Origin::h2c(move |_| {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                Reply::default().then(failure.clone())
            } else {
                Reply::grpc_status(0)
            }
        })
        .await;
        let proxy = Mesh::rpc(&origin).start().await;
        if matches!(step, Step::GoAway) {
            // The scripted GOAWAY names this stream as the last one that was looked at, so that it fails with
            // the connection; only the connection's replacement is checked.
            proxy.call("rpc", "/a.B/C", b"m").await;
            assert_eq!(proxy.call("rpc", "/a.B/C", b"m").await.grpc_status(), Some("0"));
            assert_eq!(origin.connections(), 2);
        } else {
            assert_eq!(proxy.call("rpc", "/a.B/C", b"m").await.grpc_status(), Some("0"), "{step:?}");
            assert_eq!(origin.hits(), 2);
        }
    }
}

#[tokio::test]
async fn another_reset_is_503_ur_and_not_retried() {
    let origin = Origin::h2c(|_| Reply::default().then(Step::ResetStream(h2::Reason::INTERNAL_ERROR))).await;
    let proxy = Mesh::rpc(&origin).start().await;
    let answer = proxy.call("rpc", "/a.B/C", b"m").await;
    assert_eq!((answer.status, answer.grpc_status()), (200, Some("14")));
    assert_eq!(
        answer.header("grpc-message").map(|message| message.replace("%20", " ")),
        Some(
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset"
                .to_owned()
        )
    );
    assert_eq!(origin.hits(), 1);
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"UR".into(), &200.into()));
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another() {
    let origin = flaky(1, Reply::never()).await;
    let proxy = Mesh::web(&origin).routes(&retrying("5xx", ", perTryTimeout: 500ms")).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (200, "done"));
    assert_eq!(origin.requests()[0].header("x-envoy-expected-rq-timeout-ms"), Some("500"));
}

#[tokio::test]
async fn tries_that_all_take_too_long_are_504_urx_ut() {
    let origin = Origin::http1(|_| Reply::never()).await;
    let proxy = Mesh::web(&origin).routes(&retrying("5xx", ", perTryTimeout: 300ms")).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "URX,UT");
    assert_eq!(line["response_code_details"], "upstream_per_try_timeout");
    crate::support::wait::until("three tries", || (origin.hits() == 3).then_some(())).await;
}

#[tokio::test]
async fn a_retry_stays_in_the_chosen_cluster() {
    let (bad, good) = (Origin::http1(|_| Reply::status(503)).await, Origin::named("good").await);
    let proxy = Mesh::new()
        .http("web", &[(bad.address(), "v1"), (good.address(), "v2")])
        .policy("")
        .routes(
            "- route:\n  - { destination: { host: web, subset: v1 }, weight: 50 }\n  - { destination: { host: web, subset: v2 }, weight: 50 }\n  \
             retries: { attempts: 2, retryOn: 5xx, backoff: 1ms }",
        )
        .start()
        .await;
    let mut client = Client::http1(proxy.http()).await;
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(client.send(client::get("web", "/", &[])).await.status == 503);
    }
    assert!((5..=35).contains(&failed), "{failed} of 40 hit the broken half");
    assert_eq!(bad.hits(), 3 * failed, "each of them tried three times there");
    assert_eq!(good.hits(), 40 - failed);
}

#[tokio::test]
async fn a_body_is_replayed_exactly_and_one_over_a_mebibyte_is_not_retried() {
    let web = "outbound|8080||web.default.svc.cluster.local";
    for (size, tries) in [(1, 2), (1 << 20, 2), ((1 << 20) + 1, 1), (3 << 20, 1)] {
        let origin = flaky(1, Reply::status(503)).await;
        let proxy = Mesh::web(&origin).routes(&retrying("5xx", "")).start().await;
        let body: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        let answer = ask(proxy.http(), client::post("web", "/", body.clone())).await;
        assert_eq!(origin.hits(), tries, "{size} bytes");
        assert_eq!(answer.status, if tries == 2 { 200 } else { 503 }, "{size} bytes");
        for seen in origin.requests() {
            assert!(seen.body == body, "{size} bytes arrived as {}", seen.body.len());
        }
        if tries == 1 {
            proxy.metric("envoy_cluster_retry_or_shadow_abandoned", &[web], 1.0).await;
            assert_eq!(proxy.logged_one().await["response_flags"], "-");
        }
    }
}

#[tokio::test]
async fn max_retries_bounds_the_retries_under_way() {
    let gate = crate::support::origin::Gate::new();
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    let origin = Origin::http1(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Reply::status(503),
        1 => Reply::after(&held).and(Reply::text("retried")),
        _ => Reply::text("unexpected"),
    })
    .await;
    let proxy = Mesh::web(&origin)
        .policy("connectionPool: { http: { maxRetries: 1 } }")
        .routes(&retrying("5xx", ""))
        .start()
        .await;
    let address = proxy.http();
    let first = tokio::spawn(async move { ask(address, client::get("web", "/", &[])).await });
    crate::support::wait::until("the retry", || (origin.hits() == 2).then_some(())).await;
    assert_eq!(proxy.get("web", "/").await.status, 503, "no retry is left, the answer passes");
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"UO".into(), &"via_upstream".into())
    );
    gate.open();
    assert_eq!(first.await.unwrap().text(), "retried");
}

#[tokio::test]
async fn an_empty_retries_block_switches_them_off() {
    let refused = reserved_address();
    let proxy = Mesh::new()
        .http("web", &[(refused, "v1")])
        .rules(virtual_service("web", "- route: [{ destination: { host: web } }]\n  retries: {}"))
        .start()
        .await;
    proxy.get("web", "/").await;
    assert_eq!(proxy.logged_one().await["response_flags"], "UF");
}
