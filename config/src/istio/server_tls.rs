//! `ServerTLSSettings` of a sidecar's ingress listener: TLS with clients that are not of the mesh. What Istio's validation
//! rejects there is rejected here; gateways are not read.

use std::sync::Arc;

use super::{
    PortProtocol,
    client_tls::{path_of, warn_useless},
    protocol_word,
};
use crate::{
    fields::{Message, Object, Type, refused, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::{
        CipherSuite, ClientCertificates, Credentials, Identity, KeyFiles, ServerTls, TlsVersion, Trust,
    },
};

/// `tls` of an ingress listener.
#[derive(Debug)]
pub(crate) struct IngressTls {
    pub(crate) settings: Arc<ServerTls>,
    /// What is spoken inside.
    pub(crate) inside: PortProtocol,
    pub(crate) span: Span,
}

const NO_SECRET: &str = "a sidecar fetches no Secret: mount it, and name its files by `serverCertificate`, `privateKey` and `caCertificates`";
const ROOTS_SAY: &str =
    "Istio takes it at a gateway alone: name the roots of exactly those who may come by `caCertificates`";
const MODES: &str = "every_server_tls_mode_is_compiled";

pub(crate) static SERVER_TLS: Message = Message {
    name: "ServerTLSSettings",
    fields: &[
        refused(
            "httpsRedirect",
            Type::Bool,
            "Istio takes it at a gateway alone: the port takes no plain text",
        ),
        yes(
            "mode",
            Type::Enum(&[
                "PASSTHROUGH",
                "SIMPLE",
                "MUTUAL",
                "AUTO_PASSTHROUGH",
                "ISTIO_MUTUAL",
                "OPTIONAL_MUTUAL",
            ]),
            MODES,
        ),
        yes("serverCertificate", Type::Text, MODES),
        yes("privateKey", Type::Text, MODES),
        yes("caCertificates", Type::Text, MODES),
        yes("caCrl", Type::Text, MODES),
        refused("credentialName", Type::Text, NO_SECRET),
        refused("credentialNames", Type::List(&Type::Text), NO_SECRET),
        refused("caCertCredentialName", Type::Text, NO_SECRET),
        refused(
            "tlsCertificates",
            Type::Any,
            "Istio takes it at a gateway alone: write `serverCertificate` and `privateKey`",
        ),
        refused("subjectAltNames", Type::List(&Type::Text), ROOTS_SAY),
        refused("verifyCertificateSpki", Type::List(&Type::Text), ROOTS_SAY),
        refused("verifyCertificateHash", Type::List(&Type::Text), ROOTS_SAY),
        yes("minProtocolVersion", Type::Enum(&VERSIONS), "versions_and_ciphers_of_a_server_are_limited"),
        yes("maxProtocolVersion", Type::Enum(&VERSIONS), "versions_and_ciphers_of_a_server_are_limited"),
        yes("cipherSuites", Type::List(&Type::Text), "versions_and_ciphers_of_a_server_are_limited"),
    ],
};

static VERSIONS: [&str; 5] = ["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];

/// Reads `tls` of a listener for this port; `None` after an error.
pub(super) fn ingress_tls(block: &Object<'_>, port: &Object<'_>, sink: &mut Sink) -> Option<IngressTls> {
    let inside = inside(port, sink);
    let clients = clients(block, sink);
    let (identity, clients) = (key_files(block, sink), clients?);
    let trust = match clients {
        ClientCertificates::Ignored => {
            warn_useless(block, "SIMPLE", &["caCertificates", "caCrl"], sink);
            Trust::Nobody
        }
        ClientCertificates::Verified | ClientCertificates::Required => {
            let Some(roots) = path_of(block, "caCertificates") else {
                let message = "who verifies clients needs `caCertificates`";
                let found = sink.report(Code::MissingField, block.span(), message);
                found.help("name a file of roots, or write `mode: SIMPLE`");
                return None;
            };
            Trust::File(roots)
        }
    };
    let revoked = path_of(block, "caCrl").filter(|_| trust != Trust::Nobody);
    let versions = versions(block, sink);
    let suites = suites(block, sink);
    let credentials =
        Credentials { identity: Identity::Files(identity?), trust, names: Box::default(), revoked };
    let (oldest, newest) = versions?;
    let settings = ServerTls { credentials, clients, oldest, newest, suites };
    Some(IngressTls { settings: Arc::new(settings), inside: inside?, span: block.span() })
}

/// Istio's `AfterTLSTermination`; only a port of TLS has settings of it.
fn inside(port: &Object<'_>, sink: &mut Sink) -> Option<PortProtocol> {
    let name = port.text("name").map_or("", |text| text.value);
    let written = port.text("protocol").map_or("", |text| text.value);
    match protocol_word(name, written).as_str() {
        "https" => Some(PortProtocol::Http1),
        "tls" => Some(PortProtocol::Tcp),
        _ => {
            let message = "`tls` stands at a port that is none of TLS";
            sink.report(Code::ExclusiveFields, port.span(), message)
                .help("write `protocol: HTTPS` where requests are inside, `protocol: TLS` for bytes");
            None
        }
    }
}

fn clients(block: &Object<'_>, sink: &mut Sink) -> Option<ClientCertificates> {
    const CHOICE: &str =
        "write SIMPLE, MUTUAL or OPTIONAL_MUTUAL; the mesh's own mutual TLS is what PeerAuthentication says";
    let Some(mode) = block.text("mode") else {
        sink.report(Code::MissingField, block.span(), "`tls` has no mode").help(CHOICE);
        return None;
    };
    match mode.value {
        "SIMPLE" => Some(ClientCertificates::Ignored),
        "OPTIONAL_MUTUAL" => Some(ClientCertificates::Verified),
        "MUTUAL" => Some(ClientCertificates::Required),
        other => {
            let message = format!("mode {other} has no place at a sidecar's listener");
            sink.report(Code::InvalidValue, mode.span, message).help(CHOICE);
            None
        }
    }
}

fn key_files(block: &Object<'_>, sink: &mut Sink) -> Option<KeyFiles> {
    let mut required = |field: &str| {
        let path = path_of(block, field);
        if path.is_none() {
            let message = format!("a server needs `{field}`");
            sink.report(Code::MissingField, block.span(), message).help("name a file");
        }
        path
    };
    let (certificates, key) = (required("serverCertificate"), required("privateKey"));
    Some(KeyFiles { certificates: certificates?, key: key? })
}

/// The oldest and the newest. What is older than 1.2 is not spoken, as Envoy's servers do not by default.
fn versions(block: &Object<'_>, sink: &mut Sink) -> Option<(TlsVersion, TlsVersion)> {
    let oldest = match block.text("minProtocolVersion") {
        Some(text) if text.value == "TLSV1_3" => TlsVersion::V1_3,
        Some(text) if matches!(text.value, "TLSV1_0" | "TLSV1_1") => {
            let message = format!("{} is not spoken: clients need TLS 1.2", text.value);
            sink.report(Code::SchemaWarning, text.span, message).help("write `TLSV1_2`");
            TlsVersion::V1_2
        }
        _ => TlsVersion::V1_2,
    };
    let Some(text) = block.text("maxProtocolVersion") else { return Some((oldest, TlsVersion::V1_3)) };
    let newest = match text.value {
        "TLSV1_0" | "TLSV1_1" => None,
        "TLSV1_2" => Some(TlsVersion::V1_2),
        _ => Some(TlsVersion::V1_3),
    };
    if newest.is_none_or(|newest| newest < oldest) {
        let message = "no version of TLS is left that is spoken here";
        sink.report(Code::InvalidValue, text.span, message).help("TLS 1.2 and TLS 1.3 are");
        return None;
    }
    Some((oldest, newest?))
}

/// Istio passes over those that it does not know.
fn suites(block: &Object<'_>, sink: &mut Sink) -> Box<[CipherSuite]> {
    let written = block.texts("cipherSuites");
    let mut suites: Vec<CipherSuite> = Vec::new();
    for name in &written {
        match CipherSuite::ALL.into_iter().find(|suite| suite.name() == name.value) {
            Some(suite) if suites.contains(&suite) => {}
            Some(suite) => suites.push(suite),
            None => {
                let message = format!("the cipher suite `{}` is not spoken", name.value);
                let found = sink.report(Code::SchemaWarning, name.span, message);
                found.label("is passed over").help(known());
            }
        }
    }
    if suites.is_empty() && !written.is_empty() {
        let message = "none of the cipher suites is spoken";
        sink.report(Code::InvalidValue, block.key_span("cipherSuites"), message).help(known());
    }
    suites.into()
}

fn known() -> String {
    format!("those of TLS 1.2 are {}", CipherSuite::ALL.map(CipherSuite::name).join(", "))
}
