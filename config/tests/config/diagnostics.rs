//! Every code, as a user sees it: code, sentence, place, caret, help. And what Istio's validation rejects.

use outrigger_config::report::{Code, Report};

use crate::support::{
    DESTINATION_RULE, MESH, REGISTRY, TO_REVIEWS, VIRTUAL_SERVICE, codes, findings, options, rule, rules,
    telemetry, try_load, with_mesh,
};

/// Something that yields the code; the mesh stands before it.
fn example(code: Code) -> Vec<String> {
    let mesh = |text: String| vec![MESH.to_owned(), text];
    let of = |http: &str| mesh(rules(http));
    let policy = |policy: &str| mesh(rule(&format!("  trafficPolicy: {policy}")));
    let settings = |text: &str| mesh(config_map(text));
    match code {
        Code::YamlSyntax => mesh("kind: [VirtualService\nspec: }\n".to_owned()),
        Code::YamlLimit => mesh(format!("a: {}{}\n", "[".repeat(101), "]".repeat(101))),
        Code::DuplicateKey => of(&format!("  - name: a\n    {TO_REVIEWS}\n    name: b")),
        Code::NotAResource => mesh("just: a mapping\n".to_owned()),
        Code::UnknownKind => mesh(rule("").replace("DestinationRule", "DestinatonRule")),
        Code::KindNotHonoured => mesh(rule("").replace("DestinationRule", "EnvoyFilter")),
        Code::DuplicateResource => mesh([rule(""), rule("")].join("---\n")),
        Code::UnknownField => of(&format!("  - {TO_REVIEWS}\n    timout: 1s")),
        Code::WrongType => of(&format!("  - {TO_REVIEWS}\n    retries: {{ attempts: many }}")),
        Code::InvalidValue => of(&format!("  - {TO_REVIEWS}\n    timeout: 5 seconds")),
        Code::MissingField => of("  - route: [{ weight: 1 }]"),
        Code::ExclusiveFields => {
            of(&format!("  - match: [{{ uri: {{ exact: /a, prefix: /b }} }}]\n    {TO_REVIEWS}"))
        }
        Code::NotHonoured => policy("{ tls: { mode: SIMPLE } }"),
        Code::NotExecutable => of("  - redirect: { uri: /elsewhere }"),
        Code::Deprecated => policy("{ outlierDetection: { consecutiveErrors: 3, maxEjectionPercent: 50 } }"),
        Code::UnknownSubset => mesh(
            [
                rules("  - route: [{ destination: { host: reviews, subset: v3 } }]"),
                rule("  subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }]"),
            ]
            .join("---\n"),
        ),
        Code::UnknownHost => of("  - route: [{ destination: { host: reviews.observability } }]"),
        Code::UnknownPort => of("  - route: [{ destination: { host: reviews, port: { number: 8081 } } }]"),
        Code::ConflictingHosts => mesh(
            [rules(&format!("  - {TO_REVIEWS}")), rules(&format!("  - {TO_REVIEWS}")).replace("name: reviews", "name: second")]
                .join("---\n"),
        ),
        Code::UnreachableRule => of(&format!("  - {TO_REVIEWS}\n  - match: [{{ uri: {{ exact: /a }} }}]\n    {TO_REVIEWS}")),
        Code::IneffectiveMatch => of(&format!(
            "  - match: [{{ uri: {{ prefix: /a }} }}]\n    {TO_REVIEWS}\n  - match: [{{ uri: {{ exact: /ab }} }}]\n    {TO_REVIEWS}"
        )),
        Code::LoneWeight => of("  - route: [{ destination: { host: reviews }, weight: 10 }]"),
        Code::InvalidWeights => {
            of("  - route: [{ destination: { host: reviews }, weight: 0 }, { destination: { host: reviews } }]")
        }
        Code::InvalidRegex => of(&format!("  - match: [{{ uri: {{ regex: '/(?=x)' }} }}]\n    {TO_REVIEWS}")),
        Code::InvalidHost => of("  - route: [{ destination: { host: 'reviews.*' } }]"),
        Code::InvalidHeader => of(&format!("  - {TO_REVIEWS}\n    headers: {{ request: {{ set: {{ x: '%NOPE%' }} }} }}")),
        Code::InvalidRetry => of(&format!("  - {TO_REVIEWS}\n    retries: {{ attempts: 2, retryOn: '503, reset' }}")),
        Code::EmptySubset => mesh(rule("  subsets: [{ name: v9, labels: { version: v9 } }]")),
        Code::NeverEjects => policy("{ outlierDetection: {} }"),
        Code::DuplicateName => mesh(rule("  subsets: [{ name: v1 }, { name: v1 }]")),
        Code::ConflictingRules => mesh(
            [
                rule("  trafficPolicy: { loadBalancer: { simple: RANDOM } }"),
                rule("  trafficPolicy: { loadBalancer: { simple: ROUND_ROBIN } }").replace("name: reviews", "name: second"),
            ]
            .join("---\n"),
        ),
        Code::IneffectivePolicy => policy("{ loadBalancer: { simple: RANDOM, warmup: { duration: 10s } } }"),
        Code::NotResolved => vec![MESH.replacen("address: 10.2.0.1", "address: ratings.example.com", 1).replace(
            "[ratings.other.svc.cluster.local]\n  resolution: STATIC",
            "[ratings.other.svc.cluster.local]\n  resolution: DNS",
        )],
        Code::InvalidEndpoint => vec![MESH.replacen("10.1.0.2", "unix:///run/reviews", 1)],
        Code::DuplicateService => mesh(twin()),
        Code::DomainTaken => vec![MESH.replace("hosts: [ratings", "addresses: [10.0.0.1]\n  hosts: [ratings")],
        Code::NoListener => vec![MESH.rsplit_once("---").unwrap().0.to_owned()],
        Code::DuplicateListener => vec![MESH.replace("number: 9090, name: grpc }", "number: 8080, name: grpc }")],
        Code::SeveralSidecars => {
            mesh("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: second }\nspec: {}\n".to_owned())
        }
        Code::ListenerLoop => vec![MESH.replacen("10.1.0.2", "127.0.0.1", 1)],
        Code::SeveralTelemetries => mesh([telemetry("name: a", ""), telemetry("name: b", "")].join("---\n")),
        Code::UnknownProvider => settings(&format!("{OTEL}defaultProviders:\n  tracing: [otl]\n")),
        Code::UnusedProvider => settings(&format!("{OTEL}defaultProviders:\n  accessLogging: [otel]\n")),
        Code::OutsideRegistry => settings(&format!("{OTEL}defaultProviders:\n  tracing: [otel]\n")),
        Code::InvalidSampling => settings("defaultConfig:\n  tracing:\n    sampling: 150\n"),
        Code::IdleListener => vec![MESH.replace("number: 9090, name: grpc }", "number: 9091, name: grpc }")],
    }
}

/// A provider whose host is misspelt.
const OTEL: &str = "extensionProviders:
- name: otel
  opentelemetry:
    service: ratings.other.svc.cluster.locl
    port: 8080
";

fn config_map(settings: &str) -> String {
    let settings = settings.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio }}\ndata:\n  mesh: |-\n{settings}")
}

fn twin() -> String {
    let service = MESH.split("---").next().unwrap();
    service.replace("name: reviews }", "name: reviews, namespace: twin }")
}

fn report(texts: &[String]) -> Report {
    findings(&texts.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_code_has_its_place_and_words() {
    for code in Code::ALL {
        let report = report(&example(*code));
        assert!(codes(&report).contains(code), "{code}: {report}");
        insta::assert_snapshot!(code.to_string(), report.to_string());
    }
}

#[test]
fn codes_are_unique_and_in_order() {
    assert!(Code::ALL.is_sorted_by(|a, b| a.number() < b.number()));
    assert!(Code::ALL.iter().all(|code| !code.title().is_empty()));
}

#[test]
fn findings_are_json_lines_too() {
    let lines = report(&example(Code::LoneWeight)).to_json_lines();
    insta::assert_snapshot!("json", lines);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn all_errors_of_all_documents_are_reported() {
    let vs = rules(&format!(
        "  - match: [{{ uri: {{ regex: '(' }}, por: 1 }}]\n    {TO_REVIEWS}\n    timeout: 0.1ms\n    nope: 1"
    ));
    let second =
        rule("  subsets: [{ name: A }]\n  trafficPolicy: { outlierDetection: { maxEjectionPercent: 101 } }");
    let report = findings(&[MESH, &vs, &second]);
    insta::assert_snapshot!("all_errors", report.to_string());
    assert_eq!(report.diagnostics.len(), 6);
}

/// One line for each thing that Istio's validation rejects.
#[test]
fn what_istio_rejects_is_rejected() {
    let on_route = |fields: &str| rules(&format!("  - {TO_REVIEWS}\n    {fields}"));
    let on_match = |block: &str| rules(&format!("  - match: [{block}]\n    {TO_REVIEWS}"));
    let headers = |fields: &str| on_route(&format!("headers: {{ {fields} }}"));
    let pool = |fields: &str| rule(&format!("  trafficPolicy: {{ connectionPool: {fields} }}"));
    let hash =
        |fields: &str| rule(&format!("  trafficPolicy: {{ loadBalancer: {{ consistentHash: {fields} }} }}"));
    let balancer = |fields: &str| rule(&format!("  trafficPolicy: {{ loadBalancer: {fields} }}"));
    let locality = |fields: &str| balancer(&format!("{{ localityLbSetting: {fields} }}"));
    let outlier = |fields: &str| rule(&format!("  trafficPolicy: {{ outlierDetection: {fields} }}"));
    let hosts = |list: &str| on_route("").replace("hosts: [reviews]", &format!("hosts: {list}"));
    let rejected = [
        (hosts("['*']"), Code::InvalidHost),
        (hosts("['a.*.com']"), Code::InvalidHost),
        (hosts("['-a.com']"), Code::InvalidHost),
        (hosts("['a.123']"), Code::InvalidHost),
        (hosts(&format!("['{}.com']", "a.".repeat(130))), Code::InvalidHost),
        (hosts("[reviews, reviews]"), Code::DuplicateName),
        (hosts("['*.com', '*.foo.com']"), Code::DuplicateName),
        (hosts("[]"), Code::NotExecutable),
        (rules("   []"), Code::MissingField),
        (rules("  - null"), Code::WrongType),
        (rules("  - name: a"), Code::MissingField),
        (on_route("redirect: { uri: / }"), Code::ExclusiveFields),
        (on_match("{ headers: { x: null } }"), Code::InvalidValue),
        (on_match("{ headers: { x: { prefix: '' } } }"), Code::InvalidValue),
        (on_match("{ headers: { '@request.auth.claims.x': { exact: a } } }"), Code::InvalidHeader),
        (on_match("{ uri: { regex: '' } }"), Code::InvalidRegex),
        (on_match(&format!("{{ uri: {{ regex: '{}' }} }}", "a".repeat(1025))), Code::InvalidRegex),
        (on_match("{ port: 70000 }"), Code::InvalidValue),
        (rules("  - route: [{ destination: { host: '*' } }]"), Code::InvalidHost),
        (rules("  - route: [{ destination: { host: a, subset: A_b } }]"), Code::InvalidValue),
        (rules("  - route: [{ destination: { host: a }, weight: -1 }]"), Code::InvalidWeights),
        (
            rules(
                "  - route: [{ destination: { host: a }, weight: -1 }, { destination: { host: b }, weight: 2 }]",
            ),
            Code::InvalidWeights,
        ),
        (on_route("timeout: 500us"), Code::InvalidValue),
        (on_route("retries: { attempts: -1 }"), Code::InvalidRetry),
        (on_route("retries: { perTryTimeout: 1s }"), Code::InvalidRetry),
        (on_route("retries: { attempts: 1, retryOn: sometimes }"), Code::InvalidRetry),
        (headers("request: { remove: [Host] }"), Code::InvalidHeader),
        (headers("request: { set: { ':path': /a } }"), Code::InvalidHeader),
        (headers("response: { set: { host: a } }"), Code::InvalidHeader),
        (headers("request: { set: { x: '50%' } }"), Code::InvalidHeader),
        (headers("request: { set: { host: a }, add: { ':authority': b } }"), Code::ExclusiveFields),
        (on_route("exportTo: 1").replace("    exportTo: 1", "  exportTo: ['*', a]"), Code::ExclusiveFields),
        (
            on_route("exportTo: 1").replace("    exportTo: 1", "  exportTo: [., observability]"),
            Code::DuplicateName,
        ),
        (rule("  trafficPolicy: {}"), Code::MissingField),
        (rule("  subsets: [{ name: V1 }]"), Code::InvalidValue),
        (
            rule("  trafficPolicy: { portLevelSettings: [{ loadBalancer: { simple: RANDOM } }] }"),
            Code::MissingField,
        ),
        (rule("  workloadSelector: { matchLabels: { a: b } }\n  exportTo: ['*']"), Code::ExclusiveFields),
        (rule("  trafficPolicy: { loadBalancer: { simple: FASTEST } }"), Code::InvalidValue),
        (balancer("{ warmup: { minimumPercent: 5 } }"), Code::MissingField),
        (balancer("{ warmup: { duration: 1s, minimumPercent: 101 } }"), Code::InvalidValue),
        (balancer("{ warmup: { duration: 1s, aggression: 0 } }"), Code::InvalidValue),
        (balancer("{ warmup: { duration: 1s }, warmupDurationSecs: 1s }"), Code::ExclusiveFields),
        (hash("{}"), Code::MissingField),
        (hash("{ httpHeaderName: a, useSourceIp: true }"), Code::ExclusiveFields),
        (hash("{ httpCookie: { name: '' } }"), Code::MissingField),
        (hash("{ httpCookie: { name: a, attributes: [{ value: Lax }] } }"), Code::MissingField),
        (hash("{ httpCookie: { name: a, attributes: [{ name: A }, { name: A }] } }"), Code::DuplicateName),
        (hash("{ httpCookie: { name: a, attributes: [{ name: A, value: 'b; C' }] } }"), Code::InvalidHeader),
        (hash("{ useSourceIp: true, maglev: {} }"), Code::InvalidValue),
        (hash("{ useSourceIp: true, maglev: { tableSize: 65536 } }"), Code::InvalidValue),
        (hash("{ useSourceIp: true, maglev: { tableSize: 5000011 } }"), Code::InvalidValue),
        (hash("{ useSourceIp: true, minimumRingSize: 5, ringHash: {} }"), Code::ExclusiveFields),
        (hash("{ useSourceIp: true, ringHash: { minimumRingSize: 9000000 } }"), Code::InvalidValue),
        (pool("{}"), Code::MissingField),
        (pool("{ tcp: { maxConnections: -1 } }"), Code::InvalidValue),
        (pool("{ http: { http2KeepAlive: { interval: 1s } } }"), Code::MissingField),
        (pool("{ http: { http2KeepAlive: { interval: 0s, timeout: 1s } } }"), Code::InvalidValue),
        (pool("{ http: { h2UpgradePolicy: UPGRADE, useClientProtocol: true } }"), Code::ExclusiveFields),
        (
            locality("{ distribute: [{ from: a, to: { a: 100 } }], failover: [{ from: a, to: b }] }"),
            Code::ExclusiveFields,
        ),
        (
            locality("{ failover: [{ from: a, to: b }], failoverPriority: [topology.kubernetes.io/zone] }"),
            Code::ExclusiveFields,
        ),
        (locality("{ distribute: [{ from: a, to: { a: 60, b: 30 } }] }"), Code::InvalidWeights),
        (locality("{ distribute: [{ from: a, to: { a: 100, b: 0 } }] }"), Code::InvalidWeights),
        (locality("{ distribute: [{ from: a, to: { a: 50, a/b: 50 } }] }"), Code::DuplicateName),
        (locality("{ distribute: [{ from: 'a/*/b', to: { a: 100 } }] }"), Code::InvalidValue),
        (locality("{ distribute: [{ from: 'a//b', to: { a: 100 } }] }"), Code::InvalidValue),
        (locality("{ failover: [{ from: a, to: a }] }"), Code::InvalidValue),
        (locality("{ failover: [{ from: a, to: b/c }] }"), Code::InvalidValue),
        (locality("{ failover: [{ from: 'a*', to: b }] }"), Code::InvalidValue),
        (balancer("{ localityLbSetting: {}, zoneAwareLbSetting: { enabled: true } }"), Code::ExclusiveFields),
        (rule("  trafficPolicy: { retryBudget: { percent: 101 } }"), Code::InvalidValue),
        (rule("  trafficPolicy: { retryBudget: { minRetryConcurrency: -1 } }"), Code::InvalidValue),
        (outlier("{ maxEjectionPercent: 101 }"), Code::InvalidValue),
        (outlier("{ minHealthPercent: -1 }"), Code::InvalidValue),
        (outlier("{ consecutive5xxErrors: -1 }"), Code::InvalidValue),
        (outlier("{ consecutiveLocalOriginFailures: 1 }"), Code::ExclusiveFields),
        (outlier("{ outlierDetectionHttpErrorCodes: [99] }"), Code::InvalidValue),
        (outlier("{ interval: 0s }"), Code::InvalidValue),
    ];
    for (text, code) in &rejected {
        let report = try_load(&[MESH, text], &options()).expect_err(text);
        assert!(codes(&report).contains(code), "{text}\n{report}");
    }
}

#[test]
fn fields_of_parts_that_are_not_built_are_known() {
    let report = findings(&[MESH, &rule("  trafficPolicy: { tls: { mode: SIMPEL, snni: a } }")]);
    assert_eq!(codes(&report), [Code::NotHonoured, Code::InvalidValue, Code::UnknownField]);
}

#[test]
fn broken_mesh_settings_are_errors() {
    for (settings, code) in [
        ("accessLogFile: x\naccessLogFormat: '%NOPE%'", Code::InvalidValue),
        ("accessLogFile: x\naccessLogEncoding: JSON\naccessLogFormat: 'no'", Code::InvalidValue),
        ("acessLogFile: x", Code::UnknownField),
        ("connectTimeout: 0s", Code::InvalidValue),
    ] {
        let report = try_load(&[MESH], &with_mesh(settings)).expect_err(settings);
        assert_eq!(codes(&report), [code], "{report}");
        assert_eq!(&*report.diagnostics[0].place.file, "mesh.yaml");
    }
}

#[test]
fn the_seed_beside_itself_is_a_duplicate() {
    let report = findings(&[VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY, VIRTUAL_SERVICE]);
    assert!(codes(&report).contains(&Code::DuplicateResource));
}
