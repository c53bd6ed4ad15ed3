//! The names that the proxy answers by DNS: those of all services that it can reach (Istio `BuildNameTable`).

use std::net::IpAddr;

use super::{capture::ByEndpoint, hosts::names};
use crate::{
    istio::sidecar::Sidecar,
    registry::{Registry, Service},
    snapshot::{Addresses, HostNames, Node},
};

/// Nothing, unless DNS is captured. Services without an address are left to the name servers.
pub(super) fn host_names(
    registry: &Registry,
    sidecar: Option<&Sidecar>,
    by_endpoint: &ByEndpoint,
    node: &Node,
) -> HostNames {
    let mut table = HostNames::default();
    if !node.dns_capture {
        return table;
    }
    let imported = |service: &&Service| {
        sidecar.is_none_or(|sidecar| sidecar.imports(&service.meta.namespace, &service.host))
    };
    let services: Vec<_> = registry.services.iter().map(|service| &**service).filter(imported).collect();
    // A service may be named as another is in short: full names come first.
    let described: Vec<_> = services
        .into_iter()
        .map(|service| (names(service, node), addresses(service, by_endpoint)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect();
    for (names, addresses) in &described {
        names.first().into_iter().for_each(|name| table.add(name, addresses));
    }
    for (names, addresses) in &described {
        names.iter().skip(1).for_each(|name| table.add(name, addresses));
    }
    table
}

/// Its own, or those of its endpoints where there is nothing between it and its clients.
fn addresses(service: &Service, by_endpoint: &ByEndpoint) -> Addresses {
    let mut found: Vec<IpAddr> = service.ips().collect();
    if service.headless
        && let Some(port) = service.ports.first()
    {
        found.extend(by_endpoint.endpoints(&service.host, port.number).iter().map(|address| address.ip()));
    }
    let mut seen = Vec::new();
    found.retain(|ip| {
        let new = !seen.contains(ip);
        seen.push(*ip);
        new
    });
    found.into()
}
