//! Kubernetes documents as a registry: `Service`, `EndpointSlice` and `Pod`, as `kubectl get -o yaml` writes them.
//!
//! A service has the endpoints of its slices, whose labels are those of their pods, and the `WorkloadEntry` resources
//! that it selects. `Endpoints` are not read: Istio reads slices, and Kubernetes keeps both.

pub(crate) mod endpoint_slice;
pub(crate) mod pod;
pub(crate) mod service;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use endpoint_slice::{EndpointSlice, SliceEndpoint};
use pod::Pod;
use service::Service;

use crate::{
    fields::{Labels, Spanned},
    istio::{
        Meta,
        service_entry::{Account, Address, Resolution, Workload},
    },
    registry::{self, View, leave_names_out},
    report::Code,
    sink::Sink,
    snapshot::{self, Locality},
    yaml::Node,
};

/// What was read of all kinds.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) pods: Vec<Arc<Pod>>,
}

impl Cluster {
    /// Adds what another document says.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.services.extend(other.services.iter().cloned());
        self.slices.extend(other.slices.iter().cloned());
        self.pods.extend(other.pods.iter().cloned());
    }

    /// The services as the registry keeps them; what cannot be resolved is reported and left out.
    pub(crate) fn registered(
        &self,
        workloads: &[Arc<(Meta, Workload)>],
        view: &View<'_>,
        sink: &mut Sink,
    ) -> Vec<registry::Service> {
        let slices = self.slices_by_service(sink);
        let pods = Pods::of(&self.pods);
        let mut out = Vec::new();
        for service in self.services.iter().filter(|service| view.sees(&service.meta, &service.exports)) {
            if let Some(name) = &service.external {
                self.check_alias(service, name, sink);
                out.push(alias(service, name));
                continue;
            }
            let slices = slices.get(&service.key()).map(Vec::as_slice).unwrap_or_default();
            out.push(registered(service, slices, &pods, workloads, view.node, sink));
        }
        out
    }

    /// Istio gives the alias of a service what the service has; here it is a name like any other.
    fn check_alias(&self, service: &Service, name: &Spanned<Address>, sink: &mut Sink) {
        let alias = service.meta.resource();
        if service.ports.is_empty() {
            let message = format!("{alias} has no ports");
            let found = sink.report(Code::NotResolved, name.span, message);
            found.label("no listener carries it").help("list the `ports` at which it is called");
        }
        let Address::Name(host) = &name.value else { return };
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Some(of) = self.services.iter().find(|other| *other.host == *host) {
            let message = format!("{alias} is an alias of {}", of.meta.resource());
            let found = sink.report(Code::AliasOfService, name.span, message);
            found.label("is looked up by DNS").note(of.meta.reference());
            found.note("the rules, subsets and endpoints of that service do not apply to the alias");
            found.help("route to that service with a VirtualService");
        }
    }

    fn slices_by_service(&self, sink: &mut Sink) -> HashMap<(&str, &str), Vec<&EndpointSlice>> {
        let mut known: HashMap<(&str, &str), Vec<&EndpointSlice>> =
            self.services.iter().map(|service| (service.key(), Vec::new())).collect();
        for slice in &self.slices {
            let service = slice.service.as_deref();
            match service.and_then(|service| known.get_mut(&(&*slice.meta.namespace, service))) {
                Some(slices) => slices.push(slice),
                None => report_stray(slice, sink),
            }
        }
        known
    }
}

fn report_stray(slice: &EndpointSlice, sink: &mut Sink) {
    let namespace = &slice.meta.namespace;
    let message = match &slice.service {
        None => format!("{} has no label `{}`", slice.meta.resource(), endpoint_slice::SERVICE_NAME),
        Some(name) => {
            format!("{} is of a Service {namespace}/{name} that is not there", slice.meta.resource())
        }
    };
    let found = sink.report(Code::StraySlice, slice.meta.span, message);
    found
        .label("its endpoints are not used")
        .help("a slice belongs to the Service of its namespace that the label names");
}

/// A service of the one endpoint that its `externalName` is, at the ports of the service.
fn alias(service: &Service, name: &Spanned<Address>) -> registry::Service {
    let ports: Vec<_> = service.ports.iter().map(|port| port.port.clone()).collect();
    let endpoint = Workload {
        address: name.value.clone(),
        ports: ports.iter().map(|port| (port.name.clone(), port.number)).collect(),
        labels: Labels::new(),
        weight: 1,
        locality: None,
        account: Account::None,
        span: name.span,
    };
    registry::Service {
        host: service.host.clone(),
        meta: service.meta.clone(),
        addresses: service.addresses.clone(),
        allocated: None,
        ranges: Vec::new(),
        ports,
        endpoints: [endpoint].into(),
        without_pod: 0,
        close: service.close,
        headless: false,
        entry: None,
        resolution: Resolution::Dns { first_only: false },
        origin: service.meta.origin(service.meta.span),
    }
}

fn registered(
    service: &Service,
    slices: &[&EndpointSlice],
    pods: &Pods<'_>,
    workloads: &[Arc<(Meta, Workload)>],
    node: &snapshot::Node,
    sink: &mut Sink,
) -> registry::Service {
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    let mut without_pod = 0;
    for slice in slices.iter().filter(|slice| service.family.is_none_or(|family| family == slice.family)) {
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
            let pod = pods.of_endpoint(endpoint, &slice.meta.namespace);
            let locality = locality(endpoint, pod, node);
            for address in endpoint.addresses.iter().copied() {
                // While slices are rebuilt, an endpoint stands in two of them.
                if !seen.insert((address, &slice.ports)) {
                    continue;
                }
                without_pod += usize::from(pod.is_none());
                endpoints.push(Workload {
                    address: Address::Ip(address),
                    ports: slice.ports.clone(),
                    labels: pod.map(|pod| pod.meta.labels.clone()).unwrap_or_default(),
                    weight: 1,
                    locality: Some(locality.clone()).filter(|locality| !locality.is_empty()),
                    account: pod.map_or(Account::Unknown, Pod::account),
                    span: endpoint.span,
                });
            }
        }
    }
    let mut selected = service.selected(workloads);
    leave_names_out(&mut selected, &service.meta, sink);
    if slices.is_empty() && selected.is_empty() {
        let message = format!("no EndpointSlice tells the endpoints of {}", service.meta.resource());
        let found = sink.report(Code::NoEndpoints, service.meta.span, message);
        found.label("its requests get 503 with the flag UH");
        found.help("add what `kubectl get endpointslices -o yaml` writes");
    }
    endpoints.extend(selected);
    registry::Service {
        host: service.host.clone(),
        meta: service.meta.clone(),
        addresses: service.addresses.clone(),
        allocated: None,
        ranges: Vec::new(),
        ports: service.ports.iter().map(|port| port.port.clone()).collect(),
        endpoints: endpoints.into(),
        without_pod,
        headless: service.headless,
        close: service.close,
        entry: None,
        resolution: Resolution::Static,
        origin: service.meta.origin(service.meta.span),
    }
}

/// A slice knows no more than the zone. Its region is known where it is the proxy's own zone.
fn locality(endpoint: &SliceEndpoint, pod: Option<&Pod>, node: &snapshot::Node) -> Locality {
    let labelled = pod.map(Pod::locality).unwrap_or_default();
    let Some(zone) = endpoint.zone.as_ref().filter(|_| labelled.is_empty()) else { return labelled };
    let here = *zone == node.locality.zone;
    let region = if here { Arc::clone(&node.locality.region) } else { Arc::default() };
    Locality { region, zone: Arc::clone(zone), sub_zone: Arc::default() }
}

/// Pods by name and by address.
struct Pods<'p> {
    by_name: HashMap<(&'p str, &'p str), &'p Pod>,
    by_address: HashMap<IpAddr, &'p Pod>,
}

impl<'p> Pods<'p> {
    fn of(pods: &'p [Arc<Pod>]) -> Self {
        let pods = pods.iter().map(|pod| &**pod);
        let by_name = pods.clone().map(|pod| ((&*pod.meta.namespace, &*pod.meta.name), pod));
        let by_address = pods.flat_map(|pod| pod.addresses.iter().map(move |address| (*address, pod)));
        Self { by_name: by_name.collect(), by_address: by_address.collect() }
    }

    /// Pods on the network of their host share its address: what an endpoint says counts more.
    fn of_endpoint(&self, endpoint: &SliceEndpoint, namespace: &str) -> Option<&'p Pod> {
        match &endpoint.pod {
            Some((of, name)) => self.by_name.get(&(of.as_deref().unwrap_or(namespace), &**name)).copied(),
            None => endpoint.addresses.iter().find_map(|address| self.by_address.get(address)).copied(),
        }
    }
}

/// An annotation of a document.
pub(crate) fn annotation<'n>(document: &'n Node, name: &str) -> Option<Spanned<&'n str>> {
    let node = document.get("metadata")?.get("annotations")?.get(name)?;
    Some(Spanned { value: node.text()?, span: node.span })
}
