//! The services that this proxy can reach, with their ports and endpoints.
//!
//! It is filled from Istio's and Kubernetes' documents today; a control plane can fill the same later.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::{
    fields::{Labels, Spanned},
    istio::{
        Exports, Meta, covers,
        mesh::Mesh,
        selects,
        service_entry::{Address, Resolution, ServiceEntry, ServicePort, Workload},
        sidecar::Sidecar,
    },
    kubernetes::{Cluster, pod::Pod},
    report::Code,
    sink::{Sink, Span},
    snapshot::{Endpoint, NamedEndpoint, Node, Origin, Target},
};

/// All services that are visible to the proxy, in order of the documents.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) services: Vec<Service>,
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
    pub(crate) endpoints: Vec<Workload>,
    /// How many endpoints have no labels because no `Pod` document gives them.
    pub(crate) without_pod: usize,
    /// Every name of it stands for those below it too.
    pub(crate) headless: bool,
    /// How its endpoints are found.
    pub(crate) resolution: Resolution,
    pub(crate) origin: Origin,
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

    /// Those of a port that have all labels, names among them.
    pub(crate) fn targets(&self, port: &ServicePort, labels: &Labels) -> Box<[Target]> {
        let selected = self.numbered(port).filter(|(_, workload)| selects(labels, &workload.labels));
        let targets = selected.map(|(port, Workload { address, weight, labels, .. })| match address {
            Address::Ip(ip) => {
                let address = SocketAddr::new(*ip, port);
                Target::Address(Arc::new(Endpoint {
                    address,
                    key: address.to_string().into(),
                    hostname: "".into(),
                    weight: *weight,
                    labels: labels.clone(),
                }))
            }
            Address::Name(name) => Target::Name(NamedEndpoint {
                name: Arc::clone(name),
                port,
                weight: *weight,
                labels: labels.clone(),
            }),
        });
        targets.collect()
    }
}

impl Registry {
    /// Takes what the proxy can see; what it cannot resolve is reported and left out.
    pub(crate) fn build(
        cluster: &Cluster,
        entries: &[ServiceEntry],
        workloads: &[(Meta, Workload)],
        view: &View<'_>,
        sink: &mut Sink,
    ) -> Self {
        let mut registry = Self::default();
        // Of two definitions Istio prefers that of Kubernetes.
        for service in cluster.registered(workloads, view, sink) {
            let span = service.meta.span;
            registry.add(service, span, view, sink);
        }
        for entry in entries.iter().filter(|entry| view.sees(&entry.meta, &entry.exports)) {
            report_unresolved(entry, sink);
            if entry.resolution.value != Resolution::Dynamic {
                registry.add_entry(entry, &cluster.pods, workloads, view, sink);
            }
        }
        registry
    }

    fn add_entry(
        &mut self,
        entry: &ServiceEntry,
        pods: &[Pod],
        workloads: &[(Meta, Workload)],
        view: &View<'_>,
        sink: &mut Sink,
    ) {
        let mut endpoints = entry.endpoints.clone();
        if let Some(selector) = &entry.selector {
            let here = |meta: &Meta| meta.namespace == entry.meta.namespace;
            let written =
                workloads.iter().filter(|(meta, _)| here(meta)).map(|(_, workload)| workload.clone());
            let pods = pods.iter().filter(|pod| entry.internal && here(&pod.meta)).filter_map(Pod::workload);
            endpoints.extend(written.chain(pods).filter(|workload| selects(selector, &workload.labels)));
        }
        let by_dns = matches!(entry.resolution.value, Resolution::Dns { .. });
        if !by_dns {
            leave_names_out(&mut endpoints, &entry.meta, sink);
        }
        let alone = by_dns && endpoints.is_empty() && entry.selector.is_none();
        for host in &entry.hosts {
            let mut endpoints = endpoints.clone();
            endpoints.extend(alone.then(|| entry.by_itself(host)));
            for workload in &mut endpoints {
                workload.ports = entry.served_by(workload);
            }
            let service = Service {
                host: host.value.as_ref().into(),
                meta: entry.meta.clone(),
                addresses: entry.addresses.clone(),
                ports: entry.ports.clone(),
                endpoints,
                without_pod: 0,
                headless: false,
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
            self.services.push(service);
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
            *other = service;
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

fn report_unresolved(entry: &ServiceEntry, sink: &mut Sink) {
    let (what, becomes, why) = match entry.resolution.value {
        Resolution::Static | Resolution::Dns { .. } => return,
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
