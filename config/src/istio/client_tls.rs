//! `ClientTLSSettings`: how a `DestinationRule` secures connections to endpoints.

use std::sync::Arc;

use crate::{
    fields::{Message, Object, Type, refused, yes},
    report::Code,
    sink::Sink,
    snapshot::{KeyFiles, Trust},
};

/// `tls`, as written.
#[derive(Debug, Clone)]
pub(crate) enum ClientTls {
    Disable,
    /// SIMPLE, or MUTUAL with a certificate; the trust is never that of the mesh.
    Originate {
        identity: Option<KeyFiles>,
        trust: Trust,
        names: Names,
        revoked: Option<Arc<str>>,
    },
    IstioMutual(Names),
}

/// What is asked for, and who may answer.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) sni: Option<Arc<str>>,
    pub(crate) subjects: Box<[Arc<str>]>,
}

pub(crate) static CLIENT_TLS: Message = Message {
    name: "ClientTLSSettings",
    fields: &[
        yes(
            "mode",
            Type::Enum(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]),
            "every_client_tls_mode_is_compiled",
        ),
        yes("clientCertificate", Type::Text, "every_client_tls_mode_is_compiled"),
        yes("privateKey", Type::Text, "every_client_tls_mode_is_compiled"),
        yes("caCertificates", Type::Text, "every_client_tls_mode_is_compiled"),
        refused(
            "credentialName",
            Type::Text,
            "a sidecar fetches no Secret: mount it, and name its files by `clientCertificate`, `privateKey` and \
             `caCertificates`",
        ),
        yes("subjectAltNames", Type::List(&Type::Text), "every_client_tls_mode_is_compiled"),
        yes("sni", Type::Text, "every_client_tls_mode_is_compiled"),
        yes("insecureSkipVerify", Type::Bool, "every_client_tls_mode_is_compiled"),
        yes("caCrl", Type::Text, "every_client_tls_mode_is_compiled"),
    ],
};

/// Files that a mode has no use for.
const FILES: [&str; 4] = ["clientCertificate", "privateKey", "caCertificates", "caCrl"];

pub(crate) fn client_tls(block: &Object<'_>, sink: &mut Sink) -> ClientTls {
    let file = |field: &str| path_of(block, field);
    let mode = block.text("mode").map_or("DISABLE", |mode| mode.value);
    let names = Names { sni: file("sni"), subjects: subjects(block, sink) };
    match mode {
        "SIMPLE" | "MUTUAL" => {
            let identity = if mode == "MUTUAL" { key_files(block, sink) } else { None };
            if mode == "SIMPLE" {
                warn_useless(block, mode, &["clientCertificate", "privateKey"], sink);
            }
            ClientTls::Originate { identity, trust: trust(block, mode, sink), names, revoked: file("caCrl") }
        }
        "ISTIO_MUTUAL" => {
            warn_useless(block, mode, &FILES, sink);
            warn_useless(block, mode, &["insecureSkipVerify"], sink);
            ClientTls::IstioMutual(names)
        }
        _ => {
            warn_useless(block, mode, &FILES, sink);
            ClientTls::Disable
        }
    }
}

/// One that is empty counts as not written.
pub(super) fn path_of(block: &Object<'_>, field: &str) -> Option<Arc<str>> {
    block.text(field).filter(|path| !path.value.is_empty()).map(|path| path.value.into())
}

/// Names that a server may have, in a rule and in a `ServiceEntry`.
pub(super) fn subjects(block: &Object<'_>, sink: &mut Sink) -> Box<[Arc<str>]> {
    let written = block.texts("subjectAltNames");
    // A wildcard is compared as it stands, too: with that of a certificate.
    let is_name = |name: &str| !name.is_empty() && !name.strip_prefix("*.").unwrap_or(name).contains('*');
    for name in written.iter().filter(|name| !is_name(name.value)) {
        let message = format!("`{}` is nobody's name: names are compared as they stand", name.value);
        sink.report(Code::InvalidValue, name.span, message)
            .help("write it in full: `spiffe://cluster.local/ns/NAMESPACE/sa/ACCOUNT`, or a DNS name");
    }
    written.into_iter().map(|name| name.value.into()).collect()
}

/// Istio: mode MUTUAL has both.
fn key_files(block: &Object<'_>, sink: &mut Sink) -> Option<KeyFiles> {
    let mut required = |field: &str| {
        let path = block.text(field).filter(|path| !path.value.is_empty());
        if path.is_none() {
            let message = format!("mode MUTUAL needs `{field}`");
            sink.report(Code::MissingField, block.span(), message)
                .help("name a file; for the proxy's own certificate write `mode: ISTIO_MUTUAL`");
        }
        path.map(|path| path.value.into())
    };
    let (certificates, key) = (required("clientCertificate"), required("privateKey"));
    Some(KeyFiles { certificates: certificates?, key: key? })
}

/// Istio's validation: whoever verifies nothing names no roots; with SIMPLE no names either.
fn trust(block: &Object<'_>, mode: &str, sink: &mut Sink) -> Trust {
    let roots = block.text("caCertificates").filter(|path| !path.value.is_empty());
    if !block.bool("insecureSkipVerify").unwrap_or_default() {
        return roots.map_or(Trust::System, |path| Trust::File(path.value.into()));
    }
    let fields: &[_] =
        if mode == "SIMPLE" { &["caCertificates", "subjectAltNames"] } else { &["caCertificates"] };
    for field in fields.iter().filter(|field| block.has(field)) {
        let message = format!("`{field}` stands beside insecureSkipVerify, which verifies nothing");
        sink.report(Code::ExclusiveFields, block.key_span(field), message);
    }
    Trust::Nobody
}

pub(super) fn warn_useless(block: &Object<'_>, mode: &str, fields: &[&str], sink: &mut Sink) {
    for field in fields.iter().filter(|field| block.has(field)) {
        let message = format!("mode {mode} makes no use of `{field}`");
        sink.report(Code::SchemaWarning, block.key_span(field), message).label("has no effect");
    }
}
