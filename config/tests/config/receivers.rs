//! Receivers of telemetry: how they are written, and whether the registry has them.

use std::{sync::Arc, time::Duration};

use outrigger_config::{
    LoadOptions,
    report::Code,
    snapshot::{
        ClientTls, Credentials, Destination, Identity, OtlpProtocol, ServerName, Snapshot, TelemetryDefaults,
        Tracing, Trust,
    },
};

use crate::support::{
    MESH, RATINGS, REVIEWS, codes, destination, options, otel, outbound, quiet, try_load, with_mesh,
};

fn of(settings: &str) -> Tracing {
    quiet(&[], &with_mesh(settings)).outbound.tracing
}

fn reported(tracing: &Tracing) -> &Destination {
    tracing.report.as_deref().expect("spans are reported")
}

#[test]
fn a_receiver_of_the_registry_is_reached_through_its_cluster() {
    let cluster = |snapshot: &Snapshot| {
        let to = snapshot.outbound.tracing.report.as_ref().expect("spans are reported");
        to.cluster.map(|id| snapshot[id].name.to_string())
    };
    let snapshot = quiet(&[], &with_mesh(&otel("")));
    assert_eq!(cluster(&snapshot), Some(outbound(8080, "", RATINGS)));
    // No listener carries port 9090 here, so that nothing else asks for the cluster.
    let services = MESH.replace("{ number: 9090, name: grpc }", "{ number: 8081, name: http }");
    let settings = otel("").replace(RATINGS, &REVIEWS.to_uppercase()).replace("8080", "9090");
    let snapshot = try_load(&[&services], &with_mesh(&settings)).unwrap().snapshot;
    assert_eq!(cluster(&snapshot), Some(outbound(9090, "", REVIEWS)));
    let to = snapshot.outbound.tracing.report.as_ref().unwrap();
    assert!(Arc::ptr_eq(to, snapshot.inbound.tracing.report.as_ref().unwrap()), "one for both directions");
    let qualified = |namespace: &str| otel("").replace(RATINGS, &format!("{namespace}/{RATINGS}"));
    assert!(cluster(&quiet(&[], &with_mesh(&qualified("other")))).is_some());
    let foreign = try_load(&[MESH], &with_mesh(&qualified("observability"))).unwrap();
    assert_eq!(codes(&foreign.warnings), [Code::OutsideRegistry]);
    assert_eq!(cluster(&foreign.snapshot), None);
}

#[test]
fn a_receiver_outside_of_the_registry_is_kept_with_a_warning() {
    let other = |host: &str, port: u16| {
        otel("").replace(&format!("{RATINGS}, port: 8080"), &format!("{host}, port: {port}"))
    };
    for (settings, host, port) in [
        (other("ratings.other.svc", 8080), "ratings.other.svc", 8080),
        (other(RATINGS, 4317), RATINGS, 4317),
        (other("10.9.9.9", 4317), "10.9.9.9", 4317),
    ] {
        let loaded = try_load(&[MESH], &with_mesh(&settings)).unwrap();
        insta::assert_snapshot!(format!("outside_{host}_{port}"), loaded.warnings.to_string());
        let tracing = loaded.snapshot.outbound.tracing;
        let to = reported(&tracing);
        assert_eq!((&*to.host, to.port, to.cluster), (host, port, None));
    }
}

#[test]
fn receivers_of_the_environment_are_looked_up_without_a_word() {
    let telemetry = TelemetryDefaults {
        traces: Some(destination(RATINGS, 8080)),
        metrics: Some(destination(REVIEWS, 9090)),
        logs: Some(destination("logs.example.com", 4317)),
        ..TelemetryDefaults::default()
    };
    let snapshot = quiet(&[], &LoadOptions { telemetry, ..options() });
    let name = |to: &Option<Arc<Destination>>| {
        to.as_ref().and_then(|to| to.cluster).map(|id| snapshot[id].name.to_string())
    };
    assert_eq!(name(&snapshot.outbound.tracing.report), Some(outbound(8080, "", RATINGS)));
    assert_eq!(name(&snapshot.metrics), Some(outbound(9090, "", REVIEWS)));
    assert_eq!(snapshot.outbound.access_logs.len(), 1);
    // Of `https` the receiver itself is asked who it is, whatever the rules say of its service.
    let credentials = Credentials {
        identity: Identity::Anonymous,
        trust: Trust::System,
        names: Box::default(),
        revoked: None,
    };
    let tls = Some(Arc::new(ClientTls { credentials, server_name: ServerName::Is(REVIEWS.into()) }));
    let secure = TelemetryDefaults {
        metrics: Some(Destination { tls: tls.clone(), ..destination(REVIEWS, 9090) }),
        ..TelemetryDefaults::default()
    };
    let metrics = quiet(&[], &LoadOptions { telemetry: secure, ..options() }).metrics.unwrap();
    assert_eq!((metrics.cluster, &metrics.tls), (None, &tls));
    let nothing = quiet(&[], &options());
    assert!(nothing.metrics.is_none() && nothing.outbound.tracing.report.is_none());
}

#[test]
fn an_otlp_receiver_takes_path_timeout_and_headers() {
    let plain = of(&otel(""));
    let to = reported(&plain);
    assert_eq!((&to.protocol, to.timeout), (&OtlpProtocol::Grpc, Duration::from_secs(10)));
    assert!(to.headers.is_empty() && !to.gzip && !to.semantic_service_name);

    let http = of(&otel(
        "serviceAttributeEnrichment: OTEL_SEMANTIC_CONVENTIONS, \
         http: { path: api/traces, timeout: 3s, headers: [{ name: X-Token, value: secret }] }",
    ));
    let to = reported(&http);
    let OtlpProtocol::Http { path } = &to.protocol else { panic!("gRPC") };
    assert_eq!((path.as_str(), to.timeout), ("/api/traces", Duration::from_secs(3)));
    assert_eq!(to.headers["x-token"], "secret");
    assert!(to.semantic_service_name);
    let bare = of(&otel("http: {}"));
    assert!(matches!(&reported(&bare).protocol, OtlpProtocol::Http { path } if path == "/v1/traces"));

    let grpc = of(&otel("grpc: { timeout: 250ms, initialMetadata: [{ name: x-token, value: secret }] }"));
    let to = reported(&grpc);
    assert_eq!((&to.protocol, to.timeout), (&OtlpProtocol::Grpc, Duration::from_millis(250)));
    assert_eq!(to.headers["x-token"], "secret");
}

#[test]
fn header_values_are_shown_nowhere() {
    let settings = otel("http: { headers: [{ name: x-token, value: secret }] }");
    let snapshot = quiet(&[], &with_mesh(&settings));
    assert!(!snapshot.to_json().to_string().contains("secret"));
    assert!(!format!("{snapshot:?}").contains("secret"));
    let broken = settings.replace("value: secret", "value: \"secret\\u0001\"");
    let report = try_load(&[MESH], &with_mesh(&broken)).unwrap_err();
    assert_eq!(codes(&report), [Code::InvalidHeader]);
    assert!(!report.diagnostics[0].message.contains("secret"));
}

#[test]
fn a_header_of_an_unreadable_environment_is_left_out() {
    let settings = otel("http: { headers: [{ name: x-token, envName: TOKEN }] }");
    let loaded = try_load(&[MESH], &with_mesh(&settings)).unwrap();
    assert_eq!(codes(&loaded.warnings), [Code::NotHonoured]);
    assert!(reported(&loaded.snapshot.outbound.tracing).headers.is_empty());
}

#[test]
fn what_istio_rejects_of_providers_is_rejected() {
    let entry = |fields: &str| format!("extensionProviders: [{{ {fields} }}]");
    for (settings, code) in [
        (entry("opentelemetry: { service: a.b, port: 1 }"), Code::MissingField),
        (entry("name: a, zipkin: {}, opentelemetry: { service: a.b, port: 1 }"), Code::ExclusiveFields),
        (
            "extensionProviders: [{ name: a, zipkin: {} }, { name: a, zipkin: {} }]".to_owned(),
            Code::DuplicateName,
        ),
        (entry("name: a, opentelemetry: { service: 'http://a.b', port: 1 }"), Code::InvalidHost),
        (entry("name: a, opentelemetry: { service: '*.b', port: 1 }"), Code::InvalidHost),
        (entry("name: a, opentelemetry: { service: a.b, port: 70000 }"), Code::InvalidValue),
        (entry("name: a, opentelemetry: { service: a.b, port: 1, maxTagLength: -1 }"), Code::InvalidValue),
        (entry("name: a, opentelemetry: { service: a.b, port: 1, http: { path: ' ' } }"), Code::InvalidValue),
        (entry("name: a, opentelemetry: { servce: a.b, port: 1 }"), Code::UnknownField),
        (
            entry("name: a, envoyFileAccessLog: { logFormat: { text: a, labels: { b: c } } }"),
            Code::ExclusiveFields,
        ),
        (entry("name: a, envoyFileAccessLog: { logFormat: { labels: { b: { c: d } } } }"), Code::WrongType),
        (
            entry("name: a, envoyOtelAls: { service: a, port: 1, logFormat: { text: '%NO%' } }"),
            Code::InvalidValue,
        ),
    ] {
        let report = try_load(&[MESH], &with_mesh(&settings)).expect_err(&settings);
        assert!(codes(&report).contains(&code), "{settings}\n{report}");
    }
}
