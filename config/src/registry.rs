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
    pub(crate) services: Vec<Service>,
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
    pub(crate) endpoints: Vec<Workload>,
    pub(crate) origin: Origin,
}

impl Service {
    /// The metric label: `reviews` of `reviews.default.svc.cluster.local`, the whole host where it is none of these.
    pub(crate) fn short_name(&self) -> &str {
        cluster_local(&self.host).map_or(&self.host, |(name, _)| name)
    }

    pub(crate) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Where a port is served: the endpoint's own port of that name, else the target port, else the port itself.
    pub(crate) fn endpoints(&self, port: &ServicePort, labels: &Labels) -> Box<[Arc<Endpoint>]> {
        let selected = self.endpoints.iter().filter(|workload| selects(labels, &workload.labels));
        let endpoints = selected.map(|workload| {
            let number = workload.ports.get(&port.name).copied().or(port.target).unwrap_or(port.number);
            let address = SocketAddr::new(workload.address, number);
            Arc::new(Endpoint {
                address,
                key: address.to_string().into(),
                weight: workload.weight,
                labels: workload.labels.clone(),
                locality: workload.locality(),
                priority: 0,
            })
        });
        endpoints.collect()
    }
}

impl Registry {
    /// Takes what the proxy can see; what it cannot resolve is reported and left out.
    pub(crate) fn build(
        entries: Vec<ServiceEntry>,
        workloads: &[(Meta, Workload)],
        node: &Node,
        sink: &mut Sink,
    ) -> Self {
        let mut registry = Self::default();
        for entry in entries.into_iter().filter(|entry| entry.exports.visible(&node.namespace)) {
            if is_resolvable(&entry) {
                registry.add(&entry, workloads, node, sink);
            } else {
                report_unresolved(&entry, sink);
            }
        }
        registry
    }

    fn add(&mut self, entry: &ServiceEntry, workloads: &[(Meta, Workload)], node: &Node, sink: &mut Sink) {
        let mut endpoints = entry.endpoints.clone();
        if let Some(selector) = &entry.selector {
            let of_namespace = workloads.iter().filter(|(meta, _)| meta.namespace == entry.meta.namespace);
            let labels = of_namespace.map(|(meta, workload)| (meta, all_labels(meta, workload), workload));
            endpoints.extend(
                labels
                    .filter(|(_, labels, _)| selects(selector, labels))
                    .map(|(_, labels, workload)| Workload { labels, ..workload.clone() }),
            );
        }
        for host in &entry.hosts {
            let service = Service {
                host: host.value.as_ref().into(),
                meta: entry.meta.clone(),
                addresses: entry.addresses.clone(),
                ports: entry.ports.clone(),
                endpoints: endpoints.clone(),
                origin: entry.meta.origin(host.span),
            };
            let known = self.by_host.get(&service.host).and_then(|index| self.services.get_mut(*index));
            let Some(other) = known else {
                self.by_host.insert(Arc::clone(&service.host), self.services.len());
                self.services.push(service);
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
                *other = service;
            }
        }
    }

    /// Services that a host or wildcard names, in order of the documents.
    pub(crate) fn covered_by<'s>(&'s self, pattern: &'s str) -> impl Iterator<Item = &'s Service> {
        let named = self.find(pattern).filter(|_| !pattern.starts_with('*'));
        let covered = pattern
            .starts_with('*')
            .then(|| self.services.iter().filter(move |service| covers(pattern, &service.host)));
        named.into_iter().chain(covered.into_iter().flatten())
    }

    pub(crate) fn find(&self, host: &str) -> Option<&Service> {
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
