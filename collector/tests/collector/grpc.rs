//! The gRPC receiver: R1, R13 to R15, R17 to R19, R22, R25.

use std::time::Duration;

use otlp_collector::status::retry_delay;

use crate::support::{Backend, Sender, TRACES, frame, gzip, spans, start, until, yaml};

#[tokio::test]
async fn bytes_pass_through_untouched() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_grpc", &backend.grpc(""))])).await;
    // Field 9999, as a newer sender may have it.
    let mut request = spans("a", 3);
    request.extend_from_slice(&[0xfa, 0xf0, 0x04, 3, b'n', b'e', b'w']);
    let answer = Sender::grpc(&running).call(TRACES, &request).await;
    assert_eq!((answer.grpc(), &answer.body[..]), (0, &[0u8; 5][..]));
    until("delivery", || !backend.taken().is_empty()).await;
    assert_eq!(backend.taken()[0].payload, request);
    assert_eq!(backend.taken()[0].path, TRACES);
    running.stop().await;
}

#[tokio::test]
async fn gzip_is_undone() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_grpc", &backend.grpc("compression: none"))])).await;
    let body = frame(1, &gzip(&spans("a", 3)));
    let answer = Sender::grpc(&running).call_with(TRACES, &[("grpc-encoding", "gzip")], &body).await;
    assert_eq!(answer.grpc(), 0);
    until("delivery", || !backend.taken().is_empty()).await;
    assert_eq!(backend.taken()[0].payload, spans("a", 3));
    running.stop().await;
}

#[tokio::test]
async fn refusals_have_their_codes_and_the_connection_lives() {
    let running = start(&yaml(&[("nop", "{}")])).await;
    let sender = Sender::grpc(&running);
    let mut oversized = frame(0, &spans("a", 1));
    oversized[1..5].copy_from_slice(&(2u32 << 20).to_be_bytes());
    let bomb = frame(1, &gzip(&vec![0; 4 << 20]));
    let gzipped = [("grpc-encoding", "gzip")];
    let cases: [(&str, &[(&str, &str)], Vec<u8>, u32); 9] = [
        ("truncated varint", &[], frame(0, &[0x0a, 0xff]), 3),
        ("wrong wire type", &[], frame(0, &[0x08, 1]), 3),
        ("not gzip", &gzipped, frame(1, b"hello"), 3),
        ("compressed without saying how", &[], frame(1, &gzip(b"")), 3),
        ("no message", &[], Vec::new(), 3),
        ("two messages", &[], [frame(0, b""), frame(0, b"")].concat(), 3),
        ("too large by its prefix", &[], oversized, 8),
        ("a bomb", &gzipped, bomb, 8),
        ("unknown encoding", &[("grpc-encoding", "snappy")], frame(1, b"x"), 12),
    ];
    for (what, headers, body, code) in cases {
        let answer = sender.call_with(TRACES, headers, &body).await;
        assert_eq!(answer.grpc(), code, "{what}");
        assert!(!answer.headers.contains_key("google.rpc.retryinfo-bin"), "{what}");
        assert_eq!(answer.headers.contains_key("grpc-accept-encoding"), code == 12, "{what}");
    }
    let answer = sender.call("/opentelemetry.proto.collector.trace.v1.TraceService/Import", b"").await;
    assert_eq!(answer.grpc(), 12);
    // Over the limit as it is.
    assert_eq!(sender.call(TRACES, &vec![0; (1 << 20) + 1]).await.grpc(), 8);
    assert_eq!(sender.call(TRACES, &spans("good", 1)).await.grpc(), 0);
    assert_eq!(sender.call(TRACES, b"").await.grpc(), 0);
    running.stop().await;
}

#[tokio::test]
async fn plain_http_on_the_grpc_port_is_told_so() {
    let running = start(&yaml(&[("nop", "{}")])).await;
    let answer = Sender::grpc(&running).send("GET", "/", &[], b"").await;
    assert_eq!((answer.status.as_u16(), answer.json_code()), (415, 3));
    running.stop().await;
}

#[tokio::test]
async fn overload_says_when_to_come_back_in_both_places() {
    use base64::Engine;
    let backend = Backend::start().await;
    backend.stop();
    let queue = "sending_queue: { queue_size: 1, block_for: 50ms }";
    let running = start(
        &yaml(&[("otlp_grpc", &backend.grpc(queue))]).replace("flush_timeout: 10s", "flush_timeout: 0s"),
    )
    .await;
    let sender = Sender::grpc(&running);
    assert_eq!(sender.call(TRACES, &spans("a", 1)).await.grpc(), 0);
    let answer = sender.call(TRACES, &spans("b", 1)).await;
    assert_eq!(answer.grpc(), 14);
    let decode = |name| base64::engine::general_purpose::STANDARD_NO_PAD.decode(answer.header(name)).unwrap();
    assert_eq!(retry_delay(&decode("grpc-status-details-bin")), Some(Duration::from_secs(1)));
    // RetryInfo { retry_delay: Duration { seconds: 1 } }
    assert_eq!(decode("google.rpc.retryinfo-bin"), [0x0a, 2, 8, 1]);
    running.stop().await;
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_grpc", &backend.grpc(""))])).await;
    let sender = Sender::grpc(&running);
    let calls: Vec<_> = (0..64)
        .map(|call| {
            let sender = sender.clone();
            tokio::spawn(async move { sender.call(TRACES, &spans(&format!("c{call}"), 10)).await.grpc() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 0);
    }
    until("delivery", || backend.ledger().len() == 640).await;
    running.stop().await;
}

#[tokio::test]
async fn a_caller_in_a_hurry_does_not_wait_for_room() {
    let backend = Backend::start().await;
    backend.stop();
    let queue = "sending_queue: { queue_size: 1, block_for: 1h }";
    let text =
        yaml(&[("otlp_grpc", &backend.grpc(queue))]).replace("flush_timeout: 10s", "flush_timeout: 0s");
    let running = start(&text).await;
    let sender = Sender::grpc(&running);
    assert_eq!(sender.call(TRACES, &spans("a", 1)).await.grpc(), 0);
    let call = sender.call_with(TRACES, &[("grpc-timeout", "100m")], &frame(0, &spans("b", 1))).await;
    assert_eq!(call.grpc(), 14);
    running.stop().await;
}

#[tokio::test]
async fn an_old_connection_is_replaced_without_a_failed_call() {
    let age = "keepalive: { server_parameters: { max_connection_age: 50ms, max_connection_age_grace: 5s } }";
    let text = yaml(&[("nop", "{}")]).replace("max_recv_msg_size_mib: 1", age);
    let running = start(&text).await;
    let sender = Sender::grpc(&running);
    let until = tokio::time::Instant::now() + Duration::from_millis(400);
    let mut calls = 0;
    while tokio::time::Instant::now() < until || calls <= 5 {
        // A GOAWAY between two calls is the client's to see; it must never cost a call that was sent.
        assert_eq!(sender.call(TRACES, &spans("a", 1)).await.grpc(), 0);
        calls += 1;
    }
    running.stop().await;
}
