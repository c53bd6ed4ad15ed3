//! Spans, log records and points as an OTLP receiver decodes them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Version};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value as Any},
    logs::v1::LogRecord,
    metrics::v1::{ScopeMetrics, metric::Data, number_data_point},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use outrigger_config::{
    format::Format,
    snapshot::{
        AccessLog, CustomTag, Destination, Direction, LogEncoding, LogSink, OtlpProtocol, Snapshot, TagValue,
        Tracing,
    },
};
use prost::Message;

use super::{
    Bounds, Details, Flag, Loss, Metrics, Outbox, Record, Resource, SpanContext, Target, Temporal,
    tests::{Bench, cluster, grpc_call, headers, snapshot},
};

const TRACE: u128 = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124;
const SPAN: u64 = 0xa2fb_4a1d_1a96_d312;

fn destination() -> Arc<Destination> {
    Arc::new(Destination {
        name: "otel".into(),
        host: "collector".into(),
        port: 4317,
        tls: None,
        cluster: None,
        protocol: OtlpProtocol::Grpc,
        headers: http::HeaderMap::new(),
        timeout: Duration::from_secs(1),
        gzip: false,
        semantic_service_name: false,
    })
}

fn target() -> Arc<Target> {
    Arc::new(Target::new(&snapshot(None), &destination(), &Resource::default(), None))
}

fn traced(settings: impl FnOnce(&mut Tracing)) -> Bench {
    let mut snapshot = snapshot(None);
    let mut tracing = Tracing { report: Some(destination()), ..Tracing::default() };
    settings(&mut tracing);
    snapshot.outbound.tracing = tracing.clone();
    snapshot.inbound.tracing = tracing;
    bench(snapshot)
}

fn bench(snapshot: Snapshot) -> Bench {
    Bench::of(snapshot, tempfile::tempdir().unwrap())
}

fn sampled(sampled: bool) -> Option<SpanContext> {
    Some(SpanContext { trace_id: TRACE, span_id: SPAN, parent_id: Some(7), sampled })
}

/// A plain request of the outbound side that went well.
fn request(bench: &Bench, direction: Direction) -> Record {
    let mut record = bench.shard.begin(&bench.snapshot, direction);
    record.span = sampled(true);
    record.method = Some(Method::GET);
    record.path = Some("/x/y?z=1".parse().unwrap());
    record.version = Some(Version::HTTP_11);
    record.authority = Some(HeaderValue::from_static("otlp:4317"));
    record.status = 200;
    record.body_received = 3;
    record.body_sent = 1024;
    record.downstream_remote = Some("127.0.0.9:50000".parse().unwrap());
    record.cluster = Some(cluster());
    record.endpoint = Some(Arc::clone(&cluster().endpoints[0]));
    let lines = headers(&[("user-agent", b"curl/8"), ("x-request-id", b"id-1"), ("x-tenant", b"a\xff")]);
    bench.shard.capture_request(&mut record, &lines);
    record
}

fn spans(bench: &mut Bench) -> Vec<Span> {
    let mut spans = Vec::new();
    while let Some((_, items)) = bench.spans.take() {
        spans.extend(items.iter().map(|item| Span::decode(&*item.bytes).unwrap()));
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &KeyValue| match value.value.as_ref().unwrap().value.as_ref().unwrap() {
        Any::StringValue(text) => text.clone(),
        Any::IntValue(number) => format!("#{number}"),
        other => panic!("{other:?}"),
    };
    let map: BTreeMap<_, _> = attributes.iter().map(|pair| (pair.key.as_str(), text(pair))).collect();
    assert_eq!(map.len(), attributes.len(), "no key twice: {attributes:?}");
    map
}

#[tokio::test(start_paused = true)]
async fn a_span_has_envoys_and_istios_tags_beside_the_conventions() {
    let mut bench = traced(|_| {});
    let record = request(&bench, Direction::Outbound);
    let started = record.started;
    tokio::time::advance(Duration::from_millis(7)).await;
    bench.shard.emit(record);
    let [span] = &spans(&mut bench)[..] else { panic!() };
    assert_eq!(span.trace_id, TRACE.to_be_bytes());
    assert_eq!((&*span.span_id, &*span.parent_span_id), (&SPAN.to_be_bytes()[..], &7_u64.to_be_bytes()[..]));
    assert_eq!((span.name.as_str(), span.kind()), ("otlp:4317", SpanKind::Client));
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 7_000_000);
    let start = started.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(u128::from(span.start_time_unix_nano), start.as_nanos());
    assert_eq!((span.flags, span.status.as_ref()), (0x301, None));
    let expected = [
        ("component", "proxy"),
        ("downstream_cluster", "-"),
        ("guid:x-request-id", "id-1"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.request.method", "GET"),
        ("http.response.status_code", "#200"),
        ("http.status_code", "200"),
        ("http.url", "http://otlp:4317/x/y?z=1"),
        ("istio.canonical_revision", "latest"),
        ("istio.canonical_service", "cart"),
        ("istio.cluster_id", "Kubernetes"),
        ("istio.mesh_id", "unknown"),
        ("istio.namespace", "shop"),
        ("network.protocol.version", "1.1"),
        ("node_id", "sidecar~~cart-1.shop~shop.svc.cluster.local"),
        ("peer.address", "127.0.0.9"),
        ("request_size", "3"),
        ("response_flags", "-"),
        ("response_size", "1024"),
        ("server.address", "otlp"),
        ("server.port", "#4317"),
        ("upstream_address", "10.0.0.7:14317"),
        ("upstream_cluster", "outbound|4317|v1|otlp.obs.svc.cluster.local"),
        ("upstream_cluster.name", "outbound|4317|v1|otlp.obs.svc.cluster.local"),
        ("url.full", "http://otlp:4317/x/y?z=1"),
        ("user_agent", "curl/8"),
    ];
    let attributes = texts(&span.attributes);
    let found: Vec<_> = attributes.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_inbound_request_is_a_server_span_and_a_failure_an_error() {
    let mut bench = traced(|_| {});
    let mut failed = request(&bench, Direction::Inbound);
    failed.status = 503;
    failed.flags.raise(Flag::UpstreamOverflow);
    failed.details = Some(Details::fixed("overflow"));
    bench.shard.emit(failed);
    let mut refused = request(&bench, Direction::Inbound);
    refused.status = 404;
    bench.shard.emit(refused);
    let mut cut = request(&bench, Direction::Outbound);
    cut.status = 404;
    bench.shard.emit(cut);
    let spans = spans(&mut bench);
    let status = |at: usize| spans[at].status.as_ref().map(|status| status.code());
    assert_eq!([status(0), status(1), status(2)], [Some(StatusCode::Error), None, Some(StatusCode::Error)]);
    let first = texts(&spans[0].attributes);
    assert_eq!(spans[0].kind(), SpanKind::Server);
    let shown =
        ["error", "error.type", "response_flags", "url.path", "url.query"].map(|key| first[key].as_str());
    assert_eq!(shown, ["true", "overflow", "UO", "/x/y", "z=1"]);
    let last = texts(&spans[2].attributes);
    assert_eq!((last.get("error"), last["error.type"].as_str()), (None, "404"), "Envoy's tag is for 5xx");
}

#[tokio::test]
async fn a_grpc_call_shows_its_method_and_status() {
    let mut bench = traced(|_| {});
    let mut record = request(&bench, Direction::Outbound);
    record.grpc = true;
    record.path = Some("/pkg.Service/Call".parse().unwrap());
    bench
        .shard
        .capture_trailers(&mut record, &headers(&[("grpc-status", b"14"), ("grpc-message", b"later")]));
    bench.shard.emit(record);
    let spans = spans(&mut bench);
    let shown = texts(&spans[0].attributes);
    for (key, value) in [
        ("grpc.path", "/pkg.Service/Call"),
        ("grpc.status_code", "14"),
        ("grpc.message", "later"),
        ("rpc.system", "grpc"),
        ("rpc.service", "pkg.Service"),
        ("rpc.method", "Call"),
        ("rpc.grpc.status_code", "#14"),
        ("error", "true"),
    ] {
        assert_eq!(shown.get(key).map(String::as_str), Some(value), "{key} in {shown:?}");
    }
    assert_eq!(spans[0].status.as_ref().unwrap().code(), StatusCode::Error);
}

#[tokio::test]
async fn custom_tags_come_from_the_request_and_the_configuration() {
    let tag = |name: &str, value| CustomTag { name: name.into(), value };
    let header = |name: &'static str, default: Option<&str>| TagValue::Header {
        name: http::HeaderName::from_static(name),
        default: default.map(Into::into),
    };
    let mut bench = traced(|tracing| {
        tracing.istio_tags = false;
        tracing.max_path_length = 4;
        tracing.custom_tags = [
            tag("literal", TagValue::Literal("x".into())),
            tag("variable", TagValue::Environment { name: "NONE".into(), default: Some("d".into()) }),
            tag("no_variable", TagValue::Environment { name: "NONE".into(), default: None }),
            tag("tenant", header("x-tenant", None)),
            tag("missing", header("x-missing", None)),
            tag("default", header("x-missing", Some("d"))),
            tag("format", TagValue::Format(Format::parse("%RESPONSE_CODE%/%PROTOCOL%").unwrap())),
        ]
        .into();
    });
    bench.shard.emit(request(&bench, Direction::Outbound));
    let spans = spans(&mut bench);
    let shown = texts(&spans[0].attributes);
    let of = |key: &str| shown.get(key).map(String::as_str);
    assert_eq!([of("literal"), of("variable"), of("no_variable")], [Some("x"), Some("d"), None]);
    assert_eq!([of("tenant"), of("missing"), of("default")], [Some("a\u{fffd}"), None, Some("d")]);
    assert_eq!([of("format"), of("istio.namespace")], [Some("200/HTTP/1.1"), None]);
    assert_eq!(of("http.url"), Some("http://otlp:4317/x/y"), "the path is cut");
}

#[tokio::test]
async fn the_url_of_a_span_has_the_path_before_it_was_rewritten() {
    let mut bench = traced(|_| {});
    let mut record = request(&bench, Direction::Outbound);
    record.grpc = true;
    bench.shard.capture_request(&mut record, &headers(&[("x-envoy-original-path", b"/asked?q")]));
    bench.shard.emit(record);
    let spans = spans(&mut bench);
    let shown = texts(&spans[0].attributes);
    assert_eq!(
        (&*shown["http.url"], &*shown["url.full"]),
        ("http://otlp:4317/asked?q", "http://otlp:4317/asked?q")
    );
    assert_eq!((&*shown["grpc.path"], &*shown["rpc.service"]), ("/x/y?z=1", "x"), "what was called");
}

#[tokio::test]
async fn only_sampled_requests_make_spans_and_keep_what_these_show() {
    let mut bench = traced(|_| {});
    let mut record = bench.begin();
    record.span = sampled(false);
    bench.shard.capture_request(&mut record, &headers(&[("user-agent", b"u")]));
    assert!(record.captured.values().is_empty());
    bench.shard.emit(record);
    let mut record = request(&bench, Direction::Outbound);
    record.span = None;
    bench.shard.emit(record);
    assert!(spans(&mut bench).is_empty());
    assert_eq!(bench.spans.account().produced(), 0);
}

#[tokio::test]
async fn an_access_log_becomes_log_records_tied_to_the_span() {
    let parse = |text: &str| Format::parse(text).unwrap();
    let mut snapshot = snapshot(None);
    snapshot.outbound.access_logs = [AccessLog {
        to: LogSink::Otlp {
            to: destination(),
            log_name: "mesh".into(),
            attributes: [
                ("status".into(), parse("%RESPONSE_CODE%")),
                ("agent".into(), parse("%REQ(USER-AGENT)%")),
                ("none".into(), parse("%REQ(X-NONE)%")),
            ]
            .into(),
        },
        encoding: LogEncoding::Text(parse("%REQ(:METHOD)% \"%REQ(X-TENANT)%\"")),
    }]
    .into();
    let mut bench = bench(snapshot);
    let mut record = request(&bench, Direction::Outbound);
    record.status = 500;
    bench.shard.emit(record);
    let (target, items) = bench.records.take().unwrap();
    let record = LogRecord::decode(&*items[0].bytes).unwrap();
    assert_eq!(record.body.unwrap().value, Some(Any::StringValue("GET \"a\u{fffd}\"".to_owned())));
    let attributes = texts(&record.attributes);
    assert_eq!(attributes, BTreeMap::from([("agent", "curl/8".to_owned()), ("status", "#500".to_owned())]));
    assert_eq!(record.trace_id, TRACE.to_be_bytes());
    assert_eq!((&*record.span_id, record.flags), (&SPAN.to_be_bytes()[..], 1));
    assert_eq!((record.severity_number, record.severity_text.as_str()), (17, "ERROR"));
    let resource = opentelemetry_proto::tonic::resource::v1::Resource::decode(&*target.resource).unwrap();
    let resource = texts(&resource.attributes);
    assert_eq!((resource["service.name"].as_str(), resource["log_name"].as_str()), ("cart.shop", "mesh"));
}

#[tokio::test]
async fn a_full_queue_loses_spans_and_counts_each() {
    let bounds = Bounds { items: 3, bytes: 1 << 20, batch: 2 };
    let (outbox, mut inbox) = Outbox::new(bounds);
    let target = target();
    (0..10).for_each(|_| outbox.send(&target, b"span"));
    let account = inbox.account();
    let balance =
        || (account.produced(), account.exported(), account.queued(), account.dropped(Loss::QueueFull));
    assert_eq!(balance(), (10, 0, 3, 7));
    let (_, batch) = inbox.take().unwrap();
    assert_eq!((batch.len(), balance()), (2, (10, 0, 3, 7)), "what is on its way is queued still");
    account.settle(2, None);
    outbox.send(&target, b"span");
    assert_eq!(balance(), (11, 2, 2, 7));
    assert_eq!(account.abandon(Loss::Shutdown), 2);
    assert_eq!((account.queued(), account.dropped(Loss::Shutdown)), (0, 2));

    let (outbox, inbox) = Outbox::new(Bounds { items: 100, bytes: 10, batch: 2 });
    (0..5).for_each(|_| outbox.send(&target, b"span"));
    assert_eq!(inbox.account().dropped(Loss::QueueFull), 3, "bytes are bounded as well");
}

#[tokio::test]
async fn a_full_batch_is_announced_at_once() {
    let (outbox, inbox) = Outbox::new(Bounds { items: 10, bytes: 100, batch: 2 });
    let target = target();
    let mut full = std::pin::pin!(inbox.full());
    outbox.send(&target, b"1");
    assert!(futures_util::poll!(&mut full).is_pending());
    outbox.send(&target, b"2");
    full.await;
}

/// Start, time, value; a histogram's is its count.
type Point = (u64, u64, f64);

/// The points by name.
fn decoded(metrics: &[u8]) -> Vec<(String, Vec<Point>)> {
    let message = ScopeMetrics::decode(metrics).unwrap();
    let family = |metric: opentelemetry_proto::tonic::metrics::v1::Metric| {
        let points = match metric.data.unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic);
                numbers(sum.data_points)
            }
            Data::Gauge(gauge) => numbers(gauge.data_points),
            Data::Histogram(histogram) => {
                let point = |point: &opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint| {
                    assert_eq!((point.bucket_counts.len(), point.explicit_bounds.len()), (20, 19));
                    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
                    (point.start_time_unix_nano, point.time_unix_nano, point.count as f64)
                };
                histogram.data_points.iter().map(point).collect()
            }
            other => panic!("{other:?}"),
        };
        (metric.name, points)
    };
    message.metrics.into_iter().map(family).collect()
}

fn numbers(points: Vec<opentelemetry_proto::tonic::metrics::v1::NumberDataPoint>) -> Vec<Point> {
    let number = |value| match value {
        Some(number_data_point::Value::AsInt(number)) => number as f64,
        Some(number_data_point::Value::AsDouble(number)) => number,
        None => panic!("no value"),
    };
    points.into_iter().map(|p| (p.start_time_unix_nano, p.time_unix_nano, number(p.value))).collect()
}

fn metrics(bench: &Bench) -> Metrics {
    let mut metrics = Metrics::new(Arc::clone(&bench.requests));
    metrics.add(|| {
        vec![super::Sample {
            name: "open".into(),
            help: "Open connections",
            kind: super::Kind::Gauge,
            labels: vec![("cluster", "a".into())],
            value: 5.0,
        }]
    });
    metrics
}

#[tokio::test]
async fn cumulative_points_count_from_the_start() {
    let bench = bench(snapshot(None));
    let metrics = metrics(&bench);
    let mut temporal = Temporal::new(false, 100);
    bench.shard.emit(grpc_call(&bench));
    for (now, count) in [(200, 1.0), (300, 2.0)] {
        let [part] = &metrics.points(&mut temporal, now)[..] else { panic!() };
        let families = decoded(&part.metrics);
        let names: Vec<_> = families.iter().map(|(name, _)| name.as_str()).collect();
        let durations =
            ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"];
        assert_eq!(names, [&["istio_requests_total"][..], &durations, &["open"]].concat());
        for (_, points) in &families[..4] {
            assert_eq!(points[..], [(100, now, count)]);
        }
        assert_eq!(families[4].1, [(0, now, 5.0)], "a gauge has no start");
        assert_eq!(part.count, 5);
        bench.shard.emit(grpc_call(&bench));
    }
}

#[tokio::test]
async fn a_delta_that_was_not_delivered_is_in_the_next_one() {
    let bench = bench(snapshot(None));
    let metrics = metrics(&bench);
    let mut temporal = Temporal::new(true, 100);
    let mut requests = |now, delivered: bool| {
        bench.shard.emit(grpc_call(&bench));
        let mut parts = metrics.points(&mut temporal, now);
        let part = parts.remove(0);
        let families = decoded(&part.metrics);
        if delivered {
            temporal.delivered(part);
        }
        assert_eq!(families[0].1, families[1].1, "sums and histograms tell the same");
        families[0].1.clone()
    };
    assert_eq!(requests(200, true), [(100, 200, 1.0)]);
    assert_eq!(requests(300, false), [(200, 300, 1.0)]);
    assert_eq!(requests(400, true), [(200, 400, 2.0)], "both that are new to the receiver");
    assert_eq!(requests(500, true), [(400, 500, 1.0)]);
    let parts = metrics.points(&mut temporal, 600);
    let names: Vec<_> = decoded(&parts[0].metrics).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["open"], "nothing happened");
}

#[tokio::test]
async fn many_points_are_told_in_parts() {
    let bench = bench(snapshot(None));
    for status in 0..600 {
        let mut record = grpc_call(&bench);
        record.grpc_status = Some(status);
        bench.shard.emit(record);
    }
    let parts = metrics(&bench).points(&mut Temporal::new(false, 0), 1);
    let counts: Vec<_> = parts.iter().map(|part| part.count).collect();
    assert_eq!(counts, [1000, 1000, 401]);
    let told: usize =
        parts.iter().flat_map(|part| decoded(&part.metrics)).map(|(_, points)| points.len()).sum();
    assert_eq!(told, 4 * 600 + 1);
}
