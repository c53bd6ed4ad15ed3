//! The pages of Istio's agent that end the sidecar or say that it is ready.

use std::time::Duration;

use outrigger::app::DrainTimes;

use crate::support::{
    client::{self, ask},
    mesh::{Mesh, virtual_service},
    origin::{Gate, Origin, Reply},
    wait::{eventually, until},
};

/// Announces for longer than any test lasts.
const LONG: DrainTimes = DrainTimes {
    announce: Duration::from_secs(600),
    until_idle: None,
    at_most: None,
    close: Duration::from_secs(10),
};

#[tokio::test]
async fn readiness_is_on_the_agents_port_too_and_a_broken_reload_does_not_end_it() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.agent("GET", "/healthz/ready").await.status, 200);
    // How often it was rejected is left open: what the proxy sees by itself counts as well.
    let rejected = |status: &serde_json::Value| !status["last_rejection"].is_null();
    proxy.reload_until("kind: [", rejected).await;
    assert_eq!(proxy.agent("GET", "/healthz/ready").await.status, 200);
    let misspelt = |status: &serde_json::Value| {
        status["last_rejection"].as_str().is_some_and(|why| why.contains("timout"))
    };
    proxy.reload_until(virtual_service("web", "- timout: 1s"), misspelt).await;
    let health = ask(proxy.address("health"), client::get("h", "/healthz/ready", &[])).await;
    assert_eq!((health.status, health.text()), (200, "LIVE\n"));
}

#[tokio::test]
async fn the_end_is_asked_for_by_post() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    for path in ["/quitquitquit", "/drain"] {
        let answer = proxy.agent("GET", path).await;
        assert_eq!(
            (answer.status, answer.text(), answer.header("allow")),
            (405, "Method Not Allowed\n", Some("POST"))
        );
    }
    assert_eq!(proxy.agent("GET", "/elsewhere").await.status, 404);
    assert_eq!(proxy.agent("GET", "/healthz/ready").await.status, 200, "nothing happened");
}

#[tokio::test]
async fn quitquitquit_lets_what_is_open_finish_and_waits_for_nothing_else() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| Reply::after(&held).and(Reply::text("held"))).await;
    let proxy = Mesh::web(&origin).drain(LONG).start().await;
    let address = proxy.http();
    let running = tokio::spawn(async move { ask(address, client::get("web", "/", &[])).await });
    until("the held request", || (origin.hits() == 1).then_some(())).await;
    assert_eq!(proxy.agent("POST", "/quitquitquit").await.text(), "OK\n");
    until("the listener to close", || std::net::TcpStream::connect(address).err()).await;
    gate.open();
    assert_eq!(running.await.unwrap().text(), "held");
    proxy.ended().await;
}

#[tokio::test]
async fn a_hook_that_drains_is_part_of_the_drain_that_sigterm_starts() {
    const SHORT: DrainTimes = DrainTimes { announce: Duration::from_millis(300), ..LONG };
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).drain(SHORT).start().await;
    assert_eq!(proxy.agent("POST", "/drain").await.text(), "OK\n");
    let began = tokio::time::Instant::now();
    let ready = async || (proxy.agent("GET", "/healthz/ready").await.status == 503).then_some(());
    eventually("readiness to go off", ready).await;
    // It goes on for as long as the application does.
    while began.elapsed() < SHORT.announce * 2 {
        let answer = proxy.get("web", "/").await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    let asked = tokio::time::Instant::now();
    proxy.shut_down();
    proxy.ended().await;
    assert!(asked.elapsed() < LONG.close, "it has been announced for long enough");
}

#[tokio::test]
async fn the_name_table_is_shown_where_dns_is_captured() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let without = proxy.agent("GET", "/debug/ndsz").await;
    assert_eq!(without.status, 404);
    assert!(without.text().contains("ISTIO_META_DNS_CAPTURE"), "{}", without.text());
    let proxy = Mesh::web(&origin).dns_capture().start().await;
    let table = proxy.agent("GET", "/debug/ndsz").await;
    assert_eq!(table.status, 200);
    let table: serde_json::Value = serde_json::from_str(table.text()).unwrap();
    let names: Vec<_> = table["table"].as_object().unwrap().keys().collect();
    assert!(names.iter().any(|name| name.starts_with("web")), "{names:?}");
    assert_eq!(proxy.agent("POST", "/debug/ndsz").await.status, 405);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"no question, but an id", proxy.address("dns")).await.unwrap();
    socket.readable().await.unwrap();
}
