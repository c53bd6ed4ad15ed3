//! Telemetry that leaves by OTLP: what a receiver gets, and what becomes of requests when there is none.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::{metrics::v1::metric::Data, trace::v1::Span};
use outrigger::{
    app::DrainTimes,
    export::{Batching, MetricInterval, Otel, Temporality},
    telemetry::Bounds,
};
use outrigger_config::snapshot::{Destination, OtlpProtocol, TelemetryDefaults};
use prost::Message;

use crate::support::{
    mesh::{Mesh, Proxy},
    origin::{Gate, Origin, Reply, Seen},
    ports::reserved_address,
    wait::{eventually, until},
};

/// Everything is sampled, and reported to the service `otel` of the mesh.
const PROVIDER: &str = "defaultConfig: { tracing: { sampling: 100 } }\nextensionProviders:\n\
    - name: otel\n  opentelemetry: { service: otel.default.svc.cluster.local, port: 9090 }\n\
    defaultProviders: { tracing: [otel] }";

/// Batches leave soon, so that tests need not wait.
fn soon(defaults: TelemetryDefaults) -> Otel {
    let batching = Batching { delay: Duration::from_millis(10), ..Batching::default() };
    let interval = MetricInterval(Duration::from_millis(20));
    Otel { defaults, spans: batching, records: batching, interval, ..Otel::default() }
}

fn to(address: SocketAddr, protocol: OtlpProtocol) -> Destination {
    Destination {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT".into(),
        host: address.ip().to_string().into(),
        port: address.port(),
        tls: None,
        cluster: None,
        protocol,
        headers: http::HeaderMap::new(),
        timeout: Duration::from_secs(10),
        gzip: false,
        semantic_service_name: false,
    }
}

/// Spans, all of them sampled.
fn traces(destination: Destination) -> TelemetryDefaults {
    TelemetryDefaults { traces: Some(destination), sampling: Some(10_000), ..TelemetryDefaults::default() }
}

async fn receiver() -> Origin {
    Origin::h2c(|_| Reply::grpc_status(0)).await
}

/// The message behind gRPC's prefix.
fn message<M: Message + Default>(seen: &Seen) -> M {
    M::decode(&seen.body[5..]).unwrap()
}

fn spans_of(request: ExportTraceServiceRequest) -> Vec<Span> {
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn spans(receiver: &Origin) -> Vec<Span> {
    receiver.requests().iter().flat_map(|seen| spans_of(message(seen))).collect()
}

async fn get(proxy: &Proxy, times: usize) {
    for _ in 0..times {
        assert_eq!(proxy.get("web", "/").await.status, 200);
    }
}

/// Waits until nothing is queued, then yields (produced, exported, dropped) of a signal.
async fn settled(proxy: &Proxy, signal: &str, produced: f64) -> (f64, f64) {
    let label = format!("signal=\"{signal}\"");
    proxy.metric("outrigger_otlp_produced", &[&label], produced).await;
    proxy.metric("outrigger_otlp_queued", &[&label], 0.0).await;
    let exported = proxy.sum("outrigger_otlp_exported", &[&label]).await;
    let dropped = proxy.sum("outrigger_otlp_dropped", &[&label]).await;
    assert_eq!(exported + dropped, produced, "every one is accounted for");
    (exported, dropped)
}

#[tokio::test]
async fn each_sampled_request_is_one_span_at_the_provider_through_its_cluster() {
    let (web, otel) = (Origin::named("web").await, receiver().await);
    let mesh = Mesh::web(&web).grpc("otel", &[(otel.address(), "v1")]).settings(PROVIDER);
    let proxy = mesh.otel(soon(TelemetryDefaults::default())).start().await;
    get(&proxy, 20).await;
    assert_eq!(settled(&proxy, "traces", 20.0).await, (20.0, 0.0));
    let spans = spans(&otel);
    let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!((spans.len(), ids.len()), (20, 20), "none twice, none of the exports themselves");
    let sent = web.requests();
    for seen in sent {
        let parent = seen.header("traceparent").unwrap();
        let span = &parent[36..52];
        assert!(
            ids.iter().any(|id| u64::from_str_radix(span, 16).unwrap().to_be_bytes()[..] == id[..]),
            "{parent}"
        );
    }
    let operation = "web.default.svc.cluster.local:8080/*";
    assert!(spans.iter().all(|span| span.name == operation), "{:?}", spans[0].name);
    assert_eq!(web.requests()[0].header("x-envoy-decorator-operation"), Some(operation));
    let seen = &otel.requests()[0];
    assert_eq!(seen.target, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(seen.header("host"), Some("otel.default.svc.cluster.local:9090"));
    let requests = otel.hits().to_string();
    let cluster = "outbound|9090||otel.default.svc.cluster.local";
    assert_eq!(proxy.cluster(cluster, Some(otel.address()), "rq_success").await, Some(requests));
    let labels = ["destination_service_name=\"otel\""];
    assert_eq!(proxy.sum("istio_requests", &labels).await, 0.0, "exports are no requests of the workload");
}

#[tokio::test]
async fn the_callers_decision_is_kept() {
    let (web, otel) = (Origin::named("web").await, receiver().await);
    let defaults = traces(to(otel.address(), OtlpProtocol::Grpc));
    let proxy = Mesh::web(&web).otel(soon(defaults)).start().await;
    let trace = "463ac35c9f6413ad48485a3953bb6124";
    for sampled in ["0", "1"] {
        let b3 = format!("{trace}-a2fb4a1d1a96d312-{sampled}");
        assert_eq!(proxy.get_with("web", "/", &[("b3", &b3)]).await.status, 200);
    }
    assert_eq!(settled(&proxy, "traces", 1.0).await, (1.0, 0.0));
    let [span] = &spans(&otel)[..] else { panic!("one of two is sampled") };
    assert_eq!(span.trace_id, u128::from_str_radix(trace, 16).unwrap().to_be_bytes());
    assert_eq!(span.parent_span_id, 0xa2fb_4a1d_1a96_d312_u64.to_be_bytes());
}

#[tokio::test]
async fn the_called_side_may_say_what_the_span_is_called() {
    let web = Origin::http1(|_| Reply::text("web").header("x-envoy-decorator-operation", "told")).await;
    let otel = receiver().await;
    let proxy = Mesh::web(&web).otel(soon(traces(to(otel.address(), OtlpProtocol::Grpc)))).start().await;
    let answer = proxy.get("web", "/").await;
    assert_eq!(answer.header("x-envoy-decorator-operation"), None, "it ends here");
    assert_eq!(settled(&proxy, "traces", 1.0).await, (1.0, 0.0));
    assert_eq!(spans(&otel)[0].name, "told");
}

#[tokio::test]
async fn an_endpoint_of_the_environment_takes_all_signals_over_http() {
    let (web, otel) = (Origin::named("web").await, Origin::http1(|_| Reply::status(200)).await);
    let http = |path| {
        Some(to(otel.address(), OtlpProtocol::Http { path: http::uri::PathAndQuery::from_static(path) }))
    };
    let defaults = TelemetryDefaults {
        traces: http("/v1/traces"),
        logs: http("/v1/logs"),
        metrics: http("/v1/metrics"),
        sampling: Some(10_000),
        ..TelemetryDefaults::default()
    };
    let proxy = Mesh::web(&web).otel(soon(defaults)).start().await;
    get(&proxy, 5).await;
    assert_eq!(settled(&proxy, "traces", 5.0).await, (5.0, 0.0));
    assert_eq!(settled(&proxy, "logs", 5.0).await, (5.0, 0.0));
    let at = |path: &str| otel.requests().into_iter().filter(|seen| seen.target == path).collect::<Vec<_>>();
    let traced =
        at("/v1/traces").into_iter().map(|seen| ExportTraceServiceRequest::decode(&*seen.body).unwrap());
    assert_eq!(traced.flat_map(spans_of).count(), 5);
    let logged =
        at("/v1/logs").into_iter().map(|seen| ExportLogsServiceRequest::decode(&*seen.body).unwrap());
    let scopes = logged.flat_map(|request| request.resource_logs).flat_map(|resource| resource.scope_logs);
    let records: Vec<_> = scopes.flat_map(|scope| scope.log_records).collect();
    assert_eq!(records.len(), 5);
    assert!(records.iter().all(|record| record.trace_id.len() == 16 && record.span_id.len() == 8));
    eventually("the requests as a metric", async || {
        let pushed = at("/v1/metrics");
        let requests = pushed.iter().map(|seen| ExportMetricsServiceRequest::decode(&*seen.body).unwrap());
        requests.map(total_requests).find(|total| *total == 5)
    })
    .await;
    assert_eq!(at("/v1/traces")[0].header("content-type"), Some("application/x-protobuf"));
}

fn total_requests(request: ExportMetricsServiceRequest) -> i64 {
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    let metrics =
        scopes.flat_map(|scope| scope.metrics).filter(|metric| metric.name == "istio_requests_total");
    let sums = metrics.filter_map(|metric| match metric.data {
        Some(Data::Sum(sum)) => Some(sum.data_points),
        _ => None,
    });
    sums.flatten().map(|point| if let Some(Value::AsInt(count)) = point.value { count } else { 0 }).sum()
}

#[tokio::test]
async fn deltas_add_up_to_what_happened() {
    let (web, otel) = (Origin::named("web").await, receiver().await);
    let defaults = TelemetryDefaults {
        metrics: Some(to(otel.address(), OtlpProtocol::Grpc)),
        ..TelemetryDefaults::default()
    };
    let otel_settings = Otel { temporality: Temporality::Delta, ..soon(defaults) };
    let proxy = Mesh::web(&web).otel(otel_settings).start().await;
    for round in 1..=3_i64 {
        get(&proxy, 4).await;
        until("the deltas of the round", || {
            let told: i64 = otel.requests().iter().map(|seen| total_requests(message(seen))).sum();
            assert!(told <= round * 4, "{told} told of {}", round * 4);
            (told == round * 4).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_receiver_cannot_take_now_is_sent_again_and_counts_once() {
    let web = Origin::named("web").await;
    let otel = {
        let answers = std::sync::atomic::AtomicUsize::new(0);
        Origin::h2c(move |_| match answers.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Reply::grpc_status(14),
            1 => Reply::status(503),
            _ => Reply::grpc_status(0),
        })
        .await
    };
    let proxy = Mesh::web(&web).otel(soon(traces(to(otel.address(), OtlpProtocol::Grpc)))).start().await;
    get(&proxy, 1).await;
    assert_eq!(settled(&proxy, "traces", 1.0).await, (1.0, 0.0));
    let bodies: BTreeSet<_> = otel.requests().into_iter().map(|seen| seen.body).collect();
    assert_eq!((otel.hits(), bodies.len()), (3, 1), "the same message");
}

#[tokio::test]
async fn what_a_receiver_refuses_for_good_is_lost_and_said_so() {
    let web = Origin::named("web").await;
    for (reply, rejected) in [
        (Reply::grpc_status(3), 4.0),
        // Partial success: field 1 { rejected 1: 3 }, behind gRPC's prefix.
        (
            Reply::status(200)
                .header("content-type", "application/grpc")
                .then(crate::support::origin::Step::Data(vec![0, 0, 0, 0, 4, 0x0a, 0x02, 0x08, 0x03]))
                .then(crate::support::origin::Step::Trailers(vec![("grpc-status", "0".to_owned())])),
            3.0,
        ),
    ] {
        let otel = Origin::h2c(move |_| reply.clone()).await;
        let bounds = Bounds { batch: 4, ..Bounds::default() };
        // Four spans, one batch.
        let settings = Otel {
            spans: Batching { bounds, delay: Duration::from_secs(60) },
            ..soon(traces(to(otel.address(), OtlpProtocol::Grpc)))
        };
        let proxy = Mesh::web(&web).otel(settings).start().await;
        get(&proxy, 4).await;
        assert_eq!(settled(&proxy, "traces", 4.0).await, (4.0 - rejected, rejected));
        let labels = ["signal=\"traces\"", "reason=\"rejected\""];
        assert_eq!(proxy.sum("outrigger_otlp_dropped", &labels).await, rejected);
        assert_eq!(otel.hits(), 1, "not tried again");
    }
}

#[tokio::test]
async fn a_receiver_that_is_not_there_costs_spans_and_no_request() {
    let web = Origin::named("web").await;
    // A name with so long a part is refused before any name server is asked, which may take longer than this test.
    let unknown = format!("{}.invalid", "a".repeat(64));
    for (host, address) in [("127.0.0.1", reserved_address()), (&*unknown, "127.0.0.1:4317".parse().unwrap())]
    {
        let destination = Destination {
            host: host.into(),
            timeout: Duration::from_millis(300),
            ..to(address, OtlpProtocol::Grpc)
        };
        let proxy = Mesh::web(&web).otel(soon(traces(destination))).start().await;
        get(&proxy, 10).await;
        assert_eq!(settled(&proxy, "traces", 10.0).await, (0.0, 10.0));
        let labels = ["signal=\"traces\"", "reason=\"unavailable\""];
        assert_eq!(proxy.sum("outrigger_otlp_dropped", &labels).await, 10.0);
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_fills_the_queue_and_no_more() {
    let web = Origin::named("web").await;
    let gate = Gate::new();
    let opened = gate.clone();
    let otel = Origin::h2c(move |_| Reply::after(&opened).and(Reply::grpc_status(0))).await;
    let bounds = Bounds { items: 8, batch: 4, ..Bounds::default() };
    let settings = Otel {
        spans: Batching { bounds, delay: Duration::from_millis(1) },
        ..soon(traces(to(otel.address(), OtlpProtocol::Grpc)))
    };
    let proxy = Mesh::web(&web).otel(settings).start().await;
    get(&proxy, 1).await;
    until("an export that hangs", || (otel.hits() == 1).then_some(())).await;
    get(&proxy, 30).await;
    let label = "signal=\"traces\"";
    proxy.metric("outrigger_otlp_produced", &[label], 31.0).await;
    proxy.metric("outrigger_otlp_dropped", &[label, "reason=\"queue_full\""], 22.0).await;
    assert_eq!(proxy.sum("outrigger_otlp_queued", &[label]).await, 9.0, "eight wait, one is on its way");
    gate.open();
    assert_eq!(settled(&proxy, "traces", 31.0).await, (9.0, 22.0));
    assert_eq!(spans(&otel).len(), 9);
}

#[tokio::test]
async fn a_receiver_that_hangs_is_blamed_as_any_endpoint_is() {
    let (web, otel) = (Origin::named("web").await, Origin::h2c(|_| Reply::never()).await);
    let provider = PROVIDER.replace("port: 9090 }", "port: 9090, grpc: { timeout: 200ms } }");
    let mesh = Mesh::web(&web).grpc("otel", &[(otel.address(), "v1")]).settings(&provider);
    let proxy = mesh.otel(soon(TelemetryDefaults::default())).start().await;
    get(&proxy, 1).await;
    assert_eq!(settled(&proxy, "traces", 1.0).await, (0.0, 1.0));
    let cluster = "outbound|9090||otel.default.svc.cluster.local";
    assert_eq!(proxy.cluster(cluster, Some(otel.address()), "rq_timeout").await, Some("1".to_owned()));
}

#[tokio::test]
async fn what_is_queued_at_the_end_is_exported_first() {
    for by_agent in [false, true] {
        let (web, otel) = (Origin::named("web").await, receiver().await);
        let bounds = Bounds::default();
        let settings = Otel {
            spans: Batching { bounds, delay: Duration::from_secs(3600) },
            ..soon(traces(to(otel.address(), OtlpProtocol::Grpc)))
        };
        let drain = DrainTimes { announce: Duration::ZERO, ..DrainTimes::default() };
        let proxy = Mesh::web(&web).otel(settings).drain(drain).start().await;
        get(&proxy, 7).await;
        proxy.metric("outrigger_otlp_queued", &["signal=\"traces\""], 7.0).await;
        if by_agent {
            assert_eq!(proxy.agent("POST", "/quitquitquit").await.status, 200);
        } else {
            proxy.shut_down();
        }
        proxy.ended().await;
        assert_eq!(spans(&otel).len(), 7);
    }
}

#[tokio::test]
async fn a_compressed_export_says_so() {
    let (web, otel) = (Origin::named("web").await, receiver().await);
    let destination = Destination { gzip: true, ..to(otel.address(), OtlpProtocol::Grpc) };
    let proxy = Mesh::web(&web).otel(soon(traces(destination))).start().await;
    get(&proxy, 1).await;
    assert_eq!(settled(&proxy, "traces", 1.0).await, (1.0, 0.0));
    let seen = otel.only();
    assert_eq!((seen.header("grpc-encoding"), seen.body[0]), (Some("gzip"), 1));
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&seen.body[5..]), &mut plain).unwrap();
    assert_eq!(spans_of(ExportTraceServiceRequest::decode(&*plain).unwrap()).len(), 1);
}
