//! Records in, metrics and log lines out.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Version};
use outrigger_config::{
    format::Format,
    snapshot::{
        self, AccessLog, Balancer, Cluster, Direction, Discovery, Endpoint, Locality, LogEncoding, LogSink,
        Node, Observation, Origin, PathNormalization, Protocol, Service, Snapshot, Source, UpstreamTls,
    },
};

use super::{
    Bounds, Details, Flag, Inbox, LogQueue, Metrics, Outbox, Queues, Record, Requests, Shard, metrics::Sums,
};

const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn text(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn origin() -> Origin {
    Origin { resource: "test".into(), file: "test.yaml".into(), line: 1 }
}

pub(super) fn cluster() -> Arc<Cluster> {
    let address: SocketAddr = "10.0.0.7:14317".parse().unwrap();
    let endpoint = Endpoint {
        address,
        key: address.to_string().into(),
        hostname: "".into(),
        weight: 1,
        labels: text(&[("app", "otlp"), ("version", "v1.0.0")]),
        locality: Locality::default(),
        priority: 0,
        mutual: false,
    };
    Arc::new(Cluster {
        name: "outbound|4317|v1|otlp.obs.svc.cluster.local".into(),
        service: Service {
            host: "otlp.obs.svc.cluster.local".into(),
            name: "otlp".into(),
            namespace: "obs".into(),
            port: 4317,
            subset: "v1".into(),
        },
        discovery: Discovery::Static,
        endpoints: [Arc::new(endpoint)].into(),
        localities: None,
        balancer: Balancer::LeastRequest,
        warmup: None,
        limits: snapshot::Limits::default(),
        retry_budget: None,
        outlier: None,
        panic_threshold: 0,
        tls: UpstreamTls::Off,
        protocol: Protocol::Http2,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: None,
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_concurrent_streams: 1,
        source: Source::System,
        keepalive: None,
        http2_keepalive: None,
        origin: origin(),
    })
}

pub(super) fn snapshot(access_log: Option<AccessLog>) -> Snapshot {
    Snapshot {
        host_names: Arc::default(),
        version: snapshot::Version(1),
        node: Node {
            namespace: "shop".into(),
            name: "cart-1".into(),
            workload: "cart".into(),
            cluster: "Kubernetes".into(),
            labels: text(&[("app", "cart")]),
            ..Node::default()
        },
        listeners: Arc::default(),
        route_tables: Arc::default(),
        clusters: [cluster()].into(),
        outbound: Observation { access_logs: access_log.into_iter().collect(), ..Observation::off() },
        inbound: Observation::off(),
        paths: PathNormalization::Base,
        metrics: None,
    }
}

pub(super) struct Bench {
    pub(super) shard: Shard,
    pub(super) spans: Inbox,
    pub(super) records: Inbox,
    pub(super) requests: Arc<Requests>,
    pub(super) snapshot: Arc<Snapshot>,
    log: tempfile::TempDir,
    writer: super::LogWriter,
}

impl Bench {
    fn new(encoding: impl FnOnce() -> LogEncoding) -> Self {
        let log = tempfile::tempdir().unwrap();
        let path = log.path().join("log").to_str().unwrap().into();
        let snapshot = snapshot(Some(AccessLog { to: LogSink::File(path), encoding: encoding() }));
        Self::of(snapshot, log)
    }

    pub(super) fn of(snapshot: Snapshot, log: tempfile::TempDir) -> Self {
        let (queue, writer) = LogQueue::new();
        let requests = Requests::new(1);
        let (spans_in, spans) = Outbox::new(Bounds::default());
        let (records_in, records) = Outbox::new(Bounds::default());
        let queues = Queues { log: queue, spans: spans_in, records: records_in, resource: Arc::default() };
        let shard = Shard::new(0, Arc::clone(&requests), queues);
        Self { shard, spans, records, requests, snapshot: Arc::new(snapshot), log, writer }
    }

    fn json(format: &[(&str, &str)]) -> Self {
        let field = |(key, format): &(&str, &str)| ((*key).into(), Format::parse(format).unwrap());
        Self::new(|| LogEncoding::Json(format.iter().map(field).collect()))
    }

    pub(super) fn begin(&self) -> Record {
        self.shard.begin(&self.snapshot, Direction::Outbound)
    }

    /// Stops the writer and yields what it wrote.
    fn log(self) -> String {
        let path = self.log.path().join("log");
        drop(self.shard);
        self.writer.run();
        std::fs::read_to_string(path).unwrap()
    }
}

pub(super) fn headers(pairs: &[(&'static str, &'static [u8])]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap()))
        .collect()
}

/// A gRPC call that went well.
pub(super) fn grpc_call(bench: &Bench) -> Record {
    let cluster = Arc::clone(&bench.snapshot.clusters[0]);
    let mut record = bench.begin();
    record.grpc = true;
    record.status = 200;
    record.endpoint = Some(Arc::clone(&cluster.endpoints[0]));
    record.cluster = Some(cluster);
    record.wire_received = 700;
    bench.shard.capture_trailers(&mut record, &headers(&[("grpc-status", b"0")]));
    record
}

#[tokio::test(start_paused = true)]
async fn the_text_line_is_istios() {
    let bench = Bench::new(|| LogEncoding::Text(Format::parse(TEXT).unwrap()));
    let mut record = bench.begin();
    record.started = std::time::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    record.method = Some(Method::GET);
    record.path = Some("/x?y=1".parse().unwrap());
    record.version = Some(Version::HTTP_11);
    record.authority = Some(HeaderValue::from_static("otlp:4317"));
    record.status = 503;
    record.flags.raise(Flag::UpstreamRetryLimitExceeded);
    record.flags.raise(Flag::UpstreamConnectionFailure);
    record.details = Some(Details::from("reset{Connection refused}".to_owned()));
    record.transport_failure = Some("refused\n\x1b[31m".into());
    record.body_sent = 121;
    record.cluster = Some(cluster());
    record.endpoint = Some(Arc::clone(&cluster().endpoints[0]));
    record.downstream_local = Some("127.0.0.1:4317".parse().unwrap());
    record.downstream_remote = Some("127.0.0.1:50000".parse().unwrap());
    record.route = Some("x".into());
    bench
        .shard
        .capture_request(&mut record, &headers(&[("user-agent", b"a\"\t\xff"), ("x-request-id", b"id")]));
    bench.shard.capture_response(&mut record, &headers(&[("x-envoy-upstream-service-time", b"7")]));
    tokio::time::advance(Duration::from_micros(19_900)).await;
    bench.shard.emit(record);
    assert_eq!(
        bench.log(),
        "[2023-11-14T22:13:20.123Z] \"GET /x?y=1 HTTP/1.1\" 503 URX,UF reset{Connection_refused} - \
         \"refused\\x0a\\x1b[31m\" 0 121 19 7 \"-\" \"a\\\"\\x09\\xff\" \"id\" \
         \"otlp:4317\" \"10.0.0.7:14317\" outbound|4317|v1|otlp.obs.svc.cluster.local - 127.0.0.1:4317 \
         127.0.0.1:50000 - x\n"
    );
}

#[tokio::test(start_paused = true)]
async fn json_keeps_types_sorts_keys_and_escapes_every_byte() {
    let bench = Bench::json(&[
        ("user_agent", "%REQ(USER-AGENT)%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("mixed", "a\"%RESPONSE_CODE%-%UPSTREAM_HOST%"),
        ("reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
        ("short", "%REQ(USER-AGENT):2%"),
    ]);
    let mut record = bench.begin();
    record.status = 404;
    record.transport_failure = Some("\u{1b}\u{7f}\n".into());
    bench.shard.capture_request(&mut record, &headers(&[("user-agent", "é\"\\\t\u{9b}".as_bytes())]));
    bench.shard.capture_response(&mut record, &headers(&[("x-envoy-upstream-service-time", b"12")]));
    bench.shard.emit(record);
    let line = bench.log();
    assert_eq!(
        line,
        "{\"mixed\":\"a\\\"404--\",\"reason\":\"\\u001b\\u007f\\u000a\",\"response_code\":404,\"response_flags\":\"-\",\"short\":\"é\",\
         \"upstream_host\":null,\"upstream_service_time\":\"12\",\
         \"user_agent\":\"é\\\"\\\\\\u0009\\u009b\"}\n"
    );
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
}

#[tokio::test]
async fn a_header_that_the_format_does_not_name_is_not_kept() {
    let bench = Bench::json(&[("agent", "%REQ(USER-AGENT)%")]);
    let mut record = bench.begin();
    bench.shard.capture_request(&mut record, &headers(&[("authorization", b"secret"), ("user-agent", b"u")]));
    assert_eq!(record.captured.values(), [&HeaderValue::from_static("u")]);
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_once_under_istios_labels() {
    let bench = Bench::json(&[]);
    let record = grpc_call(&bench);
    tokio::time::advance(Duration::from_millis(7)).await;
    bench.shard.emit(record);
    let page = Metrics::new(Arc::clone(&bench.requests)).open_metrics();
    let labels = "reporter=\"source\",source_workload=\"cart\",source_canonical_service=\"cart\",\
        source_canonical_revision=\"latest\",source_workload_namespace=\"shop\",source_principal=\"unknown\",\
        source_app=\"cart\",source_version=\"unknown\",source_cluster=\"Kubernetes\",\
        destination_workload=\"unknown\",destination_workload_namespace=\"obs\",\
        destination_principal=\"unknown\",destination_app=\"otlp\",destination_version=\"v1.0.0\",\
        destination_service=\"otlp.obs.svc.cluster.local\",destination_canonical_service=\"otlp\",\
        destination_canonical_revision=\"v1.0.0\",destination_service_name=\"otlp\",\
        destination_service_namespace=\"obs\",destination_cluster=\"Kubernetes\",request_protocol=\"grpc\",\
        response_code=\"200\",grpc_response_status=\"0\",response_flags=\"-\",\
        connection_security_policy=\"unknown\"";
    let expect = |line: String| assert!(page.contains(&line), "{line}\nis not in\n{page}");
    expect(format!("istio_requests_total{{{labels}}} 1\n"));
    expect(format!("istio_request_bytes_sum{{{labels}}} 700.0\n"));
    expect(format!("istio_request_duration_milliseconds_count{{{labels}}} 1\n"));
    // Cumulative, and the label `le` comes first or last.
    let buckets: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("istio_request_duration_milliseconds_bucket"))
        .map(|line| line.rsplit_once(' ').unwrap().1)
        .collect();
    assert_eq!(buckets.join(""), "00011111111111111111");
    assert!(page.contains("le=\"+Inf\""), "{page}");
}

#[tokio::test]
async fn the_classic_format_names_a_counter_by_its_samples() {
    let bench = Bench::json(&[]);
    bench.shard.emit(grpc_call(&bench));
    let mut metrics = Metrics::new(Arc::clone(&bench.requests));
    metrics.add(|| {
        vec![super::Sample {
            name: "envoy_cluster_upstream_rq_timeout".into(),
            help: "Requests that timed out",
            kind: super::Kind::Counter,
            labels: vec![("cluster_name", "a".into())],
            value: 3.0,
        }]
    });
    let page = metrics.classic();
    assert!(page.contains("# TYPE istio_requests_total counter\nistio_requests_total{"), "{page}");
    assert!(page.contains("# HELP istio_requests_total Requests that ended\n"), "{page}");
    assert!(page.contains("# TYPE envoy_cluster_upstream_rq_timeout untyped\n"), "{page}");
    assert!(page.contains("envoy_cluster_upstream_rq_timeout{cluster_name=\"a\"} 3\n"), "{page}");
    assert!(!page.contains("# EOF"), "{page}");
}

fn total(requests: &Requests) -> (usize, u64) {
    let series = requests.scrape(tokio::time::Instant::now());
    (series.len(), series.iter().map(|(_, Sums { requests, .. })| requests).sum())
}

#[tokio::test]
async fn series_survive_a_reload() {
    let mut bench = Bench::json(&[]);
    bench.shard.emit(grpc_call(&bench));
    bench.snapshot = Arc::new(snapshot(None));
    bench.shard.emit(grpc_call(&bench));
    assert_eq!(total(&bench.requests), (1, 2));
}

#[tokio::test]
async fn hosts_that_clients_make_up_do_not_make_series_without_end() {
    let bench = Bench::json(&[]);
    for host in 0..200 {
        let mut record = bench.begin();
        record.status = 404;
        record.flags = Flag::NoRouteFound.into();
        record.authority = Some(HeaderValue::from_str(&format!("h{host}")).unwrap());
        bench.shard.emit(record);
    }
    let (series, requests) = total(&bench.requests);
    assert_eq!(requests, 200);
    assert!(series <= 51, "{series}");
}

#[tokio::test]
async fn series_beyond_the_limit_count_as_overflow() {
    let bench = Bench::json(&[]);
    for status in 0..2_100 {
        let mut record = grpc_call(&bench);
        record.grpc_status = Some(status);
        bench.shard.emit(record);
    }
    assert_eq!(total(&bench.requests), (2_001, 2_100));
    let page = Metrics::new(Arc::clone(&bench.requests)).open_metrics();
    assert!(
        page.lines().any(|line| line.contains("reporter=\"overflow\"") && line.ends_with("} 100")),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_series_that_no_worker_holds_expires() {
    let mut bench = Bench::json(&[]);
    bench.shard.emit(grpc_call(&bench));
    tokio::time::advance(Duration::from_hours(1)).await;
    assert_eq!(total(&bench.requests).0, 1, "held by a worker");
    bench.snapshot = Arc::new(snapshot(None));
    drop(bench.begin());
    assert_eq!(total(&bench.requests).0, 1, "scraped once more");
    tokio::time::advance(Duration::from_mins(14)).await;
    assert_eq!(total(&bench.requests).0, 1);
    tokio::time::advance(Duration::from_mins(2)).await;
    assert_eq!(total(&bench.requests).0, 0);
}

#[test]
fn what_passes_through_is_told_by_its_host_and_the_name_of_the_cluster() {
    let bench = Bench::json(&[]);
    let labels = |host: Option<&str>, direction| {
        let mut record = bench.shard.begin(&bench.snapshot, direction);
        let last_resort = Cluster {
            service: Service {
                host: "".into(),
                name: "PassthroughCluster".into(),
                namespace: "unknown".into(),
                port: 0,
                subset: "".into(),
            },
            ..(*cluster()).clone()
        };
        record.cluster = Some(Arc::new(last_resort));
        record.authority = host.map(|host| host.parse().unwrap());
        record.status = 200;
        bench.shard.emit(record);
        let series = bench.requests.scrape(tokio::time::Instant::now());
        series
            .iter()
            .map(|(labels, _)| {
                let pairs: std::collections::HashMap<_, _> = labels.pairs().into_iter().collect();
                assert_eq!(&*pairs["destination_service_name"], "PassthroughCluster");
                pairs["destination_service"].to_string()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(labels(None, Direction::Outbound), ["unknown"]);
    let mut two = labels(Some("example.com"), Direction::Outbound);
    two.sort();
    assert_eq!(two, ["example.com", "unknown"]);
}
