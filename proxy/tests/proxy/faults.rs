//! Faults that a route injects: before anything is sent, and told by their flags.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{
    client::{self, Client, Socket},
    mesh::Mesh,
    origin::{Origin, Reply},
};

const ABORT: &str = "fault: { abort: { percentage: { value: 100 }, httpStatus: 555 } }";

fn route(fields: &str) -> String {
    format!("- route: [{{ destination: {{ host: web }} }}]\n  {fields}")
}

#[tokio::test]
async fn an_abort_answers_in_the_place_of_the_upstream() {
    let origin = Origin::named("v1").await;
    let proxy = Mesh::web(&origin).routes(&route(ABORT)).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (555, "fault filter abort"));
    assert_eq!(answer.names(), ["content-length", "content-type", "date", "server"]);
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "FI");
    assert_eq!(line["response_code_details"], "fault_filter_abort");
    assert_eq!(line["upstream_cluster"], "outbound|8080||web.default.svc.cluster.local");
    assert!(line["upstream_host"].is_null(), "{line}");
    assert_eq!(origin.hits(), 0);
    proxy.metric("envoy_http_fault_aborts_injected", &[], 1.0).await;
    proxy.metric("envoy_http_fault_active_faults", &[], 0.0).await;
    proxy.metric("istio_requests_total", &["response_flags=\"FI\"", "response_code=\"555\""], 1.0).await;
    let completed = proxy.sum("envoy_cluster_upstream_rq_completed", &["|8080||web."]).await;
    assert!(completed == 0.0, "the cluster never heard of it");
}

#[tokio::test]
async fn an_abort_of_a_missing_cluster_is_an_abort() {
    let origin = Origin::named("v1").await;
    let rule = format!("- route: [{{ destination: {{ host: nowhere }} }}]\n  {ABORT}");
    let proxy = Mesh::web(&origin).routes(&rule).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 555);
    let line = proxy.logged_one().await;
    assert_eq!(line["response_flags"], "FI");
    assert!(line["upstream_cluster"].is_null(), "{line}");
}

#[tokio::test]
async fn grpc_clients_are_told_by_grpc_status() {
    for (abort, plain, grpc) in [
        ("httpStatus: 555", 555, "2"),
        ("httpStatus: 503", 503, "14"),
        ("grpcStatus: NOT_FOUND", 200, "5"),
        ("grpcStatus: OK", 200, "0"),
    ] {
        let origin = Origin::h2c(|_| Reply::grpc_status(0)).await;
        let fault = format!("fault: {{ abort: {{ percentage: {{ value: 100 }}, {abort} }} }}");
        let rule = format!("- route: [{{ destination: {{ host: rpc }} }}]\n  {fault}");
        let proxy =
            Mesh::rpc(&origin).rules(crate::support::mesh::virtual_service("rpc", &rule)).start().await;
        let answer = proxy.call("rpc", "/a.B/C", b"m").await;
        assert_eq!((answer.status, answer.grpc_status()), (200, Some(grpc)), "{abort}");
        assert_eq!(answer.header("grpc-message"), Some("fault filter abort"));
        let answer = client::ask(proxy.grpc(), client::get("rpc", "/", &[])).await;
        assert_eq!((answer.status, answer.text()), (plain, "fault filter abort"), "{abort}");
    }
}

#[tokio::test]
async fn a_delay_comes_before_the_abort_and_before_the_routes_timeout() {
    let origin = Origin::named("v1").await;
    let delay = "delay: { percentage: { value: 100 }, fixedDelay: 0.2s }";
    let longer = delay.replace("0.2s", "2.2s");
    let slow = route(&format!("timeout: 2s\n  fault: {{ {longer} }}"));
    let proxy = Mesh::web(&origin).routes(&slow).start().await;
    let began = Instant::now();
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (200, "v1"), "the timeout starts behind the delay");
    assert!(began.elapsed() >= Duration::from_millis(2200), "{:?}", began.elapsed());
    assert_eq!(proxy.logged_one().await["response_flags"], "DI");
    proxy.metric("envoy_http_fault_delays_injected", &[], 1.0).await;

    let abort = "abort: { percentage: { value: 100 }, httpStatus: 418 }";
    let both = route(&format!("fault: {{ {delay}, {abort} }}"));
    let proxy = Mesh::web(&origin).routes(&both).start().await;
    let began = Instant::now();
    assert_eq!(proxy.get("web", "/").await.status, 418);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(proxy.logged_one().await["response_flags"], "DI,FI");
    assert_eq!(origin.hits(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_delay_is_di_dc() {
    let origin = Origin::named("v1").await;
    let delay = "fault: { delay: { percentage: { value: 100 }, fixedDelay: 1h } }";
    let proxy = Mesh::web(&origin).routes(&route(delay)).start().await;
    let mut client = Socket::connect(proxy.http()).await;
    client.send("GET / HTTP/1.1\r\nhost: web\r\nuser-agent: hasty\r\n\r\n").await;
    proxy.metric("envoy_http_fault_active_faults", &[], 1.0).await;
    drop(client);
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_flags"], &line["response_code"]), (&"DI,DC".into(), &0.into()));
    assert_eq!(line["response_code_details"], "downstream_remote_disconnect");
    assert_eq!(line["user_agent"], "hasty");
    proxy.metric("envoy_http_fault_active_faults", &[], 0.0).await;
    assert_eq!(origin.hits(), 0);
}

#[tokio::test]
async fn both_draws_are_independent_and_by_percentage() {
    let origin = Origin::named("v1").await;
    let half = "percentage: { value: 50 }";
    let fault =
        format!("fault: {{ delay: {{ {half}, fixedDelay: 1ms }}, abort: {{ {half}, httpStatus: 555 }} }}");
    let proxy = Mesh::web(&origin).routes(&route(&fault)).start().await;
    let mut client = Client::http1(proxy.http()).await;
    for _ in 0..200 {
        client.send(client::get("web", "/", &[])).await;
    }
    let log = proxy.logged(200).await;
    for flags in ["-", "DI", "FI", "DI,FI"] {
        let count = log.iter().filter(|line| line["response_flags"] == flags).count();
        assert!((25..=75).contains(&count), "{flags}: {count} of 200");
    }
}
