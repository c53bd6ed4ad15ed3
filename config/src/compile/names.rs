//! The names that the proxy answers by DNS: those of all services that it can reach (Istio `BuildNameTable`).

use std::collections::HashSet;

use super::hosts::names;
use crate::{
    istio::sidecar::Sidecar,
    registry::{Registry, Service},
    snapshot::{Addresses, HostNames, Node},
};

/// Nothing, unless DNS is captured. Services without an address are left to the name servers.
pub(super) fn host_names(registry: &Registry, sidecar: Option<&Sidecar>, node: &Node) -> HostNames {
    let mut table = HostNames::default();
    if !node.dns_capture {
        return table;
    }
    let imported = |service: &&Service| {
        sidecar.is_none_or(|sidecar| sidecar.imports(&service.meta.namespace, &service.host))
    };
    let services = registry.services.iter().map(|service| &**service).filter(imported);
    let described: Vec<_> = services
        .map(|service| (names(service, node), addresses(service)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect();
    // A service may be named as another is in short: full names come first.
    for (names, addresses) in &described {
        names.first().into_iter().for_each(|name| table.add(name, addresses));
    }
    for (names, addresses) in &described {
        names.iter().skip(1).for_each(|name| table.add(name, addresses));
    }
    table
}

/// Its own, or those of its endpoints where there is nothing between it and its clients; each once.
fn addresses(service: &Service) -> Addresses {
    let mut seen = HashSet::new();
    let first_port = service.ports.first().filter(|_| service.headless);
    let endpoints = first_port.into_iter().flat_map(|port| service.serving(port));
    let all = service.ips().chain(endpoints.map(|(address, _)| address.ip()));
    all.filter(|ip| seen.insert(*ip)).collect()
}
