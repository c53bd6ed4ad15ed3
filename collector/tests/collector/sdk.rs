//! A real client: the OpenTelemetry SDK for Rust, over gRPC, plain and compressed.

use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry_otlp::{Compression, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::trace::SdkTracerProvider;

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
