//! How connections are secured. Files are named, never read.

use serde_json::{Map, Value, json};

use super::{object, put};
use crate::snapshot::{
    CipherSuite, ClientTls, Credentials, Identity, InboundTls, ServerName, ServerTls, TlsVersion, Trust,
    TrustDomains,
};

pub(super) fn client_tls(tls: &ClientTls) -> Value {
    let mut out = credentials(&tls.credentials);
    match &tls.server_name {
        ServerName::Is(name) => put(&mut out, "sni", (**name).into()),
        ServerName::OfRequest(_) => put(&mut out, "auto_sni", true.into()),
    }
    Value::Object(out)
}

fn server_tls(tls: &ServerTls) -> Value {
    let ServerTls { credentials: own, clients, oldest, newest, suites } = tls;
    let mut out = object(json!({ "mode": clients.mode() }));
    // Whom nobody is asked for is not verified either.
    out.extend(credentials(own).into_iter().filter(|(key, _)| key != "insecure_skip_verify"));
    let version = |version: &TlsVersion| match version {
        TlsVersion::V1_2 => "TLSv1_2",
        TlsVersion::V1_3 => "TLSv1_3",
    };
    put(&mut out, "tls_minimum_protocol_version", version(oldest).into());
    put(&mut out, "tls_maximum_protocol_version", version(newest).into());
    let suites: Vec<Value> = suites.iter().copied().map(|suite| CipherSuite::name(suite).into()).collect();
    put(&mut out, "cipher_suites", suites.into());
    Value::Object(out)
}

fn credentials(credentials: &Credentials) -> Map<String, Value> {
    let Credentials { identity, trust, names, revoked } = credentials;
    let mut out = Map::new();
    match identity {
        Identity::Anonymous => {}
        Identity::Mesh => put(&mut out, "identity", "MESH".into()),
        Identity::Files(files) => {
            let files = json!({ "certificate_chain": &*files.certificates, "private_key": &*files.key });
            put(&mut out, "identity", files);
        }
    }
    match trust {
        Trust::Mesh(domains) => put(&mut out, "trust_domains", list(domains)),
        Trust::File(path) => put(&mut out, "trusted_ca", (**path).into()),
        Trust::System => put(&mut out, "trusted_ca", "SYSTEM".into()),
        Trust::Nobody => put(&mut out, "insecure_skip_verify", true.into()),
    }
    put(&mut out, "crl", revoked.as_deref().into());
    put(
        &mut out,
        "match_subject_alt_names",
        names.iter().map(|name| (**name).into()).collect::<Vec<Value>>().into(),
    );
    out
}

/// `null` where nothing is asked.
pub(crate) fn inbound_tls(tls: &InboundTls) -> Value {
    let (mode, domains) = match tls {
        InboundTls::Off => return Value::Null,
        InboundTls::Permissive(domains) => ("PERMISSIVE", domains),
        InboundTls::Strict(domains) => ("STRICT", domains),
        InboundTls::Own(tls) => return server_tls(tls),
    };
    Value::Object(object(json!({ "mode": mode, "trust_domains": list(domains) })))
}

fn list(domains: &TrustDomains) -> Value {
    domains.iter().map(|domain| Value::from(&**domain)).collect()
}
