//! A destination that goes away and comes back: senders are refused, nothing that was accepted is missing.

use std::collections::BTreeSet;

use crate::support::{Backend, Sender, TRACES, spans, start, until, yaml};

const SMALL: &str = "sending_queue: { queue_size: 4, block_for: 30ms }";

#[tokio::test]
async fn a_full_queue_refuses_and_recovers_without_loss() {
    let mut backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_http", &backend.http(SMALL))])).await;
    let (http, grpc) = (Sender::http(&running), Sender::grpc(&running));
    let mut accepted = BTreeSet::new();
    let mut refused = 0;
    backend.stop();
    for request in 0..20 {
        let name = format!("r{request}");
        let answer = if request % 2 == 0 {
            let answer = http.traces(&spans(&name, 5)).await;
            if answer.status.as_u16() == 503 {
                assert_eq!(answer.header("retry-after"), "1");
            }
            answer.status.as_u16() == 200
        } else {
            match grpc.call(TRACES, &spans(&name, 5)).await.grpc() {
                0 => true,
                code => {
                    assert_eq!(code, 14);
                    false
                }
            }
        };
        if answer {
            accepted.extend((0..5).map(|index| format!("{name}-{index}")));
        } else {
            refused += 1;
        }
    }
    assert_eq!((accepted.len(), refused), (20, 16));
    let metrics = running.metrics().render().unwrap();
    for line in [
        "otelcol_exporter_queue_size{exporter=\"otlp_http\"} 4\n",
        "otelcol_exporter_queue_capacity{exporter=\"otlp_http\"} 4\n",
        "outrigger_exporter_queue_items{exporter=\"otlp_http\"} 20\n",
        "otelcol_receiver_refused_spans{receiver=\"otlp\",transport=\"http\"} 40\n",
    ] {
        assert!(metrics.contains(line), "{line} not in {metrics}");
    }
    // A destination that is down does not make the collector unready.
    let health = Sender::new(running.address("health").unwrap(), false);
    let ready = health.send("GET", "/health/ready", &[], b"").await;
    assert_eq!(ready.status.as_u16(), 200);
    assert!(String::from_utf8_lossy(&ready.body).contains("\"queue_size\":4"), "{ready:?}");

    backend.restart().await;
    until("recovery", || backend.ledger().len() == accepted.len()).await;
    assert_eq!(http.traces(&spans("after", 1)).await.status.as_u16(), 200);
    accepted.insert("after-0".to_owned());
    until("delivery", || backend.ledger().len() == accepted.len()).await;
    assert_eq!(backend.ledger().into_keys().collect::<BTreeSet<_>>(), accepted);
    assert_eq!(running.stop().await.requests, 0);
}

#[tokio::test]
async fn a_sender_waits_a_moment_for_room() {
    let mut backend = Backend::start().await;
    let queue = "sending_queue: { queue_size: 1, block_for: 15s }";
    let running = start(&yaml(&[("otlp_http", &backend.http(queue))])).await;
    let sender = Sender::http(&running);
    backend.stop();
    assert_eq!(sender.traces(&spans("a", 1)).await.status.as_u16(), 200);
    let waiting = tokio::spawn(async move { sender.traces(&spans("b", 1)).await.status.as_u16() });
    backend.restart().await;
    assert_eq!(waiting.await.unwrap(), 200);
    until("delivery", || backend.ledger().len() == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_queue_is_bounded_in_bytes_too() {
    let backend = Backend::start().await;
    backend.stop();
    let queue = "sending_queue: { sizer: bytes, queue_size: 10240, block_for: 0s }";
    let running = start(
        &yaml(&[("otlp_http", &backend.http(queue))]).replace("flush_timeout: 10s", "flush_timeout: 0s"),
    )
    .await;
    let sender = Sender::http(&running);
    // Larger than the whole queue, but the queue is empty.
    assert_eq!(sender.traces(&spans("large", 2000)).await.status.as_u16(), 200);
    assert_eq!(sender.traces(&spans("small", 1)).await.status.as_u16(), 503);
    let left = running.stop().await;
    assert_eq!((left.requests, left.items), (1, 2000));
}

#[tokio::test]
async fn admission_is_all_or_nothing() {
    let (open, mut shut) = (Backend::start().await, Backend::start().await);
    shut.stop();
    let exporters = [("otlp_http/open", open.http("")), ("otlp_http/shut", shut.http(SMALL))];
    let exporters = exporters.each_ref().map(|(name, body)| (*name, body.as_str()));
    let running = start(&yaml(&exporters)).await;
    let sender = Sender::http(&running);
    let mut accepted = BTreeSet::new();
    for request in 0..10 {
        if sender.traces(&spans(&format!("r{request}"), 1)).await.status.as_u16() == 200 {
            accepted.insert(format!("r{request}-0"));
        }
    }
    assert_eq!(accepted.len(), 4);
    // The open one has every accepted request, though the other has none; and nothing that was refused.
    until("delivery", || open.ledger().len() == 4).await;
    shut.restart().await;
    until("recovery", || shut.ledger().len() == 4).await;
    assert_eq!(running.stop().await.requests, 0);
    for backend in [open, shut] {
        assert_eq!(
            backend.ledger().into_iter().collect::<Vec<_>>(),
            accepted.iter().map(|name| (name.clone(), 1)).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn memory_is_bounded_over_all_requests() {
    let backend = Backend::start().await;
    backend.stop();
    let text = yaml(&[("otlp_http", &backend.http(""))])
        .replace("receivers: [otlp], exporters", "receivers: [otlp], processors: [memory_limiter], exporters")
        .replace("flush_timeout: 10s", "flush_timeout: 0s")
        + "processors: { memory_limiter: { limit_mib: 2, spike_limit_mib: 1 } }\n";
    let running = start(&text).await;
    let sender = Sender::http(&running);
    let request = spans("x", 60_000);
    assert!(request.len() > 1 << 19, "{}", request.len());
    assert_eq!(sender.traces(&request).await.status.as_u16(), 200);
    let answer = sender.traces(&request).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_nothing_that_was_acknowledged() {
    let backend = Backend::start().await;
    let running =
        start(&yaml(&[("otlp_grpc", &backend.grpc("sending_queue: { batch: { min_size: 500 } }"))])).await;
    let address = running.address("otlp_http").unwrap();
    let senders: Vec<_> = (0..8)
        .map(|worker| {
            let sender = Sender::new(address, worker % 2 == 0);
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                for request in 0.. {
                    let name = format!("w{worker}r{request}");
                    match sender.try_traces(&spans(&name, 1)).await {
                        Some(status) if status.as_u16() == 200 => accepted.push(format!("{name}-0")),
                        Some(status) => assert_eq!(status.as_u16(), 503),
                        None => break,
                    }
                }
                accepted
            })
        })
        .collect();
    until("load", || backend.ledger().len() > 500).await;
    assert_eq!(running.stop().await.requests, 0);
    let mut accepted = BTreeSet::new();
    for sender in senders {
        accepted.extend(sender.await.unwrap());
    }
    let ledger = backend.ledger();
    let missing: Vec<_> = accepted.iter().filter(|name| !ledger.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(accepted.len() > 500);
}

#[tokio::test]
async fn a_request_that_waits_when_the_stop_begins_is_still_taken() {
    let mut backend = Backend::start().await;
    let queue = "sending_queue: { queue_size: 1, block_for: 15s }";
    let text = yaml(&[("otlp_http", &backend.http(queue))])
        .replace("in_flight_timeout: 2s", "in_flight_timeout: 15s");
    let running = start(&text).await;
    let sender = Sender::grpc(&running);
    let health = Sender::new(running.address("health").unwrap(), false);
    backend.stop();
    assert_eq!(sender.call(TRACES, &spans("a", 1)).await.grpc(), 0);
    let waiting = sender.call_that_waits(spans("b", 1)).await;
    let stopping = tokio::spawn(running.stop());
    while health.send("GET", "/health/ready", &[], b"").await.status.as_u16() == 200 {}
    backend.restart().await;
    assert_eq!(waiting.await.unwrap(), 0);
    assert_eq!(stopping.await.unwrap().requests, 0);
    assert_eq!(backend.ledger().len(), 2);
}
