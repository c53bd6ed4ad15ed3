//! The HTTP receiver: R2 to R4, R11, R13, R15, R17 to R22.

use crate::support::{Backend, Sender, gzip, spans, start, until, yaml};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

#[tokio::test]
async fn protobuf_and_json_on_one_port_over_both_versions() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_http", &backend.http(""))])).await;
    let address = running.address("otlp_http").unwrap();
    for http2 in [false, true] {
        let sender = Sender::new(address, http2);
        let answer = sender.traces(&spans("p", 1)).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, PROTOBUF.1));
        let json = [("content-type", "Application/JSON; charset=utf-8")];
        let body = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"j-0"}]}]}]}"#;
        let answer = sender.send("POST", "/v1/traces", &json, body).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"{}"[..]));
    }
    until("delivery", || backend.taken().len() == 4).await;
    let ledger = backend.ledger();
    assert_eq!(ledger.into_iter().collect::<Vec<_>>(), [("j-0".to_owned(), 2), ("p-0".to_owned(), 2)]);
    assert_eq!(
        backend.taken()[0].headers["user-agent"].to_str().unwrap().split('/').next().unwrap(),
        "outrigger-otlp-collector"
    );
    running.stop().await;
}

#[tokio::test]
async fn refusals_are_statuses_and_the_connection_lives() {
    let running = start(&yaml(&[("nop", "{}")])).await;
    let sender = Sender::http(&running);
    let bomb = gzip(&vec![0; 4 << 20]);
    let text = [0x0a, 4, 0x1a, 2, 0xc3, 0x28];
    let cases: [(&str, &str, &str, &[(&str, &str)], &[u8], u16, i64); 11] = [
        ("truncated", "POST", "/v1/traces", &[PROTOBUF], &[0x0a, 0xff], 400, 3),
        ("not UTF-8", "POST", "/v1/traces", &[PROTOBUF], &text, 400, 3),
        ("not JSON", "POST", "/v1/traces", &[("content-type", "application/json")], b"{", 400, 3),
        ("not gzip", "POST", "/v1/traces", &[PROTOBUF, ("content-encoding", "gzip")], b"hello", 400, 3),
        ("a bomb", "POST", "/v1/traces", &[PROTOBUF, ("content-encoding", "gzip")], &bomb, 413, 8),
        ("too large", "POST", "/v1/traces", &[PROTOBUF], &[0; (1 << 20) + 1], 413, 8),
        ("brotli", "POST", "/v1/traces", &[PROTOBUF, ("content-encoding", "br")], b"x", 415, 3),
        ("text", "POST", "/v1/traces", &[("content-type", "text/plain")], b"x", 415, 3),
        ("no type", "POST", "/v1/traces", &[], b"x", 415, 3),
        ("GET", "GET", "/v1/traces", &[], b"", 405, 12),
        ("elsewhere", "POST", "/v1/spans", &[PROTOBUF], b"x", 404, 5),
    ];
    for (what, method, path, headers, body, status, code) in cases {
        let answer = sender.send(method, path, headers, body).await;
        assert_eq!(answer.status.as_u16(), status, "{what}");
        if headers.first() == Some(&PROTOBUF) {
            assert_eq!(answer.header("content-type"), PROTOBUF.1, "{what}");
            // Status { code }: the first field.
            assert_eq!(answer.body[..2], [8, code as u8], "{what}");
        } else {
            assert_eq!(answer.json_code(), code, "{what}");
        }
        assert_eq!(answer.header("allow"), if status == 405 { "POST" } else { "" }, "{what}");
        assert_eq!(answer.header("accept-encoding"), if status == 415 { "gzip" } else { "" }, "{what}");
        assert!(!answer.headers.contains_key("retry-after"), "{what}");
        assert_ne!(answer.header("connection"), "close", "{what}");
    }
    for empty in ["", "{}"] {
        assert_eq!(sender.json(empty).await.status.as_u16(), 200);
    }
    assert_eq!(sender.traces(b"").await.status.as_u16(), 200);
    assert_eq!(sender.traces(&spans("good", 1)).await.status.as_u16(), 200);
    let metrics = running.metrics().render().unwrap();
    assert!(
        metrics.contains("otelcol_receiver_accepted_spans{receiver=\"otlp\",transport=\"http\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("{receiver=\"otlp\",transport=\"http\",reason=\"invalid\"} 11\n"), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_request_and_a_good_one_on_the_same_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = start(&yaml(&[("nop", "{}")])).await;
    let mut stream = tokio::net::TcpStream::connect(running.address("otlp_http").unwrap()).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    for (body, status) in [("{]", "400"), ("{}", "200"), ("nope", "400"), ("{}", "200")] {
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await.unwrap();
            assert_ne!(count, 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    running.stop().await;
}

#[tokio::test]
async fn paths_are_configurable_and_a_signal_without_a_pipeline_is_not_found() {
    let text = yaml(&[("nop", "{}")])
        .replace("max_request_body_size: 1048576", "traces_url_path: /in/spans")
        .replace("logs: { receivers: [otlp], exporters: [nop] }", "");
    let running = start(&text).await;
    let sender = Sender::http(&running);
    assert_eq!(sender.send("POST", "/in/spans", &[PROTOBUF], &spans("a", 1)).await.status.as_u16(), 200);
    assert_eq!(sender.traces(&spans("a", 1)).await.status.as_u16(), 404);
    assert_eq!(sender.send("POST", "/v1/logs", &[PROTOBUF], b"").await.status.as_u16(), 404);
    running.stop().await;
}

#[tokio::test]
async fn slow_senders_do_not_keep_their_places() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limits = "read_header_timeout: 1s, read_timeout: 100ms, max_connections: 1";
    let text = yaml(&[("nop", "{}")]).replace("max_request_body_size: 1048576", limits);
    let running = start(&text).await;
    let address = running.address("otlp_http").unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    // Nothing at all, half a head, half a body: each has the only place, and each loses it.
    for (part, answer) in [("", ""), ("POST /v1/tra", ""), (head, "HTTP/1.1 408 ")] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let closed = stream.read_to_end(&mut received);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(10), closed).await.expect("still open");
        assert!(String::from_utf8_lossy(&received).starts_with(answer), "{received:?}");
    }
    assert_eq!(Sender::http(&running).json("{}").await.status.as_u16(), 200);
    running.stop().await;
}
