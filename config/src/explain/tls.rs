//! A word on how connections are secured: those that come in at a listener, and those to the endpoints of a cluster. Where
//! plain text is all that there is to it, nothing is said.

use super::words::quoted;
use crate::snapshot::{
    ClientTls, Cluster, Credentials, Identity, InboundTls, KeyFiles, ServerName, ServerTls, Trust,
    TrustDomains, UpstreamTls,
};

pub(super) fn inbound(tls: &InboundTls) -> Option<String> {
    match tls {
        InboundTls::Off => None,
        InboundTls::Permissive(domains) => Some(format!(
            "PERMISSIVE: mutual TLS with workloads of {}, or plain text; that alone without an identity",
            list(domains)
        )),
        InboundTls::Strict(domains) => {
            Some(format!("STRICT: mutual TLS with workloads of {} alone", list(domains)))
        }
        InboundTls::Own(tls) => Some(own(tls)),
    }
}

fn own(tls: &ServerTls) -> String {
    let ServerTls { credentials, clients, .. } = tls;
    let shown = match &credentials.identity {
        Identity::Files(files) => &*files.certificates,
        Identity::Anonymous | Identity::Mesh => "nothing",
    };
    let believed = match &credentials.trust {
        Trust::File(roots) => format!(", clients by the roots in {roots}"),
        Trust::System | Trust::Nobody | Trust::Mesh(_) => String::new(),
    };
    format!("{}: TLS of the port's own alone, shows {shown}{believed}", clients.mode())
}

pub(super) fn upstream(cluster: &Cluster) -> Option<String> {
    let mutual = cluster.takes_mutual();
    match &cluster.tls {
        UpstreamTls::On(tls) => Some(client(tls)),
        UpstreamTls::Auto(tls) if mutual => {
            Some(format!("automatic with endpoints that have a sidecar, {}", client(tls)))
        }
        UpstreamTls::Off if mutual => Some("DISABLE: plain text, also with a sidecar".to_owned()),
        UpstreamTls::Auto(_) | UpstreamTls::Off => None,
    }
}

fn client(tls: &ClientTls) -> String {
    let ClientTls { credentials: Credentials { identity, trust, names, .. }, server_name } = tls;
    let (mode, shown) = match identity {
        Identity::Anonymous => ("SIMPLE", String::new()),
        Identity::Mesh => ("ISTIO_MUTUAL", String::new()),
        Identity::Files(KeyFiles { certificates, .. }) => ("MUTUAL", format!(", shows {certificates}")),
    };
    let asked = match server_name {
        ServerName::Is(name) => quoted(name),
        ServerName::OfRequest(_) => "the host of the request".to_owned(),
    };
    let expected = match (trust, &**names) {
        (Trust::Nobody, _) => "anybody: nothing is verified".to_owned(),
        (Trust::Mesh(domains), []) => format!("any workload of {}", list(domains)),
        (_, []) => "who has that name".to_owned(),
        (_, names) => {
            let names: Vec<_> = names.iter().map(|name| &**name).collect();
            names.join(" or ")
        }
    };
    format!("{mode}: asks for {asked}{shown}, expects {expected}")
}

fn list(domains: &TrustDomains) -> String {
    let domains: Vec<_> = domains.iter().map(|domain| &**domain).collect();
    domains.join(" or ")
}
