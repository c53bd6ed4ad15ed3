//! The life of client connections: idle, draining, panicking.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::drain::Phase;

fn direct() -> Snapshot {
    snapshot_of(Vec::new(), vec![route("/", answers(http::StatusCode::NO_CONTENT))])
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(flavor = "local")]
async fn an_idle_connection_is_closed_and_a_used_one_lives_on() {
    let idle_timeout = Duration::from_millis(200);
    let bench = Bench::with_settings(direct(), Settings { idle_timeout });
    let mut silent = bench.client().await;
    assert_eq!(silent.rest().await, "");
    // Anew where the machine stood still for so long that the connection may have ended between two requests.
    for _ in 0..20 {
        let (mut last, mut longest, mut answers) = (Instant::now(), Duration::ZERO, 0);
        let mut busy = bench.client().await;
        for _ in 0..6 {
            let before = std::mem::replace(&mut last, Instant::now());
            let sent = busy.0.write_all(GET.as_bytes()).await.is_ok();
            answers += usize::from(sent && try_read_until(&mut busy.0, "\r\n\r\n").await.is_ok());
            longest = longest.max(before.elapsed());
            // The input of this test is a client that pauses: nothing is waited for.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        if longest >= idle_timeout {
            continue;
        }
        assert_eq!(answers, 6);
        assert_eq!(busy.rest().await, "");
        return;
    }
    panic!("the machine stood still each time");
}

/// Waits until so many connections are parked.
async fn parked(bench: &Bench, count: usize) {
    eventually(|| (bench.stats.parked.load(Relaxed) == count).then_some(())).await;
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_waits_is_parked_and_serves_on() {
    let bench = Bench::start(direct());
    let mut client = bench.client().await;
    for _ in 0..3 {
        client.send(&GET.repeat(2)).await;
        let text = client.until("\r\n\r\n").await;
        if text.matches("HTTP/1.1 204").count() < 2 {
            client.until("\r\n\r\n").await;
        }
        assert_eq!(bench.stats.parked.load(Relaxed), 0);
        parked(&bench, 1).await;
    }
    client.send("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400"), "its requests are counted on");
    parked(&bench, 0).await;
    assert_eq!(bench.log(7).await.len(), 7);
}

#[tokio::test(flavor = "local")]
async fn a_parked_connection_ends_with_its_client_its_idle_time_and_the_drain() {
    let bench = Bench::start(direct());
    let (mut leaver, mut last) = (bench.client().await, bench.client().await);
    for client in [&mut leaver, &mut last] {
        client.send(GET).await;
        client.until("\r\n\r\n").await;
    }
    parked(&bench, 2).await;
    drop(leaver);
    parked(&bench, 1).await;
    bench.drain.enter(Phase::Closing);
    assert_eq!(last.rest().await, "");
    drop(last);
    timeout(PATIENCE, bench.workers.idle()).await.expect("nothing is open");

    let bench = Bench::with_settings(direct(), Settings { idle_timeout: Duration::from_millis(700) });
    // Anew where the machine stood still for so long that it ended before it was seen parked.
    for _ in 0..5 {
        let mut idler = bench.client().await;
        idler.send(GET).await;
        idler.until("\r\n\r\n").await;
        let was_parked = tokio::select! {
            () = parked(&bench, 1) => true,
            _ = idler.rest() => false,
        };
        if was_parked {
            assert_eq!(idler.rest().await, "");
            return;
        }
    }
    panic!("never parked");
}

#[tokio::test(flavor = "local")]
async fn half_a_head_and_half_a_body_are_never_parked() {
    let origin = raw_origin(|_, head| match head.starts_with("POST") {
        true => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok~".into(),
        false => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".into(),
    })
    .await;
    let bench = Bench::start(to(&[origin], forward()));
    let mut head = bench.client().await;
    head.send("GET / HTTP/1.1\r\nHo").await;
    // It is answered at once, with its upload under way.
    let mut body = bench.client().await;
    body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\nGET /smuggled HTTP/1.1\r\n").await;
    body.until("ok").await;
    let mut whole = bench.client().await;
    whole.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    whole.until("ok").await;
    parked(&bench, 1).await;
    // The input of this test is two clients that pause for longer than a parked one has to.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(bench.stats.parked.load(Relaxed), 1);
    head.send("st: a\r\n\r\n").await;
    head.until("ok").await;
    let _ = body.0.write_all(b"Host: a\r\n\r\n").await;
    drop(body);
    parked(&bench, 2).await;
    assert!(bench.log(3).await.iter().all(|line| !line.contains("smuggled")));
}

#[tokio::test(flavor = "local")]
async fn a_drain_tells_busy_clients_first_and_closes_idle_ones_late() {
    let bench = Bench::start(direct());
    let (mut idle, mut used) = (bench.client().await, bench.client().await);
    for client in [&mut idle, &mut used] {
        client.send(GET).await;
        assert!(!client.until("\r\n\r\n").await.contains("connection: close"));
    }
    bench.drain.enter(Phase::Announced);
    used.send(GET).await;
    assert!(used.rest().await.contains("connection: close"));
    let mut byte = [0; 1];
    let waiting = timeout(Duration::from_millis(50), idle.0.read(&mut byte)).await;
    assert!(waiting.is_err(), "an idle connection stays open while the drain is only announced");
    bench.drain.enter(Phase::Closing);
    assert_eq!(idle.rest().await, "");
    drop((idle, used));
    timeout(PATIENCE, bench.workers.idle()).await.expect("nothing is open");
}

#[tokio::test(flavor = "local")]
async fn a_request_on_a_connection_that_came_as_the_proxy_closed_is_answered() {
    let bench = Bench::start(direct());
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(bench.client().await);
    }
    bench.drain.enter(Phase::Closing);
    for client in &mut clients {
        client.send(GET).await;
    }
    for client in &mut clients {
        assert!(client.rest().await.starts_with("HTTP/1.1 204"));
    }
    timeout(PATIENCE, bench.workers.idle()).await.expect("nothing is open");
}

#[tokio::test(flavor = "local")]
async fn http2_clients_get_goaway_when_the_drain_is_announced() {
    let bench = Bench::start(direct());
    let mut client = bench.http2().await;
    let request = || http::Request::get("http://a/").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(client.send_request(request()).await.unwrap().status(), 204);
    bench.drain.enter(Phase::Announced);
    eventually(|| client.is_closed().then_some(())).await;
}

#[tokio::test(flavor = "local")]
async fn a_listener_that_left_the_configuration_routes_nothing() {
    let bench = Bench::start(direct());
    let mut snapshot = direct();
    snapshot.listeners = Arc::default();
    bench.publish(snapshot);
    assert!(bench.get("/", "").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "local")]
async fn connections_of_a_listener_that_leaves_are_told_to() {
    let bench = Bench::start(direct());
    let mut http1 = bench.client().await;
    http1.send(GET).await;
    http1.until("\r\n\r\n").await;
    let mut http2 = bench.http2().await;
    let request = || http::Request::get("http://a/").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(http2.send_request(request()).await.unwrap().status(), 204);
    let mut without = direct();
    without.listeners = Arc::default();
    bench.info.departure.record(bench.published.load_full());
    bench.publish(without);
    bench.info.departure.tell();
    eventually(|| http2.is_closed().then_some(())).await;
    http1.send(GET).await;
    let answer = http1.rest().await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test(flavor = "local")]
async fn a_connection_stays_where_only_others_lose_their_routes_and_later_answers_by_its_own_last_ones() {
    let bench = Bench::start(direct());
    let mut early = bench.client().await;
    early.send(GET).await;
    early.until("\r\n\r\n").await;
    let mut http2 = bench.http2().await;
    let request = || http::Request::get("http://a/").body(Full::new(Bytes::new())).unwrap();
    // The routes of another destination are lost.
    bench.info.departure.record(bench.published.load_full());
    bench.publish(direct());
    bench.info.departure.tell();
    for _ in 0..2 {
        early.send(GET).await;
        let answer = early.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 204") && !answer.contains("connection: close"), "{answer}");
        assert_eq!(http2.send_request(request()).await.unwrap().status(), 204);
    }
    // Then its own are, and then those of others again.
    bench.info.departure.record(bench.published.load_full());
    let without = || {
        let mut without = direct();
        without.listeners = Arc::default();
        without
    };
    bench.publish(without());
    bench.info.departure.record(bench.published.load_full());
    bench.publish(without());
    early.send(GET).await;
    let answer = early.rest().await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("connection: close"), "{answer}");
    assert_eq!(http2.send_request(request()).await.unwrap().status(), 204);
    eventually(|| http2.is_closed().then_some(())).await;
}

#[tokio::test(flavor = "local")]
async fn a_panic_fails_its_own_request_only() {
    let bench = Bench::start(direct());
    let mut bystander = bench.client().await;
    bystander.send(GET).await;
    bystander.until("\r\n\r\n").await;
    // The route table is not there: indexing it panics.
    let mut broken = direct();
    Arc::get_mut(&mut broken.listeners).unwrap()[0].carried = Carried::Http(RouteTableId(7));
    bench.publish(broken);
    assert_eq!(bench.get("/", "").await, "");
    assert_eq!(bench.stats.panics.load(std::sync::atomic::Ordering::Relaxed), 1);
    bench.publish(direct());
    bystander.send(GET).await;
    assert!(bystander.until("\r\n\r\n").await.starts_with("HTTP/1.1 204"));
}
