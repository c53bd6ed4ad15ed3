//! Every code, as a user sees it: code, sentence, place, caret, help. And what Istio's validation rejects.

use outrigger_config::{
    LoadOptions,
    report::{Code, Report, diagnostics_markdown},
};

use crate::support::{
    DESTINATION_RULE, MESH, REGISTRY, TO_REVIEWS, VIRTUAL_SERVICE, codes, delegate, findings, options, rule,
    rules, try_load, with_mesh,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/diagnostics.md");

/// The blocks of a code's page: an example that yields it, and what to write instead. The mesh stands before each, if it
/// is not marked `alone`; in one that is marked `shortened` dots stand for a long text.
fn blocks(code: Code) -> [Vec<String>; 2] {
    let page = code.page();
    let blocks = page.split("```yaml").skip(1).map(|rest| {
        let (mark, text) = rest.split_once('\n').unwrap();
        let text = text.split_once("```").unwrap().0.to_owned();
        match mark.trim() {
            "alone" => vec![text],
            "shortened" => vec![MESH.to_owned(), text.replace("...", &"a".repeat(102_401))],
            "" => vec![MESH.to_owned(), text],
            other => panic!("{code}: a block is marked `{other}`"),
        }
    });
    blocks.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{code}: a page has two blocks\n{page}"))
}

/// Something that yields the code; the mesh stands before it.
fn example(code: Code) -> Vec<String> {
    let [example, _] = blocks(code);
    example
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
fn what_a_page_says_to_write_instead_is_free_of_the_code() {
    for code in Code::ALL {
        let [_, instead] = blocks(*code);
        let report = report(&instead);
        assert!(!codes(&report).contains(code) && !report.has_errors(), "{code}: {report}");
    }
}

#[test]
fn the_page_on_diagnostics_is_fresh() {
    let page = diagnostics_markdown();
    if std::env::var_os("OUTRIGGER_BLESS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let committed = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(committed == page, "docs/diagnostics.md is stale: run this test with OUTRIGGER_BLESS=1");
}

#[test]
fn codes_are_unique_and_in_order() {
    assert!(Code::ALL.is_sorted_by(|a, b| a.name() < b.name()));
    assert!(Code::ALL.iter().all(|code| !code.title().is_empty()));
}

#[test]
fn findings_are_json_lines_too() {
    let lines = report(&example(Code::LoneWeight)).to_json_lines();
    insta::assert_snapshot!("json", lines);
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

/// Two findings on a rule, one of them with Istio's code, and one on the whole.
fn unheard() -> Report {
    let http = "  - route: [{ destination: { host: reviews }, weight: 10 }]\n  - route: [{ destination: { host: 'rev 50%' } }]";
    findings(&[MESH.rsplit_once("---").unwrap().0, &rules(http)])
}

#[test]
fn findings_are_sarif_with_their_rules_and_regions() {
    let report = unheard();
    let mut sarif = report.to_sarif();
    let driver = &mut sarif["runs"][0]["tool"]["driver"];
    driver["semanticVersion"] = "VERSION".into();
    for rule in driver["rules"].as_array_mut().unwrap() {
        let page = Code::named(rule["id"].as_str().unwrap())[0].page();
        assert_eq!(rule["help"], serde_json::json!({ "text": page, "markdown": page }));
        rule["help"] = "PAGE".into();
    }
    insta::assert_snapshot!("sarif", format!("{sarif:#}"));
    let run = &sarif["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), report.diagnostics.len());
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
    }
}

#[test]
fn findings_are_commands_of_a_github_workflow() {
    let notice = report(&example(Code::PrefixIsText)).to_github_commands();
    assert!(notice.starts_with("::notice file=1.yaml,line=10,"), "{notice}");
    let report = unheard();
    insta::assert_snapshot!("github", report.to_github_commands());
    assert_eq!(report.to_github_commands().lines().count(), report.diagnostics.len());
}

#[test]
fn a_code_is_named_by_its_number_or_by_istios() {
    assert_eq!(Code::named("OUT0105"), [Code::UnreachableRule]);
    assert_eq!(Code::named("ist0130"), [Code::UnreachableRule]);
    assert_eq!(Code::named("IST0101").len(), 3, "one of Istio's, several of ours");
    assert_eq!(Code::named("105"), []);
    let report = report(&example(Code::UnreachableRule));
    assert_eq!(codes(&report.without(&Code::named("IST0130"))), []);
}

#[test]
fn all_errors_of_all_documents_are_reported() {
    let vs = rules(&format!(
        "  - match: [{{ uri: {{ regex: '(' }}, por: 1 }}]\n    {TO_REVIEWS}\n    timeout: 0.1ms\n    nope: 1"
    ));
    let second =
        rule("  subsets: [{ name: A_ }]\n  trafficPolicy: { outlierDetection: { maxEjectionPercent: 101 } }");
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
        (hosts("[]\n  gateways: [mesh]"), Code::ExclusiveFields),
        (hosts("[]\n  tls: []"), Code::ExclusiveFields),
        (hosts("[]\n  tcp: []"), Code::ExclusiveFields),
        (delegate("  - delegate: { name: further }"), Code::ExclusiveFields),
        (rules("   []"), Code::MissingField),
        (rules("  - null"), Code::WrongType),
        (rules("  - name: a"), Code::MissingField),
        (on_route("redirect: { uri: / }"), Code::ExclusiveFields),
        (on_route("directResponse: { status: 200 }"), Code::ExclusiveFields),
        (on_route("delegate: { name: a }"), Code::ExclusiveFields),
        (rules("  - redirect: { uri: / }\n    delegate: { name: a }"), Code::ExclusiveFields),
        (rules("  - redirect: { uri: / }\n    rewrite: { uri: / }"), Code::ExclusiveFields),
        (rules("  - redirect: { uri: / }\n    fault: {}"), Code::ExclusiveFields),
        (rules("  - redirect: { uri: / }\n    directResponse: { status: 200 }"), Code::ExclusiveFields),
        (rules("  - directResponse: { status: 200 }\n    rewrite: { uri: / }"), Code::ExclusiveFields),
        (rules("  - directResponse: { status: 200 }\n    fault: {}"), Code::ExclusiveFields),
        (rules("  - redirect: {}"), Code::MissingField),
        (rules("  - redirect: { redirectCode: 302 }"), Code::MissingField),
        (rules("  - redirect: { uri: /a, redirectCode: 200 }"), Code::InvalidValue),
        (rules("  - redirect: { uri: /a, redirectCode: 304 }"), Code::InvalidValue),
        (rules("  - redirect: { scheme: ftp }"), Code::InvalidValue),
        (rules("  - redirect: { port: 70000 }"), Code::InvalidValue),
        (rules("  - redirect: { port: 80, derivePort: FROM_REQUEST_PORT }"), Code::ExclusiveFields),
        (rules("  - redirect: { uri: /a, prefixRewrite: /b }"), Code::ExclusiveFields),
        (
            rules(
                "  - match: [{ uri: { prefix: /a } }, { uri: { exact: /b } }]\n    redirect: { prefixRewrite: /c }",
            ),
            Code::ExclusiveFields,
        ),
        (rules("  - redirect: { authority: \"a\\nb\" }"), Code::InvalidValue),
        (rules("  - directResponse: {}"), Code::MissingField),
        (rules("  - directResponse: { status: 199 }"), Code::InvalidValue),
        (rules("  - directResponse: { status: 601 }"), Code::InvalidValue),
        (
            rules("  - directResponse: { status: 200, body: { string: a, bytes: YQ== } }"),
            Code::ExclusiveFields,
        ),
        (rules("  - directResponse: { status: 200, body: { bytes: 'a b' } }"), Code::InvalidValue),
        (
            rules(&format!(
                "  - directResponse: {{ status: 200, body: {{ string: {} }} }}",
                "a".repeat(1_048_577)
            )),
            Code::InvalidValue,
        ),
        (on_route("rewrite: {}"), Code::MissingField),
        (on_route("rewrite: { uri: a }"), Code::InvalidValue),
        (on_route("rewrite: { uri: '/a#b' }"), Code::InvalidValue),
        (on_route("rewrite: { uri: /, uriRegexRewrite: { match: a, rewrite: b } }"), Code::ExclusiveFields),
        (on_route("rewrite: { uriRegexRewrite: { match: a } }"), Code::MissingField),
        (on_route("rewrite: { uriRegexRewrite: { rewrite: a } }"), Code::MissingField),
        (on_route("rewrite: { uriRegexRewrite: { match: '(', rewrite: a } }"), Code::InvalidRegex),
        (on_route("rewrite: { uriRegexRewrite: { match: a, rewrite: '\\1' } }"), Code::InvalidRegex),
        (
            on_route("rewrite: { authority: a }\n    headers: { request: { set: { Host: b } } }"),
            Code::ExclusiveFields,
        ),
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
        (rule("  subsets: [{ name: v_1 }]"), Code::InvalidValue),
        (
            rule("  trafficPolicy: { portLevelSettings: [{ loadBalancer: { simple: RANDOM } }] }"),
            Code::MissingField,
        ),
        (rule("  workloadSelector: { matchLabels: { a: b } }\n  exportTo: ['*']"), Code::ExclusiveFields),
        (rule("  trafficPolicy: { loadBalancer: { simple: FASTEST } }"), Code::InvalidValue),
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
        (locality("{ distribute: [{ from: a, to: { a: 50, a/b: 50 } }] }"), Code::DuplicateName),
        (locality("{ distribute: [{ from: 'a/*/b', to: { a: 100 } }] }"), Code::InvalidValue),
        (locality("{ distribute: [{ from: 'a//b', to: { a: 100 } }] }"), Code::InvalidValue),
        (locality("{ failover: [{}] }"), Code::MissingField),
        (locality("{ failover: [{ from: a, to: b/c }] }"), Code::InvalidValue),
        (locality("{ failover: [{ from: 'a*', to: b }] }"), Code::InvalidValue),
        (rule("  trafficPolicy: { retryBudget: { percent: 101 } }"), Code::InvalidValue),
        (rule("  trafficPolicy: { retryBudget: { minRetryConcurrency: -1 } }"), Code::InvalidValue),
        (outlier("{ maxEjectionPercent: 101 }"), Code::InvalidValue),
        (outlier("{ minHealthPercent: -1 }"), Code::InvalidValue),
        (outlier("{ consecutive5xxErrors: -1 }"), Code::InvalidValue),
        (outlier("{ consecutiveLocalOriginFailures: 1 }"), Code::ExclusiveFields),
        (outlier("{ outlierDetectionHttpErrorCodes: [99] }"), Code::InvalidValue),
        (outlier("{ interval: 0s }"), Code::InvalidValue),
    ];
    let gateways = |list: &str| on_route("").replace("  http:", &format!("  gateways: {list}\n  http:"));
    let balancer = |fields: &str| rule(&format!("  trafficPolicy: {{ loadBalancer: {fields} }}"));
    let locality = |fields: &str| balancer(&format!("{{ localityLbSetting: {{ {fields} }} }}"));
    let retry_on = |words: &str| on_route(&format!("retries: {{ attempts: 1, retryOn: '{words}' }}"));
    let more = [
        (hosts("[a_b.com]"), Code::InvalidHost),
        (gateways("[infra/]"), Code::InvalidValue),
        (gateways("['a b']"), Code::InvalidValue),
        (on_match("{ gateways: ['a/b/c'] }"), Code::InvalidValue),
        (on_match("{ sourceNamespace: a_b }"), Code::InvalidValue),
        (on_match("{ sourceLabels: { app: 'a*' } }"), Code::InvalidValue),
        (on_match("{ sourceLabels: { 'a b': x } }"), Code::InvalidValue),
        (on_match("{ headers: { x.y: { exact: a } } }"), Code::InvalidHeader),
        (on_route("timeout: 1.5ms"), Code::InvalidValue),
        (rules("  - route: [{ destination: { host: 10.0.0.1 } }]"), Code::InvalidHost),
        (rules("  - route: [{ destination: { host: a, port: {} } }]"), Code::MissingField),
        (retry_on("299"), Code::InvalidRetry),
        (retry_on("5xx,"), Code::InvalidRetry),
        (on_route("exportTo: 1").replace("    exportTo: 1", "  exportTo: ['~']"), Code::InvalidValue),
        (on_route("exportTo: 1").replace("    exportTo: 1", "  exportTo: [a_b]"), Code::InvalidValue),
        (rule("").replace("host: reviews", "host: 10.0.0.1"), Code::InvalidHost),
        (rule("  subsets: [{ name: v1, labels: { version: 'v1*' } }]"), Code::InvalidValue),
        (rule("  workloadSelector: { matchLabels: { app: '*' } }"), Code::InvalidValue),
        (rule("  workloadSelector: { labels: { app: a } }"), Code::UnknownField),
        (rule("  trafficPolicy: { portLevelSettings: [{ port: { number: 80 } }] }"), Code::MissingField),
        (balancer("{ localityLbSetting: {}, zoneAwareLbSetting: {} }"), Code::ExclusiveFields),
        (locality("distribute: [{ from: a, to: { a: 90 } }]"), Code::InvalidWeights),
        (locality("distribute: [{ from: a, to: { a: 0, b: 100 } }]"), Code::InvalidWeights),
        (
            locality("distribute: [{ from: a/b, to: { a: 100 } }, { from: a/*, to: { a: 100 } }]"),
            Code::DuplicateName,
        ),
        (locality("distribute: [{ from: '*/b', to: { a: 100 } }]"), Code::InvalidValue),
        (
            locality("distribute: [{ from: a, to: { a: 100 } }], failover: [{ from: a, to: b }]"),
            Code::ExclusiveFields,
        ),
        (locality("failover: [{ from: a, to: a }]"), Code::InvalidValue),
        (locality("failover: [{ from: a/b, to: c }]"), Code::InvalidValue),
        (locality("failover: [{ from: '*', to: c }]"), Code::InvalidValue),
        (
            locality("failover: [{ from: a, to: b }], failoverPriority: [topology.kubernetes.io/zone]"),
            Code::ExclusiveFields,
        ),
        (balancer("{ warmup: {} }"), Code::MissingField),
        (balancer("{ warmup: { duration: 1s, minimumPercent: 101 } }"), Code::InvalidValue),
        (balancer("{ warmup: { duration: 1s, aggression: 0 } }"), Code::InvalidValue),
        (balancer("{ warmup: { duration: 1s }, warmupDurationSecs: 1s }"), Code::ExclusiveFields),
    ];
    for (text, code) in rejected.iter().chain(&more) {
        let report = try_load(&[MESH, text], &options()).expect_err(text);
        assert!(codes(&report).contains(code), "{text}\n{report}");
    }
}

/// One line for each thing, in a `ServiceEntry` and in a `Sidecar` of another workload.
#[test]
fn what_istio_rejects_or_warns_of_in_services_and_sidecars() {
    let resource = |kind: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{ name: x }}\nspec: {{ {spec} }}\n"
        )
    };
    let service = |spec: &str| resource("ServiceEntry", spec);
    let fixed = |ports: &str, more: &str| {
        service(&format!(
            "hosts: [a.example.com], resolution: STATIC, ports: [{{ number: 80, {ports} }}], \
             endpoints: [{{ address: 10.3.0.1, {more} }}]"
        ))
    };
    let dns = |fields: &str| {
        service(&format!("ports: [{{ number: 80, name: http, protocol: HTTP }}], resolution: DNS, {fields}"))
    };
    let none = |fields: &str| service(&format!("hosts: [a.example.com], resolution: NONE, {fields}"));
    let web = "workloadSelector: { labels: { app: web } }";
    let sidecar = |spec: &str| resource("Sidecar", &format!("{web}, {spec}"));
    let egress =
        |hosts: &str| sidecar(&format!("egress: [{{ hosts: {hosts}, port: {{ number: 1, name: http }} }}]"));
    let ports = |a: &str, b: &str| {
        sidecar(&format!(
            "egress: [{{ port: {{ {a} }}, hosts: ['*/*'] }}, {{ port: {{ {b} }}, hosts: ['*/*'] }}]"
        ))
    };
    let ingress = |endpoint: &str| {
        sidecar(&format!("ingress: [{{ port: {{ number: 1, name: http }}, defaultEndpoint: '{endpoint}' }}]"))
    };
    for (text, code) in [
        (fixed("protocol: HTTP", ""), Code::MissingField),
        (fixed("name: a_b", ""), Code::InvalidValue),
        (fixed("name: http, protocol: HTPP", ""), Code::InvalidValue),
        (fixed("name: http", "ports: { grpc: 1 }"), Code::InvalidEndpoint),
        (fixed("name: http", "labels: { version: 'v*' }"), Code::InvalidValue),
        (
            fixed("name: http", "").replace("a.example.com", "a.example.com, b.example.com"),
            Code::ExclusiveFields,
        ),
        (fixed("name: http", "").replace("a.example.com", "10.3.0.1"), Code::InvalidHost),
        (fixed("name: http", "").replace("a.example.com", "'*a.example.com'"), Code::SchemaWarning),
        (dns("hosts: ['*.example.com']"), Code::InvalidHost),
        (dns("hosts: [a.example.com], addresses: [10.0.0.0/8]"), Code::InvalidValue),
        (dns(&format!("hosts: [a.example.com], {web}")), Code::SchemaWarning),
        (
            dns("hosts: [a.example.com], endpoints: [{ address: 10.3.0.1 }, { address: 10.3.0.2 }]")
                .replace("DNS", "DNS_ROUND_ROBIN"),
            Code::InvalidEndpoint,
        ),
        (none("ports: [{ number: 80, name: http, targetPort: 81 }]"), Code::SchemaWarning),
        (none(&format!("ports: [{{ number: 80, name: http }}], {web}")), Code::SchemaWarning),
        (none("exportTo: ['~', other]"), Code::ExclusiveFields),
        (sidecar(""), Code::MissingField),
        (ports("number: 1", "number: 1"), Code::DuplicateName),
        (ports("number: 1, name: a_b", "number: 2"), Code::InvalidValue),
        (ports("number: 1, targetPort: 2", "number: 2"), Code::InvalidValue),
        (ports("number: 1, protocol: HTPP", "number: 2"), Code::InvalidValue),
        (
            sidecar("egress: [{ hosts: ['*/*'] }, { hosts: ['*/*'], port: { number: 1 } }]"),
            Code::ExclusiveFields,
        ),
        (egress("[./reviews]"), Code::InvalidHost),
        (egress("[a_b/c.example.com]"), Code::InvalidHost),
        (egress("['./*a.example.com']"), Code::InvalidHost),
        (egress("[./a.example.com, ./a.example.com]"), Code::SchemaWarning),
        (egress("['./*', ./a.example.com]"), Code::SchemaWarning),
        (egress("['*/*', ./a.example.com]"), Code::SchemaWarning),
        (ingress("10.3.0.1:80"), Code::InvalidEndpoint),
        (resource("Sidecar", "workloadSelector: {}, egress: []"), Code::EmptySelector),
    ] {
        let report = findings(&[MESH, &text]);
        assert!(codes(&report).contains(&code), "{code} in {text}\n{report}");
    }
    for fine in [
        fixed("name: http, protocol: http", "ports: { http: 1 }"),
        egress("['./*', 'other/*.example.com']"),
        ports("number: 1", "number: 2, protocol: GRPC"),
        ingress("0.0.0.0:80"),
    ] {
        let report = findings(&[MESH, &fine]);
        assert_eq!(codes(&report), [], "{fine}\n{report}");
    }
}

/// What looks odd and is fine with Istio.
#[test]
fn what_istio_takes_is_taken() {
    let on_route = |fields: &str| rules(&format!("  - {TO_REVIEWS}\n    {fields}"));
    for text in [
        on_route("").replace("hosts: [reviews]", "hosts: [10.0.0.1, '*-x.example.com', '123']"),
        rule("  subsets: [{ name: V1, labels: { version: v1 } }]"),
        rule(
            "  trafficPolicy: { outlierDetection: { consecutiveLocalOriginFailures: 0, maxEjectionPercent: 50 } }",
        ),
        on_route("retries: { attempts: 1, retryOn: '' }"),
        rules(&format!("  - match: [{{ port: 0 }}]\n    {TO_REVIEWS}")),
    ] {
        let report = findings(&[MESH, &text]);
        assert!(!report.has_errors(), "{text}\n{report}");
    }
}

#[test]
fn fields_of_parts_that_are_not_built_are_known() {
    let report = findings(&[MESH, &rule("  trafficPolicy: { proxyProtocol: { version: V3, versoin: a } }")]);
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

/// An `EnvoyFilter` of this namespace with this spec.
fn envoy_filter(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\n\
         metadata: {{ name: lua, namespace: {namespace} }}\nspec: {{ {spec} }}\n"
    )
}

#[test]
fn an_envoy_filter_that_selects_the_workload_is_an_error_unless_allowed() {
    let patch =
        |context: &str| format!("configPatches: [{{ applyTo: CLUSTER, match: {{ context: {context} }} }}]");
    let mut options = options();
    options.node.labels.insert("app".into(), "web".into());
    for (namespace, spec, selects) in [
        ("observability", String::new(), true),
        ("observability", "workloadSelector: { labels: { app: web } }".to_owned(), true),
        ("observability", "workloadSelector: { labels: { app: api } }".to_owned(), false),
        ("observability", "workloadSelector: { labels: { app: web, tier: x } }".to_owned(), false),
        ("istio-system", String::new(), true),
        ("istio-system", "workloadSelector: { labels: { app: web } }".to_owned(), true),
        ("other", String::new(), false),
        ("observability", "targetRefs: [{ kind: Gateway, name: edge }]".to_owned(), false),
        ("observability", patch("GATEWAY"), false),
        ("observability", patch("SIDECAR_OUTBOUND"), true),
    ] {
        let filter = envoy_filter(namespace, &spec);
        let strict = try_load(&[MESH, &filter], &options);
        let allowed = LoadOptions { allow_envoy_filters: true, ..options.clone() };
        let allowed = codes(&try_load(&[MESH, &filter], &allowed).expect(&filter).warnings);
        if selects {
            assert_eq!(codes(&strict.expect_err(&filter)), [Code::EnvoyFilter]);
            assert_eq!(allowed, [Code::KindNotHonoured], "{filter}");
        } else {
            assert_eq!(codes(&strict.expect(&filter).warnings), [Code::ForeignEnvoyFilter]);
            assert_eq!(allowed, [Code::ForeignEnvoyFilter], "{filter}");
        }
    }
}

#[test]
fn kinds_that_are_not_honoured_say_what_comes_of_it() {
    let resource = |version: &str, kind: &str| {
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{ name: a }}\nspec: {{}}\n")
    };
    for (version, kind, consequence) in [
        ("security.istio.io/v1", "AuthorizationPolicy", "requests will not be authorised"),
        ("security.istio.io/v1", "RequestAuthentication", "tokens will not be checked"),
        ("networking.istio.io/v1", "WorkloadGroup", "no endpoints"),
        ("extensions.istio.io/v1alpha1", "WasmPlugin", "does not run"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "requests take the route of a VirtualService"),
        ("gateway.networking.k8s.io/v1alpha9", "SomethingNew", "it has no effect"),
    ] {
        let report = findings(&[MESH, &resource(version, kind)]);
        assert_eq!(codes(&report), [Code::KindNotHonoured], "{kind}");
        assert!(report.to_string().contains(consequence), "{report}");
    }
    let misspelt = findings(&[MESH, &resource("security.istio.io/v1", "AuthorisationPolicy")]);
    assert!(misspelt.to_string().contains("did you mean `AuthorizationPolicy`?"), "{misspelt}");
    assert_eq!(codes(&findings(&[MESH, &resource("apps/v1", "Deployment")])), [], "no business of a proxy");
}
