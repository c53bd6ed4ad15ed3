//! The stages of a request without a socket, a runtime or hyper: decide, hash, pick an endpoint, keep the record, count
//! it, render its log line, encode its span. Valgrind counts what they execute.

use std::{path::Path, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, uri::PathAndQuery};
use outrigger::{
    telemetry::{Bounds, LogQueue, Outbox, Queues, Requests, Shard, SpanContext},
    upstream::{Balancers, Upstreams},
};
use outrigger_config::{
    LoadOptions, Source,
    decide::{Decision, Peers, RequestView, decide, hash_key},
    load,
    snapshot::{ClusterRef, Destination, Direction, Listener, OtlpProtocol, TelemetryDefaults},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::Outcome;

const RULES: [&str; 3] = [
    include_str!("../../../examples/seed/registry.yaml"),
    include_str!("../../../examples/seed/destination-rule.yaml"),
    include_str!("../../../examples/seed/weighted.yaml"),
];
const MESH: &str = "accessLogFile: /dev/null";
const HEADERS: [(&str, &str); 4] = [
    ("user-agent", "bench/1"),
    ("x-request-id", "00000000-0000-4000-8000-000000000000"),
    ("content-type", "application/grpc"),
    ("x-session-id", "7"),
];

/// Runs `requests` of them through the seed's rules; each is logged, and traced where that is asked for.
pub(crate) fn run(requests: u64, traced: bool) -> Outcome<()> {
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.to_owned() };
    let sources = RULES.map(|text| source("seed.yaml", text));
    let mut options = LoadOptions { mesh: Some(source("mesh.yaml", MESH)), ..LoadOptions::default() };
    options.node.namespace = "observability".into();
    options.telemetry = TelemetryDefaults { traces: Some(receiver()), ..TelemetryDefaults::default() };
    let loaded = load(&sources, &options).map_err(|report| report.to_string())?;
    let published = Upstreams::new().publish(Arc::new(loaded.snapshot));

    let (log, writer) = LogQueue::new();
    let writer = std::thread::Builder::new().spawn(move || writer.run())?;
    let ((spans, mut taken), (records, _)) = (Outbox::new(Bounds::default()), Outbox::new(Bounds::default()));
    let queues = Queues { log, spans, records, resource: Arc::default() };
    let shard = Shard::new(0, Requests::new(1), queues);
    let (balancers, mut rng) = (Balancers::new(), SmallRng::seed_from_u64(7));
    let headers: HeaderMap = HEADERS
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let path = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let authority = HeaderValue::from_static("otlp-collector:4317");
    let peer = ([127, 0, 0, 1], 50_000).into();
    let table = published.snapshot.listeners.first().and_then(Listener::route_table);
    let table = table.ok_or("the seed has a listener")?;

    for number in 0..requests {
        let mut record = shard.begin(&published.snapshot, Direction::Outbound);
        record.span = Some(SpanContext { trace_id: 1, span_id: number, parent_id: None, sampled: traced });
        record.method = Some(Method::POST);
        record.path = Some(path.clone());
        record.version = Some(Version::HTTP_2);
        record.authority = Some(authority.clone());
        record.downstream_remote = Some(peer);
        let view = RequestView {
            method: &Method::POST,
            scheme: "http",
            authority: authority.to_str().unwrap_or_default(),
            path_and_query: path.as_str(),
            headers: &headers,
        };
        let Decision::Forward { route, forward, destination } =
            decide(&published.snapshot[table], &view, || rng.random())
        else {
            return Err("the seed forwards everything".into());
        };
        let ClusterRef::Known(cluster) = destination.cluster else {
            return Err("a cluster is missing".into());
        };
        let cluster = published.cluster(cluster);
        let hashed = hash_key(&forward.hash, &view, Peers { remote: peer, local: peer });
        let host = balancers.pick(cluster, hashed.key, &[], &mut rng).ok_or("no endpoint")?;
        record.route = Some(Arc::clone(&route.name));
        record.cluster = Some(cluster.config());
        record.endpoint = Some(Arc::clone(&host.endpoint));
        shard.capture_request(&mut record, &headers);
        record.status = 200;
        shard.emit(record);
        if number % 256 == 0 {
            while taken.take().is_some() {}
        }
    }
    drop(shard);
    writer.join().map_err(|_| "the log writer panicked".into())
}

/// Nothing is sent there.
fn receiver() -> Destination {
    Destination {
        name: "bench".into(),
        host: "none.invalid".into(),
        port: 4317,
        tls: None,
        cluster: None,
        protocol: OtlpProtocol::Grpc,
        headers: HeaderMap::new(),
        timeout: std::time::Duration::from_secs(1),
        gzip: false,
        semantic_service_name: false,
    }
}

/// Arguments that make this program run them.
pub(crate) fn arguments(requests: u64, traced: bool) -> [String; 3] {
    ["--stages".to_owned(), requests.to_string(), format!("--traced={traced}")]
}

/// This very program.
pub(crate) fn program() -> Outcome<Box<Path>> {
    Ok(std::env::current_exe()?.into())
}
