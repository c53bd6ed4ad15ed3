//! Bodies and trailers both ways, streams, and what becomes of a body that is cut.

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderMap, Request};

use crate::support::{
    client::{self, Client, Payload, ask, connect, framed},
    mesh::Mesh,
    origin::{Gate, Origin, Reply, Step},
    wait::{soon, until},
};

#[tokio::test]
async fn large_bodies_pass_both_ways_unchanged() {
    let body: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 253) as u8).collect();
    let expected = body.clone();
    let origin = Origin::http1(move |seen| {
        assert!(seen.body == expected);
        Reply::status(200).then(Step::Data(seen.body.clone()))
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = ask(proxy.http(), client::post("web", "/", body.clone())).await;
    assert!(answer.body == body && !answer.cut, "{} bytes", answer.body.len());
    assert_eq!(answer.header("content-length"), Some("4000000"));
}

#[tokio::test]
async fn a_cut_upstream_body_never_ends_cleanly() {
    let short = Reply::status(200).header("content-length", "10").data("half");
    let chunked =
        Reply::status(200).header("transfer-encoding", "chunked").then(Step::Raw(b"4\r\nhalf\r\n".to_vec()));
    let mid_chunk =
        Reply::status(200).header("transfer-encoding", "chunked").then(Step::Raw(b"9\r\nhalf".to_vec()));
    for reply in [short, chunked, mid_chunk] {
        for end in [Step::Close, Step::Abort] {
            // The client has seen the first half before the rest is cut, so that nothing of it can be lost.
            let gate = Gate::new();
            let script = reply.clone().then(Step::Wait(gate.clone())).then(end.clone());
            let origin = Origin::http1(move |_| script.clone()).await;
            let proxy = Mesh::web(&origin).start().await;

            let response =
                Client::http1(proxy.http()).await.open(client::get("web", "/", &[])).await.unwrap();
            gate.open();
            let answer = client::read(response).await;
            assert!(answer.cut, "HTTP/1.1 {reply:?} {end:?}: {answer:?}");
            assert_eq!(answer.status, 200);

            let line = proxy.logged_one().await;
            assert_eq!(line["response_flags"], "UPE", "{line}");
            assert_eq!(
                line["response_code_details"],
                "upstream_reset_after_response_started{protocol_error}"
            );

            let request = client::over_http2(client::get("web", "/", &[]));
            let response = Client::http2(proxy.http()).await.open(request).await;
            // The gate is open by now: headers and the cut may come together.
            if let Ok(response) = response {
                assert!(client::read(response).await.cut, "HTTP/2 {reply:?} {end:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_http2_upstream_body_never_ends_cleanly() {
    for end in [Step::ResetStream(h2::Reason::INTERNAL_ERROR), Step::Abort] {
        let gate = Gate::new();
        let script = Reply::status(200).data("half").then(Step::Wait(gate.clone())).then(end.clone());
        let origin = Origin::h2c(move |_| script.clone()).await;
        let proxy = Mesh::rpc(&origin).start().await;
        let response =
            Client::http2(proxy.grpc()).await.open(client::grpc("rpc", "/a.B/C", b"")).await.unwrap();
        gate.open();
        let answer = client::read(response).await;
        assert!(answer.cut, "{end:?}: {answer:?}");
        assert_eq!(answer.grpc_status(), None);
    }
}

#[tokio::test]
async fn an_http2_answer_that_ends_with_an_empty_frame_is_whole() {
    let origin = Origin::h2c(|_| Reply::text("ok").header("content-length", "2").data("")).await;
    let proxy = Mesh::rpc(&origin).start().await;
    let answer = Client::http1(proxy.grpc()).await.send(client::get("rpc", "/", &[])).await;
    assert_eq!((answer.status, answer.text(), answer.cut), (200, "ok", false));
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_passed_on_chunked() {
    let origin = Origin::http1(|_| {
        Reply::raw("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end").then(Step::Close)
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!((answer.text(), answer.cut), ("to the end", false));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn head_204_and_304_have_no_body() {
    let origin = Origin::http1(|seen| match seen.target.as_str() {
        "/204" => Reply::status(204),
        "/304" => Reply::status(304).header("content-length", "7"),
        _ => Reply::status(200).header("content-length", "7").data("content"),
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let mut client = Client::http1(proxy.http()).await;
    let head = client::request("HEAD", "web", "/").body(Payload::default()).unwrap();
    let answer = client.send(head).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (200, "", Some("7")));
    let answer = client.send(client::get("web", "/204", &[])).await;
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    let answer = client.send(client::get("web", "/304", &[])).await;
    // Envoy keeps the length of a 304, hyper drops it, and both may (RFC 9110 8.6).
    assert_eq!((answer.status, answer.text()), (304, ""));
    assert_eq!(client.send(client::get("web", "/", &[])).await.text(), "content");
}

#[tokio::test]
async fn a_local_answer_to_head_has_the_length_and_no_body() {
    let proxy = Mesh::new().http("web", &[]).start().await;
    let head = client::request("HEAD", "web", "/").body(Payload::default()).unwrap();
    let answer = ask(proxy.http(), head).await;
    assert_eq!((answer.status, answer.text(), answer.header("content-length")), (503, "", Some("19")));
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_is_not_completed_upstream() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    for head in ["content-length: 100\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let before = origin.connections();
        let mut socket = client::Socket::connect(proxy.http()).await;
        socket.send(format!("POST / HTTP/1.1\r\nhost: web\r\n{head}")).await;
        until("the upstream connection", || (origin.connections() > before).then_some(())).await;
        socket.reset();
        until("the upstream connection to close", || (origin.open() == 0).then_some(())).await;
    }
    assert_eq!(origin.hits(), 0, "a complete request was recorded");
}

#[tokio::test]
async fn a_client_that_leaves_in_its_upload_is_logged_as_gone() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let heads = ["content-length: 100\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"];
    let mut left = 0;
    for head in heads {
        for reset in [false, true] {
            let before = origin.connections();
            let mut socket = client::Socket::connect(proxy.http()).await;
            socket.send(format!("POST / HTTP/1.1\r\nhost: web\r\n{head}")).await;
            until("the upstream connection", || (origin.connections() > before).then_some(())).await;
            if reset {
                socket.reset();
            } else {
                drop(socket);
            }
            left += 1;
            let line = proxy.logged(left).await.pop().unwrap();
            let said = (&line["response_code"], &line["response_flags"], &line["response_code_details"]);
            let expected = (&0.into(), &"DC".into(), &"downstream_remote_disconnect".into());
            assert_eq!(said, expected, "{head:?}, reset: {reset}");
        }
    }
    let web = "outbound|8080||web.default.svc.cluster.local";
    proxy.metric("envoy_cluster_upstream_cx_destroy_local_with_active_rq", &[web], 4.0).await;
}

#[tokio::test]
async fn a_client_that_resets_its_stream_in_its_upload_is_logged_as_gone() {
    let origin = Origin::echo().await;
    let proxy = Mesh::rpc(&origin).start().await;
    let (mut sender, connection) = h2::client::handshake(connect(proxy.grpc()).await).await.unwrap();
    tokio::spawn(connection);
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    let request = Request::post("http://rpc/a.B/C").body(()).unwrap();
    let (_answer, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(b"half"), false).unwrap();
    until("the upstream connection", || (origin.connections() > 0).then_some(())).await;
    stream.send_reset(h2::Reason::CANCEL);
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"DC".into(), &"downstream_remote_disconnect".into())
    );
}

#[tokio::test]
async fn an_upload_with_broken_chunks_is_400() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = client::Socket::connect(proxy.http()).await;
    socket.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    until("the upstream connection", || (origin.connections() > 0).then_some(())).await;
    socket.send("no length\r\n").await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 400"));
    let line = proxy.logged_one().await;
    assert_eq!(
        (&line["response_flags"], &line["response_code_details"]),
        (&"DPE".into(), &"http1.codec_error".into())
    );
}

#[tokio::test]
async fn http2_trailers_pass_both_ways() {
    let origin = Origin::h2c(|seen| {
        Reply(vec![
            Step::Head(200, vec![("content-type", "application/grpc".into())]),
            Step::Data(seen.body.clone()),
            Step::Trailers(vec![("grpc-status", "0".into()), ("x-end", "answer".into())]),
        ])
    })
    .await;
    let proxy = Mesh::rpc(&origin).start().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "request".parse().unwrap());
    let call = client::grpc("rpc", "/a.B/C", b"message");
    let call = call.map(|payload| payload.with_trailers(trailers));
    let answer = Client::http2(proxy.grpc()).await.send(call).await;
    assert_eq!(answer.body, framed(b"message"));
    assert_eq!(answer.trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(answer.trailers.get("x-end").unwrap(), "answer");
    assert_eq!(origin.only().trailers, [("x-end".to_owned(), "request".to_owned())]);
    let line = proxy.logged_one().await;
    assert_eq!((&line["response_code"], &line["response_flags"]), (&200.into(), &"-".into()));
}

#[tokio::test]
async fn a_grpc_stream_flows_both_ways_message_by_message() {
    let origin = Origin::echo().await;
    let proxy = Mesh::rpc(&origin).start().await;
    let (mut sender, connection) = h2::client::handshake(connect(proxy.grpc()).await).await.unwrap();
    tokio::spawn(connection);
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    let request = Request::post("http://rpc/a.B/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut stream) = sender.send_request(request, false).unwrap();
    let answer = soon("the headers", answer).await.unwrap();
    assert_eq!(answer.status(), 200, "before any message");
    let mut body = answer.into_body();
    for number in 0..20 {
        let message = Bytes::from(framed(format!("message {number}").as_bytes()));
        stream.send_data(message.clone(), false).unwrap();
        let mut back = vec![];
        while back.len() < message.len() {
            let chunk = soon("an echo", body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            back.extend(&chunk);
        }
        assert_eq!(back, message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-last", "1".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    assert!(soon("the end", body.data()).await.is_none());
    let trailers = soon("the trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert_eq!(trailers.get("x-last").unwrap(), "1");
    assert_eq!(origin.only().trailers, [("x-last".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn an_answer_streams_before_it_is_complete() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::http1(move |_| {
        Reply::status(200)
            .header("content-length", "8")
            .data("half")
            .then(Step::Wait(held.clone()))
            .data("rest")
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = client::Socket::connect(proxy.http()).await;
    socket.send("GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
    socket.until("half").await;
    gate.open();
    assert_eq!(socket.rest().await, "rest");
}

#[tokio::test]
async fn an_early_answer_does_not_poison_the_connection() {
    // The origin answers before it has read the upload, and hangs up.
    let origin = Origin::http1(|seen| {
        if seen.method == "POST" { Reply::status(403).then(Step::Close) } else { Reply::text("next") }
    })
    .await;
    let proxy = Mesh::web(&origin).start().await;
    let answer = ask(proxy.http(), client::post("web", "/", vec![b'x'; 200_000])).await;
    assert_eq!(answer.status, 403);
    assert_eq!(proxy.get("web", "/").await.text(), "next");
}

#[tokio::test]
async fn an_expected_100_continue_reaches_the_client() {
    let origin = Origin::named("web").await;
    let proxy = Mesh::web(&origin).start().await;
    let mut socket = client::Socket::connect(proxy.http()).await;
    socket.send("POST / HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n").await;
    let interim = socket.until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    socket.send("body").await;
    assert!(socket.rest().await.starts_with("HTTP/1.1 200"));
    assert_eq!(origin.only().body, b"body");
}
