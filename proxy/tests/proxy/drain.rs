//! The end of the process: what SIGTERM starts, under load and with streams under way.

use std::{
    future::poll_fn,
    io::{Read, Write},
    time::Duration,
};

use http::Request;
use outrigger::app::DrainTimes;

use crate::support::{
    client::{self, Client, ask, connect, over_http2},
    mesh::Mesh,
    origin::{Gate, Origin, Reply},
    wait::{soon, until},
};

/// Goes on announcing until the last client has left.
pub(crate) const PATIENT: DrainTimes = DrainTimes {
    announce: Duration::ZERO,
    until_idle: Some(Duration::ZERO),
    at_most: None,
    close: Duration::from_secs(5),
};

#[tokio::test]
async fn readiness_goes_off_at_once_and_requests_still_pass() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |seen| match seen.target.as_str() {
        "/held" => Reply::after(&held).and(Reply::text("held")),
        _ => Reply::text("web"),
    })
    .await;
    let proxy = Mesh::web(&origin).drain(PATIENT).start().await;
    let ready = |address| ask(address, client::get("h", "/healthz/ready", &[]));
    assert_eq!(ready(proxy.address("health")).await.status, 200);
    let address = proxy.http();
    let running = tokio::spawn(async move { ask(address, client::get("web", "/held", &[])).await });
    until("the held request", || (origin.hits() == 1).then_some(())).await;

    proxy.shut_down();
    let health = proxy.address("health");
    crate::support::wait::eventually("readiness to go off", async || {
        (ready(health).await.status == 503).then_some(())
    })
    .await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.status, answer.text()), (200, "web"), "still accepting");
    assert_eq!(answer.header("connection"), Some("close"));
    gate.open();
    assert_eq!(running.await.unwrap().text(), "held", "what was under way ends well");
    proxy.ended().await;
}

#[tokio::test]
async fn a_shutdown_under_load_fails_nothing() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).workers(2).drain(PATIENT).start().await;
    let address = proxy.http();
    let mut clients = vec![];
    for number in 0..4 {
        clients.push(tokio::spawn(async move {
            let http2 = number % 2 == 1;
            let mut client = if http2 { Client::http2(address).await } else { Client::http1(address).await };
            let (mut answers, mut closing) = (0, false);
            // A client goes on until it is told to leave.
            while !closing {
                let request = client::get("web", "/", &[]);
                let request = if http2 { over_http2(request) } else { request };
                match client.open(request).await {
                    Ok(response) => {
                        closing = response.headers().get("connection").is_some_and(|value| value == "close");
                        let answer = client::read(response).await;
                        assert_eq!((answer.status, answer.text(), answer.cut), (200, "web", false));
                        answers += 1;
                        closing |= http2 && client.is_closed();
                    }
                    // After GOAWAY hyper refuses new requests before it sends them.
                    Err(error) => {
                        assert!(http2 && (error.is_closed() || error.is_canceled()), "{error:?}");
                        closing = true;
                    }
                }
            }
            answers
        }));
    }
    until("some load", || (origin.hits() > 200).then_some(())).await;
    proxy.shut_down();
    let mut answers = 0;
    for client in clients {
        answers += soon("the client to be told to leave", client).await.unwrap();
    }
    assert_eq!(origin.hits(), answers);
    proxy.ended().await;
}

#[tokio::test]
async fn connections_that_came_just_before_the_close_are_served() {
    const AT_ONCE: DrainTimes = DrainTimes {
        announce: Duration::ZERO,
        until_idle: None,
        at_most: None,
        close: Duration::from_secs(10),
    };
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).workers(2).drain(AT_ONCE).start().await;
    // The thread of the proxy that accepts races with this one, which is the point.
    let mut clients = vec![];
    for _ in 0..100 {
        let mut client = std::net::TcpStream::connect(proxy.http()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        clients.push(client);
    }
    proxy.shut_down();
    let answers = tokio::task::spawn_blocking(move || {
        clients
            .iter_mut()
            .map(|client| {
                let mut answer = String::new();
                client.read_to_string(&mut answer).map(|_| answer)
            })
            .collect::<Vec<_>>()
    });
    for answer in answers.await.unwrap() {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    }
    proxy.ended().await;
}

#[tokio::test]
async fn http2_gets_goaway_and_finishes_its_streams() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::h2c(move |_| Reply::after(&held).and(Reply::text("held"))).await;
    let proxy = Mesh::rpc(&origin).drain(PATIENT).start().await;
    let (mut sender, connection) = h2::client::handshake(connect(proxy.grpc()).await).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        || Request::post("http://rpc/a.B/C").header("content-type", "application/grpc").body(()).unwrap();
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    let (answer, _) = sender.send_request(request(), true).unwrap();
    until("the call", || (origin.hits() == 1).then_some(())).await;
    proxy.shut_down();
    soon("GOAWAY", async {
        while poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.open();
    let mut body = soon("the answer", answer).await.unwrap().into_body();
    assert_eq!(soon("its body", body.data()).await.unwrap().unwrap(), "held");
    drop((body, sender));
    soon("the connection to close", connection).await.unwrap().unwrap();
    proxy.ended().await;
}

#[tokio::test]
async fn an_idle_proxy_ends_and_frees_its_ports() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let address = proxy.http();
    // An idle connection does not hold the end up.
    let idle = Client::http1(address).await;
    assert_eq!(proxy.get("web", "/").await.status, 200);
    proxy.shut_down();
    proxy.ended().await;
    // Another test may get the port for a while.
    until("the port to be free", || std::net::TcpStream::connect(address).err()).await;
    until("the idle connection to close", || idle.is_closed().then_some(())).await;
}

#[tokio::test]
async fn post_quitquitquit_ends_it() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.admin("/quitquitquit").await.status, 405);
    assert_eq!(proxy.admin_as("POST", "/quitquitquit").await.status, 200);
    proxy.ended().await;
}

#[tokio::test]
async fn an_idle_http1_connection_is_kept_and_told_with_its_next_answer() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).drain(PATIENT).start().await;
    let mut clients = vec![];
    for _ in 0..10 {
        let mut client = Client::http1(proxy.http()).await;
        assert_eq!(client.send(client::get("web", "/", &[])).await.header("connection"), None);
        clients.push(client);
    }
    proxy.shut_down();
    let health = proxy.address("health");
    crate::support::wait::eventually("readiness to go off", async || {
        (ask(health, client::get("h", "/healthz/ready", &[])).await.status == 503).then_some(())
    })
    .await;
    for mut client in clients {
        assert!(!client.is_closed(), "an idle connection is not cut: a request may be on its way");
        let answer = client.send(client::get("web", "/", &[])).await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    proxy.ended().await;
}
