//! The services that this proxy can reach, with their ports and endpoints.
//!
//! It is filled from Istio's and Kubernetes' documents today; a control plane can fill the same later.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    allocation::allocate,
    fields::{Labels, Spanned},
    istio::{
        Exports, Meta, covers,
        mesh::Mesh,
        selects,
        service_entry::{Address, Resolution, ServiceEntry, ServicePort, Workload, served_by},
        sidecar::Sidecar,
    },
    kubernetes::pod::Pod,
    report::Code,
    resources::Resources,
    sink::{Sink, Span},
    snapshot::{Endpoint, Node, Origin, Subnet},
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
    /// One of our own making, where none is written.
    pub(crate) allocated: Option<IpAddr>,
    /// Ranges of addresses, for captured traffic alone.
    pub(crate) ranges: Vec<Subnet>,
    pub(crate) ports: Vec<ServicePort>,
    /// Their `ports` are all that they serve, by the name of the service's port.
    pub(crate) endpoints: Arc<[Workload]>,
    /// How many endpoints have no labels because no `Pod` document gives them.
    pub(crate) without_pod: usize,
    /// Every name of it stands for those below it too.
    pub(crate) headless: bool,
    /// Endpoints that are near come first, unless a rule says otherwise.
    pub(crate) close: bool,
    /// `None`: Kubernetes defines it.
    pub(crate) entry: Option<Entry>,
    /// How its endpoints are found.
    pub(crate) resolution: Resolution,
    pub(crate) origin: Origin,
}

/// What a `ServiceEntry` says of those who serve its hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// They are no part of the mesh.
    pub(crate) external: bool,
    /// The names that their certificates have.
    pub(crate) subjects: Box<[Arc<str>]>,
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
            allocated,
            ranges,
            ports,
            headless,
            close,
            entry,
            resolution,
            origin,
            endpoints: _,
            without_pod: _,
        } = self;
        (host, meta, addresses, ports) == (&other.host, &other.meta, &other.addresses, &other.ports)
            && *allocated == other.allocated
            && (ranges, headless, close) == (&other.ranges, &other.headless, &other.close)
            && (entry, resolution, origin) == (&other.entry, &other.resolution, &other.origin)
    }

    /// Who serves it is no part of the mesh.
    pub(crate) fn is_external(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.external)
    }

    /// Its own addresses, one by one.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter_map(|address| address.value.parse().ok()).chain(self.allocated)
    }

    pub(crate) fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Who serves a port, and at which number.
    fn numbered(&self, port: &ServicePort) -> impl Iterator<Item = (u16, &Workload)> {
        self.endpoints.iter().filter_map(|workload| Some((*workload.ports.get(&port.name)?, workload)))
    }

    /// Who serves a port, and where, as far as the documents say it.
    pub(crate) fn serving(&self, port: &ServicePort) -> impl Iterator<Item = (SocketAddr, &Workload)> {
        self.numbered(port).filter_map(|(number, workload)| match &workload.address {
            Address::Ip(ip) => Some((SocketAddr::new(*ip, number), workload)),
            Address::Name(_) => None,
        })
    }

    /// Those of a port that have all labels. A name has a stand-in: an endpoint with a `hostname` and no address yet.
    pub(crate) fn endpoints(&self, port: &ServicePort, labels: &Labels) -> Box<[Arc<Endpoint>]> {
        let selected = self.numbered(port).filter(|(_, workload)| selects(labels, &workload.labels));
        let endpoints = selected.map(|(number, workload)| {
            let (ip, hostname) = match &workload.address {
                Address::Ip(ip) => (*ip, "".into()),
                Address::Name(name) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Arc::clone(name)),
            };
            let address = SocketAddr::new(ip, number);
            Arc::new(Endpoint {
                address,
                key: address.to_string().into(),
                hostname,
                weight: workload.weight,
                labels: workload.labels.clone(),
                locality: workload.locality(),
                priority: 0,
                mutual: workload.has_sidecar(),
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
            report_unresolved(entry, view.node, sink);
            if entry.resolution.value != Resolution::Dynamic {
                registry.add_entry(entry, &cluster.pods, workloads, view, sink);
            }
        }
        if view.node.dns_capture {
            allocate(&mut registry.services, known, view.node);
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
        let by_dns = matches!(entry.resolution.value, Resolution::Dns { .. });
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
            let mut selected: Vec<_> = selected.collect();
            if !by_dns {
                leave_names_out(&mut selected, &entry.meta, sink);
            }
            endpoints = endpoints.iter().cloned().chain(selected).collect();
        }
        let alone = by_dns && endpoints.is_empty() && entry.selector.is_none();
        for host in &entry.hosts {
            let service = Service {
                host: host.value.as_ref().into(),
                meta: entry.meta.clone(),
                addresses: entry.addresses.clone(),
                allocated: None,
                ranges: entry.ranges.clone(),
                ports: entry.ports.clone(),
                endpoints: match alone {
                    true => [entry.by_itself(host)].into(),
                    false => Arc::clone(&endpoints),
                },
                without_pod: 0,
                headless: false,
                close: false,
                entry: Some(Entry { external: !entry.internal, subjects: entry.subjects.clone() }),
                resolution: entry.resolution.value,
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

/// Whoever selects by labels takes host names too, but only DNS looks them up.
pub(crate) fn leave_names_out(endpoints: &mut Vec<Workload>, by: &Meta, sink: &mut Sink) {
    endpoints.retain(|workload| {
        let Address::Name(name) = &workload.address else { return true };
        let message = format!("{} selects the host name `{name}`, and does not look it up", by.resource());
        let found = sink.report(Code::NamedWorkload, workload.span, message);
        found.label("is no endpoint of it").note(by.reference());
        found.help("write its IP address, or select it by a ServiceEntry with `resolution: DNS`");
        false
    });
}

fn report_unresolved(entry: &ServiceEntry, node: &Node, sink: &mut Sink) {
    let (what, becomes, why) = match entry.resolution.value {
        Resolution::Static | Resolution::Dns { .. } => return,
        Resolution::None if node.interception.is_on() => return,
        Resolution::None => (
            "NONE",
            "its requests get 503 with the flag UH",
            "an explicit listener does not know where its client was going",
        ),
        Resolution::Dynamic => (
            "DYNAMIC_DNS",
            "the service is left out: its requests are those of an unknown host",
            "names are looked up for configurations, not for requests",
        ),
    };
    let message = format!("{} cannot be resolved by {what}", entry.meta.resource());
    let found = sink.report(Code::NotResolved, entry.resolution.span, message);
    found.label(becomes).note(why);
    found.help(match entry.resolution.value {
        Resolution::Dynamic => "write `resolution: DNS` and list the hosts without wildcards",
        _ => "write `resolution: STATIC` and list `endpoints` by IP address, or `resolution: DNS`",
    });
}
