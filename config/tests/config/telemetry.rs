//! `Telemetry` resources: which of them apply, and what they override in tracing.

use std::collections::BTreeMap;

use outrigger_config::{
    LoadOptions,
    report::Code,
    snapshot::{Propagation, Snapshot, TagValue, TelemetryDefaults},
};

use crate::support::{
    MESH, RATINGS, REVIEWS, codes, destination, options, quiet, telemetry, try_load, with_mesh,
};

/// Two tracing providers: `otel` at `ratings` and `second` at `reviews`.
fn providers() -> String {
    format!(
        "extensionProviders:\n- {{ name: otel, opentelemetry: {{ service: {RATINGS}, port: 8080 }} }}\n\
         - {{ name: second, opentelemetry: {{ service: {REVIEWS}, port: 8080 }} }}\n"
    )
}

fn me(settings: &str) -> LoadOptions {
    let mut options = with_mesh(settings);
    options.node.labels = BTreeMap::from([("app".into(), "me".into())]);
    options
}

/// Receivers of spans that leave and that come in; empty is none.
fn receivers(snapshot: &Snapshot) -> [&str; 2] {
    [&snapshot.outbound, &snapshot.inbound].map(|to| to.tracing.report.as_ref().map_or("", |to| &to.name))
}

#[test]
fn the_more_specific_telemetry_overrides_field_by_field() {
    let root = telemetry(
        "name: root, namespace: istio-system",
        "tracing: [{ providers: [{ name: otel }], randomSamplingPercentage: 5, enableIstioTags: false, \
         useRequestIdForTraceSampling: false, \
         customTags: { a: { literal: { value: root } }, b: { literal: { value: root } } } }]",
    );
    let namespace = telemetry(
        "name: own",
        "tracing: [{ randomSamplingPercentage: 6, customTags: { a: { literal: { value: own } } } }]",
    );
    let workload = telemetry(
        "name: mine",
        "selector: { matchLabels: { app: me } }, tracing: [{ randomSamplingPercentage: 7, enableIstioTags: true }]",
    );
    let other = telemetry(
        "name: others",
        "selector: { matchLabels: { app: you } }, tracing: [{ randomSamplingPercentage: 99 }]",
    );
    let foreign = telemetry("name: foreign, namespace: other", "tracing: [{ randomSamplingPercentage: 98 }]");
    let options = me(&providers());
    let of = |texts: &[&str]| quiet(texts, &options).outbound.tracing;

    let all = of(&[&workload, &other, &foreign, &namespace, &root]);
    assert_eq!((all.sampling, all.istio_tags, all.by_request_id), (700, true, false));
    assert_eq!(all.custom_tags.len(), 1, "a map of tags replaces the one above");
    assert_eq!(all.custom_tags[0].value, TagValue::Literal("own".into()));
    assert_eq!(all.report.unwrap().name.as_ref(), "otel", "inherited from the root namespace");
    let two = of(&[&root, &namespace]);
    assert_eq!((two.sampling, two.istio_tags), (600, false));
    let one = of(&[&root, &other, &foreign]);
    assert_eq!((one.sampling, one.custom_tags.len()), (500, 2));
}

#[test]
fn the_oldest_telemetry_of_a_level_applies() {
    let of = |name: &str, created: &str, more: &str| {
        telemetry(&format!("name: {name}, creationTimestamp: '{created}'"), more)
    };
    let young = of("a", "2026-02-01T00:00:00Z", "tracing: [{ randomSamplingPercentage: 1 }]");
    let old = of("b", "2026-01-01T00:00:00Z", "tracing: [{ randomSamplingPercentage: 2 }]");
    let selects = "selector: { matchLabels: { app: me } }, tracing: [{ enableIstioTags: false }]";
    let first = of("c", "2026-01-01T00:00:00Z", selects);
    let second = of("d", "2026-01-02T00:00:00Z", "selector: { matchLabels: { app: me } }");
    let loaded = try_load(&[MESH, &young, &old, &first, &second], &me("{}")).unwrap();
    insta::assert_snapshot!("several", loaded.warnings.to_string());
    let tracing = loaded.snapshot.outbound.tracing;
    assert_eq!((tracing.sampling, tracing.istio_tags), (200, false));
}

#[test]
fn telemetry_chooses_the_tracing_provider() {
    let defaults = format!("{}defaultProviders: {{ tracing: [otel] }}\n", providers());
    let chosen = telemetry("name: t", "tracing: [{ providers: [{ name: second }] }]");
    assert_eq!(receivers(&quiet(&[], &me(&defaults))), ["otel"; 2]);
    assert_eq!(receivers(&quiet(&[&chosen], &me(&defaults))), ["second"; 2]);
    let several = telemetry("name: t", "tracing: [{ providers: [{ name: second }, { name: otel }] }]");
    let loaded = try_load(&[MESH, &several], &me(&defaults)).unwrap();
    assert_eq!(codes(&loaded.warnings), [Code::UnusedProvider]);
    assert_eq!(receivers(&loaded.snapshot), ["second"; 2]);
}

#[test]
fn a_mode_limits_tracing_to_a_direction() {
    let both = telemetry(
        "name: t",
        "tracing: [{ match: { mode: CLIENT }, providers: [{ name: otel }], randomSamplingPercentage: 3 }, \
         { match: { mode: SERVER }, providers: [{ name: second }], randomSamplingPercentage: 4 }, \
         { match: { mode: CLIENT_AND_SERVER }, enableIstioTags: false }]",
    );
    let snapshot = quiet(&[&both], &me(&providers()));
    assert_eq!(receivers(&snapshot), ["otel", "second"]);
    assert_eq!((snapshot.outbound.tracing.sampling, snapshot.inbound.tracing.sampling), (300, 400));
    assert!(!snapshot.outbound.tracing.istio_tags && !snapshot.inbound.tracing.istio_tags);
}

#[test]
fn spans_are_not_reported_where_reporting_is_disabled() {
    let root = telemetry(
        "name: root, namespace: istio-system",
        "tracing: [{ providers: [{ name: otel }], disableSpanReporting: true }]",
    );
    let snapshot = quiet(&[&root], &me(&providers()));
    assert_eq!(receivers(&snapshot), [""; 2]);
    assert_eq!(snapshot.outbound.tracing.propagation, Propagation::W3c, "the context is passed on");
    let inbound =
        telemetry("name: own", "tracing: [{ match: { mode: SERVER }, disableSpanReporting: false }]");
    assert_eq!(receivers(&quiet(&[&root, &inbound], &me(&providers()))), ["", "otel"]);
    let defaults = TelemetryDefaults {
        traces: Some(destination("env.example.com", 4317)),
        ..TelemetryDefaults::default()
    };
    let options = LoadOptions { telemetry: defaults, ..options() };
    let disabled = telemetry("name: t", "tracing: [{ disableSpanReporting: true }]");
    assert_eq!(receivers(&quiet(&[&disabled], &options)), [""; 2]);
    assert_eq!(receivers(&quiet(&[], &options)), ["OTEL_EXPORTER_OTLP_ENDPOINT"; 2]);
}

#[test]
fn tracing_that_is_switched_off_needs_a_provider_of_telemetry() {
    let settings = format!("enableTracing: false\n{}defaultProviders: {{ tracing: [otel] }}\n", providers());
    let off = quiet(&[], &me(&settings));
    assert_eq!((off.outbound.tracing.propagation, receivers(&off)), (Propagation::Off, [""; 2]));
    let explicit =
        telemetry("name: t", "tracing: [{ match: { mode: CLIENT }, providers: [{ name: second }] }]");
    let on = quiet(&[&explicit], &me(&settings));
    assert_eq!(receivers(&on), ["second", ""]);
    assert_eq!(on.inbound.tracing.propagation, Propagation::Off);
}

#[test]
fn a_telemetry_for_gateways_is_not_taken() {
    let attached = telemetry(
        "name: t",
        "targetRefs: [{ kind: Gateway, name: g, group: gateway.networking.k8s.io }], \
         tracing: [{ randomSamplingPercentage: 50 }]",
    );
    let loaded = try_load(&[MESH, &attached], &options()).unwrap();
    assert_eq!(codes(&loaded.warnings), [Code::NotHonoured]);
    assert_eq!(loaded.snapshot.outbound.tracing.sampling, 100);
}

#[test]
fn what_telemetry_cannot_do_is_said() {
    let text = telemetry(
        "name: t",
        "metrics: [{ overrides: [] }], tracing: [{ disableContextPropagation: true }], \
         accessLogging: [{ filter: { expression: 'response.code >= 400' } }]",
    );
    let loaded = try_load(&[MESH, &text], &options()).unwrap();
    insta::assert_snapshot!("not_honoured", loaded.warnings.to_string());
}

#[test]
fn unknown_fields_and_versions_of_telemetry_are_errors() {
    let fine = telemetry("name: t", "tracing: []");
    for version in ["v1", "v1alpha1"] {
        quiet(&[&fine.replace("io/v1", &format!("io/{version}"))], &options());
    }
    let report = try_load(&[MESH, &fine.replace("io/v1", "io/v1beta1")], &options()).unwrap_err();
    assert_eq!(codes(&report), [Code::UnknownKind]);
    let unnamed = telemetry("name: t", "accessLogging: [{ providers: [{}] }]");
    assert_eq!(codes(&try_load(&[MESH, &unnamed], &options()).unwrap_err()), [Code::MissingField]);
    let wrong = telemetry("name: t", "tracing: [{ randomSampling: 5, match: { mode: CLIENTS } }]");
    let report = try_load(&[MESH, &wrong], &options()).unwrap_err();
    assert_eq!(codes(&report), [Code::UnknownField, Code::InvalidValue]);
    assert!(report.diagnostics[0].help.as_ref().unwrap().contains("`randomSamplingPercentage`"));
}
