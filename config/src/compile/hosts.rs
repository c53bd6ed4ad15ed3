//! Which names a service answers to, and which virtual service speaks for it.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{
    by_host::ByHost,
    istio::{imports::Imports, in_mesh, mesh::Mesh, virtual_service::VirtualService},
    registry::Service,
    report::Code,
    sink::Sink,
    snapshot::Node,
};

/// The virtual services that apply to this proxy, the one that wins a host first.
#[derive(Debug)]
pub(crate) struct VirtualServices {
    ordered: Vec<Arc<VirtualService>>,
    by_host: ByHost,
}

impl VirtualServices {
    pub(crate) fn choose(written: &[Arc<VirtualService>], mesh: &Mesh, node: &Node, sink: &mut Sink) -> Self {
        let for_mesh = |vs: &&Arc<VirtualService>| in_mesh(&vs.gateways);
        let default = &mesh.exports.virtual_services;
        let visible =
            |vs: &&Arc<VirtualService>| vs.exports.or(default).visible(&vs.meta.namespace, &node.namespace);
        let public =
            |vs: &VirtualService| !vs.exports.or(default).private_to(&vs.meta.namespace, &node.namespace);
        let mut ordered: Vec<_> = written.iter().filter(for_mesh).filter(visible).cloned().collect();
        ordered.sort_by(|a, b| (public(a), a.meta.age()).cmp(&(public(b), b.meta.age())));
        warn_conflicts(&ordered, sink);
        let mut by_host = ByHost::default();
        for (index, vs) in ordered.iter().enumerate() {
            vs.hosts.iter().for_each(|host| by_host.add(&host.value, index));
        }
        Self { ordered, by_host }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &VirtualService> {
        self.ordered.iter().map(|vs| &**vs)
    }

    /// All that speak for a service, the one that wins first: connections have no host, and Istio asks each of them.
    pub(crate) fn all_of(&self, service: &Service, imports: &Imports) -> Vec<&VirtualService> {
        let mut found: Vec<_> = self.by_host.of(&service.host).map(|(_, index)| index).collect();
        found.sort_unstable();
        found.dedup();
        let found = found.into_iter().filter_map(|index| self.ordered.get(index).map(|vs| &**vs));
        found.filter(|vs| taken(imports, vs)).collect()
    }

    /// The most specific host wins, then the older resource.
    pub(crate) fn of(&self, service: &Service, imports: &Imports) -> Option<&VirtualService> {
        let found = self.by_host.of(&service.host);
        let found = found.filter_map(|(host, index)| Some((host, index, &**self.ordered.get(index)?)));
        let carried = found.filter(|(.., vs)| taken(imports, vs));
        let best = carried.max_by_key(|(host, index, _)| (specificity(host), std::cmp::Reverse(*index)));
        best.map(|(.., vs)| vs)
    }
}

/// An egress listener carries virtual services as it carries services.
pub(crate) fn taken(imports: &Imports, vs: &VirtualService) -> bool {
    imports.virtual_service(&vs.meta.namespace, vs.hosts.iter().map(|host| &*host.value))
}

/// Exact before wildcard, long before short.
fn specificity(host: &str) -> (bool, usize) {
    (!host.starts_with('*'), host.len())
}

fn warn_conflicts(ordered: &[Arc<VirtualService>], sink: &mut Sink) {
    let mut claimed: HashMap<&str, &VirtualService> = HashMap::new();
    for vs in ordered {
        for host in &vs.hosts {
            match claimed.get(&*host.value).filter(|other| !std::ptr::eq(**other, &**vs)) {
                Some(winner) => {
                    let message = format!("`{}` is claimed by another VirtualService", host.value);
                    let found = sink.report(Code::ConflictingHosts, host.span, message);
                    found.label("has no effect for this host");
                    found.note(format!("{} is older, or comes first by name", winner.meta.reference()));
                    found.help("put all rules of a host into one VirtualService");
                }
                None => drop(claimed.insert(&host.value, vs)),
            }
        }
    }
}

/// The full name of a service, and its short ones: the shortest is for clients of its namespace alone.
pub(crate) fn names(service: &Service, node: &Node) -> Vec<String> {
    let host = &*service.host;
    let mut names = vec![host.to_owned()];
    if let Some((name, namespace)) = node.domain.parts(host) {
        if namespace == &*node.namespace {
            names.push(name.to_owned());
        }
        names.push(format!("{name}.{namespace}"));
        names.push(format!("{name}.{namespace}.svc"));
    }
    names
}

/// All domains of a service, with a port or without.
pub(crate) fn domains(service: &Service, node: &Node) -> Vec<String> {
    let host = &*service.host;
    let mut domains = names(service, node);
    domains.insert(1, format!("{host}."));
    if service.headless {
        let below: Vec<_> = domains.iter().map(|domain| format!("*.{domain}")).collect();
        domains.extend(below);
    }
    domains.extend(service.addresses.iter().map(|address| match address.value.contains(':') {
        true => format!("[{}]", address.value),
        false => address.value.to_string(),
    }));
    domains.extend(service.allocated.map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }));
    if host.starts_with('*') {
        domains.retain(|domain| domain == host);
    }
    domains
}
