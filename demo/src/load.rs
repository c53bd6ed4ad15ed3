//! The application: an OpenTelemetry SDK per session that exports spans, log records and metric points, half of the
//! sessions over gRPC and half over HTTP, each with its `x-session-id`.
//!
//! The exporters are the SDK's own. They are wrapped only to write down which items an export call carried and how
//! it ended.

use std::{collections::HashMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    metrics::{Counter, MeterProvider as _},
    trace::{Span as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{BatchConfigBuilder as LogBatchConfig, BatchLogProcessor, LogBatch, SdkLogger, SdkLoggerProvider},
    metrics::{
        PeriodicReader, SdkMeterProvider, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
    trace::{
        BatchConfigBuilder as SpanBatchConfig, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData,
    },
};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_util::context::TokioContext;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::ledger::{ITEM_ID, ItemId, Ledger, SESSION};

/// How often each SDK exports, and how often each session makes an item of each signal.
const EXPORT_INTERVAL: Duration = Duration::from_millis(100);
const WORK_INTERVAL: Duration = Duration::from_millis(40);
/// What the SDK gives one export call.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sessions of each transport.
pub(crate) const SESSIONS_PER_TRANSPORT: usize = 8;

type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// The running load.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    sessions: JoinSet<()>,
}

/// Where the sidecar listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Targets {
    /// OTLP/gRPC.
    pub(crate) grpc: SocketAddr,
    /// OTLP/HTTP.
    pub(crate) http: SocketAddr,
}

impl Load {
    /// Starts all sessions.
    pub(crate) fn start(targets: Targets, ledger: &Arc<Ledger>) -> Result<Self, BuildError> {
        let (stop, stopped) = watch::channel(false);
        let mut sessions = JoinSet::new();
        for number in 0..SESSIONS_PER_TRANSPORT * 2 {
            let transport =
                if number % 2 == 0 { Transport::Grpc(targets.grpc) } else { Transport::Http(targets.http) };
            let sdk = Sdk::build(&format!("session-{number:02}"), transport, ledger)?;
            sessions.spawn(run_session(sdk, Arc::clone(ledger), stopped.clone()));
        }
        Ok(Self { stop, sessions })
    }

    /// Stops making items, and waits until the SDKs have flushed what they hold.
    pub(crate) async fn finish(mut self) {
        // Fails only where every session has ended.
        let _ = self.stop.send(true);
        while self.sessions.join_next().await.is_some() {}
    }
}

async fn run_session(sdk: Sdk, ledger: Arc<Ledger>, mut stopped: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(WORK_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => sdk.work(&ledger),
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    // The SDK's own shutdown flushes, and blocks its thread while it does.
    let _ = tokio::task::spawn_blocking(move || sdk.shutdown()).await;
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Grpc(SocketAddr),
    Http(SocketAddr),
}

/// Providers of the three signals for one session.
struct Sdk {
    tracers: SdkTracerProvider,
    loggers: SdkLoggerProvider,
    meters: SdkMeterProvider,
    tracer: SdkTracer,
    logger: SdkLogger,
    counter: Counter<u64>,
}

impl Sdk {
    fn build(session: &str, transport: Transport, ledger: &Arc<Ledger>) -> Result<Self, BuildError> {
        let resource = Resource::builder()
            .with_service_name("demo-application")
            .with_attribute(KeyValue::new(SESSION, session.to_owned()))
            .build();
        let (spans, logs, metrics) = exporters(session, transport)?;
        let tracers = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_span_processor(
                BatchSpanProcessor::builder(Watched::new(spans, ledger))
                    .with_batch_config(
                        SpanBatchConfig::default().with_scheduled_delay(EXPORT_INTERVAL).build(),
                    )
                    .build(),
            )
            .build();
        let loggers = SdkLoggerProvider::builder()
            .with_resource(resource.clone())
            .with_log_processor(
                BatchLogProcessor::builder(Watched::new(logs, ledger))
                    .with_batch_config(
                        LogBatchConfig::default().with_scheduled_delay(EXPORT_INTERVAL).build(),
                    )
                    .build(),
            )
            .build();
        let reader =
            PeriodicReader::builder(Watched::new(metrics, ledger)).with_interval(EXPORT_INTERVAL).build();
        let meters = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
        Ok(Self {
            tracer: tracers.tracer("demo"),
            logger: loggers.logger("demo"),
            counter: meters.meter("demo").u64_counter("demo.orders").build(),
            tracers,
            loggers,
            meters,
        })
    }

    /// One item of each signal.
    fn work(&self, ledger: &Ledger) {
        let mut span = self.tracer.start("order");
        span.set_attribute(KeyValue::new(ITEM_ID, ledger.make().0));
        span.end();
        let mut record = self.logger.create_log_record();
        record.set_severity_number(Severity::Info);
        record.set_body("order accepted".into());
        record.add_attribute(ITEM_ID, ledger.make().0);
        self.logger.emit(record);
        self.counter.add(1, &[KeyValue::new(ITEM_ID, ledger.make().0)]);
    }

    fn shutdown(self) {
        // A failed flush shows in the ledger as refused items.
        let _ = self.tracers.shutdown();
        let _ = self.loggers.shutdown();
        let _ = self.meters.shutdown();
    }
}

fn exporters(
    session: &str,
    transport: Transport,
) -> Result<(SpanExporter, LogExporter, MetricExporter), BuildError> {
    const HEADER: &str = "x-session-id";
    match transport {
        Transport::Grpc(address) => {
            let endpoint = format!("http://{address}");
            let mut metadata = MetadataMap::new();
            metadata.insert(HEADER, MetadataValue::try_from(session)?);
            macro_rules! build {
                ($builder:expr) => {
                    $builder
                        .with_tonic()
                        .with_endpoint(endpoint.clone())
                        .with_timeout(EXPORT_TIMEOUT)
                        .with_metadata(metadata.clone())
                        .build()?
                };
            }
            let metrics = build!(MetricExporter::builder().with_temporality(Temporality::Delta));
            Ok((build!(SpanExporter::builder()), build!(LogExporter::builder()), metrics))
        }
        Transport::Http(address) => {
            let headers = HashMap::from([(HEADER.to_owned(), session.to_owned())]);
            macro_rules! build {
                ($builder:expr, $signal:literal) => {
                    $builder
                        .with_http()
                        .with_endpoint(format!("http://{address}/v1/{}", $signal))
                        .with_protocol(Protocol::HttpBinary)
                        .with_timeout(EXPORT_TIMEOUT)
                        .with_headers(headers.clone())
                        .build()?
                };
            }
            let metrics = build!(MetricExporter::builder().with_temporality(Temporality::Delta), "metrics");
            Ok((build!(SpanExporter::builder(), "traces"), build!(LogExporter::builder(), "logs"), metrics))
        }
    }
}

/// An exporter of the SDK whose calls are written down. The SDK calls it from threads of its own, while the
/// transports want the runtime around them.
struct Watched<E> {
    exporter: E,
    ledger: Arc<Ledger>,
    runtime: Handle,
}

impl<E> Watched<E> {
    fn new(exporter: E, ledger: &Arc<Ledger>) -> Self {
        Self { exporter, ledger: Arc::clone(ledger), runtime: Handle::current() }
    }

    async fn watch(
        &self,
        items: Vec<ItemId>,
        export: impl Future<Output = OTelSdkResult> + Send,
    ) -> OTelSdkResult {
        let outcome = TokioContext::new(export, self.runtime.clone()).await;
        if !items.is_empty() {
            self.ledger.settle(items, outcome.is_ok());
        }
        outcome
    }
}

impl<E> fmt::Debug for Watched<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Watched<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let items = batch.iter().filter_map(|span| item_id(span.attributes.iter())).collect();
        self.watch(items, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut self.exporter, resource);
    }
}

impl opentelemetry_sdk::logs::LogExporter for Watched<LogExporter> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let id = |(key, value): &(opentelemetry::Key, AnyValue)| match value {
            AnyValue::Int(id) if key.as_str() == ITEM_ID => Some(ItemId(*id)),
            _ => None,
        };
        let items = batch.iter().filter_map(|(record, _)| record.attributes_iter().find_map(id)).collect();
        self.watch(items, self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        opentelemetry_sdk::logs::LogExporter::set_resource(&mut self.exporter, resource);
    }
}

impl PushMetricExporter for Watched<MetricExporter> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut items = Vec::new();
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
                items.extend(sum.data_points().filter_map(|point| item_id(point.attributes())));
            }
        }
        self.watch(items, self.exporter.export(metrics)).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

fn item_id<'a>(mut attributes: impl Iterator<Item = &'a KeyValue>) -> Option<ItemId> {
    attributes.find_map(|attribute| match attribute.value {
        opentelemetry::Value::I64(id) if attribute.key.as_str() == ITEM_ID => Some(ItemId(id)),
        _ => None,
    })
}
