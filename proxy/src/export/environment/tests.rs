//! Which variables mean what, and what is said of those that mean nothing.

use super::*;

fn read(pairs: &[(&str, &str)]) -> (Otel, Vec<Problem>) {
    let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Otel::read(get, Environment::default())
}

/// Host, port, and the path of HTTP.
fn place(destination: Option<&Destination>) -> Option<(&str, u16, Option<&str>)> {
    let to = destination?;
    let path = match &to.protocol {
        OtlpProtocol::Grpc => None,
        OtlpProtocol::Http { path } => Some(path.as_str()),
    };
    Some((&to.host, to.port, path))
}

#[test]
fn nothing_is_exported_by_default() {
    let (otel, problems) = read(&[]);
    assert_eq!(otel.defaults, TelemetryDefaults::default());
    assert_eq!((otel.spans.delay, otel.records.delay), (Duration::from_secs(5), Duration::from_secs(1)));
    assert!(problems.is_empty());
}

#[test]
fn one_endpoint_turns_on_all_signals() {
    let (otel, problems) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")]);
    for to in [&otel.defaults.traces, &otel.defaults.logs, &otel.defaults.metrics] {
        assert_eq!(place(to.as_ref()), Some(("collector", 4317, None)));
    }
    assert!(problems.is_empty());
    let (otel, _) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1]:4318/base/")]);
    assert_eq!(place(otel.defaults.logs.as_ref()), Some(("::1", 4318, Some("/base/v1/logs"))));
    let (otel, _) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector")]);
    assert_eq!(place(otel.defaults.traces.as_ref()), Some(("collector", 4318, Some("/v1/traces"))));
}

#[test]
fn a_signal_has_its_own_settings() {
    let (otel, problems) = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:9/x"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, x-tenant=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ]);
    assert_eq!(problems, []);
    let traces = otel.defaults.traces.unwrap();
    assert_eq!(place(Some(&traces)), Some(("b", 9, Some("/x"))));
    assert_eq!((traces.timeout, traces.gzip), (Duration::from_millis(250), false));
    assert_eq!(traces.headers["authorization"], "Bearer x");
    assert_eq!(traces.headers["x-tenant"], "1");
    let logs = otel.defaults.logs.unwrap();
    assert_eq!((logs.timeout, logs.gzip), (TIMEOUT, true));
    assert_eq!(otel.defaults.metrics, None);
}

#[test]
fn samplers_and_propagators_become_istios_settings() {
    let sampler = |kind: &str, arg: &str| {
        let (otel, problems) = read(&[("OTEL_TRACES_SAMPLER", kind), ("OTEL_TRACES_SAMPLER_ARG", arg)]);
        (otel.defaults.sampling, otel.defaults.ignore_parent, problems.len())
    };
    assert_eq!(sampler("parentbased_traceidratio", "0.25"), (Some(2_500), false, 0));
    assert_eq!(sampler("traceidratio", "1e-4"), (Some(1), true, 0));
    assert_eq!(sampler("always_off", ""), (Some(0), true, 0));
    assert_eq!(sampler("parentbased_always_on", ""), (Some(10_000), false, 0));
    assert_eq!(sampler("traceidratio", "7"), (Some(10_000), true, 1));
    assert_eq!(sampler("xray", ""), (None, false, 1));
    let propagation = |text: &str| read(&[("OTEL_PROPAGATORS", text)]).0.defaults.propagation;
    assert_eq!(propagation("tracecontext,baggage,b3multi"), Some(Propagation::B3AndW3c));
    assert_eq!(propagation("tracecontext,baggage"), Some(Propagation::W3c));
    assert_eq!(propagation("b3"), Some(Propagation::B3));
    assert_eq!(propagation("none"), Some(Propagation::Off));
}

#[test]
fn https_is_believed_by_the_name_of_the_url_and_the_files_that_are_named() {
    let (otel, problems) = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://plain:4318"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/other-ca"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE", "/c"),
        ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/k"),
    ]);
    assert_eq!(problems, []);
    let [traces, logs, metrics] =
        [otel.defaults.traces, otel.defaults.logs, otel.defaults.metrics].map(Option::unwrap);
    assert_eq!(place(Some(&traces)), Some(("collector.example", 443, Some("/v1/traces"))));
    let tls = |identity, trust: &str| {
        let trust = Trust::File(trust.into());
        let credentials = Credentials { identity, trust, names: Box::default(), revoked: None };
        Some(Arc::new(ClientTls { credentials, server_name: ServerName::Is("collector.example".into()) }))
    };
    assert_eq!(traces.tls, tls(Identity::Anonymous, "/ca"));
    assert_eq!(logs.tls, None);
    let files = KeyFiles { certificates: "/c".into(), key: "/k".into() };
    assert_eq!(metrics.tls, tls(Identity::Files(files), "/other-ca"));
    let (otel, _) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://[::1]:4317")]);
    let traces = otel.defaults.traces.unwrap();
    assert_eq!((place(Some(&traces)), &traces.protocol), (Some(("::1", 4317, None)), &OtlpProtocol::Grpc));
    assert_eq!(traces.tls.unwrap().credentials.trust, Trust::System);

    let half = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k");
    let (otel, problems) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"), half]);
    assert_eq!((otel.defaults.traces, problems.len()), (None, 3), "{problems:?}");
    assert!(problems[0].to_string().starts_with("OTEL_EXPORTER_OTLP_CLIENT_KEY=/k: expected both"));
}

#[test]
fn what_cannot_be_used_is_said_and_counts_as_not_set() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:70000"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sideways"),
        ("OTEL_PROPAGATORS", "jaeger"),
        ("OTEL_RESOURCE_ATTRIBUTES", "novalue"),
    ] {
        let (otel, problems) = read(&[(name, value)]);
        assert!(!problems.is_empty(), "{name}={value}");
        assert!(problems.iter().all(|problem| problem.variable == name), "{problems:?}");
        assert_eq!(otel.defaults.traces, None, "{name}={value}");
        assert_eq!(otel.spans.bounds, Bounds::default());
    }
    let pairs = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"), ("OTEL_EXPORTER_OTLP_HEADERS", "secret")];
    let (otel, problems) = read(&pairs);
    assert!(otel.defaults.traces.is_some());
    assert!(problems.iter().all(|problem| !problem.to_string().contains("secret")), "{problems:?}");
}

#[test]
fn the_sdk_can_be_switched_off() {
    let pairs = [("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317")];
    assert_eq!(read(&pairs).0.defaults, TelemetryDefaults::default());
}

#[test]
fn certificates_for_a_receiver_without_a_scheme_export_nothing_in_plain_text() {
    let (otel, problems) = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/ca"),
    ]);
    assert!(otel.defaults.traces.is_none());
    assert!(otel.defaults.logs.is_some(), "for which there is none");
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.len() == 1 && problems[0].contains("https://"), "{problems:?}");
}
