//! Real clients: the OpenTelemetry SDK for Rust, over gRPC, plain and compressed, and over HTTP.

use std::time::Duration;

use opentelemetry::logs::{LogRecord, Logger, LoggerProvider};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry_otlp::{
    Compression, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig, WithTonicConfig,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::context::TokioContext;

use crate::support::{Backend, start, until, yaml};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_the_sdk_arrive_once() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_grpc", &backend.grpc(""))])).await;
    let grpc = format!("http://{}", running.address("otlp_grpc").unwrap());
    let tonic = || SpanExporter::builder().with_tonic().with_endpoint(&grpc);
    let exporters = [tonic().build().unwrap(), tonic().with_compression(Compression::Gzip).build().unwrap()];
    for (index, exporter) in exporters.into_iter().enumerate() {
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
        let tracer = provider.tracer("test");
        for span in 0..10 {
            drop(tracer.start(format!("exporter-{index}-{span}")));
        }
        tokio::task::spawn_blocking(move || provider.shutdown()).await.unwrap().unwrap();
    }
    until("delivery", || backend.ledger().len() == 20).await;
    assert!(backend.ledger().values().all(|count| *count == 1));
    running.stop().await;
}

/// The SDK exports metrics from a thread of its own, while the client wants the runtime around it.
struct InRuntime(MetricExporter, Handle);

impl PushMetricExporter for InRuntime {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        TokioContext::new(self.0.export(metrics), self.1.clone()).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.0.temporality()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_signal_of_the_sdk_arrives_over_http() {
    let backend = Backend::start().await;
    let running = start(&yaml(&[("otlp_http", &backend.http(""))])).await;
    let http = format!("http://{}", running.address("otlp_http").unwrap());
    macro_rules! exporter {
        ($kind:ty, $signal:literal) => {
            <$kind>::builder()
                .with_http()
                .with_endpoint(format!("{http}/v1/{}", $signal))
                .with_protocol(Protocol::HttpBinary)
                .build()
                .unwrap()
        };
    }
    let spans = SdkTracerProvider::builder().with_simple_exporter(exporter!(SpanExporter, "traces")).build();
    let logs = SdkLoggerProvider::builder().with_simple_exporter(exporter!(LogExporter, "logs")).build();
    let metrics = InRuntime(exporter!(MetricExporter, "metrics"), Handle::current());
    let metrics = SdkMeterProvider::builder().with_periodic_exporter(metrics).build();
    // The SDK waits for the answers on the thread that calls it.
    let work = move || {
        drop(spans.tracer("test").start("a span"));
        let logger = logs.logger("test");
        let mut record = logger.create_log_record();
        record.set_body("a record".into());
        logger.emit(record);
        metrics.meter("test").u64_counter("a_counter").build().add(7, &[]);
        spans.shutdown().unwrap();
        logs.shutdown().unwrap();
        metrics.shutdown().unwrap();
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    until("delivery", || backend.taken().len() == 3).await;
    assert_eq!(running.stop().await.requests, 0);

    let mut taken = backend.taken();
    taken.sort_by(|one, other| one.path.cmp(&other.path));
    let [logs, metrics, spans] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!((spans.path.as_str(), spans.names()), ("/v1/traces", vec!["a span".to_owned()]));
    let logs = ExportLogsServiceRequest::decode(logs.payload.clone()).unwrap();
    let record = &logs.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!(record.body, Some(opentelemetry::logs::AnyValue::from("a record").into()));
    let metrics = ExportMetricsServiceRequest::decode(metrics.payload.clone()).unwrap();
    assert_eq!(metrics.resource_metrics[0].scope_metrics[0].metrics[0].name, "a_counter");
}
