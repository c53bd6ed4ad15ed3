//! The application's probes and metrics on the agent's port.

use std::sync::{Arc, Mutex};

use crate::support::{
    certs::{self, Authority},
    client::{self, Payload, ask},
    mesh::{Mesh, Proxy},
    origin::{Gate, Origin, Reply, Step},
    ports::reserved_address,
    secure::Front,
    wait::soon,
};

/// A proxy beside an application with this probe at `/app-health/web/readyz`.
async fn probed(probe: &str) -> Proxy {
    let probers = format!(r#"{{"/app-health/web/readyz": {probe}}}"#);
    let variables = [("ISTIO_KUBE_APP_PROBERS", probers.as_str()), ("INSTANCE_IP", "127.0.0.1")];
    Mesh::new().application(&variables).start().await
}

fn http_get(origin: &Origin, path: &str) -> String {
    format!(
        r#"{{"httpGet": {{"path": "{path}", "port": {}}}, "timeoutSeconds": 5}}"#,
        origin.address().port()
    )
}

const READY: &str = "/app-health/web/readyz";

#[tokio::test]
async fn a_probe_is_asked_with_the_callers_headers_and_its_answer_given_back() {
    let origin = Origin::http1(|_| Reply::status(418).header("x-secret", "1").data("warming up")).await;
    let proxy = probed(&http_get(&origin, "/ready?full=1")).await;
    let port = proxy.address("metrics").port();
    let host = format!("10.1.2.3:{port}");
    let request = client::get(&host, READY, &[("user-agent", "kube-probe/1.33"), ("x-a", "1")]);
    let answer = ask(proxy.address("metrics"), request).await;
    assert_eq!((answer.status, answer.text(), answer.header("x-secret")), (418, "warming up", None));
    let seen = origin.only();
    assert_eq!((&*seen.method, &*seen.target), ("GET", "/ready?full=1"));
    let host = format!("10.1.2.3:{}", origin.address().port());
    assert_eq!(seen.header("host"), Some(&*host), "the container's port");
    assert_eq!((seen.header("user-agent"), seen.header("x-a")), (Some("kube-probe/1.33"), Some("1")));
    assert_eq!(seen.header("connection"), Some("close"), "each probe has a connection of its own");
}

#[tokio::test]
async fn a_probe_comes_from_the_address_that_capture_lets_pass() {
    let application = reserved_address();
    let listener = tokio::net::TcpListener::bind(application).await.unwrap();
    let probe = format!(r#"{{"tcpSocket": {{"port": {}}}}}"#, application.port());
    let proxy = probed(&probe).await;
    assert_eq!(proxy.agent("GET", READY).await.status, 200);
    let (_, peer) = soon("the probe", listener.accept()).await.unwrap();
    assert_eq!(peer.ip().to_string(), "127.0.0.6");
    drop(listener);
    assert_eq!(proxy.agent("GET", READY).await.status, 500);
}

#[tokio::test]
async fn a_redirect_is_followed_in_the_container_and_a_success_elsewhere() {
    let origin = Origin::http1(|seen| match seen.target.as_str() {
        "/a" => Reply::status(302).header("location", "/b"),
        "/b" => Reply::status(500),
        "/round" => Reply::status(302).header("location", "/round"),
        _ => Reply::status(302).header("location", "http://elsewhere.example/"),
    })
    .await;
    assert_eq!(probed(&http_get(&origin, "/a")).await.agent("GET", READY).await.status, 500);
    assert_eq!(probed(&http_get(&origin, "/away")).await.agent("GET", READY).await.status, 200);
    let before = origin.hits();
    assert_eq!(probed(&http_get(&origin, "/round")).await.agent("GET", READY).await.status, 500);
    assert_eq!(origin.hits() - before, 11);
}

#[tokio::test]
async fn a_long_answer_is_cut_and_a_late_one_a_failure() {
    let origin = Origin::http1(|_| Reply::text(&"x".repeat(100_000))).await;
    let answer = probed(&http_get(&origin, "/")).await.agent("GET", READY).await;
    assert_eq!((answer.status, answer.body.len()), (200, 10 << 10));
    let origin = Origin::http1(|_| Reply::never()).await;
    let probe = http_get(&origin, "/").replace("\"timeoutSeconds\": 5", "\"timeoutSeconds\": 1");
    let answer = probed(&probe).await.agent("GET", READY).await;
    assert_eq!((answer.status, answer.text()), (500, "no answer in time\n"));
}

#[tokio::test]
async fn a_grpc_probe_asks_the_health_service() {
    let states = Arc::new(Mutex::new(vec![]));
    let asked = Arc::clone(&states);
    let origin = Origin::h2c(move |seen| {
        asked.lock().unwrap().push((seen.target.clone(), seen.body.clone()));
        let state = match seen.body.as_slice() {
            [0, 0, 0, 0, 5, 0x0a, 3, b'd', b'b', b's'] => 1,
            _ => 2,
        };
        let message = Step::Data(vec![0, 0, 0, 0, 2, 0x08, state]);
        let end = Step::Trailers(vec![("grpc-status", "0".to_owned())]);
        Reply::status(200).header("content-type", "application/grpc").then(message).then(end)
    })
    .await;
    let port = origin.address().port();
    let serving =
        probed(&format!(r#"{{"grpc": {{"port": {port}, "service": "dbs"}}, "timeoutSeconds": 5}}"#)).await;
    let answer = serving.agent("GET", READY).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let whole = probed(&format!(r#"{{"grpc": {{"port": {port}}}, "timeoutSeconds": 5}}"#)).await;
    let answer = whole.agent("GET", READY).await;
    assert_eq!((answer.status, answer.text()), (500, "not serving\n"));
    let path = "/grpc.health.v1.Health/Check".to_owned();
    let whole = (path.clone(), vec![0, 0, 0, 0, 0]);
    assert_eq!(*states.lock().unwrap(), [(path, b"\0\0\0\0\x05\x0a\x03dbs".to_vec()), whole]);
    let origin = Origin::h2c(|_| Reply::grpc_status(12)).await;
    let probe = format!(r#"{{"grpc": {{"port": {}}}, "timeoutSeconds": 5}}"#, origin.address().port());
    let answer = probed(&probe).await.agent("GET", READY).await;
    assert_eq!((answer.status, answer.text()), (500, "grpc-status 12\n"));
}

#[tokio::test]
async fn an_https_probe_is_asked_whoever_vouches_for_the_container() {
    let origin = Origin::http1(|_| Reply::status(200).data("secured")).await;
    let pair = Authority::new().workload("spiffe://somebody/else");
    let front = Front::before(origin.address(), certs::server(certs::Shows::new(&pair), None, &[])).await;
    let port = front.address().port();
    let probe = format!(r#"{{"httpGet": {{"port": {port}, "scheme": "HTTPS"}}, "timeoutSeconds": 5}}"#);
    let answer = probed(&probe).await.agent("GET", READY).await;
    assert_eq!((answer.status, answer.text()), (200, "secured"));
    let port = origin.address().port();
    let plain = format!(r#"{{"httpGet": {{"port": {port}, "scheme": "HTTPS"}}, "timeoutSeconds": 5}}"#);
    assert_eq!(probed(&plain).await.agent("GET", READY).await.status, 500);
}

#[tokio::test]
async fn what_is_no_probe_is_400() {
    let proxy = probed(r#"{"httpGet": {"port": 1}}"#).await;
    let answer = proxy.agent("GET", "/app-health/other/livez").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("app prober config does not exists for /app-health/other/livez"));
    assert_eq!(proxy.agent("GET", "/app-lifecycle/web/prestopz").await.status, 400);
}

async fn scraped(origin: &Origin) -> Proxy {
    let annotations = format!(r#"{{"scrape": "true", "path": "/m", "port": "{}"}}"#, origin.address().port());
    Mesh::web(origin).application(&[("ISTIO_PROMETHEUS_ANNOTATIONS", &annotations)]).start().await
}

const OPEN: (&str, &str) = ("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");

#[tokio::test]
async fn the_applications_metrics_follow_ours_in_the_format_of_the_application() {
    let origin = Origin::http1(|seen| match seen.header("accept") {
        Some(accept) if accept.contains("openmetrics") => {
            Reply::text("app_total 1\nprocess_open_fds 9\n# EOF\n")
                .header("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        }
        _ => Reply::text("app_total 1\nprocess_open_fds 9"),
    })
    .await;
    let proxy = scraped(&origin).await;
    for (path, headers, open) in [("/stats/prometheus", vec![], false), ("/metrics", vec![OPEN], true)] {
        let answer = ask(proxy.address("metrics"), client::get("any", path, &headers)).await;
        let page = answer.text();
        assert_eq!(answer.header("content-type").unwrap().contains("openmetrics"), open);
        assert!(page.contains("\nistio_agent_scrapes_total "), "{page}");
        assert_eq!(page.matches("\nprocess_open_fds ").count(), 1, "the application's alone: {page}");
        let end = if open {
            "app_total 1\nprocess_open_fds 9\n# EOF\n"
        } else {
            "app_total 1\nprocess_open_fds 9\n"
        };
        assert!(page.ends_with(end), "{page}");
        assert_eq!(page.matches("# EOF").count(), usize::from(open), "{page}");
    }
    assert_eq!(origin.requests()[0].target, "/m");
}

#[tokio::test]
async fn the_scrape_does_without_an_application_that_fails_and_counts_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |seen| match seen.header("user-agent") {
        Some("slow") => Reply::after(&held),
        _ => Reply::status(500),
    })
    .await;
    let proxy = scraped(&origin).await;
    for (agent, patience) in [("slow", "0.2"), ("fast", "10")] {
        let headers = [("user-agent", agent), ("x-prometheus-scrape-timeout-seconds", patience)];
        let answer = ask(proxy.address("metrics"), client::get("any", "/metrics", &headers)).await;
        assert_eq!(answer.status, 200);
        assert!(answer.text().contains("\nprocess_open_fds "), "ours as they are");
    }
    gate.open();
    let page = ask(proxy.address("metrics"), client::get("any", "/metrics", &[])).await;
    let failures = "istio_agent_scrape_failures_total{type=\"application\"} 3\n";
    assert!(page.text().contains(failures), "{}", page.text());
    let payload = Payload::default();
    let request = client::request("GET", "localhost", "/stats/prometheus").body(payload).unwrap();
    let admin = ask(proxy.address("admin"), request).await;
    assert!(admin.text().contains(failures), "the admin port has ours alone, with the counter");
}
