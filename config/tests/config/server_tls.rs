//! `tls` of a sidecar's ingress listener: TLS with clients that are not of the mesh.

use std::sync::Arc;

use outrigger_config::{
    LoadOptions,
    decide::Peers,
    explain::explain,
    report::{Code, Report},
    snapshot::{
        Carried, Chain, CipherSuite, ClientCertificates, Credentials, Identity, InboundTls, Interception,
        KeyFiles, Protocol, ServerTls, Snapshot, TlsVersion, Trust,
    },
};

use crate::support::{Request, cluster, codes, complaints, options, try_load};

/// No mutual TLS of the mesh at the port.
const DISABLED: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: a }\nspec: { mtls: { mode: DISABLE } }\n";

/// An ingress listener of this protocol with `tls`.
fn ingress(protocol: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{ name: in }}\nspec:\n  ingress:\n  \
         - port: {{ number: 7070, name: in, protocol: {protocol} }}\n    defaultEndpoint: '127.0.0.1:70'\n    tls: {tls}\n"
    )
}

fn captured() -> LoadOptions {
    let mut options = options();
    options.node.interception = Interception::Redirect;
    options
}

fn load(texts: &[&str], options: &LoadOptions) -> (Snapshot, Report) {
    let loaded = try_load(texts, options).unwrap_or_else(|report| panic!("{report}"));
    (loaded.snapshot, loaded.warnings)
}

fn found(tls: &str) -> Report {
    match try_load(&[&ingress("HTTPS", tls), DISABLED], &options()) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

fn written(tls: &str) -> Arc<ServerTls> {
    let (snapshot, warnings) = load(&[&ingress("HTTPS", tls), DISABLED], &options());
    assert_eq!(complaints(&warnings), [], "{tls}: {warnings}");
    match &snapshot.listeners[0].tls {
        InboundTls::Own(tls) => Arc::clone(tls),
        other => panic!("{tls}: {other:?}"),
    }
}

fn server(clients: ClientCertificates, trust: Trust) -> ServerTls {
    let files = KeyFiles { certificates: "/c".into(), key: "/k".into() };
    ServerTls {
        credentials: Credentials {
            identity: Identity::Files(files),
            trust,
            names: Box::default(),
            revoked: None,
        },
        clients,
        oldest: TlsVersion::V1_2,
        newest: TlsVersion::V1_3,
        suites: Box::default(),
    }
}

const FILES: &str = "serverCertificate: /c, privateKey: /k";

#[test]
fn every_server_tls_mode_is_compiled() {
    let simple = written(&format!("{{ mode: SIMPLE, {FILES} }}"));
    assert_eq!(*simple, server(ClientCertificates::Ignored, Trust::Nobody));
    let roots = || Trust::File("/ca".into());
    for (mode, clients) in
        [("MUTUAL", ClientCertificates::Required), ("OPTIONAL_MUTUAL", ClientCertificates::Verified)]
    {
        let tls = written(&format!("{{ mode: {mode}, {FILES}, caCertificates: /ca, caCrl: /crl }}"));
        let mut expected = server(clients, roots());
        expected.credentials.revoked = Some("/crl".into());
        assert_eq!(*tls, expected, "{mode}");
    }
}

#[test]
fn versions_and_ciphers_of_a_server_are_limited() {
    let limits = |fields: &str| {
        let tls = written(&format!("{{ mode: SIMPLE, {FILES}, {fields} }}"));
        (tls.oldest, tls.newest)
    };
    use TlsVersion::{V1_2, V1_3};
    assert_eq!(limits("minProtocolVersion: TLSV1_3"), (V1_3, V1_3));
    assert_eq!(limits("maxProtocolVersion: TLSV1_2"), (V1_2, V1_2));
    assert_eq!(limits("minProtocolVersion: TLS_AUTO, maxProtocolVersion: TLS_AUTO"), (V1_2, V1_3));
    let suites = "cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-CHACHA20-POLY1305]";
    let tls = written(&format!("{{ mode: SIMPLE, {FILES}, {suites} }}"));
    assert_eq!(*tls.suites, [CipherSuite::EcdsaAes128, CipherSuite::RsaChacha20]);
    for (fields, code, fails) in [
        ("minProtocolVersion: TLSV1_0", Code::SchemaWarning, false),
        ("maxProtocolVersion: TLSV1_1", Code::InvalidValue, true),
        ("minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2", Code::InvalidValue, true),
        ("cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA]", Code::SchemaWarning, false),
        ("cipherSuites: [AES128-SHA]", Code::InvalidValue, true),
    ] {
        let report = found(&format!("{{ mode: SIMPLE, {FILES}, {fields} }}"));
        assert!(codes(&report).contains(&code), "{fields}: {report}");
        assert_eq!(report.has_errors(), fails, "{fields}: {report}");
    }
}

#[test]
fn what_istio_rejects_of_server_tls_is_rejected() {
    for (tls, code) in [
        ("{ serverCertificate: /c, privateKey: /k }", Code::MissingField),
        ("{ mode: ISTIO_MUTUAL }", Code::InvalidValue),
        ("{ mode: AUTO_PASSTHROUGH }", Code::InvalidValue),
        ("{ mode: SIMPLE, privateKey: /k }", Code::MissingField),
        ("{ mode: SIMPLE, serverCertificate: /c }", Code::MissingField),
        ("{ mode: MUTUAL, serverCertificate: /c, privateKey: /k }", Code::MissingField),
        ("{ mode: SIMPLE, credentialName: a }", Code::NotExecutable),
        ("{ mode: SIMPLE, serverCertificate: /c, privateKey: /k, httpsRedirect: true }", Code::NotExecutable),
        (
            "{ mode: SIMPLE, serverCertificate: /c, privateKey: /k, subjectAltNames: [a] }",
            Code::NotExecutable,
        ),
    ] {
        let report = found(tls);
        assert!(report.has_errors() && codes(&report).contains(&code), "{tls}: {report}");
    }
    let plain = try_load(&[&ingress("HTTP", &format!("{{ mode: SIMPLE, {FILES} }}"))], &options());
    assert!(codes(&plain.unwrap_err()).contains(&Code::ExclusiveFields));
    let useless = found(&format!("{{ mode: SIMPLE, {FILES}, caCertificates: /ca }}"));
    assert_eq!(complaints(&useless), [Code::SchemaWarning], "{useless}");
}

#[test]
fn an_ingress_listener_ends_tls_of_its_own_where_the_mesh_has_none() {
    let tls = format!("{{ mode: SIMPLE, {FILES} }}");
    // What is inside, as Istio has it: requests of HTTPS, bytes of TLS.
    for (protocol, inside) in [("HTTPS", Protocol::Http1), ("TLS", Protocol::Client)] {
        let (bound, _) = load(&[&ingress(protocol, &tls), DISABLED], &options());
        let listener = &bound.listeners[0];
        assert!(matches!(listener.tls, InboundTls::Own(_)), "{protocol}");
        assert_eq!(matches!(listener.carried, Carried::Http(_)), protocol == "HTTPS");
        assert_eq!(cluster(&bound, "inbound|7070||").protocol, inside);

        let (apart, _) = load(&[&ingress(protocol, &tls), DISABLED], &captured());
        let listener = apart.listeners.iter().find(|one| &*one.name == "virtualInbound").unwrap();
        let captured = listener.captured().unwrap();
        assert!(matches!(captured.tls[&7070], InboundTls::Own(_)), "{protocol}");
        assert_eq!(matches!(captured.ports[&7070], Chain::Requests(_)), protocol == "HTTPS");
        assert_eq!(listener.tls, InboundTls::Off);
    }
    // Elsewhere it has no effect, as in Istio, and that is said.
    for options in [options(), captured()] {
        let (snapshot, warnings) = load(&[&ingress("HTTPS", &tls)], &options);
        assert_eq!(complaints(&warnings), [Code::NoEffect], "{warnings}");
        assert!(warnings.to_string().contains("7070: { mode: DISABLE }"), "{warnings}");
        let listener = snapshot.listeners.last().unwrap();
        let taken = listener.tls_to("127.0.0.1:7070".parse().unwrap());
        assert!(matches!(taken, InboundTls::Permissive(_)), "{taken:?}");
    }
}

#[test]
fn what_a_port_shows_and_asks_for_is_explained_and_dumped() {
    let tls = format!("{{ mode: MUTUAL, {FILES}, caCertificates: /ca, maxProtocolVersion: TLSV1_2 }}");
    let (snapshot, _) = load(&[&ingress("HTTPS", &tls), DISABLED], &options());
    let peers = Peers { remote: "10.9.0.7:40000".parse().unwrap(), local: "127.0.0.1:7070".parse().unwrap() };
    let request = Request::to("web");
    let explained = explain(&snapshot, &snapshot.listeners[0], &request.view(), peers, None).unwrap();
    let text = explained.to_string();
    let expected =
        "tls           MUTUAL: TLS of the port's own alone, shows /c, clients by the roots in /ca\n";
    assert!(text.contains(expected), "{text}");
    let shown = explained.to_json()["listener"]["tls"].clone();
    assert_eq!(shown, snapshot.to_json()["listeners"][0]["tls"]);
    let expected = serde_json::json!({
        "mode": "MUTUAL",
        "identity": { "certificate_chain": "/c", "private_key": "/k" },
        "trusted_ca": "/ca",
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": "TLSv1_2",
    });
    assert_eq!(shown, expected);
}
