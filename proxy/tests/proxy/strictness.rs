//! What no library refuses by itself: raw bytes in, status out, and what the upstream saw of it.

use crate::support::{
    client::{self, Client, Socket, over_http2},
    mesh::Mesh,
    origin::{Gate, Origin, Reply, Step},
    wait::until,
};

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Answered here with this status; nothing reaches the upstream.
    Refused(u16),
    /// Reaches the upstream, once.
    Forwarded,
}
use Fate::{Forwarded, Refused};

async fn check(cases: &[(&str, Fate)]) {
    for (bytes, fate) in cases {
        let origin = Origin::named("web").await;
        let proxy = Mesh::web(&origin).start().await;
        let mut socket = Socket::connect(proxy.http()).await;
        let shown: String = bytes.chars().take(200).collect();
        socket.try_send(bytes.as_bytes()).await;
        let answer = match fate {
            Forwarded => socket.until("\r\n\r\n").await,
            Refused(_) => socket.rest().await,
        };
        let status = answer.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
        let forwarded = match fate {
            Refused(expected) => {
                assert_eq!(status, *expected, "{shown:?} got {answer:?}");
                false
            }
            Forwarded => {
                assert_eq!(status, 200, "{shown:?} got {answer:?}");
                true
            }
        };
        assert_eq!(origin.hits(), usize::from(forwarded), "{shown:?} got {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer to {shown:?}: {answer:?}");
    }
}

#[tokio::test]
async fn framing_that_two_parsers_could_read_differently_is_refused() {
    check(&[
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(501)),
        ("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(501)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4, 4\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: +4\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0x4\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length:\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 99999999999999999999999\r\n\r\nbody", Refused(400)),
        ("POST / HTTP/1.0\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(426)),
    ])
    .await;
}

#[tokio::test]
async fn a_request_needs_exactly_one_clean_host() {
    check(&[
        ("GET / HTTP/1.1\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\nhost: web\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\nhost: other\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: a b/c@d\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web/x\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: user@web\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\n\r\n", Forwarded),
    ])
    .await;
}

#[tokio::test]
async fn the_authority_of_an_absolute_form_wins() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket.send("GET http://web:8080/a?b HTTP/1.1\r\nhost: elsewhere.example\r\n\r\n").await;
    let answer = socket.until("\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = origin.only();
    assert_eq!(seen.target, "/a?b");
    assert_eq!(seen.all("host").collect::<Vec<_>>(), ["web:8080"]);
}

#[tokio::test]
async fn malformed_heads_are_refused() {
    check(&[
        ("GET / HTTP/1.1\r\nhost: web\r\nx : 1\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\nx: a\0b\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\nx: a\rb\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.1\r\nhost: web\r\n: 1\r\n\r\n", Refused(400)),
        ("GE T / HTTP/1.1\r\nhost: web\r\n\r\n", Refused(400)),
        ("GET / HTTP/1.0\r\nhost: web\r\n\r\n", Refused(426)),
        ("CONNECT web:8080 HTTP/1.1\r\nhost: web\r\n\r\n", Refused(404)),
        ("GET / HTTP/1.1\r\nhost: web\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n", Refused(403)),
        ("OPTIONS * HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n", Refused(404)),
        ("TRACE / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n", Forwarded),
        ("GET / HTTP/1.1\r\nhost: web\r\nexpect: foo\r\n\r\n", Forwarded),
        ("GET / HTTP/1.1\r\nhost: web\r\nunder_score: 1\r\nempty:\r\n\r\n", Forwarded),
    ])
    .await;
}

#[tokio::test]
async fn malformed_chunks_are_refused_and_never_reach_the_upstream_whole() {
    for chunk in
        ["0x1\r\na\r\n0\r\n\r\n", "1 2\r\na\r\n0\r\n\r\n", "1\r\nab0\r\n\r\n", "-1\r\n\r\n", "\r\n\r\n"]
    {
        let origin = Origin::named("web").await;
        let proxy = Mesh::web(&origin).start().await;
        let mut socket = Socket::connect(proxy.http()).await;
        socket
            .send(format!("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"))
            .await;
        let answer = socket.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{chunk:?} got {answer:?}");
        assert_eq!(origin.hits(), 0, "{chunk:?}");
    }
}

#[tokio::test]
async fn chunk_extensions_and_framing_in_trailers_are_dropped() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket
        .send(
            "POST / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\ncontent-length: 3\r\nhost: evil\r\n\r\n",
        )
        .await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 200"));
    let seen = origin.only();
    assert_eq!(seen.body, b"body");
    assert_eq!(seen.all("host").collect::<Vec<_>>(), ["web"]);
    assert_eq!(seen.header("content-length"), None);
}

#[tokio::test]
async fn a_hundred_headers_pass_and_one_more_is_431() {
    for (count, fate) in [(99, Forwarded), (100, Refused(431))] {
        let lines: String = (0..count).map(|at| format!("x-{at}: 1\r\n")).collect();
        check(&[(&format!("GET / HTTP/1.1\r\nhost: web\r\n{lines}\r\n"), fate)]).await;
    }
}

#[tokio::test]
async fn heads_up_to_60_kib_pass_and_larger_ones_are_431() {
    for (size, fate) in [(60_000, Forwarded), (62_000, Refused(431)), (500 << 10, Refused(431))] {
        let bytes = format!("GET / HTTP/1.1\r\nhost: web\r\nx-big: {}\r\n\r\n", "a".repeat(size));
        check(&[(&bytes, fate)]).await;
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "a".repeat(70_000));
    check(&[(&long, Refused(431))]).await;
}

#[tokio::test]
async fn a_fragment_is_refused() {
    check(&[
        ("GET /admin#x HTTP/1.1\r\nhost: web\r\n\r\n", Refused(400)),
        ("GET /?a#x HTTP/1.1\r\nhost: web\r\n\r\n", Refused(400)),
        ("GET http://web/#x HTTP/1.1\r\nhost: web\r\n\r\n", Refused(400)),
    ])
    .await;
}

#[tokio::test]
async fn a_refused_request_is_logged_with_its_reason() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    socket.send("GET / HTTP/1.1\r\n\r\n").await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 400"));
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_code"], &line["response_code_details"]),
        (&400.into(), &"missing_host_header".into())
    );
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::http1(|seen| Reply::text(&seen.target)).await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = Socket::connect(proxy.http()).await;
    let one = |path, more| format!("GET {path} HTTP/1.1\r\nhost: web\r\n{more}\r\n");
    socket.send(one("/1", "") + &one("/2", "") + &one("/3", "connection: close\r\n")).await;
    let answers = socket.rest().await;
    let at: Vec<_> = ["/1", "/2", "/3"].map(|path| answers.find(path)).into();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{answers}");
}

#[tokio::test]
async fn broken_answers_of_an_upstream_are_502_and_cost_their_connection() {
    for raw in [
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    ] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let origin = Origin::http1(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::raw(raw).then(Step::Wait(Gate::new())),
            _ => Reply::text("clean"),
        })
        .await;
        let proxy = Mesh::web(&origin).start().await;
        let mut client = Client::http1(proxy.http()).await;
        let answer = client.send(client::get("web", "/", &[])).await;
        assert_eq!(
            (answer.status, answer.text()),
            (502, "upstream connect error or disconnect/reset before headers. reset reason: protocol error"),
            "{raw:?}"
        );
        let line = proxy.logged_one().await;
        assert_eq!(line["response_flags"], "UPE", "{raw:?}");
        assert_eq!(line["response_code_details"], "upstream_reset_before_response_started{protocol_error}");
        let next = client.send(client::get("web", "/", &[])).await;
        assert_eq!((next.status, next.text()), (200, "clean"), "after {raw:?}");
        assert_eq!(origin.connections(), 2, "after {raw:?}");
    }
}

#[tokio::test]
async fn more_than_a_hundred_headers_of_an_upstream_are_502() {
    let lines: String = (0..101).map(|at| format!("x-{at}: 1\r\n")).collect();
    let raw = format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n");
    let origin = Origin::http1(move |_| Reply::raw(&raw)).await;
    let proxy = Mesh::web(&origin).start().await;
    assert_eq!(proxy.get("web", "/").await.status, 502);
}

#[tokio::test]
async fn bytes_after_the_answer_are_not_the_next_answer() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin = Origin::http1(move |_| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        _ => Reply::text("good"),
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    for _ in 0..2 {
        let answer = proxy.get("web", "/").await;
        assert_eq!((answer.status, answer.text()), (200, "good"));
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn http2_has_a_stream_limit_and_a_header_limit() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut client = Client::http2(proxy.http()).await;
    let mut many = client::get("web", "/", &[]);
    for at in 0..110 {
        many.headers_mut()
            .insert(http::HeaderName::try_from(format!("x-{at}")).unwrap(), "1".parse().unwrap());
    }
    let refused = client.open(over_http2(many)).await;
    let big = client::get("web", "/", &[("x-big", &"a".repeat(70_000))]);
    let too_big = Client::http2(proxy.http()).await.open(over_http2(big)).await;
    for answer in [refused, too_big] {
        assert!(answer.is_err() || answer.as_ref().is_ok_and(|a| a.status() == 431), "{answer:?}");
    }
    assert_eq!(origin.hits(), 0);
    let fine = Client::http2(proxy.http()).await.send(over_http2(client::get("web", "/", &[]))).await;
    assert_eq!(fine.status, 200);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_harms_nobody_else() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut slow = vec![];
    for _ in 0..50 {
        let mut socket = Socket::connect(proxy.http()).await;
        socket.send("GET / HTTP/1.1\r\nhost: w").await;
        slow.push(socket);
    }
    for _ in 0..20 {
        assert_eq!(proxy.get("web", "/").await.status, 200);
    }
    drop(slow);
    until("only real requests upstream", || (origin.hits() == 20).then_some(())).await;
}
