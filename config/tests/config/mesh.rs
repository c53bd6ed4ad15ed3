//! Mesh settings.

use std::time::Duration;

use outrigger_config::{
    TEXT_LOG_FORMAT,
    snapshot::{AccessLog, LogEncoding, LogSink, Propagation, Snapshot},
};

use crate::support::{MESH, REVIEWS, cluster, codes, first_forward, options, outbound, try_load, with_mesh};

fn compiled(settings: &str) -> Snapshot {
    try_load(&[MESH], &with_mesh(settings)).unwrap_or_else(|report| panic!("{report}")).snapshot
}

/// The one log of a mesh, which takes both directions.
fn log(snapshot: Snapshot) -> AccessLog {
    assert_eq!(snapshot.inbound.access_logs.len(), 1);
    let [log] = <[AccessLog; 1]>::try_from(snapshot.outbound.access_logs.into_vec()).unwrap();
    log
}

fn file(snapshot: Snapshot) -> String {
    match log(snapshot).to {
        LogSink::File(path) => path.to_string(),
        LogSink::Otlp { .. } => panic!("OTLP"),
    }
}

#[test]
fn the_access_log_is_compiled() {
    let is_off = |settings: &str| {
        let snapshot = compiled(settings);
        snapshot.outbound.access_logs.is_empty() && snapshot.inbound.access_logs.is_empty()
    };
    assert!(is_off("{}"), "off by default");
    assert!(is_off("accessLogFile: ''"));
    assert!(is_off("accessLogEncoding: JSON"), "no file, no log");
    let text = |settings: &str| match log(compiled(settings)).encoding {
        LogEncoding::Text(format) => format.to_string(),
        LogEncoding::Json(_) => panic!("JSON"),
    };
    assert_eq!(file(compiled("accessLogFile: /dev/stdout")), "/dev/stdout");
    assert_eq!(text("accessLogFile: /dev/stdout"), TEXT_LOG_FORMAT);
    assert_eq!(text("accessLogFile: x\naccessLogFormat: '%PROTOCOL%'"), "%PROTOCOL%\n");
    let keys = |settings: &str| match log(compiled(settings)).encoding {
        LogEncoding::Json(pairs) => pairs.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>(),
        LogEncoding::Text(_) => panic!("text"),
    };
    let default = keys("accessLogFile: x\naccessLogEncoding: JSON");
    assert_eq!(default.len(), 24);
    assert!(default.is_sorted(), "as Envoy writes them");
    let own =
        "accessLogFile: x\naccessLogEncoding: JSON\naccessLogFormat: '{\"b\": \"%PROTOCOL%\", \"a\": \"-\"}'";
    assert_eq!(keys(own), ["a", "b"]);
}

#[test]
fn tracing_settings_are_compiled() {
    let of = |settings: &str| {
        let tracing = compiled(settings).outbound.tracing;
        (tracing.propagation, tracing.sampling)
    };
    let provider = |body: &str| {
        format!("extensionProviders: [{{ name: p, {body} }}]\ndefaultProviders: {{ tracing: [p] }}\n")
    };
    assert_eq!(of("{}"), (Propagation::B3AndW3c, 100));
    assert_eq!(of("enableTracing: false").0, Propagation::Off);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 12.34 } }").1, 1234);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 100 } }").1, 10000);
    assert_eq!(of("defaultConfig: { tracing: { sampling: 0 } }").1, 100, "zero is unset");
    assert_eq!(of("defaultConfig: { tracing: { sampling: 101 } }").1, 100);
    assert_eq!(of("defaultConfig: { tracing: { zipkin: {} } }").0, Propagation::B3);
    assert_eq!(of(&provider("opentelemetry: {}")).0, Propagation::W3c);
    assert_eq!(of(&provider("zipkin: {}")).0, Propagation::B3);
    let both = provider("zipkin: { traceContextOption: USE_B3_WITH_W3C_PROPAGATION }");
    assert_eq!(of(&both).0, Propagation::B3AndW3c);
    assert_eq!(of("extensionProviders: [{ name: p, zipkin: {} }]").0, Propagation::B3AndW3c, "not chosen");
}

#[test]
fn mesh_defaults_reach_every_cluster() {
    let snapshot = compiled(
        "connectTimeout: 3s\ntcpKeepalive: { time: 5s }\n\
         defaultHttpRetryPolicy: { attempts: 4, retryOn: reset }\n",
    );
    let reviews = cluster(&snapshot, &outbound(8080, "", REVIEWS));
    assert_eq!(reviews.connect_timeout, Duration::from_secs(3));
    assert_eq!(reviews.keepalive.unwrap().time, Some(Duration::from_secs(5)));
    let retry = first_forward(&snapshot).retry.as_ref().unwrap();
    assert!(retry.attempts.get() == 4 && retry.on.reset && !retry.on.connect_failure);
    let off = compiled("defaultHttpRetryPolicy: { attempts: 0 }");
    assert_eq!(first_forward(&off).retry, None);
}

const CONFIG_MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  meshNetworks: 'networks: {}'
  mesh: |-
    accessLogFile: /dev/stderr
    defaultConfig:
      discoveryAddress: istiod.istio-system.svc:15012
    rootNamespase: istio-system
";

#[test]
fn a_config_map_is_read_and_its_findings_point_into_it() {
    let report = try_load(&[MESH, CONFIG_MAP], &options()).unwrap_err();
    insta::assert_snapshot!("config_map", report.to_string());
    let spaced = CONFIG_MAP.replace("mesh: |-\n", "mesh: |-\n\n\n");
    let report = try_load(&[MESH, &spaced], &options()).unwrap_err();
    assert_eq!(report.diagnostics[0].source, "    rootNamespase: istio-system");
    let fixed = CONFIG_MAP.replace("    rootNamespase: istio-system\n", "");
    let loaded = try_load(&[MESH, &fixed], &options()).unwrap();
    assert_eq!(codes(&loaded.warnings), []);
    assert_eq!(file(loaded.snapshot), "/dev/stderr");
    let own = try_load(&[MESH, &fixed], &with_mesh("accessLogFile: mine")).unwrap();
    assert_eq!(file(own.snapshot), "mine", "a file of its own wins");
}
