//! The services that this proxy can reach, with their ports and endpoints.
//!
//! It is filled from `ServiceEntry` and `WorkloadEntry` documents today; a control plane can fill the same later.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::{
    fields::{Labels, Spanned},
    istio::{
        Meta, cluster_local, covers, selects,
        service_entry::{Resolution, ServiceEntry, ServicePort, Workload},
    },
    report::Code,
    sink::Sink,
    snapshot::{Endpoint, Node, Origin},
};

/// All services that are visible to the proxy, in order of the documents.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) services: Vec<Arc<Service>>,
    by_host: HashMap<Arc<str>, usize>,
}

/// One host of a `ServiceEntry`.
#[derive(Debug)]
pub(crate) struct Service {
    /// Full name in lower case.
    pub(crate) host: Arc<str>,
    pub(crate) meta: Meta,
    pub(crate) addresses: Vec<Spanned<Box<str>>>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) endpoints: Arc<[Workload]>,
    pub(crate) origin: Origin,
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        let same_endpoints =
            Arc::ptr_eq(&self.endpoints, &other.endpoints) || self.endpoints == other.endpoints;
        same_endpoints && self.is_alike(other)
    }
}

impl Service {
    /// The metric label: `reviews` of `reviews.default.svc.cluster.local`, the whole host where it is none of these.
    pub(crate) fn short_name(&self) -> &str {
        cluster_local(&self.host).map_or(&self.host, |(name, _)| name)
    }

    /// True if routes and limits see no difference.
    fn is_alike(&self, other: &Self) -> bool {
        let Self { host, meta, addresses, ports, endpoints: _, origin } = self;
        (host, meta, addresses, ports, origin)
            == (&other.host, &other.meta, &other.addresses, &other.ports, &other.origin)
    }

    pub(crate) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Those with all the labels.
    pub(crate) fn endpoints(&self, port: &ServicePort, labels: &Labels) -> Box<[Arc<Endpoint>]> {
        let selected = self.endpoints.iter().filter(|workload| selects(labels, &workload.labels));
        let endpoints = selected.map(|workload| {
            let address = workload.serves(port);
            Arc::new(Endpoint {
                address,
                key: address.to_string().into(),
                weight: workload.weight,
                labels: workload.labels.clone(),
            })
        });
        endpoints.collect()
    }
}

impl Workload {
    /// Where a port is served: the endpoint's own port of that name, else the target port, else the port itself.
    pub(crate) fn serves(&self, port: &ServicePort) -> SocketAddr {
        let number = self.ports.get(&port.name).copied().or(port.target).unwrap_or(port.number);
        SocketAddr::new(self.address, number)
    }
}

impl Registry {
    /// Takes what the proxy can see; what it cannot resolve is reported and left out. Services that are as they were in
    /// `known` are the same objects.
    pub(crate) fn build(
        entries: &[Arc<ServiceEntry>],
        workloads: &[Arc<(Meta, Workload)>],
        node: &Node,
        known: Option<&Self>,
        sink: &mut Sink,
    ) -> Self {
        let mut registry = Self::default();
        for entry in entries.iter().filter(|entry| entry.exports.visible(&node.namespace)) {
            if is_resolvable(entry) {
                registry.add(entry, workloads, node, sink);
            } else {
                report_unresolved(entry, sink);
            }
        }
        for service in &mut registry.services {
            let old = known.and_then(|known| known.shared(&service.host));
            if let Some(old) = old.filter(|old| *old == service) {
                *service = Arc::clone(old);
            }
        }
        registry
    }

    /// True if nothing but endpoints differs.
    pub(crate) fn is_alike(&self, other: &Self) -> bool {
        let mut pairs = self.services.iter().zip(&other.services);
        self.services.len() == other.services.len()
            && pairs.all(|(one, other)| Arc::ptr_eq(one, other) || one.is_alike(other))
    }

    fn add(
        &mut self,
        entry: &ServiceEntry,
        workloads: &[Arc<(Meta, Workload)>],
        node: &Node,
        sink: &mut Sink,
    ) {
        let mut endpoints = Arc::clone(&entry.endpoints);
        if let Some(selector) = &entry.selector {
            let of_namespace =
                workloads.iter().map(|one| &**one).filter(|(meta, _)| meta.namespace == entry.meta.namespace);
            let labels = of_namespace.map(|(meta, workload)| (meta, all_labels(meta, workload), workload));
            let selected = labels.filter(|(_, labels, _)| selects(selector, labels));
            let selected = selected.map(|(_, labels, workload)| Workload { labels, ..workload.clone() });
            endpoints = endpoints.iter().cloned().chain(selected).collect();
        }
        for host in &entry.hosts {
            let service = Service {
                host: host.value.as_ref().into(),
                meta: entry.meta.clone(),
                addresses: entry.addresses.clone(),
                ports: entry.ports.clone(),
                endpoints: Arc::clone(&endpoints),
                origin: entry.meta.origin(host.span),
            };
            let known = self.by_host.get(&service.host).and_then(|index| self.services.get_mut(*index));
            let Some(other) = known else {
                self.by_host.insert(Arc::clone(&service.host), self.services.len());
                self.services.push(Arc::new(service));
                continue;
            };
            // The own namespace's definition wins, else the first.
            let own = service.meta.namespace == node.namespace && other.meta.namespace != node.namespace;
            let (used, unused) =
                if own { (&service.origin, &other.origin) } else { (&other.origin, &service.origin) };
            let message = format!("the host `{}` is defined by two services", service.host);
            let found = sink.report(Code::DuplicateService, host.span, message);
            found.note(format!("{used} is used, {unused} is not"));
            found.help("list all endpoints in one ServiceEntry");
            if own {
                *other = Arc::new(service);
            }
        }
    }

    /// Services that a host or wildcard names, in order of the documents.
    pub(crate) fn covered_by<'s>(&'s self, pattern: &'s str) -> impl Iterator<Item = &'s Service> {
        let named = self.find(pattern).filter(|_| !pattern.starts_with('*'));
        let covered = pattern.starts_with('*').then(|| {
            self.services
                .iter()
                .map(|service| &**service)
                .filter(move |service| covers(pattern, &service.host))
        });
        named.into_iter().chain(covered.into_iter().flatten())
    }

    pub(crate) fn find(&self, host: &str) -> Option<&Service> {
        self.shared(host).map(|service| &**service)
    }

    /// As an object that the next load may find unchanged.
    pub(crate) fn shared(&self, host: &str) -> Option<&Arc<Service>> {
        self.by_host.get(host).and_then(|index| self.services.get(*index))
    }
}

/// Names cannot be looked up yet, but a DNS service whose endpoints are all addresses needs no lookup.
fn is_resolvable(entry: &ServiceEntry) -> bool {
    match entry.resolution.value {
        Resolution::Static => true,
        Resolution::Dns => !entry.endpoints.is_empty() && entry.by_name == 0,
        Resolution::None => false,
    }
}

fn report_unresolved(entry: &ServiceEntry, sink: &mut Sink) {
    let (what, why) = match entry.resolution.value {
        Resolution::None => ("NONE", "an explicit listener does not know where its client was going"),
        _ => ("DNS", "host names of endpoints are not looked up yet"),
    };
    let message = format!("{} cannot be resolved by {what}", entry.meta.resource());
    let found = sink.report(Code::NotResolved, entry.resolution.span, message);
    found.label("the service is left out").note(why);
    found.help("write `resolution: STATIC` and list `endpoints` by IP address");
}

/// Labels of a `WorkloadEntry` are those of its spec and of its metadata.
fn all_labels(meta: &Meta, workload: &Workload) -> Labels {
    let mut labels = meta.labels.clone();
    labels.extend(workload.labels.clone());
    labels
}
