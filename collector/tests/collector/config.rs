//! Configuration: every mistake with its line and a hint, and the same file as elsewhere.

use otlp_collector::config::{Environment, ExporterKind, from_environment, from_text, load};

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn errors(text: &str) -> String {
    from_text("c.yaml", text, &Environment::new()).unwrap_err().to_string()
}

const GOOD: &str = "\
receivers: { otlp: { protocols: { grpc:, http: { endpoint: \"0.0.0.0:4318\" } } } }
processors: { batch: { timeout: 1s }, memory_limiter: { check_interval: 100ms, limit_mib: 100 } }
exporters:
  otlp:
    endpoint: ${env:TARGET:-backend}:4317
    headers: { authorization: Bearer abc }
    sending_queue: { queue_size: \"${SIZE}\" }
service:
  pipelines:
    traces: { receivers: [otlp], processors: [memory_limiter, batch], exporters: [otlp] }
";

#[test]
fn a_collector_configuration_is_read() {
    let loaded = from_text("c.yaml", GOOD, &environment(&[("SIZE", "7")])).unwrap();
    let config = &loaded.config;
    assert_eq!(config.receivers[0].grpc.as_ref().unwrap().endpoint, "0.0.0.0:4317");
    assert_eq!(config.receivers[0].grpc.as_ref().unwrap().max_request, 64 << 20);
    let ExporterKind::OtlpGrpc(exporter) = &config.exporters[0].kind else { panic!() };
    assert_eq!(exporter.endpoint, "http://backend:4317");
    assert_eq!(config.exporters[0].queue.max_requests, 7);
    let batch = config.exporters[0].queue.batch.as_ref().unwrap();
    assert_eq!((batch.min_items, batch.flush_timeout.as_secs()), (8192, 1));
    assert_eq!(config.memory_limit, 80 << 20);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert!(loaded.printed.contains("authorization: \"****\""), "{}", loaded.printed);
    assert!(!loaded.printed.contains("abc"), "{}", loaded.printed);
    // What is printed is the same configuration.
    let again = from_text("printed", &loaded.printed, &Environment::new()).unwrap();
    assert_eq!(again.config.exporters[0].queue.max_requests, 7);
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let text = "\
receivers:
  otlp:
    protocols:
      grcp: { endpoint: 127.0.0.1:1 }
      http: { endpoint: nowhere, tls: { cert_file: x } }
exporters:
  otlp_gprc: { endpoint: a:1 }
  otlp_http: { endpoint: \"https://b\" }
  file: { pth: x }
  debug: { verbosity: detialed }
processors:
  resource: {}
service:
  pipelines:
    trace: { receivers: [otlp], exporters: [debug] }
    logs: { receivers: [oltp], exporters: [debgu], processors: [batch] }
    metrics: { receivers: [otlp] }
";
    assert_eq!(
        errors(text),
        "\
c.yaml:5: receivers.otlp.protocols.http.endpoint: \"nowhere\" is not host:port (for example 0.0.0.0:4318)
c.yaml:5: receivers.otlp.protocols.http.tls: not built yet (let the sidecar do it)
c.yaml:4: receivers.otlp.protocols.grcp: unknown key (did you mean grpc?)
c.yaml:7: exporters.otlp_gprc: unknown exporter (did you mean otlp_grpc?)
c.yaml:8: exporters.otlp_http.endpoint: TLS is not built yet (write http:// and let the sidecar do TLS)
c.yaml:9: exporters.file.path: is required
c.yaml:10: exporters.debug.verbosity: \"detialed\" is not one of basic, normal, detailed (did you mean detailed?)
c.yaml:12: processors.resource: this processor is not built yet
c.yaml:15: service.pipelines.trace: unknown signal (did you mean traces?)
c.yaml:16: service.pipelines.logs.receivers: oltp is not among the receivers (did you mean otlp?)
c.yaml:16: service.pipelines.logs.processors: batch is not among the processors
c.yaml:16: service.pipelines.logs.exporters: debgu is not among the exporters (did you mean debug?)
c.yaml:17: service.pipelines.metrics.exporters: at least one is required"
    );
}

#[test]
fn yaml_that_is_not_yaml_has_its_line() {
    let report = errors("receivers:\n  otlp: [\n");
    assert!(report.starts_with("c.yaml:") && report.lines().count() == 1, "{report}");
}

#[test]
fn an_unset_variable_is_an_error_before_anything_else() {
    let report = from_text("c.yaml", GOOD, &Environment::new()).unwrap_err().to_string();
    assert_eq!(
        report,
        "c.yaml:7: exporters.otlp.sending_queue.queue_size: the variable SIZE is not set \
         (set it, or write ${env:SIZE:-default})"
    );
}

#[test]
fn the_environment_overrides_files_and_files_merge_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.yaml"), folder.path().join("two.yaml"));
    std::fs::write(&one, GOOD).unwrap();
    std::fs::write(&two, "exporters: { otlp: { endpoint: two:1, sending_queue: { num_consumers: 3 } } }\n")
        .unwrap();
    let variables = environment(&[
        ("SIZE", "7"),
        ("OUTRIGGER__receivers__otlp__protocols__grpc__endpoint", "127.0.0.1:9"),
    ]);
    let config = load(&[one, two], &variables).unwrap().config;
    let ExporterKind::OtlpGrpc(exporter) = &config.exporters[0].kind else { panic!() };
    assert_eq!(exporter.endpoint, "http://two:1");
    assert_eq!((config.exporters[0].queue.consumers, config.exporters[0].queue.max_requests), (3, 7));
    assert_eq!(config.receivers[0].grpc.as_ref().unwrap().endpoint, "127.0.0.1:9");
    let wrong = environment(&[("SIZE", "7"), ("OUTRIGGER__exporters__otlp__endpiont", "x")]);
    let report = from_text("c.yaml", GOOD, &wrong).unwrap_err().to_string();
    assert_eq!(
        report,
        "environment (OUTRIGGER__exporters__otlp__endpiont): exporters.otlp.endpiont: unknown key (did you mean endpoint?)"
    );
}

#[test]
fn the_environment_alone_is_enough() {
    let loaded = from_environment(&Environment::new()).unwrap();
    assert!(matches!(loaded.config.exporters[0].kind, ExporterKind::Debug { .. }));
    assert!(loaded.warnings[0].message.contains("OTEL_EXPORTER_OTLP_ENDPOINT"));
    assert_eq!(loaded.config.pipelines.len(), 3);

    let grpc = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b%20c,d=e"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
    ]);
    let loaded = from_environment(&grpc).unwrap();
    let ExporterKind::OtlpGrpc(exporter) = &loaded.config.exporters[0].kind else { panic!() };
    assert_eq!((exporter.endpoint.to_string().as_str(), exporter.gzip), ("http://c:4317/", false));
    assert_eq!((exporter.timeout.as_millis(), exporter.headers["a"].to_str().unwrap()), (1500, "b c"));

    let http = environment(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:1"),
    ]);
    let loaded = from_environment(&http).unwrap();
    let ExporterKind::OtlpHttp(exporter) = &loaded.config.exporters[0].kind else { panic!() };
    let endpoints = exporter.endpoints.each_ref().map(|endpoint| endpoint.as_ref().unwrap().to_string());
    assert_eq!(
        endpoints,
        ["http://c:4318/base/v1/traces", "http://c:4318/base/v1/metrics", "http://logs:1/"]
    );
}

#[test]
fn what_would_lose_data_is_refused_or_ignored_aloud() {
    let text = GOOD.replace("\"${SIZE}\"", "7, storage: file_storage");
    assert!(errors(&text).contains("c.yaml:7: exporters.otlp.sending_queue.storage: not built yet"));
    let text = GOOD.replace("\"${SIZE}\" }", "7 }\n    retry_on_failure: { max_elapsed_time: 300s }");
    let loaded = from_text("c.yaml", &text, &Environment::new()).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].message.contains("never dropped"));
}
