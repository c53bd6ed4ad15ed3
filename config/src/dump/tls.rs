//! How connections are secured. Files are named, never read.

use serde_json::{Map, Value, json};

use super::{object, put};
use crate::snapshot::{ClientTls, Credentials, Identity, InboundTls, ServerName, Trust, TrustDomains};

pub(super) fn client_tls(tls: &ClientTls) -> Value {
    let Credentials { identity, trust, names, revoked } = &tls.credentials;
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
    match &tls.server_name {
        ServerName::Is(name) => put(&mut out, "sni", (**name).into()),
        ServerName::OfRequest(_) => put(&mut out, "auto_sni", true.into()),
    }
    Value::Object(out)
}

/// `null` where nothing is asked.
pub(super) fn inbound_tls(tls: &InboundTls) -> Value {
    let (mode, domains) = match tls {
        InboundTls::Off => return Value::Null,
        InboundTls::Permissive(domains) => ("PERMISSIVE", domains),
        InboundTls::Strict(domains) => ("STRICT", domains),
    };
    Value::Object(object(json!({ "mode": mode, "trust_domains": list(domains) })))
}

fn list(domains: &TrustDomains) -> Value {
    domains.iter().map(|domain| Value::from(&**domain)).collect()
}
