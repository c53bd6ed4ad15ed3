//! Addresses of our own making for services that have none (Istio's automatic allocation). The proxy tells them to its pod
//! by DNS, so that a connection says which service it is for: ports alone do not tell two databases apart.
//!
//! An address is the pod's business alone: other pods may know the same service by another.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    decide::xxh64,
    istio::service_entry::Resolution,
    registry::{Registry, Service},
    snapshot::Node,
};

/// Istio: a ServiceEntry with this label at `false` is left alone.
const LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
/// Of 240.240.0.0/16, without those that look like the address of a network or of all its hosts.
const SLOTS: u16 = 256 * 254;

/// Gives addresses to those that need one. A service keeps what it had in `known`: an application may remember it.
pub(crate) fn allocate(services: &mut [Arc<Service>], known: Option<&Registry>, node: &Node) {
    let family = Family::of(node);
    let mut taken: HashSet<IpAddr> = services.iter().flat_map(|service| service.ips()).collect();
    let mut waiting: Vec<&mut Service> = Vec::new();
    for service in services.iter_mut().filter(|service| needs_one(service)).filter_map(Arc::get_mut) {
        let before = known.and_then(|known| known.find(&service.host)?.allocated);
        match before.filter(|address| family.has(*address) && taken.insert(*address)) {
            Some(address) => service.allocated = Some(address),
            None => waiting.push(service),
        }
    }
    // Whatever the order of the files.
    waiting.sort_by(|a, b| key(a).cmp(&key(b)));
    for service in waiting {
        service.allocated = free(service, family, &taken);
        taken.extend(service.allocated);
    }
}

/// Istio `ShouldV2AutoAllocateIP`: of resolution NONE nobody knows where connections were going, and a wildcard is no
/// name to look up.
fn needs_one(service: &Service) -> bool {
    let is_refused = || service.meta.labels.get(LABEL).is_some_and(|text| text.eq_ignore_ascii_case("false"));
    service.meta.kind == "ServiceEntry"
        && service.addresses.is_empty()
        && service.ranges.is_empty()
        && service.resolution != Resolution::None
        && !service.host.starts_with('*')
        && !is_refused()
}

fn key(service: &Service) -> (&str, &str) {
    (&service.meta.namespace, &service.host)
}

/// The first free one from where the name leads.
fn free(service: &Service, family: Family, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let (namespace, host) = key(service);
    let hash = xxh64(format!("{namespace}/{host}").as_bytes(), 0) % u64::from(SLOTS);
    let first = u16::try_from(hash).unwrap_or_default();
    let slots = (first..SLOTS).chain(0..first);
    slots.map(|slot| family.address(slot)).find(|address| !taken.contains(address))
}

/// Of the addresses that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    /// For a pod whose address is of IPv6.
    V6,
}

impl Family {
    fn of(node: &Node) -> Self {
        match node.address.parse() {
            Ok(IpAddr::V6(_)) => Self::V6,
            _ => Self::V4,
        }
    }

    fn has(self, address: IpAddr) -> bool {
        address.is_ipv6() == (self == Self::V6)
    }

    fn address(self, slot: u16) -> IpAddr {
        match self {
            Self::V4 => {
                let [third, fourth] = [slot / 254, slot % 254 + 1].map(|part| part.to_be_bytes()[1]);
                Ipv4Addr::new(240, 240, third, fourth).into()
            }
            Self::V6 => Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0xf0f0, slot + 1).into(),
        }
    }
}
