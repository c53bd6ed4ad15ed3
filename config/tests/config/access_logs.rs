//! Access logs: files, OTLP, and who chooses them.

use outrigger_config::{
    JSON_LOG_FORMAT, LoadOptions, TEXT_LOG_FORMAT,
    report::Code,
    snapshot::{AccessLog, LogEncoding, LogSink, Snapshot, TelemetryDefaults},
};

use crate::support::{
    MESH, RATINGS, codes, destination, options, outbound, quiet, telemetry, try_load, with_mesh,
};

const FILES: &str = "extensionProviders:\n- { name: a, envoyFileAccessLog: { path: /a } }\n\
                     - { name: b, envoyFileAccessLog: { path: /b } }\n";

fn logging(rules: &str) -> String {
    telemetry("name: own", &format!("accessLogging: [{rules}]"))
}

fn root(rules: &str) -> String {
    telemetry("name: root, namespace: istio-system", &format!("accessLogging: [{rules}]"))
}

/// The path, or the name of the receiver.
fn place(log: &AccessLog) -> String {
    match &log.to {
        LogSink::File(path) => path.to_string(),
        LogSink::Otlp { to, .. } => format!("otlp {}", to.name),
    }
}

/// Logs of requests that leave and that come in, each joined by blanks.
fn places(snapshot: &Snapshot) -> [String; 2] {
    let of = |logs: &[AccessLog]| logs.iter().map(place).collect::<Vec<_>>().join(" ");
    [of(&snapshot.outbound.access_logs), of(&snapshot.inbound.access_logs)]
}

fn both(place: &str) -> [String; 2] {
    [place.to_owned(), place.to_owned()]
}

fn text(log: &AccessLog) -> String {
    match &log.encoding {
        LogEncoding::Text(format) => format.to_string(),
        LogEncoding::Json(_) => panic!("JSON"),
    }
}

fn keys(log: &AccessLog) -> Vec<&str> {
    match &log.encoding {
        LogEncoding::Json(pairs) => pairs.iter().map(|(key, _)| &**key).collect(),
        LogEncoding::Text(_) => panic!("text"),
    }
}

/// The mesh settings with a receiver of logs in the environment.
fn with_environment(settings: &str) -> LoadOptions {
    let logs = Some(destination(RATINGS, 8080));
    LoadOptions {
        telemetry: TelemetryDefaults { logs, ..TelemetryDefaults::default() },
        ..with_mesh(settings)
    }
}

const ENVIRONMENT: &str = "otlp OTEL_EXPORTER_OTLP_ENDPOINT";

#[test]
fn default_providers_take_the_access_log() {
    let settings = format!("{FILES}defaultProviders: {{ accessLogging: [a, B] }}\naccessLogFile: /old\n");
    assert_eq!(places(&quiet(&[], &with_mesh(&settings))), both("/a /b"), "the old file counts no more");
    assert_eq!(places(&quiet(&[], &with_mesh("accessLogFile: /old"))), both("/old"));
}

#[test]
fn telemetry_chooses_the_access_logs() {
    let settings = format!("{FILES}defaultProviders: {{ accessLogging: [a] }}\naccessLogFile: /old\n");
    let of = |texts: &[&str]| places(&quiet(texts, &with_mesh(&settings)));
    assert_eq!(of(&[&logging("{ providers: [{ name: b }] }")]), both("/b"));
    assert_eq!(of(&[&root("{ providers: [{ name: a }, { name: b }] }")]), both("/a /b"));
    let root_b = root("{ providers: [{ name: b }] }");
    assert_eq!(
        of(&[&root_b, &logging("{ providers: [{ name: a }] }")]),
        both("/a"),
        "the own level replaces"
    );
    assert_eq!(of(&[&root_b, &logging("{ disabled: false }")]), both("/b"), "no names are those above");
    assert_eq!(of(&[&logging("{}")]), both("/a"), "and above all the default");
}

#[test]
fn a_mode_limits_access_logs_to_a_direction() {
    let of = |rules: &str| places(&quiet(&[&logging(rules)], &with_mesh(FILES)));
    let split = "{ match: { mode: CLIENT }, providers: [{ name: a }] }, \
                 { match: { mode: SERVER }, providers: [{ name: b }] }";
    assert_eq!(of(split), ["/a".to_owned(), "/b".to_owned()]);
    let most = "{ providers: [{ name: a }] }, { match: { mode: SERVER }, disabled: true }";
    assert_eq!(of(most), ["/a".to_owned(), String::new()]);
}

#[test]
fn access_logs_are_switched_off() {
    let settings = format!("{FILES}defaultProviders: {{ accessLogging: [a, b] }}\n");
    let of = |texts: &[&str], settings: &str| places(&quiet(texts, &with_environment(settings)));
    let off = logging("{ disabled: true }");
    assert_eq!(of(&[&off], &settings), both(""), "that of the environment too");
    assert_eq!(of(&[&off], "accessLogFile: /old"), both(""));
    let one = logging("{ providers: [{ name: a }], disabled: true }");
    assert_eq!(of(&[&root("{ providers: [{ name: a }] }"), &one], &settings), both(""));
    let some =
        logging("{ providers: [{ name: a }, { name: b }] }, { providers: [{ name: b }], disabled: true }");
    assert_eq!(of(&[&some], &settings), both(&format!("/a {ENVIRONMENT}")));
    let on = logging("{ providers: [{ name: b }] }");
    assert_eq!(of(&[&root("{ disabled: true }"), &on], &settings), both(&format!("/b {ENVIRONMENT}")));
}

#[test]
fn envoy_is_a_built_in_file_in_the_meshs_format() {
    let envoy = logging("{ providers: [{ name: envoy }] }");
    let snapshot = quiet(&[&envoy], &with_mesh("accessLogFormat: '%PROTOCOL%'"));
    assert_eq!(places(&snapshot), both("/dev/stdout"));
    assert_eq!(text(&snapshot.outbound.access_logs[0]), "%PROTOCOL%\n");
    let own =
        "extensionProviders: [{ name: envoy, envoyFileAccessLog: { path: /mine } }]\naccessLogEncoding: JSON";
    let snapshot = quiet(&[&envoy], &with_mesh(own));
    assert_eq!(places(&snapshot), both("/mine"));
    assert_eq!(keys(&snapshot.inbound.access_logs[0]).len(), 24);
}

#[test]
fn a_file_provider_writes_text_or_json() {
    let of = |fields: &str| {
        let settings = format!(
            "extensionProviders: [{{ name: f, envoyFileAccessLog: {{ {fields} }} }}]\n\
             defaultProviders: {{ accessLogging: [f] }}\naccessLogEncoding: JSON\n"
        );
        let [log] =
            <[AccessLog; 1]>::try_from(quiet(&[], &with_mesh(&settings)).outbound.access_logs.into_vec())
                .unwrap();
        log
    };
    let plain = of("");
    assert_eq!((&*place(&plain), &*text(&plain)), ("/dev/stdout", TEXT_LOG_FORMAT));
    let written = of("path: /var/log/x, logFormat: { text: '%PROTOCOL%' }");
    assert_eq!((&*place(&written), &*text(&written)), ("/var/log/x", "%PROTOCOL%\n"));
    assert_eq!(keys(&of("logFormat: { labels: { b: '%PROTOCOL%', a: fixed } }")), ["a", "b"]);
    assert_eq!(keys(&of("logFormat: { labels: {} }")), JSON_LOG_FORMAT.map(|(key, _)| key));
}

fn otel(fields: &str) -> String {
    format!(
        "extensionProviders: [{{ name: als, envoyOtelAls: {{ service: {RATINGS}, port: 8080, {fields} }} }}]\n\
         defaultProviders: {{ accessLogging: [als] }}\n"
    )
}

#[test]
fn an_otlp_provider_takes_body_and_attributes() {
    let snapshot = quiet(&[], &with_environment(&otel("")));
    assert_eq!(places(&snapshot), both("otlp als"), "that of the environment is not wanted beside it");
    let log = &snapshot.outbound.access_logs[0];
    assert_eq!(text(log), TEXT_LOG_FORMAT.trim_end());
    let LogSink::Otlp { to, log_name, attributes } = &log.to else { panic!("file") };
    assert_eq!((&**log_name, attributes.len()), ("otel_envoy_accesslog", 0));
    assert_eq!(*snapshot[to.cluster.unwrap()].name, *outbound(8080, "", RATINGS));

    let own =
        otel("logName: mine, logFormat: { text: \"%PROTOCOL%\\n\", labels: { b: '%DURATION%', a: c } }");
    let log = &quiet(&[], &with_mesh(&own)).inbound.access_logs[0];
    assert_eq!(text(log), "%PROTOCOL%");
    let LogSink::Otlp { log_name, attributes, .. } = &log.to else { panic!("file") };
    let attributes: Vec<_> =
        attributes.iter().map(|(key, format)| (key.to_string(), format.to_string())).collect();
    assert_eq!(**log_name, *"mine");
    assert_eq!(attributes, [("a".into(), "c".into()), ("b".into(), "%DURATION%".into())]);
}

#[test]
fn the_environments_log_stands_beside_the_file() {
    let snapshot = quiet(&[], &with_environment("accessLogFile: /old\naccessLogFormat: '%PROTOCOL%'"));
    assert_eq!(places(&snapshot), both(&format!("/old {ENVIRONMENT}")));
    let log = &snapshot.outbound.access_logs[1];
    assert_eq!(text(log), "%PROTOCOL%", "a record's body is no line");
    let LogSink::Otlp { to, log_name, attributes } = &log.to else { panic!("file") };
    assert_eq!(**log_name, *"otel_envoy_accesslog");
    assert_eq!(*snapshot[to.cluster.unwrap()].name, *outbound(8080, "", RATINGS));
    let keys: Vec<_> = attributes.iter().map(|(key, _)| &**key).collect();
    assert!(keys.len() == 9 && keys.is_sorted(), "{keys:?}");

    let bare = quiet(&[], &with_environment("accessLogEncoding: JSON\naccessLogFormat: '{\"a\": \"b\"}'"));
    assert_eq!(places(&bare), both(ENVIRONMENT));
    assert_eq!(text(&bare.inbound.access_logs[0]), TEXT_LOG_FORMAT.trim_end());
    insta::assert_json_snapshot!("environment_log", bare.to_json()["inbound"]["access_logs"]);
}

#[test]
fn log_providers_that_cannot_be_used_are_said() {
    let settings = format!(
        "{FILES}- {{ name: spans, zipkin: {{}} }}\n- {{ name: metrics, prometheus: {{}} }}\n\
         defaultProviders: {{ accessLogging: [enovy] }}\naccessLogFile: /old\n"
    );
    let wrong = logging("{ providers: [{ name: spans }, { name: metrics }, { name: b }] }");
    let loaded = try_load(&[MESH, &wrong], &with_mesh(&settings)).unwrap();
    insta::assert_snapshot!("unusable_providers", loaded.warnings.to_string());
    assert_eq!(places(&loaded.snapshot), both("/b"));
    let alone = try_load(&[MESH, &logging("{ providers: [{ name: c }] }")], &options()).unwrap();
    assert_eq!(codes(&alone.warnings), [Code::UnknownProvider]);
    assert_eq!(places(&alone.snapshot), both(""));
}
