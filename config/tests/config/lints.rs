//! Traps: where each is found, and where it is not.

use outrigger_config::report::Code;

use crate::support::{
    DESTINATION_RULE, MESH, REGISTRY, TO_REVIEWS, VIRTUAL_SERVICE, WEIGHTED, codes, findings, rule, rules,
};

/// Codes of a `VirtualService` with these matches, a rule each, all to `reviews`.
fn matches(blocks: &[&str]) -> Vec<Code> {
    let http: Vec<_> = blocks.iter().map(|block| format!("  - match: [{block}]\n    {TO_REVIEWS}")).collect();
    codes(&findings(&[MESH, &rules(&http.join("\n"))]))
}

/// Codes of a rule with these fields.
fn route(fields: &str) -> Vec<Code> {
    codes(&findings(&[MESH, &rules(&format!("  - {TO_REVIEWS}\n    {fields}"))]))
}

fn policy(policy: &str) -> Vec<Code> {
    codes(&findings(&[MESH, &rule(&format!("  trafficPolicy: {policy}"))]))
}

#[test]
fn matches_that_an_earlier_one_covers_are_found() {
    for (earlier, later) in [
        ("{ uri: { prefix: /a/ } }", "{ uri: { exact: /a/b } }"),
        ("{ uri: { prefix: /a/ } }", "{ uri: { prefix: /a/b/ }, method: { exact: GET } }"),
        ("{ uri: { prefix: /a/ } }", "{ uri: { regex: '/a/[0-9]+' } }"),
        ("{ uri: { prefix: /A/ }, ignoreUriCase: true }", "{ uri: { exact: /a/b } }"),
        ("{ uri: { regex: '/a.*' } }", "{ uri: { prefix: /ab/ } }"),
        ("{ uri: { regex: '/[a-z]+' } }", "{ uri: { exact: /abc } }"),
        ("{ headers: { x: {} } }", "{ headers: { x: { exact: a }, y: { exact: b } } }"),
        ("{ headers: { x: { prefix: a } } }", "{ headers: { x: { exact: ab } } }"),
        ("{ queryParams: { q: { regex: '*' } } }", "{ queryParams: { q: { exact: a } } }"),
        ("{ withoutHeaders: { x: { exact: a } } }", "{ withoutHeaders: { x: { prefix: a } } }"),
        ("{ uri: { prefix: /a/ } }", "{ uri: { prefix: /a/ }, sourceLabels: { app: x } }"),
        ("{ headers: { x: {} }, port: 8080 }", "{ headers: { x: {}, y: {} }, port: 8080 }"),
    ] {
        assert_eq!(matches(&[earlier, later]), [Code::IneffectiveMatch], "{earlier} {later}");
    }
}

#[test]
fn matches_that_take_something_of_their_own_are_not_found() {
    for (earlier, later) in [
        ("{ uri: { exact: /a/b } }", "{ uri: { prefix: /a/ } }"),
        ("{ uri: { prefix: /a/ } }", "{ uri: { prefix: /A/ }, ignoreUriCase: true }"),
        ("{ uri: { prefix: /a/ }, method: { exact: GET } }", "{ uri: { prefix: /a/b/ } }"),
        ("{ uri: { prefix: /a/ } }", "{ uri: { regex: '/a/x|/b' } }"),
        ("{ headers: { x: { exact: a } } }", "{ headers: { x: {} } }"),
        ("{ withoutHeaders: { x: { exact: '' } } }", "{ withoutHeaders: { x: {} } }"),
        ("{ headers: { x: {} }, port: 8080 }", "{ headers: { x: {} }, port: 9090 }"),
        ("{ headers: { x: {} }, sourceLabels: { app: x } }", "{ headers: { x: {} } }"),
        ("{ headers: { x: {} }, sourceLabels: { app: x } }", "{ headers: { x: {} }, gateways: [mesh] }"),
    ] {
        assert_eq!(matches(&[earlier, later]), [], "{earlier} {later}");
    }
}

#[test]
fn a_rule_that_is_written_again_is_never_reached() {
    let twice = ["{ headers: { x: {} } }", "{ name: b, headers: { x: {} } }"];
    assert_eq!(matches(&twice), [Code::UnreachableRule, Code::IneffectiveMatch]);
    // One of two matches is new: the rule is reached.
    let half = ["{ headers: { x: {} } }", "{ headers: { x: {} } }, { headers: { y: {} } }"];
    assert_eq!(matches(&half), [Code::IneffectiveMatch]);
}

#[test]
fn a_prefix_without_a_slash_at_its_end_is_noted() {
    assert_eq!(matches(&["{ uri: { prefix: /api } }"]), [Code::PrefixIsText]);
    for fine in ["prefix: /api/", "prefix: /", "prefix: ''", "prefix: /user-", "exact: /api", "regex: /api"] {
        assert_eq!(matches(&[&format!("{{ uri: {{ {fine} }} }}")]), [], "{fine}");
    }
    let shadowed = findings(&[
        MESH,
        &rules(&format!(
            "  - match: [{{ uri: {{ prefix: /api }} }}]\n    {TO_REVIEWS}\n  \
             - match: [{{ uri: {{ prefix: /apix/ }} }}]\n    {TO_REVIEWS}"
        )),
    ]);
    assert!(shadowed.to_string().contains("`/api` takes `/apix/` too"), "{shadowed}");
}

#[test]
fn tries_that_do_not_fit_into_the_timeout_are_found() {
    let retries = |timeout: &str, fields: &str| {
        route(&format!("timeout: {timeout}\n    retries: {{ attempts: 2, {fields} }}"))
    };
    assert_eq!(retries("5s", "perTryTimeout: 2s"), [Code::RetriesCut]);
    assert_eq!(retries("5s", "perTryTimeout: 5s"), [Code::RetriesCut]);
    assert_eq!(retries("6s", "perTryTimeout: 2s"), []);
    assert_eq!(retries("6s", "backoff: 50ms"), []);
    assert_eq!(route("retries: { attempts: 2, perTryTimeout: 2s }"), [], "no timeout");
}

#[test]
fn retries_that_may_repeat_a_post_are_found() {
    let on = |words: &str| route(&format!("retries: {{ attempts: 1, retryOn: '{words}' }}"));
    for words in ["5xx", "gateway-error", "reset", "connect-failure,503"] {
        assert_eq!(on(words), [Code::UnsafeRetry], "{words}");
    }
    for words in ["connect-failure,refused-stream", "reset-before-request", "unavailable,cancelled", "429"] {
        assert_eq!(on(words), [], "{words}");
    }
    assert_eq!(route("retries: { attempts: 3 }"), [], "Istio's default list");
    let method = |block: &str| {
        let http =
            format!("  - match: [{block}]\n    retries: {{ attempts: 1, retryOn: 5xx }}\n    {TO_REVIEWS}");
        codes(&findings(&[MESH, &rules(&http)]))
    };
    for safe in [
        "{ method: { exact: GET } }",
        "{ method: { regex: 'GET|PUT' } }",
        "{ headers: { ':method': { prefix: GE } } }",
    ] {
        assert_eq!(method(safe), [], "{safe}");
    }
    assert_eq!(method("{ withoutHeaders: { ':method': { regex: 'POST|PATCH' } } }"), []);
    for unsafe_ in [
        "{ method: { exact: PATCH } }",
        "{ method: { exact: GET } }, { uri: { prefix: /a/ } }",
        "{ withoutHeaders: { ':method': { exact: POST } } }",
    ] {
        assert_eq!(method(unsafe_), [Code::UnsafeRetry], "{unsafe_}");
    }
}

#[test]
fn hash_keys_that_are_missing_or_all_the_same_are_found() {
    let hash = |key: &str| format!("{{ loadBalancer: {{ consistentHash: {{ {key} }} }} }}");
    let cookie = hash("httpCookie: { name: a }");
    assert_eq!(policy(&cookie), [Code::CookieWithoutTtl]);
    assert_eq!(policy(&hash("httpCookie: { name: a, ttl: 0s }")), []);
    assert_eq!(policy(&hash("useSourceIp: true")), [Code::SourceIpHash]);
    assert_eq!(policy(&hash("httpHeaderName: x")), []);
    let subset = rule(&format!("  subsets: [{{ name: v1, trafficPolicy: {cookie} }}]"));
    assert_eq!(codes(&findings(&[MESH, &subset])), [Code::CookieWithoutTtl]);
    let port = cookie.replace("{ loadBalancer", "{ port: { number: 8080 }, loadBalancer");
    assert_eq!(policy(&format!("{{ portLevelSettings: [{port}] }}")), [Code::CookieWithoutTtl]);
}

#[test]
fn a_subset_that_never_ejects_is_found() {
    let subset = |percent: u8| {
        let policy = format!("{{ outlierDetection: {{ maxEjectionPercent: {percent} }} }}");
        let rule =
            rule(&format!("  subsets: [{{ name: v1, labels: {{ version: v1 }}, trafficPolicy: {policy} }}]"));
        findings(&[MESH, &rule])
    };
    let report = subset(10);
    assert_eq!(codes(&report), [Code::NeverEjects]);
    assert!(report.to_string().contains("of 2 endpoints") && report.to_string().contains("|v1|"), "{report}");
    assert_eq!(codes(&subset(50)), []);
}

#[test]
fn a_destination_that_lacks_the_requests_port_is_found() {
    let ports = |ports: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: details }}\nspec:\n  \
             hosts: [details.example.com]\n  resolution: STATIC\n  ports: [{ports}]\n  \
             endpoints: [{{ address: 10.3.0.1 }}]\n"
        )
    };
    let to =
        |port: &str| rules(&format!("  - route: [{{ destination: {{ host: details.example.com{port} }} }}]"));
    let of = |listed: &str, port: &str| codes(&findings(&[MESH, &ports(listed), &to(port)]));
    let (http, admin) = ("{ number: 80, name: http }", "{ number: 81, name: http-admin }");
    assert_eq!(of(&format!("{http}, {admin}"), ""), [Code::PortNotChosen]);
    assert_eq!(of(&format!("{http}, {admin}"), ", port: { number: 81 }"), []);
    assert_eq!(of(http, ""), [], "the only port is meant");
    let same = "{ number: 8080, name: http }, { number: 9090, name: grpc }";
    assert_eq!(of(same, ""), [], "every port of the request is there");
}

#[test]
fn failover_without_outlier_detection_is_found() {
    let of = |fields: &str| policy(&format!("{{ loadBalancer: {{ localityLbSetting: {{ {fields} }} }} }}"));
    for fields in ["failover: [{ from: a, to: b }]", "failoverPriority: [version]"] {
        assert_eq!(of(fields), [Code::FailoverWithoutOutlier], "{fields}");
    }
    assert_eq!(of("enabled: true"), []);
    let detects = "outlierDetection: { maxEjectionPercent: 50 }";
    let failover = "loadBalancer: { localityLbSetting: { failover: [{ from: a, to: b }] } }";
    assert_eq!(policy(&format!("{{ {failover}, {detects} }}")), []);
}

#[test]
fn deprecated_fields_say_what_to_write() {
    let gateway = rules(&format!("  - {TO_REVIEWS}"))
        .replace("  http:", "  gateways: [edge.infra.svc.cluster.local, mesh]\n  http:");
    let report = findings(&[MESH, &gateway]);
    assert_eq!(codes(&report), [Code::Deprecated]);
    assert!(report.to_string().contains("write `infra/edge`"), "{report}");
    assert_eq!(policy("{ loadBalancer: { simple: LEAST_CONN } }"), [Code::Deprecated]);
    let warmup = "{ loadBalancer: { simple: ROUND_ROBIN, warmupDurationSecs: 30s } }";
    assert_eq!(policy(warmup), [Code::Deprecated]);
}

#[test]
fn claims_of_a_token_are_no_error_at_a_gateway() {
    let claims = |gateways: &str| {
        let http = format!(
            "  - match: [{{ headers: {{ '@request.auth.claims[group]': {{ exact: a }} }} }}]\n    {TO_REVIEWS}\n  \
             - match: [{{ uri: {{ exact: /a }} }}]\n    {TO_REVIEWS}"
        );
        codes(&findings(&[
            MESH,
            &rules(&http).replace("  http:", &format!("  gateways: [{gateways}]\n  http:")),
        ]))
    };
    assert_eq!(claims("infra/edge"), [], "the rule behind is reached");
    assert!(claims("mesh").contains(&Code::InvalidHeader));
}

/// The traps stay silent where nothing is wrong.
#[test]
fn common_rules_are_free_of_traps() {
    let seed = findings(&[VIRTUAL_SERVICE, DESTINATION_RULE, REGISTRY]);
    assert_eq!(codes(&seed), [Code::LoneWeight, Code::LoneWeight, Code::Deprecated]);
    assert_eq!(codes(&findings(&[WEIGHTED, DESTINATION_RULE, REGISTRY])), [Code::Deprecated]);
    let usual = format!(
        "  - name: admin
    match:
    - uri: {{ prefix: /admin/ }}
      headers: {{ x-role: {{ exact: admin }} }}
    - uri: {{ exact: /admin }}
    timeout: 10s
    retries: {{ attempts: 3, perTryTimeout: 2s, retryOn: 'connect-failure,refused-stream' }}
    {TO_REVIEWS}
  - match:
    - uri: {{ prefix: /admin/ }}
    {TO_REVIEWS}
  - {TO_REVIEWS}"
    );
    assert_eq!(codes(&findings(&[MESH, &rules(&usual)])), []);
}
