//! The exporters: E1 to E3, E6, E9 in part, batches, the file, the drain.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use otlp_collector::Running;
use tokio::time::Instant;

use crate::support::{Backend, Received, Sender, TRACES, Verdict, spans, start, until, yaml};

/// Sends one request to a destination that answers `first` once and then takes everything. Returns the attempts.
async fn attempts(grpc: bool, first: Verdict) -> Vec<Received> {
    let backend = Backend::start().await;
    backend.answer(once(first));
    let exporter = if grpc { ("otlp_grpc", backend.grpc("")) } else { ("otlp_http", backend.http("")) };
    let running = start(&yaml(&[(exporter.0, &exporter.1)])).await;
    assert_eq!(Sender::grpc(&running).call(TRACES, &spans("a", 10)).await.grpc(), 0);
    assert_eq!(running.stop().await.requests, 0);
    backend.attempts()
}

/// Answers `first` once, and then takes everything.
fn once(first: Verdict) -> impl Fn(&Received) -> Verdict {
    let count = AtomicUsize::new(0);
    move |_| if count.fetch_add(1, Ordering::Relaxed) == 0 { first.clone() } else { Verdict::Take }
}

/// How often an exporter has begun a pause before another attempt.
fn retries(running: &Running, exporter: &str) -> u64 {
    let metrics = running.metrics().render().unwrap();
    let name = format!("outrigger_exporter_retries{{exporter=\"{exporter}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn grpc_codes_that_pass_are_retried_and_no_others() {
    let mut retried = Vec::new();
    for code in 1..=16 {
        let attempts = attempts(true, Verdict::Grpc(code, Vec::new())).await;
        match attempts.len() {
            1 => {}
            2 => retried.push(code),
            other => panic!("{other} attempts for {code}"),
        }
    }
    assert_eq!(retried, [1, 4, 10, 11, 14, 15]);
}

#[tokio::test]
async fn http_statuses_that_pass_are_retried_and_no_others() {
    let mut retried = Vec::new();
    for status in [400, 401, 403, 404, 408, 413, 429, 500, 501, 502, 503, 504, 505] {
        let attempts = attempts(false, Verdict::Http(status, Vec::new(), Vec::new())).await;
        if attempts.len() == 2 {
            retried.push(status);
        }
    }
    assert_eq!(retried, [429, 502, 503, 504]);
}

#[tokio::test]
async fn a_requested_delay_is_kept() {
    use base64::Engine;
    let overloaded = otlp_collector::status::Refusal::overloaded("busy");
    let details = base64::engine::general_purpose::STANDARD.encode(overloaded.protobuf());
    // RESOURCE_EXHAUSTED with RetryInfo passes, too.
    let grpc = Verdict::Grpc(8, vec![("grpc-status-details-bin", details)]);
    let http = Verdict::Http(503, vec![("retry-after", "1".to_owned())], Vec::new());
    for (name, first) in [("otlp_grpc", grpc), ("otlp_http", http)] {
        let backend = Backend::start().await;
        backend.answer(once(first));
        let exporter = if name == "otlp_grpc" { backend.grpc("") } else { backend.http("") };
        let running = start(&yaml(&[(name, &exporter)])).await;
        Sender::http(&running).traces(&spans("a", 1)).await;
        // No stop before it: a stop cuts the pause short.
        until("the second attempt", || backend.attempts().len() == 2).await;
        let pause = backend.attempts()[1].at - backend.attempts()[0].at;
        assert!(pause >= Duration::from_secs(1), "{name}: {pause:?}");
        assert_eq!(running.stop().await.requests, 0);
    }
}

#[tokio::test]
async fn a_stop_cuts_a_requested_delay_short() {
    let backend = Backend::start().await;
    backend.answer(once(Verdict::Http(503, vec![("retry-after", "300".to_owned())], Vec::new())));
    let running = start(&yaml(&[("otlp_http", &backend.http(""))])).await;
    Sender::http(&running).traces(&spans("a", 1)).await;
    until("the pause", || retries(&running, "otlp_http") == 1).await;
    assert_eq!(running.stop().await.requests, 0);
    assert_eq!(backend.ledger().len(), 1);
}

#[tokio::test]
async fn partial_success_is_final() {
    // ExportTraceServiceResponse { partial_success { rejected_spans: 3 error_message: "no" } }
    let message = vec![0x0a, 6, 8, 3, 0x12, 2, b'n', b'o'];
    for grpc in [true, false] {
        let backend = Backend::start().await;
        let answer = message.clone();
        backend.answer(move |_| Verdict::Message(answer.clone()));
        let exporter = if grpc { ("otlp_grpc", backend.grpc("")) } else { ("otlp_http", backend.http("")) };
        let running = start(&yaml(&[(exporter.0, &exporter.1)])).await;
        Sender::http(&running).traces(&spans("a", 10)).await;
        let wanted = format!("otelcol_exporter_send_failed_spans{{exporter=\"{}\"}} 3\n", exporter.0);
        until("the count", || running.metrics().render().unwrap().contains(&wanted)).await;
        let sent = format!("otelcol_exporter_sent_spans{{exporter=\"{}\"}} 7\n", exporter.0);
        assert!(running.metrics().render().unwrap().contains(&sent));
        running.stop().await;
        assert_eq!(backend.attempts().len(), 1);
    }
}

#[tokio::test]
async fn batches_join_requests_and_one_bad_request_does_not_spoil_them() {
    let backend = Backend::start().await;
    backend.answer(|received| match received.names().iter().any(|name| name.starts_with("bad")) {
        true => Verdict::Http(400, Vec::new(), Vec::new()),
        false => Verdict::Take,
    });
    let queue = "sending_queue: { batch: { min_size: 100, max_size: 100, flush_timeout: 10s } }";
    let running = start(&yaml(&[("otlp_http", &backend.http(queue))])).await;
    let sender = Sender::http(&running);
    for request in 0..10 {
        let name = if request == 3 { "bad".to_owned() } else { format!("r{request}") };
        assert_eq!(sender.traces(&spans(&name, 10)).await.status.as_u16(), 200);
    }
    until("delivery", || backend.ledger().len() == 90).await;
    let failed = "otelcol_exporter_send_failed_spans{exporter=\"otlp_http\"} 10\n";
    until("the count", || running.metrics().render().unwrap().contains(failed)).await;
    let attempts = backend.attempts();
    assert_eq!(attempts[0].names().len(), 100);
    running.stop().await;
    assert!(backend.ledger().values().all(|count| *count == 1));
}

#[tokio::test]
async fn the_batch_processor_is_mapped_and_its_timeout_flushes() {
    let backend = Backend::start().await;
    let text = yaml(&[("otlp_http", &backend.http(""))])
        .replace("receivers: [otlp], exporters", "receivers: [otlp], processors: [batch], exporters")
        + "processors: { batch: { send_batch_size: 1000, timeout: 2s } }\n";
    let running = start(&text).await;
    let sender = Sender::http(&running);
    let sent = Instant::now();
    for request in 0..3 {
        sender.traces(&spans(&format!("r{request}"), 1)).await;
    }
    until("delivery", || backend.ledger().len() == 3).await;
    let [batch] = &backend.attempts()[..] else { panic!("not one batch") };
    assert!(batch.at - sent >= Duration::from_secs(2), "{:?}", batch.at - sent);
    running.stop().await;
}

#[tokio::test]
async fn a_stop_delivers_what_is_queued() {
    let backend = Backend::start().await;
    let queue = "sending_queue: { num_consumers: 2, batch: { min_size: 100000, flush_timeout: 1h } }";
    let running = start(&yaml(&[("otlp_grpc", &backend.grpc(queue))])).await;
    let sender = Sender::grpc(&running);
    for request in 0..50 {
        assert_eq!(sender.call(TRACES, &spans(&format!("r{request}"), 10)).await.grpc(), 0);
    }
    assert!(backend.ledger().is_empty());
    let left = running.stop().await;
    assert_eq!((left.requests, backend.ledger().len()), (0, 500));
}

#[tokio::test]
async fn a_stop_finishes_requests_in_flight_and_says_so_on_the_health_port() {
    let backend = Backend::start().await;
    backend.stop();
    let queue = "sending_queue: { queue_size: 1, block_for: 5s }";
    let text = yaml(&[("otlp_http", &backend.http(queue))])
        .replace("in_flight_timeout: 2s, flush_timeout: 10s", "in_flight_timeout: 15s, flush_timeout: 100ms");
    let running = start(&text).await;
    let sender = Sender::grpc(&running);
    let health = Sender::new(running.address("health").unwrap(), false);
    assert_eq!(health.send("GET", "/health/ready", &[], b"").await.status.as_u16(), 200);
    assert_eq!(sender.call(TRACES, &spans("a", 1)).await.grpc(), 0);
    let sent = Instant::now();
    let waiting = sender.call_that_waits(spans("b", 1)).await;
    let metrics = Sender::new(running.address("metrics").unwrap(), false);
    let stopping = tokio::spawn(running.stop());
    let unready = async {
        loop {
            let answer = health.send("GET", "/health/ready", &[], b"").await;
            if answer.status.as_u16() == 503 {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), unready).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.body).contains("the collector is stopping"));
    assert_eq!(health.send("GET", "/health/live", &[], b"").await.status.as_u16(), 200);
    assert_eq!(metrics.send("GET", "/metrics", &[], b"").await.status.as_u16(), 200);
    let left = stopping.await.unwrap();
    // It was in flight when the drain began; the stop has waited for its answer, which has come only now.
    assert!(sent.elapsed() >= Duration::from_secs(5), "{:?}", sent.elapsed());
    until("the answer", || waiting.is_finished()).await;
    assert_eq!(waiting.await.unwrap(), 14);
    assert_eq!((left.requests, left.items), (1, 1));
}

#[tokio::test]
async fn the_file_has_one_request_a_line_and_errors_are_retried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not-yet").join("out.jsonl");
    let exporter = format!(
        "{{ path: \"{}\", retry_on_failure: {{ initial_interval: 10ms, max_interval: 20ms }} }}",
        path.display()
    );
    let running = start(&yaml(&[("file", &exporter)])).await;
    let sender = Sender::http(&running);
    assert_eq!(sender.traces(&spans("a", 2)).await.status.as_u16(), 200);
    until("a failed attempt", || retries(&running, "file") > 0).await;
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    sender.traces(&spans("b", 1)).await;
    assert_eq!(running.stop().await.requests, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a-0"},{"name":"a-1"}]}]}]}"#,
            r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"b-0"}]}]}]}"#,
        ]
    );
}

#[tokio::test]
async fn json_goes_out_as_json() {
    let backend = Backend::start().await;
    let running =
        start(&yaml(&[("otlphttp", &backend.http("encoding: json, headers: { x-key: secret }"))])).await;
    Sender::http(&running).traces(&spans("a", 1)).await;
    until("delivery", || !backend.taken().is_empty()).await;
    let taken = &backend.taken()[0];
    assert_eq!(taken.payload, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a-0"}]}]}]}"#);
    assert_eq!(
        (taken.path.as_str(), &taken.headers["x-key"]),
        ("/v1/traces", &http::HeaderValue::from_static("secret"))
    );
    assert_eq!(taken.headers["content-encoding"], "gzip");
    running.stop().await;
}

#[tokio::test]
async fn a_destination_that_never_answers_is_given_up_and_tried_again() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exporter = format!(
        "{{ endpoint: \"{}\", timeout: 50ms, retry_on_failure: {{ initial_interval: 1ms, max_interval: 1ms }} }}",
        hole.local_addr().unwrap()
    );
    let text = yaml(&[("otlp_grpc", &exporter)]).replace("flush_timeout: 10s", "flush_timeout: 0s");
    let running = start(&text).await;
    Sender::http(&running).traces(&spans("a", 1)).await;
    until("three attempts", || retries(&running, "otlp_grpc") >= 3).await;
    assert_eq!(running.stop().await.items, 1);
}

#[tokio::test]
async fn a_connection_that_hangs_does_not_keep_the_queue_from_being_delivered() {
    use tokio::io::AsyncWriteExt;
    let backend = Backend::start().await;
    let queue = "sending_queue: { batch: { min_size: 100000, flush_timeout: 1h } }";
    let text = yaml(&[("otlp_grpc", &backend.grpc(queue))])
        .replace("in_flight_timeout: 2s", "in_flight_timeout: 200ms");
    let running = start(&text).await;
    let mut stream = tokio::net::TcpStream::connect(running.address("otlp_http").unwrap()).await.unwrap();
    let half = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{";
    stream.write_all(half.as_bytes()).await.unwrap();
    assert_eq!(Sender::grpc(&running).call(TRACES, &spans("a", 5)).await.grpc(), 0);
    assert_eq!(running.stop().await.requests, 0);
    assert_eq!(backend.ledger().len(), 5);
}
