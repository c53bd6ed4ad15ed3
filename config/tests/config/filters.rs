//! Faults, copies and cross-origin rules of a route.

use std::time::Duration;

use outrigger_config::{
    report::Code,
    snapshot::{AbortStatus, ClusterRef, Cors, Fault, FaultAbort, FaultDelay, Share, Snapshot},
};

use crate::support::{
    MESH, RATINGS, REVIEWS, TO_REVIEWS, codes, findings, first_forward, first_route, loaded, options,
    outbound, quiet, rules, snapshot,
};

fn rule(fields: &str) -> String {
    rules(&format!("  - {TO_REVIEWS}\n    {fields}"))
}

fn fault_of(fields: &str) -> Option<Fault> {
    let snapshot = snapshot(&[MESH, &rule(&format!("fault: {fields}"))]);
    first_route(&snapshot).fault.as_deref().cloned()
}

fn findings_of(fields: &str) -> Vec<Code> {
    codes(&findings(&[MESH, &rule(fields)]))
}

#[test]
fn faults_are_compiled() {
    let fields = "fault: { delay: { percentage: { value: 12.5 }, fixedDelay: 1.5s }, abort: { percentage: { value: 100 }, httpStatus: 555 } }";
    let snapshot = quiet(&[&rule(fields)], &options());
    let delay = FaultDelay { share: Share::percent(12.5).unwrap(), duration: Duration::from_millis(1500) };
    let abort = FaultAbort { share: Share::ALL, status: AbortStatus::Http(555.try_into().unwrap()) };
    let expected = Fault { delay: Some(delay), abort: Some(abort) };
    assert_eq!(first_route(&snapshot).fault.as_deref(), Some(&expected));
    assert_eq!(fault_of("{ delay: { percentage: { value: 0 }, fixedDelay: 1s } }"), None, "switched off");
    let lone = fault_of("{ abort: { percentage: { value: 1 }, grpcStatus: NOT_FOUND } }").unwrap();
    assert_eq!((lone.delay, lone.abort.unwrap().status), (None, AbortStatus::Grpc(5)));
}

#[test]
fn a_percentage_is_exact_to_a_millionth() {
    let share = |percent: &str| {
        let fault =
            fault_of(&format!("{{ abort: {{ percentage: {{ value: {percent} }}, httpStatus: 500 }} }}"));
        fault.and_then(|fault| fault.abort).map(|abort| abort.share.millionths())
    };
    let shares = [share("0.0001"), share("0.29"), share("33.3333"), share("100")];
    assert_eq!(shares, [Some(1), Some(2900), Some(333_333), Some(1_000_000)], "Go's product, cut");
    for value in ["0.00001", "-1", "100.1"] {
        let fields = format!("fault: {{ abort: {{ percentage: {{ value: {value} }}, httpStatus: 500 }} }}");
        assert_eq!(findings_of(&fields), [Code::InvalidValue], "{value}");
    }
}

#[test]
fn a_fault_without_a_percentage_never_happens() {
    for (fields, expected) in [
        ("{ delay: { fixedDelay: 1s } }", vec![Code::NeverHappens]),
        ("{ abort: { httpStatus: 500 } }", vec![Code::NeverHappens]),
        ("{ abort: { percentage: { value: 1 } } }", vec![Code::NeverHappens]),
        ("{ delay: { percentage: { value: 1 } } }", vec![Code::NeverHappens]),
        ("{ delay: { percent: 0, fixedDelay: 1s } }", vec![Code::Deprecated]),
    ] {
        let loaded = loaded(&[MESH, &rule(&format!("fault: {fields}"))]);
        assert_eq!(codes(&loaded.warnings), expected, "{fields}: {}", loaded.warnings);
        assert!(first_route(&loaded.snapshot).fault.is_none(), "{fields}");
    }
    let of_delay = |fields: &str| fault_of(fields).unwrap().delay.unwrap().share;
    assert_eq!(of_delay("{ delay: { percent: 7, fixedDelay: 1s } }"), Share::percent(7.0).unwrap());
    let both = "{ delay: { percent: 7, percentage: { value: 9 }, fixedDelay: 1s } }";
    assert_eq!(of_delay(both), Share::percent(9.0).unwrap());
}

#[test]
fn every_grpc_status_has_its_name() {
    let status = |name: &str| {
        let fields = format!("{{ abort: {{ percentage: {{ value: 1 }}, grpcStatus: {name} }} }}");
        fault_of(&fields).unwrap().abort.unwrap().status
    };
    for (code, name) in [(0, "OK"), (1, "CANCELLED"), (14, "UNAVAILABLE"), (16, "UNAUTHENTICATED")] {
        assert_eq!(status(name), AbortStatus::Grpc(code));
    }
}

#[test]
fn broken_faults_are_errors() {
    for (fault, expected) in [
        ("{ delay: { percentage: { value: 1 }, fixedDelay: 0.5ms } }", Code::InvalidValue),
        ("{ delay: { percentage: { value: 1 }, exponentialDelay: 1s } }", Code::NotExecutable),
        ("{ delay: { percent: 101, fixedDelay: 1s } }", Code::InvalidValue),
        ("{ abort: { percentage: { value: 1 }, http2Error: NO_ERROR } }", Code::NotExecutable),
        ("{ abort: { percentage: { value: 1 }, httpStatus: 199 } }", Code::InvalidValue),
        ("{ abort: { percentage: { value: 1 }, httpStatus: 601 } }", Code::InvalidValue),
        ("{ abort: { percentage: { value: 1 }, grpcStatus: not_found } }", Code::InvalidValue),
        ("{ abort: { percentage: { value: 1 }, httpStatus: 500, grpcStatus: OK } }", Code::ExclusiveFields),
        ("{}", Code::MissingField),
    ] {
        let found = findings_of(&format!("fault: {fault}"));
        assert!(found.contains(&expected), "{fault}: {found:?}");
    }
}

fn mirrors_of(snapshot: &Snapshot) -> Vec<(String, u32)> {
    let mirrors = first_forward(snapshot).mirrors.iter();
    let named = mirrors.map(|mirror| {
        let name = match &mirror.cluster {
            ClusterRef::Known(id) => snapshot[*id].name.to_string(),
            ClusterRef::Missing(name) => format!("missing {name}"),
        };
        (name, mirror.share.millionths())
    });
    named.collect()
}

#[test]
fn mirrors_are_compiled() {
    let lone = quiet(&[&rule(&format!("mirror: {{ host: {RATINGS} }}"))], &options());
    assert_eq!(mirrors_of(&lone), [(outbound(8080, "", RATINGS), 1_000_000)]);
    let several = quiet(
        &[&rule(&format!(
            "mirrors: [{{ destination: {{ host: {RATINGS} }}, percentage: {{ value: 0.5 }} }}, \
             {{ destination: {{ host: reviews, port: {{ number: 9090 }} }} }}, \
             {{ destination: {{ host: reviews }}, percentage: {{ value: 0 }} }}]"
        ))],
        &options(),
    );
    assert_eq!(
        mirrors_of(&several),
        [(outbound(8080, "", RATINGS), 5000), (outbound(9090, "", REVIEWS), 1_000_000)],
        "one that never gets anything is left out"
    );
}

#[test]
fn a_mirror_has_the_newer_percentage() {
    let share = |fields: &str| {
        let loaded = loaded(&[MESH, &rule(&format!("mirror: {{ host: {RATINGS} }}\n    {fields}"))]);
        let share = mirrors_of(&loaded.snapshot).first().map(|(_, share)| *share);
        (share, codes(&loaded.warnings))
    };
    assert_eq!(share("mirrorPercent: 7"), (Some(70_000), vec![Code::Deprecated]));
    assert_eq!(share("mirrorPercent: 0"), (None, vec![Code::Deprecated]));
    assert_eq!(share("mirrorPercentage: { value: 0.00005 }"), (None, vec![]));
    assert_eq!(share("mirrorPercentage: { value: 9 }"), (Some(90_000), vec![]));
    let both = "mirrorPercent: 7\n    mirrorPercentage: { value: 9 }";
    assert_eq!(share(both), (Some(90_000), vec![Code::Deprecated]));
}

#[test]
fn a_mirror_that_leads_nowhere_gets_no_copies() {
    let loaded = loaded(&[MESH, &rule("mirror: { host: reviews, subset: nope }")]);
    assert_eq!(codes(&loaded.warnings), [Code::UnknownSubset]);
    assert_eq!(loaded.warnings.diagnostics[0].label, "it gets no copies");
    let missing = format!("missing {}", outbound(8080, "nope", REVIEWS));
    assert_eq!(mirrors_of(&loaded.snapshot), [(missing, 1_000_000)]);
}

#[test]
fn broken_mirrors_are_errors() {
    for (fields, expected) in [
        (
            "mirror: { host: reviews }\n    mirrors: [{ destination: { host: reviews } }]",
            Code::ExclusiveFields,
        ),
        ("mirrors: [{ percentage: { value: 1 } }]", Code::MissingField),
        ("mirrors: [null]", Code::WrongType),
        ("mirror: { host: '*' }", Code::InvalidHost),
        ("mirror: { host: reviews, subset: A_b }", Code::InvalidValue),
        ("mirror: { host: reviews }\n    mirrorPercent: 101", Code::InvalidValue),
        ("mirror: { host: reviews }\n    mirrorPercentage: { value: -1 }", Code::InvalidValue),
        ("mirrors: [{ destination: { host: reviews }, percentage: { value: 101 } }]", Code::InvalidValue),
    ] {
        let found = findings_of(fields);
        assert!(found.contains(&expected), "{fields}: {found:?}");
    }
}

fn cors_of(policy: &str) -> Cors {
    let snapshot = snapshot(&[MESH, &rule(&format!("corsPolicy: {policy}"))]);
    first_route(&snapshot).cors.as_deref().cloned().unwrap()
}

#[test]
fn a_cors_policy_is_compiled() {
    let policy = "corsPolicy: { allowOrigins: [{ exact: 'https://a' }, { prefix: 'https://b' }, { regex: 'https://c.*' }], \
                  allowMethods: [GET, '*'], allowHeaders: [X-A, x-b], exposeHeaders: [X-C], maxAge: 24h, \
                  allowCredentials: true, unmatchedPreflights: IGNORE }";
    let snapshot = quiet(&[&rule(policy)], &options());
    let cors = first_route(&snapshot).cors.as_deref().unwrap();
    let allowed = |origin: &str| cors.allow_origins.iter().any(|matcher| matcher.matches(origin));
    assert!(allowed("https://a") && allowed("https://bb") && allowed("https://c.d"));
    assert!(!allowed("https://ab") && !allowed("x https://c"));
    let values = [&cors.allow_methods, &cors.allow_headers, &cors.expose_headers, &cors.max_age];
    let values = values.map(|value| value.as_ref().unwrap().to_str().unwrap());
    assert_eq!(values, ["GET,*", "X-A,x-b", "X-C", "86400"], "joined as Istio joins them");
    assert!(cors.allow_credentials && !cors.forward_unmatched_preflights);
    let plain = cors_of("{ allowOrigins: [{ exact: a }], allowCredentials: false }");
    assert!(!plain.allow_credentials && plain.forward_unmatched_preflights);
    let values = [&plain.allow_methods, &plain.allow_headers, &plain.expose_headers, &plain.max_age];
    assert!(values.iter().all(|value| value.is_none()));
}

#[test]
fn an_origin_that_takes_an_asterisk_takes_all() {
    for origins in ["[{ exact: '*' }]", "[{ exact: a }, { regex: '.*' }]"] {
        let cors = cors_of(&format!("{{ allowOrigins: {origins} }}"));
        assert!(cors.allow_origins.iter().any(|matcher| matcher.matches("https://any")), "{origins}");
    }
}

#[test]
fn the_older_list_of_origins_gives_way_to_the_newer() {
    let allowed = |policy: &str, origin: &str| {
        let loaded = loaded(&[MESH, &rule(&format!("corsPolicy: {policy}"))]);
        assert_eq!(codes(&loaded.warnings), [Code::Deprecated]);
        let cors = first_route(&loaded.snapshot).cors.as_deref().unwrap();
        cors.allow_origins.iter().any(|matcher| matcher.matches(origin))
    };
    assert!(allowed("{ allowOrigin: [a] }", "a") && !allowed("{ allowOrigin: [a] }", "ab"));
    let both = "{ allowOrigin: [a], allowOrigins: [{ exact: b }] }";
    assert!(allowed(both, "b") && !allowed(both, "a"));
}

#[test]
fn broken_cors_policies_are_errors() {
    for (policy, expected) in [
        ("{ allowOrigins: [{}] }", Code::InvalidValue),
        ("{ allowOrigins: [{ exact: '' }] }", Code::InvalidValue),
        ("{ allowOrigins: [{ regex: '(' }] }", Code::InvalidRegex),
        ("{ allowOrigins: [{ exact: a }], allowMethods: [get] }", Code::InvalidValue),
        ("{ allowOrigins: [{ exact: a }], allowHeaders: ['a b'] }", Code::InvalidHeader),
        ("{ allowOrigins: [{ exact: a }], exposeHeaders: [''] }", Code::InvalidHeader),
        ("{ allowOrigins: [{ exact: a }], maxAge: 1.5s }", Code::InvalidValue),
        ("{ allowOrigins: [{ exact: a }], maxAge: 0s }", Code::InvalidValue),
        ("{ allowOrigins: [{ exact: a }], unmatchedPreflights: DROP }", Code::InvalidValue),
    ] {
        let found = findings_of(&format!("corsPolicy: {policy}"));
        assert!(found.contains(&expected), "{policy}: {found:?}");
    }
}
