//! How the connections of a cluster and of a listener are secured, from what rules, policies and the mesh say.

use std::{collections::BTreeSet, sync::Arc};

use super::peers::PeerPolicies;
use crate::{
    istio::{client_tls, mesh::Mesh, peer_authentication::PeerMode, service_entry::Account},
    registry,
    snapshot::{
        ClientTls, Credentials, Identity, InboundTls, Node, ServerName, Service, Trust, TrustDomains,
        UpstreamTls,
    },
};

/// Of an outbound cluster of this service; no block is `None`.
pub(super) fn upstream(
    block: Option<&client_tls::ClientTls>,
    of: &registry::Service,
    service: &Service,
    node: &Node,
    mesh: &Mesh,
) -> UpstreamTls {
    let domains = mesh.trust_domains(node);
    let expected = |written: &[Arc<str>]| match written {
        [] => subjects(of, &domains),
        written => written.into(),
    };
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
                names: match (trust, &of.entry) {
                    // Istio: the accounts of a Kubernetes service are those of the mesh, which is not asked here.
                    (Trust::Nobody, _) | (_, None) => names.subjects.clone(),
                    (_, Some(_)) => expected(&names.subjects),
                },
                revoked: revoked.clone(),
            };
            UpstreamTls::On(Arc::new(ClientTls { credentials, server_name }))
        }
        Some(client_tls::ClientTls::IstioMutual(names)) => {
            let expected = expected(&names.subjects);
            UpstreamTls::On(Arc::new(mutual(names.sni.clone(), expected, service, domains)))
        }
        // Istio: what is outside of the mesh gets mutual TLS by a rule alone.
        None if mesh.auto_mutual && !of.is_external() => {
            UpstreamTls::Auto(Arc::new(mutual(None, expected(&[]), service, domains)))
        }
        None => UpstreamTls::Off,
    }
}

/// Istio's own mutual TLS; the server name says which cluster it is.
fn mutual(
    sni: Option<Arc<str>>,
    names: Box<[Arc<str>]>,
    service: &Service,
    domains: TrustDomains,
) -> ClientTls {
    let Service { port, subset, host, .. } = service;
    let credentials = Credentials { names, ..Credentials::mesh(domains) };
    let sni = sni.unwrap_or_else(|| format!("outbound_.{port}_.{subset}_.{host}").into());
    ClientTls { credentials, server_name: ServerName::Is(sni) }
}

/// Istio's secure naming: who may answer for a service where no rule says it, in every trust domain. These are the names
/// of its entry and the accounts of all its endpoints, of whatever subset. As long as the account of one is not known,
/// those of the others say nothing.
fn subjects(of: &registry::Service, domains: &TrustDomains) -> Box<[Arc<str>]> {
    let written = of.entry.as_ref().map(|entry| &*entry.subjects).unwrap_or_default();
    if written.is_empty() && of.endpoints.iter().any(|workload| workload.account == Account::Unknown) {
        return Box::default();
    }
    let own = domains.iter().next().map(|domain| &**domain).unwrap_or_default();
    let namespace = &of.meta.namespace;
    let accounts = of.endpoints.iter().filter_map(|workload| match &workload.account {
        Account::Named(account) | Account::OfPod(account) => {
            Some(format!("spiffe://{own}/ns/{namespace}/sa/{account}").into())
        }
        Account::None | Account::Unknown => None,
    });
    let mut names: BTreeSet<Arc<str>> = written.iter().cloned().chain(accounts).collect();
    let paths: Vec<_> = names.iter().filter_map(|name| workload(name)).map(str::to_owned).collect();
    for alias in domains.iter().skip(1) {
        names.extend(paths.iter().map(|path| format!("spiffe://{alias}/{path}").into()));
    }
    names.into_iter().collect()
}

/// The part of a workload's identity behind its trust domain: `ns/shop/sa/web`.
fn workload(identity: &str) -> Option<&str> {
    let (_, path) = identity.strip_prefix("spiffe://")?.split_once('/')?;
    let (namespace, account) = path.strip_prefix("ns/")?.split_once("/sa/")?;
    (!namespace.contains('/') && !account.contains('/')).then_some(path)
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

impl Mesh {
    /// The proxy's environment, then the mesh, then Istio's default say the domain.
    fn trust_domains(&self, node: &Node) -> TrustDomains {
        let own = node.trust_domain.as_ref().or(self.trust_domain.as_ref()).cloned();
        TrustDomains::new(own.unwrap_or_else(|| "cluster.local".into()), self.trust_aliases.iter().cloned())
    }
}
