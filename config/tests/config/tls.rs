//! How connections are secured: `tls` of destination rules, `PeerAuthentication`, trust domains.

use std::sync::Arc;

use outrigger_config::{
    Loader,
    report::{Code, Severity},
    snapshot::{
        ClientTls, Credentials, Identity, InboundTls, KeyFiles, ServerName, Snapshot, TelemetryDefaults,
        Trust, TrustDomains, UpstreamTls,
    },
};

use crate::support::{
    MESH, REVIEWS, cluster, codes, complaints, findings, options, outbound, rule, snapshot, source, try_load,
    with_mesh,
};

fn domains(names: &[&str]) -> TrustDomains {
    let mut names = names.iter().map(|name| Arc::from(*name));
    TrustDomains::new(names.next().unwrap(), names)
}

fn tls_of(snapshot: &Snapshot, port: u16, subset: &str) -> UpstreamTls {
    cluster(snapshot, &outbound(port, subset, REVIEWS)).tls.clone()
}

fn policy(tls: &str) -> String {
    rule(&format!("  trafficPolicy: {{ tls: {tls} }}"))
}

fn written(tls: &str) -> UpstreamTls {
    tls_of(&snapshot(&[MESH, &policy(tls)]), 8080, "")
}

fn mesh(sni: &str, names: &[&str]) -> Arc<ClientTls> {
    Arc::new(ClientTls {
        credentials: Credentials {
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            ..Credentials::mesh(domains(&["cluster.local"]))
        },
        server_name: ServerName::Is(sni.into()),
    })
}

#[test]
fn every_client_tls_mode_is_compiled() {
    let simple = Credentials {
        identity: Identity::Anonymous,
        trust: Trust::System,
        names: Box::default(),
        revoked: None,
    };
    let on = |credentials: Credentials, server_name: ServerName| {
        UpstreamTls::On(Arc::new(ClientTls { credentials, server_name }))
    };
    let host = || ServerName::OfRequest(REVIEWS.into());
    assert_eq!(written("{ mode: DISABLE }"), UpstreamTls::Off);
    assert_eq!(written("{ mode: SIMPLE }"), on(simple.clone(), host()));
    assert_eq!(
        written(
            "{ mode: SIMPLE, caCertificates: /ca, caCrl: /crl, sni: a.b, subjectAltNames: [x, spiffe://y/z] }"
        ),
        on(
            Credentials {
                trust: Trust::File("/ca".into()),
                names: ["x".into(), "spiffe://y/z".into()].into(),
                revoked: Some("/crl".into()),
                ..simple.clone()
            },
            ServerName::Is("a.b".into())
        )
    );
    let files = KeyFiles { certificates: "/c".into(), key: "/k".into() };
    assert_eq!(
        written("{ mode: MUTUAL, clientCertificate: /c, privateKey: /k, insecureSkipVerify: true }"),
        on(Credentials { identity: Identity::Files(files), trust: Trust::Nobody, ..simple }, host())
    );
    let sni = format!("outbound_.8080_._.{REVIEWS}");
    assert_eq!(written("{ mode: ISTIO_MUTUAL }"), UpstreamTls::On(mesh(&sni, &[])));
    assert_eq!(
        written("{ mode: ISTIO_MUTUAL, sni: mine, subjectAltNames: [spiffe://a/b] }"),
        UpstreamTls::On(mesh("mine", &["spiffe://a/b"]))
    );
}

#[test]
fn tls_is_layered_like_the_other_blocks() {
    let snapshot = snapshot(&[
        &internal(),
        &rule(
            "  trafficPolicy:\n    tls: { mode: ISTIO_MUTUAL }\n    portLevelSettings:\n    \
             - { port: { number: 9090 }, connectionPool: { tcp: { maxConnections: 1 } } }\n  subsets:\n  \
             - { name: v1, labels: { version: v1 } }\n  \
             - { name: v2, labels: { version: v2 }, trafficPolicy: { tls: { mode: DISABLE } } }\n  \
             - name: v3\n    labels: { version: v3 }\n    trafficPolicy:\n      portLevelSettings:\n      \
             - { port: { number: 8080 }, tls: { mode: SIMPLE } }",
        ),
    ]);
    let sni = |subset: &str| format!("outbound_.8080_.{subset}_.{REVIEWS}");
    assert_eq!(tls_of(&snapshot, 8080, ""), UpstreamTls::On(mesh(&sni(""), &[])));
    assert_eq!(tls_of(&snapshot, 8080, "v1"), UpstreamTls::On(mesh(&sni("v1"), &[])));
    assert_eq!(tls_of(&snapshot, 8080, "v2"), UpstreamTls::Off);
    assert!(
        matches!(tls_of(&snapshot, 8080, "v3"), UpstreamTls::On(tls) if tls.credentials.trust == Trust::System)
    );
    // An entry of a port takes the place of its level as a whole: nothing is said of TLS there.
    assert!(matches!(tls_of(&snapshot, 9090, ""), UpstreamTls::Auto(_)));
}

#[test]
fn what_istio_rejects_of_client_tls_is_rejected() {
    for (tls, code) in [
        ("{ mode: MUTUAL }", Code::MissingField),
        ("{ mode: MUTUAL, clientCertificate: /c }", Code::MissingField),
        ("{ mode: MUTUAL, privateKey: /k }", Code::MissingField),
        ("{ mode: SIMPLE, credentialName: a }", Code::NotExecutable),
        ("{ mode: SIMPLE, insecureSkipVerify: true, caCertificates: /ca }", Code::ExclusiveFields),
        ("{ mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a] }", Code::ExclusiveFields),
        (
            "{ mode: MUTUAL, clientCertificate: /c, privateKey: /k, insecureSkipVerify: true, caCertificates: /ca }",
            Code::ExclusiveFields,
        ),
        ("{ mode: SIMPLE, subjectAltNames: [''] }", Code::InvalidValue),
        ("{ mode: SIMPLE, subjectAltNames: ['a.*'] }", Code::InvalidValue),
        ("{ mode: MUTAL }", Code::InvalidValue),
    ] {
        let report = findings(&[MESH, &policy(tls)]);
        assert!(report.has_errors() && codes(&report).contains(&code), "{tls}: {report}");
    }
}

#[test]
fn fields_that_a_mode_has_no_use_for_are_warned_of() {
    for tls in [
        "{ mode: DISABLE, caCertificates: /ca }",
        "{ mode: SIMPLE, clientCertificate: /c }",
        "{ mode: ISTIO_MUTUAL, privateKey: /k }",
        "{ mode: ISTIO_MUTUAL, insecureSkipVerify: true }",
    ] {
        let report = findings(&[MESH, &policy(tls)]);
        assert_eq!(complaints(&report), [Code::SchemaWarning], "{tls}: {report}");
    }
}

/// The services are parts of the mesh.
fn internal() -> String {
    MESH.replace("  resolution: STATIC", "  location: MESH_INTERNAL\n  resolution: STATIC")
}

/// `reviews` with a sidecar beside two of its endpoints.
fn with_sidecars() -> String {
    internal().replace("version: v1", "version: v1, security.istio.io/tlsMode: istio")
}

fn mutual(texts: &[&str]) -> Vec<bool> {
    let snapshot = snapshot(texts);
    let cluster = cluster(&snapshot, &outbound(8080, "", REVIEWS));
    cluster.endpoints.iter().map(|endpoint| endpoint.mutual).collect()
}

fn peers(metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ {metadata} }}\nspec: {{ {spec} }}\n"
    )
}

#[test]
fn endpoints_with_a_sidecar_take_mutual_tls_unless_a_policy_refuses_it() {
    let mesh = with_sidecars();
    let before = mutual(&[&mesh]);
    assert!(before.contains(&true) && before.contains(&false), "{before:?}");
    let none = vec![false; before.len()];
    let off = "mtls: { mode: DISABLE }";
    assert_eq!(mutual(&[&mesh, &peers("name: a, namespace: observability", off)]), none);
    assert_eq!(mutual(&[&mesh, &peers("name: a, namespace: other", off)]), before);
    let picked = format!("selector: {{ matchLabels: {{ version: v1 }} }}, {off}");
    assert_eq!(mutual(&[&mesh, &peers("name: a, namespace: observability", &picked)]), none);
    let picked = format!("selector: {{ matchLabels: {{ version: v9 }} }}, {off}");
    assert_eq!(mutual(&[&mesh, &peers("name: a, namespace: observability", &picked)]), before);
}

/// `reviews` with this text in front of the labels of its endpoints of version 1.
fn endpoints_say(text: &str) -> String {
    internal().replace("labels: { version: v1", &format!("{text}, labels: {{ version: v1"))
}

fn names(tls: &UpstreamTls) -> Vec<&str> {
    match tls {
        UpstreamTls::Auto(tls) | UpstreamTls::On(tls) => {
            tls.credentials.names.iter().map(|name| &**name).collect()
        }
        UpstreamTls::Off => panic!("no TLS"),
    }
}

const WEB: &str = "spiffe://cluster.local/ns/observability/sa/web";

#[test]
fn an_endpoint_with_a_service_account_takes_mutual_tls() {
    let mesh = endpoints_say("serviceAccount: web");
    let on = mutual(&[&mesh]);
    assert!(on.contains(&true) && on.contains(&false), "{on:?}");
    // The label comes first, and a policy may still refuse.
    let labelled = mesh.replace("version: v1", "version: v1, security.istio.io/tlsMode: disabled");
    let none = vec![false; on.len()];
    assert_eq!(mutual(&[&labelled]), none);
    assert_eq!(mutual(&[&mesh, &peers("name: a", "mtls: { mode: DISABLE }")]), none);
    assert_eq!(mutual(&[&endpoints_say("serviceAccount: ''")]), none);
}

#[test]
fn servers_have_the_accounts_of_their_endpoints() {
    let mesh = endpoints_say("serviceAccount: web");
    assert_eq!(names(&tls_of(&snapshot(&[&mesh]), 8080, "")), [WEB]);
    // Istio: those of all endpoints, also where a subset has none of them; a rule's own names come before.
    let two = mesh.replacen("serviceAccount: web", "serviceAccount: other", 1);
    let rule = |tls: &str| {
        rule(&format!(
            "  trafficPolicy: {{ tls: {tls} }}\n  subsets: [{{ name: v2, labels: {{ version: v2 }} }}]"
        ))
    };
    let of = |tls: &str| tls_of(&snapshot(&[&two, &rule(tls)]), 8080, "v2");
    let both = ["spiffe://cluster.local/ns/observability/sa/other", WEB];
    assert_eq!(names(&of("{ mode: ISTIO_MUTUAL }")), both);
    assert_eq!(names(&of("{ mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://a/b] }")), ["spiffe://a/b"]);
    assert_eq!(names(&of("{ mode: SIMPLE }")), both);
    let aliases = with_mesh("{ trustDomain: own, trustDomainAliases: [old] }");
    let loaded = try_load(&[&mesh], &aliases).unwrap();
    assert_eq!(
        names(&tls_of(&loaded.snapshot, 8080, "")),
        ["spiffe://old/ns/observability/sa/web", "spiffe://own/ns/observability/sa/web"]
    );
    assert_eq!(names(&tls_of(&snapshot(&[&with_sidecars()]), 8080, "")), [""; 0]);
}

#[test]
fn an_account_that_is_not_known_makes_those_of_the_others_count_for_nothing() {
    let service = |extra: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: s }}\nspec:\n  \
             hosts: [{REVIEWS}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  \
             ports: [{{ number: 8080, name: http }}]\n  workloadSelector: {{ labels: {{ app: web }} }}\n{extra}---\n\
             apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{ name: vm }}\nspec: \
             {{ address: 10.0.0.1, serviceAccount: web, labels: {{ app: web }} }}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: default }}\nspec:\n  egress:\n  \
             - {{ port: {{ number: 8080, name: http }}, bind: 127.0.0.1, captureMode: NONE, hosts: ['*/*'] }}\n"
        )
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: web-0, labels: { app: web } }\nstatus: { podIP: 10.0.0.2 }\n";
    let of = |texts: &[&str]| tls_of(&snapshot(texts), 8080, "");
    assert_eq!(names(&of(&[&service("")])), [WEB]);
    assert_eq!(names(&of(&[&service(""), pod])), [""; 0]);
    // A pod's document names its account, which is no sign of a sidecar.
    let known = format!("{pod}spec: {{ serviceAccountName: shop }}\n");
    let shop = "spiffe://cluster.local/ns/observability/sa/shop";
    assert_eq!(names(&of(&[&service(""), &known])), [shop, WEB]);
    assert_eq!(mutual(&[&service(""), &known]), [true, false]);
    // What the entry itself says counts in any case.
    assert_eq!(names(&of(&[&service("  subjectAltNames: [spiffe://a/b]\n"), pod])), ["spiffe://a/b", WEB]);
}

#[test]
fn servers_have_the_names_that_their_entry_says() {
    let entry = |mesh: &str| {
        mesh.replacen(
            "  resolution: STATIC",
            "  subjectAltNames: [db.example, spiffe://a/b]\n  resolution: STATIC",
            1,
        )
    };
    let mesh = entry(MESH);
    let of = |tls: &str| tls_of(&snapshot(&[&mesh, &policy(tls)]), 8080, "");
    let both = ["db.example", "spiffe://a/b"];
    assert_eq!(names(&of("{ mode: SIMPLE }")), both);
    assert_eq!(names(&of("{ mode: MUTUAL, clientCertificate: /c, privateKey: /k }")), both);
    assert_eq!(names(&of("{ mode: ISTIO_MUTUAL }")), both);
    assert_eq!(names(&of("{ mode: SIMPLE, subjectAltNames: [x] }")), ["x"]);
    assert_eq!(names(&of("{ mode: SIMPLE, insecureSkipVerify: true }")), [""; 0]);
    assert_eq!(names(&tls_of(&snapshot(&[&entry(&internal())]), 8080, "")), both);
    assert_eq!(complaints(&findings(&[&mesh.replace("db.example", "'*.example'")])), []);
    let report = findings(&[&mesh.replace("db.example", "'db.*'")]);
    assert_eq!(complaints(&report), [Code::InvalidValue], "{report}");
}

#[test]
fn mutual_tls_is_not_automatic_outside_of_the_mesh() {
    let labelled = MESH.replace("version: v1", "version: v1, security.istio.io/tlsMode: istio");
    assert_eq!(tls_of(&snapshot(&[&labelled]), 8080, ""), UpstreamTls::Off);
    assert!(!mutual(&[&labelled]).contains(&true));
    let report = findings(&[&labelled]);
    assert_eq!(complaints(&report), [Code::NoEffect; 2], "one a service: {report}");
    assert!(matches!(tls_of(&snapshot(&[&internal()]), 8080, ""), UpstreamTls::Auto(_)));
    let rule = policy("{ mode: ISTIO_MUTUAL }");
    assert!(matches!(tls_of(&snapshot(&[MESH, &rule]), 8080, ""), UpstreamTls::On(_)));
}

#[test]
fn a_selector_in_the_root_namespace_selects_nobody_and_is_warned_of() {
    let selecting = |namespace: &str| {
        let spec = "selector: { matchLabels: { app: me } }, mtls: { mode: STRICT }";
        peers(&format!("name: a, namespace: {namespace}"), spec)
    };
    let mut loader = Loader::new(options().node, TelemetryDefaults::default());
    let mut warned = |policy: &str| {
        let sources = [source("0.yaml", MESH), source("1.yaml", policy)];
        complaints(&loader.load(&sources, None).unwrap().warnings)
    };
    assert_eq!(warned(&selecting("istio-system")), [Code::NoEffect]);
    assert_eq!(warned(&selecting("istio-system")), [Code::NoEffect], "in each load");
    assert_eq!(warned(&selecting("observability")), []);
}

#[test]
fn the_mesh_switches_automatic_mutual_tls_off() {
    let tls = |settings: &str| {
        let loaded = try_load(&[&internal()], &with_mesh(settings)).unwrap();
        tls_of(&loaded.snapshot, 8080, "")
    };
    assert!(matches!(tls("enableAutoMtls: true"), UpstreamTls::Auto(_)));
    assert_eq!(tls("enableAutoMtls: false"), UpstreamTls::Off);
}

const INGRESS: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: in }\nspec:\n  ingress:\n  \
     - { port: { number: 7070, name: http }, defaultEndpoint: '127.0.0.1:70' }\n  \
     - { port: { number: 7071, name: tcp }, defaultEndpoint: '127.0.0.1:71' }\n";

fn modes(policies: &[String]) -> [InboundTls; 2] {
    let mut options = options();
    options.node.labels = [("app".into(), "me".into())].into();
    let texts: Vec<_> = [INGRESS].into_iter().chain(policies.iter().map(String::as_str)).collect();
    let loaded = try_load(&texts, &options).unwrap();
    [0, 1].map(|at: usize| loaded.snapshot.listeners[at].tls.clone())
}

fn permissive() -> InboundTls {
    InboundTls::Permissive(domains(&["cluster.local"]))
}

fn strict() -> InboundTls {
    InboundTls::Strict(domains(&["cluster.local"]))
}

#[test]
fn the_most_specific_peer_authentication_wins() {
    let whole = |name: &str, namespace: &str, mode: &str| {
        peers(&format!("name: {name}, namespace: {namespace}"), &format!("mtls: {{ mode: {mode} }}"))
    };
    let chosen = |namespace: &str, app: &str, mode: &str| {
        peers(
            &format!("name: chosen, namespace: {namespace}"),
            &format!("selector: {{ matchLabels: {{ app: {app} }} }}, mtls: {{ mode: {mode} }}"),
        )
    };
    let both = |mode: fn() -> InboundTls| [mode(), mode()];
    let root = whole("root", "istio-system", "STRICT");
    let here = whole("here", "observability", "DISABLE");
    assert_eq!(modes(&[]), both(permissive));
    assert_eq!(modes(std::slice::from_ref(&root)), both(strict));
    assert_eq!(modes(&[root.clone(), here.clone()]), both(InboundTls::default));
    assert_eq!(modes(&[root, whole("here", "observability", "UNSET")]), both(strict));
    assert_eq!(modes(&[whole("here", "other", "STRICT")]), both(permissive));
    assert_eq!(modes(&[here.clone(), chosen("observability", "me", "STRICT")]), both(strict));
    assert_eq!(modes(&[here.clone(), chosen("observability", "you", "STRICT")]), both(InboundTls::default));
    assert_eq!(modes(&[here.clone(), chosen("istio-system", "me", "STRICT")]), both(InboundTls::default));
    assert_eq!(modes(&[here, chosen("observability", "me", "UNSET")]), both(InboundTls::default));
    // The oldest of a level, by time and then by name.
    let older = |name: &str, mode: &str, created: &str| {
        peers(
            &format!("name: {name}, namespace: observability, creationTimestamp: '{created}'"),
            &format!("mtls: {{ mode: {mode} }}"),
        )
    };
    let (first, second) =
        (older("z", "STRICT", "2026-01-01T00:00:00Z"), older("a", "DISABLE", "2026-01-02T00:00:00Z"));
    assert_eq!(modes(&[second, first]), both(strict));
    assert_eq!(
        modes(&[whole("b", "observability", "STRICT"), whole("a", "observability", "DISABLE")]),
        both(InboundTls::default)
    );
}

#[test]
fn ports_have_a_peer_mode_of_their_own() {
    let ports = |mode: &str, ports: &str| {
        peers(
            "name: chosen",
            &format!(
                "selector: {{ matchLabels: {{ app: me }} }}, mtls: {{ mode: {mode} }}, portLevelMtls: {{ {ports} }}"
            ),
        )
    };
    assert_eq!(modes(&[ports("STRICT", "7071: { mode: DISABLE }")]), [strict(), InboundTls::Off]);
    assert_eq!(
        modes(&[ports("DISABLE", "7070: { mode: STRICT }, 7071: { mode: PERMISSIVE }")]),
        [strict(), permissive()]
    );
    assert_eq!(
        modes(&[ports("STRICT", "7070: { mode: UNSET }, 9: { mode: DISABLE }")]),
        [strict(), strict()]
    );
}

#[test]
fn what_istio_rejects_of_peer_authentication_is_rejected() {
    let selector = "selector: { matchLabels: { app: me } }";
    for (spec, code) in [
        ("portLevelMtls: { 80: { mode: STRICT } }".to_owned(), Code::MissingField),
        ("selector: {}, portLevelMtls: { 80: { mode: STRICT } }".to_owned(), Code::MissingField),
        (format!("{selector}, portLevelMtls: {{}}"), Code::MissingField),
        (format!("{selector}, portLevelMtls: {{ 0: {{ mode: STRICT }} }}"), Code::InvalidValue),
        (format!("{selector}, portLevelMtls: {{ http: {{ mode: STRICT }} }}"), Code::InvalidValue),
        ("mtls: { mode: STRICKT }".to_owned(), Code::InvalidValue),
        ("mlts: { mode: STRICT }".to_owned(), Code::UnknownField),
    ] {
        let report = findings(&[&peers("name: a", &spec)]);
        assert!(report.has_errors() && codes(&report).contains(&code), "{spec}: {report}");
    }
}

#[test]
fn trust_domains_come_from_the_environment_the_mesh_or_istio() {
    let told = |node: Option<&str>, settings: &str| {
        let mut options = with_mesh(settings);
        options.node.trust_domain = node.map(Into::into);
        let loaded = try_load(&[INGRESS], &options).unwrap();
        match &loaded.snapshot.listeners[0].tls {
            InboundTls::Permissive(domains) => domains.iter().map(ToString::to_string).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(None, "{}"), ["cluster.local"]);
    assert_eq!(told(None, "{ trustDomain: a.example, trustDomainAliases: [b, c] }"), ["a.example", "b", "c"]);
    assert_eq!(told(Some("own"), "{ trustDomain: a.example, trustDomainAliases: [b] }"), ["own", "b"]);
    let bad = try_load(&[INGRESS], &with_mesh("{ trustDomain: A/b }")).unwrap_err();
    assert_eq!(
        bad.diagnostics.iter().find(|found| found.severity() == Severity::Error).unwrap().code,
        Code::InvalidValue
    );
}

#[test]
fn a_policy_that_changes_is_seen_by_listeners_and_clusters() {
    let mut loader = Loader::new(options().node, TelemetryDefaults::default());
    let mesh = with_sidecars();
    let mut load = |policy: &str| {
        let sources = [source("0.yaml", &mesh), source("1.yaml", INGRESS), source("2.yaml", policy)];
        loader.load(&sources, None).unwrap().snapshot
    };
    let (first, again) = (load(""), load("# nothing\n"));
    let endpoints = |snapshot: &Snapshot| {
        Arc::clone(
            snapshot.clusters.iter().find(|one| one.name.starts_with("outbound|8080||reviews")).unwrap(),
        )
    };
    assert!(Arc::ptr_eq(&endpoints(&first), &endpoints(&again)));
    let off = load(&peers("name: a", "mtls: { mode: DISABLE }"));
    assert!(endpoints(&off).endpoints.iter().all(|endpoint| !endpoint.mutual));
    assert!(endpoints(&load("")).endpoints.iter().any(|endpoint| endpoint.mutual));
}
