//! How the connections of a cluster and of a listener are secured, from what rules, policies and the mesh say.

use std::sync::Arc;

use super::peers::PeerPolicies;
use crate::{
    fields::Labels,
    istio::{
        client_tls::{self, Names},
        mesh::Mesh,
        peer_authentication::PeerMode,
    },
    snapshot::{
        ClientTls, Credentials, Identity, InboundTls, Node, ServerName, Service, TrustDomains, UpstreamTls,
    },
};

/// Of an outbound cluster; no block is `None`.
pub(super) fn upstream(
    block: Option<&client_tls::ClientTls>,
    service: &Service,
    node: &Node,
    mesh: &Mesh,
) -> UpstreamTls {
    match block {
        Some(client_tls::ClientTls::Disable) => UpstreamTls::Off,
        Some(client_tls::ClientTls::Originate { identity, trust, names, revoked }) => {
            let server_name = match &names.sni {
                Some(name) => ServerName::Is(Arc::clone(name)),
                None => ServerName::OfRequest(Arc::clone(&service.host)),
            };
            let credentials = Credentials {
                identity: identity.clone().map_or(Identity::Anonymous, Identity::Files),
                trust: trust.clone(),
                names: names.subjects.clone(),
                revoked: revoked.clone(),
            };
            UpstreamTls::On(Arc::new(ClientTls { credentials, server_name }))
        }
        Some(client_tls::ClientTls::IstioMutual(names)) => {
            UpstreamTls::On(Arc::new(mutual(Some(names), service, node, mesh)))
        }
        None if mesh.auto_mutual => UpstreamTls::Auto(Arc::new(mutual(None, service, node, mesh))),
        None => UpstreamTls::Off,
    }
}

/// Istio's own mutual TLS; the server name says which cluster it is.
fn mutual(names: Option<&Names>, service: &Service, node: &Node, mesh: &Mesh) -> ClientTls {
    let Service { port, subset, host, .. } = service;
    let sni = names.and_then(|names| names.sni.clone());
    let credentials = Credentials {
        names: names.map(|names| names.subjects.clone()).unwrap_or_default(),
        ..Credentials::mesh(mesh.trust_domains(node))
    };
    let sni = sni.unwrap_or_else(|| format!("outbound_.{port}_.{subset}_.{host}").into());
    ClientTls { credentials, server_name: ServerName::Is(sni) }
}

/// Of an inbound listener in front of `port` of this workload; `None` is every port that has no mode of its own.
pub(super) fn inbound(policies: &PeerPolicies, port: Option<u16>, node: &Node, mesh: &Mesh) -> InboundTls {
    let domains = || mesh.trust_domains(node);
    match policies.mode(&node.namespace, &node.labels, port) {
        PeerMode::Disable => InboundTls::Off,
        PeerMode::Permissive => InboundTls::Permissive(domains()),
        PeerMode::Strict => InboundTls::Strict(domains()),
    }
}

/// Whether an endpoint takes Istio's mutual TLS: it has a sidecar (Istio's label), and no policy that refuses.
pub(super) fn takes_mutual(policies: &PeerPolicies, namespace: &str, labels: &Labels, port: u16) -> bool {
    labels.get("security.istio.io/tlsMode").is_some_and(|mode| **mode == *"istio")
        && policies.mode(namespace, labels, Some(port)) != PeerMode::Disable
}

impl Mesh {
    /// The proxy's environment, then the mesh, then Istio's default say the domain.
    fn trust_domains(&self, node: &Node) -> TrustDomains {
        let own = node.trust_domain.as_ref().or(self.trust_domain.as_ref()).cloned();
        TrustDomains::new(own.unwrap_or_else(|| "cluster.local".into()), self.trust_aliases.iter().cloned())
    }
}
