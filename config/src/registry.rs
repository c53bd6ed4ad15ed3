//! The services that this proxy can reach, with their ports and endpoints.
//!
//! It is filled from Istio's and Kubernetes' documents today; a control plane can fill the same later.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::{
    compile::Resources,
    fields::{Labels, Spanned},
    istio::{
        Exports, Meta, covers,
        mesh::Mesh,
        selects,
        service_entry::{Resolution, ServiceEntry, ServicePort, Workload, served_by},
        sidecar::Sidecar,
    },
    kubernetes::pod::Pod,
    report::Code,
    sink::{Sink, Span},
    snapshot::{Discovery, Endpoint, Node, Origin},
};

/// All services that are visible to the proxy, in order of the documents.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) services: Vec<Arc<Service>>,
    by_host: HashMap<Arc<str>, usize>,
}

/// One host of a `ServiceEntry`, or a Kubernetes `Service`.
#[derive(Debug)]
pub(crate) struct Service {
    /// Full name in lower case.
    pub(crate) host: Arc<str>,
    pub(crate) meta: Meta,
    pub(crate) addresses: Vec<Spanned<Box<str>>>,
    pub(crate) ports: Vec<ServicePort>,
    /// Their `ports` are all that they serve, by the name of the service's port.
    pub(crate) endpoints: Arc<[Workload]>,
    /// How many endpoints have no labels because no `Pod` document gives them.
    pub(crate) without_pod: usize,
    /// Every name of it stands for those below it too.
    pub(crate) headless: bool,
    /// Endpoints that are near come first, unless a rule says otherwise.
    pub(crate) close: bool,
    pub(crate) discovery: Discovery,
    pub(crate) origin: Origin,
}

impl PartialEq for Service {
    fn eq(&self, other: &Self) -> bool {
        let same_endpoints =
            Arc::ptr_eq(&self.endpoints, &other.endpoints) || self.endpoints == other.endpoints;
        same_endpoints && self.without_pod == other.without_pod && self.is_alike(other)
    }
}

/// Whose registry it is.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) node: &'a Node,
    pub(crate) mesh: &'a Mesh,
    pub(crate) sidecar: Option<&'a Sidecar>,
}

impl View<'_> {
    /// True if a service is exported to the proxy.
    pub(crate) fn sees(&self, meta: &Meta, exports: &Exports) -> bool {
        exports.or(&self.mesh.exports.services).visible(&meta.namespace, &self.node.namespace)
    }

    /// Of two definitions of a host: one that the Sidecar imports, then that of the own namespace.
    fn preference(&self, service: &Service) -> (bool, bool) {
        let namespace = &service.meta.namespace;
        let imported = self.sidecar.is_none_or(|sidecar| sidecar.imports(namespace, &service.host));
        (imported, *namespace == self.node.namespace)
    }
}

impl Service {
    /// The metric label: `reviews` of `reviews.default.svc.cluster.local`, the whole host where it is none of these.
    pub(crate) fn short_name(&self) -> &str {
        self.meta.domain.parts(&self.host).map_or(&self.host, |(name, _)| name)
    }

    /// True if routes and limits see no difference.
    fn is_alike(&self, other: &Self) -> bool {
        let Self {
            host,
            meta,
            addresses,
            ports,
            headless,
            close,
            discovery,
            origin,
            endpoints: _,
            without_pod: _,
        } = self;
        (host, meta, addresses, ports) == (&other.host, &other.meta, &other.addresses, &other.ports)
            && (headless, close) == (&other.headless, &other.close)
            && (discovery, origin) == (&other.discovery, &other.origin)
    }

    pub(crate) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Who serves a port, and where.
    pub(crate) fn serving(&self, port: &ServicePort) -> impl Iterator<Item = (SocketAddr, &Workload)> {
        let numbered = self.endpoints.iter().map(|workload| (workload.ports.get(&port.name), workload));
        numbered
            .filter_map(|(number, workload)| Some((SocketAddr::new(workload.address, *number?), workload)))
    }

    /// Those of a port that have all labels.
    pub(crate) fn endpoints(&self, port: &ServicePort, labels: &Labels) -> Box<[Arc<Endpoint>]> {
        let selected = self.serving(port).filter(|(_, workload)| selects(labels, &workload.labels));
        let endpoints = selected.map(|(address, workload)| {
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
    /// Takes what the proxy can see; what it cannot resolve is reported and left out. Services that are as they were in
    /// `known` are the same objects.
    pub(crate) fn build(
        resources: &Resources,
        view: &View<'_>,
        known: Option<&Self>,
        sink: &mut Sink,
    ) -> Self {
        let Resources { cluster, service_entries, workloads, .. } = resources;
        let mut registry = Self::default();
        // Of two definitions Istio prefers that of Kubernetes.
        for service in cluster.registered(workloads, view, sink) {
            let span = service.meta.span;
            registry.add(service, span, view, sink);
        }
        for entry in service_entries.iter().filter(|entry| view.sees(&entry.meta, &entry.exports)) {
            if !is_resolved(entry) {
                report_unresolved(entry, sink);
            }
            // Names cannot be looked up yet.
            if is_resolved(entry) || entry.resolution.value == Resolution::None {
                registry.add_entry(entry, &cluster.pods, workloads, view, sink);
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

    fn add_entry(
        &mut self,
        entry: &ServiceEntry,
        pods: &[Arc<Pod>],
        workloads: &[Arc<(Meta, Workload)>],
        view: &View<'_>,
        sink: &mut Sink,
    ) {
        let mut endpoints = Arc::clone(&entry.endpoints);
        if let Some(selector) = &entry.selector {
            let here = |meta: &Meta| meta.namespace == entry.meta.namespace;
            let written = workloads.iter().map(|one| &**one).filter(|(meta, _)| here(meta));
            let written = written.map(|(_, workload)| workload.clone());
            let pods = pods.iter().filter(|pod| entry.internal && here(&pod.meta));
            let selected = written
                .chain(pods.filter_map(|pod| pod.workload()))
                .filter(|workload| selects(selector, &workload.labels))
                .map(|workload| Workload { ports: served_by(&entry.ports, &workload), ..workload });
            endpoints = endpoints.iter().cloned().chain(selected).collect();
        }
        for host in &entry.hosts {
            let service = Service {
                host: host.value.as_ref().into(),
                meta: entry.meta.clone(),
                addresses: entry.addresses.clone(),
                ports: entry.ports.clone(),
                endpoints: Arc::clone(&endpoints),
                without_pod: 0,
                headless: false,
                close: false,
                discovery: match entry.resolution.value {
                    Resolution::None => Discovery::OriginalDestination,
                    Resolution::Static | Resolution::Dns => Discovery::Static,
                },
                origin: entry.meta.origin(host.span),
            };
            self.add(service, host.span, view, sink);
        }
    }

    /// Of two definitions of a host the preferred one wins, else the first.
    fn add(&mut self, service: Service, span: Span, view: &View<'_>, sink: &mut Sink) {
        let known = self.by_host.get(&service.host).and_then(|index| self.services.get_mut(*index));
        let Some(other) = known else {
            self.by_host.insert(Arc::clone(&service.host), self.services.len());
            self.services.push(Arc::new(service));
            return;
        };
        let better = view.preference(&service) > view.preference(other);
        let (used, unused) =
            if better { (&service.origin, &other.origin) } else { (&other.origin, &service.origin) };
        let message = format!("the host `{}` is defined by two services", service.host);
        let found = sink.report(Code::DuplicateService, span, message);
        found.note(format!("{used} is used, {unused} is not"));
        found.help("give one of them all endpoints, and remove the other");
        if better {
            *other = Arc::new(service);
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
fn is_resolved(entry: &ServiceEntry) -> bool {
    match entry.resolution.value {
        Resolution::Static => true,
        Resolution::Dns => !entry.endpoints.is_empty() && entry.by_name == 0,
        Resolution::None => false,
    }
}

fn report_unresolved(entry: &ServiceEntry, sink: &mut Sink) {
    let (what, becomes, why) = match entry.resolution.value {
        Resolution::None => (
            "NONE",
            "its requests get 503 with the flag UH",
            "an explicit listener does not know where its client was going",
        ),
        _ => ("DNS", "the service is left out", "host names of endpoints are not looked up yet"),
    };
    let message = format!("{} cannot be resolved by {what}", entry.meta.resource());
    let found = sink.report(Code::NotResolved, entry.resolution.span, message);
    found.label(becomes).note(why);
    found.help("write `resolution: STATIC` and list `endpoints` by IP address");
}
