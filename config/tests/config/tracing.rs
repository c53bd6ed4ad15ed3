//! Tracing: what the mesh and the environment say of propagation, sampling, tags and receivers.

use outrigger_config::{
    LoadOptions,
    report::Code,
    snapshot::{CustomTag, Propagation, TagValue, TelemetryDefaults, Tracing},
};

use crate::support::{MESH, codes, destination, options, otel, quiet, telemetry, try_load, with_mesh};

fn of(settings: &str) -> Tracing {
    quiet(&[], &with_mesh(settings)).outbound.tracing
}

fn environment() -> TelemetryDefaults {
    TelemetryDefaults { traces: Some(destination("env.example.com", 4317)), ..TelemetryDefaults::default() }
}

#[test]
fn a_tracing_provider_decides_propagation_and_receiver() {
    let environment =
        TelemetryDefaults { propagation: Some(Propagation::B3), sampling: Some(5000), ..environment() };
    let of = |settings: &str| {
        let options = LoadOptions { telemetry: environment.clone(), ..with_mesh(settings) };
        let tracing = quiet(&[], &options).inbound.tracing;
        (tracing.propagation, tracing.report.map(|to| to.name.to_string()))
    };
    let env = || Some("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned());
    assert_eq!(of("{}"), (Propagation::B3, env()));
    assert_eq!(of(&otel("")), (Propagation::W3c, Some("otel".to_owned())));
    let zipkin = "extensionProviders: [{ name: z, zipkin: { traceContextOption: USE_B3_WITH_W3C_PROPAGATION } }]\n\
                  defaultProviders: { tracing: [Z] }";
    assert_eq!(
        of(zipkin),
        (Propagation::B3AndW3c, env()),
        "names ignore case; Zipkin's format is not spoken"
    );
    assert_eq!(of("enableTracing: false"), (Propagation::Off, None));
    let none = quiet(&[], &options()).outbound.tracing;
    assert!(none.report.is_none() && none.propagation == Propagation::B3AndW3c);
}

#[test]
fn spans_of_a_zipkin_provider_go_to_the_environments_receiver() {
    let settings = "extensionProviders: [{ name: z, zipkin: { service: zipkin.example.com, port: 9411 } }]\n\
                    defaultProviders: { tracing: [z] }";
    let loaded = try_load(&[MESH], &with_mesh(settings)).unwrap();
    assert_eq!(codes(&loaded.warnings), [Code::NotHonoured, Code::NotHonoured]);
    let notes = &loaded.warnings.diagnostics[0].notes;
    assert_eq!(*notes, ["spans go to `OTEL_EXPORTER_OTLP_ENDPOINT`"]);
}

#[test]
fn tags_and_lengths_come_from_the_proxy_config_too() {
    let default = of("{}");
    assert_eq!((default.max_path_length, default.istio_tags), (256, true));
    let mesh = "defaultConfig: { tracing: { maxPathTagLength: 99, enableIstioTags: false, \
                customTags: { a: { literal: { value: b } } } } }\n";
    let tracing = of(mesh);
    assert_eq!((tracing.max_path_length, tracing.istio_tags), (99, false));
    assert_eq!(*tracing.custom_tags, [tag("a", TagValue::Literal("b".into()))]);
    let provider = of(&format!("{mesh}{}", otel("maxTagLength: 42")));
    assert_eq!(provider.max_path_length, 42, "the provider's own wins");
    let zipkin = format!("{mesh}{}", "extensionProviders: [{ name: z, zipkin: { maxTagLength: 7 } }]\n");
    assert_eq!(of(&format!("{zipkin}defaultProviders: {{ tracing: [z] }}")).max_path_length, 7);
}

fn tag(name: &str, value: TagValue) -> CustomTag {
    CustomTag { name: name.into(), value }
}

#[test]
fn every_kind_of_custom_tag_is_compiled() {
    let tags = "customTags: {
      zone: { literal: { value: a } },
      host: { environment: { name: HOSTNAME } }, rack: { environment: { name: RACK, defaultValue: '1' } },
      user: { header: { name: X-User } }, role: { header: { name: x-role, defaultValue: guest } },
      code: { formatter: { value: '%RESPONSE_CODE%' } } }";
    let expected = [
        tag("code", TagValue::Format(outrigger_config::format::Format::parse("%RESPONSE_CODE%").unwrap())),
        tag("host", TagValue::Environment { name: "HOSTNAME".into(), default: None }),
        tag("rack", TagValue::Environment { name: "RACK".into(), default: Some("1".into()) }),
        tag("role", TagValue::Header { name: "x-role".parse().unwrap(), default: Some("guest".into()) }),
        tag("user", TagValue::Header { name: "x-user".parse().unwrap(), default: None }),
        tag("zone", TagValue::Literal("a".into())),
    ];
    assert_eq!(*of(&format!("defaultConfig: {{ tracing: {{ {tags} }} }}")).custom_tags, expected);
    let own = telemetry("name: t", &format!("tracing: [{{ {tags} }}]"));
    let snapshot = quiet(&[&own], &options());
    assert_eq!(*snapshot.outbound.tracing.custom_tags, expected);
    insta::assert_json_snapshot!("custom_tags", snapshot.to_json()["outbound"]);
}

#[test]
fn broken_custom_tags_are_errors() {
    for (tag, code) in [
        ("{}", Code::MissingField),
        ("{ literal: {} }", Code::MissingField),
        ("{ literal: { value: a }, header: { name: b } }", Code::ExclusiveFields),
        ("{ header: { name: 'a b' } }", Code::InvalidHeader),
        ("{ formatter: { value: '%NOPE%' } }", Code::InvalidValue),
        ("{ litteral: { value: a } }", Code::UnknownField),
    ] {
        let own = telemetry("name: t", &format!("tracing: [{{ customTags: {{ a: {tag} }} }}]"));
        let report = try_load(&[MESH, &own], &options()).expect_err(tag);
        assert!(codes(&report).contains(&code), "{report}");
    }
}

#[test]
fn sampling_comes_from_telemetry_then_mesh_then_environment() {
    let of = |own: &str, mesh: &str, environment: Option<u16>| {
        let telemetry_of = TelemetryDefaults { sampling: environment, ..TelemetryDefaults::default() };
        let options = LoadOptions { telemetry: telemetry_of, ..with_mesh(mesh) };
        let own = telemetry("name: t", &format!("tracing: [{{ {own} }}]"));
        quiet(&[&own], &options).inbound.tracing.sampling
    };
    let mesh = "defaultConfig: { tracing: { sampling: 20 } }";
    assert_eq!(of("randomSamplingPercentage: 0", mesh, Some(3000)), 0);
    assert_eq!(of("randomSamplingPercentage: 12.345", mesh, Some(3000)), 1235);
    assert_eq!(of("", mesh, Some(3000)), 2000);
    assert_eq!(of("", "{ defaultConfig: { tracing: { sampling: 0 } } }", Some(3000)), 3000, "zero is unset");
    assert_eq!(of("", "{}", None), 100);
}

#[test]
fn sampling_that_is_no_percentage_says_what_is_used() {
    for (percent, environment, used) in [("101", None, 100), ("-1", Some(2500), 2500)] {
        let telemetry = TelemetryDefaults { sampling: environment, ..TelemetryDefaults::default() };
        let settings = format!("defaultConfig: {{ tracing: {{ sampling: {percent} }} }}");
        let loaded = try_load(&[MESH], &LoadOptions { telemetry, ..with_mesh(&settings) }).unwrap();
        assert_eq!(codes(&loaded.warnings), [Code::InvalidSampling]);
        assert_eq!(loaded.snapshot.outbound.tracing.sampling, used);
        let label = format!("{} % of new traces are sampled instead", f64::from(used) / 100.0);
        assert_eq!(loaded.warnings.diagnostics[0].label, label);
    }
    for percent in ["100.5", "-1"] {
        let own = telemetry("name: t", &format!("tracing: [{{ randomSamplingPercentage: {percent} }}]"));
        assert_eq!(codes(&try_load(&[MESH, &own], &options()).unwrap_err()), [Code::InvalidValue]);
    }
}

#[test]
fn the_environment_says_whether_a_parent_decides() {
    let telemetry = TelemetryDefaults { ignore_parent: true, ..TelemetryDefaults::default() };
    assert!(!quiet(&[], &LoadOptions { telemetry, ..options() }).outbound.tracing.parent_based);
    assert!(quiet(&[], &options()).outbound.tracing.parent_based);
}

#[test]
fn a_provider_that_cannot_be_used_leaves_traffic_alone() {
    let settings = "\
extensionProviders:
- name: otel-traces
  opentelemetry: { service: ratings.other.svc.cluster.local, port: 8080 }
- name: lines
  envoyFileAccessLog: {}
- name: nowhere
  opentelemetry: {}
defaultProviders:
  tracing: [otel-trace, otel-traces]
";
    let wrong = telemetry("name: t", "tracing: [{ providers: [{ name: lines }, { name: other }] }]");
    let loaded = try_load(&[MESH, &wrong], &with_mesh(settings)).unwrap();
    insta::assert_snapshot!("unusable_providers", loaded.warnings.to_string());
    let tracing = loaded.snapshot.outbound.tracing;
    assert!(tracing.report.is_none() && tracing.propagation == Propagation::B3AndW3c);
}
