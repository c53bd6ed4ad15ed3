//! From the resources of one mesh to the snapshot of one proxy. Passes: registry, rules, references, then for every
//! listener its virtual hosts, routes and clusters. All findings are collected.

mod access_logs;
mod actions;
mod clusters;
mod delegates;
mod hosts;
mod locality;
mod mirrors;
mod plan;
mod policy;
mod receivers;
mod references;
mod refine;
mod routes;
mod tcp;
mod telemetry;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use http::StatusCode;

use clusters::{Clusters, Owner};
use hosts::{VirtualServices, domains, taken};
pub(crate) use plan::Known;
use plan::Plan;
use policy::Rules;
use routes::{operation, plain_route};

use crate::{
    istio::{
        Meta, PortProtocol,
        connection_pool::ConnectionPool,
        destination_rule::DestinationRule,
        envoy_filter::{self, EnvoyFilter},
        mesh::Mesh,
        service_entry::{ServiceEntry, Workload},
        sidecar::{self, Egress, Ingress, OutboundMode, Sidecar},
        telemetry::Telemetry,
        virtual_service::VirtualService,
    },
    kubernetes::Cluster,
    lint,
    registry::{Registry, Service, View},
    report::Code,
    sink::{Sink, Span},
    snapshot::{
        Action, Carried, Destination, DirectResponse, Direction, HostMap, Listener, Node, Origin, Route,
        RouteMatch, RouteTable, RouteTableId, Snapshot, TelemetryDefaults, Version, VirtualHost,
    },
};

/// What was read: of one document, or of all.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    pub(crate) virtual_services: Vec<Arc<VirtualService>>,
    pub(crate) destination_rules: Vec<Arc<DestinationRule>>,
    pub(crate) service_entries: Vec<Arc<ServiceEntry>>,
    pub(crate) workloads: Vec<Arc<(Meta, Workload)>>,
    pub(crate) cluster: Cluster,
    pub(crate) sidecars: Vec<Arc<Sidecar>>,
    pub(crate) telemetries: Vec<Arc<Telemetry>>,
    pub(crate) envoy_filters: Vec<Arc<EnvoyFilter>>,
    pub(crate) mesh: Option<Arc<Mesh>>,
}

impl Resources {
    /// Adds those of a document; the last settings of the mesh count.
    pub(crate) fn extend(&mut self, other: &Self) {
        let Self {
            virtual_services,
            destination_rules,
            service_entries,
            workloads,
            cluster,
            sidecars,
            telemetries,
            envoy_filters,
            mesh,
        } = other;
        self.virtual_services.extend(virtual_services.iter().cloned());
        self.destination_rules.extend(destination_rules.iter().cloned());
        self.service_entries.extend(service_entries.iter().cloned());
        self.workloads.extend(workloads.iter().cloned());
        self.cluster.extend(cluster);
        self.sidecars.extend(sidecars.iter().cloned());
        self.telemetries.extend(telemetries.iter().cloned());
        self.envoy_filters.extend(envoy_filters.iter().cloned());
        self.mesh = mesh.clone().or(self.mesh.take());
    }
}

/// What the passes share.
struct Compiler<'a> {
    node: &'a Node,
    mesh: &'a Arc<Mesh>,
    registry: &'a Registry,
    rules: &'a Rules,
    virtual_services: &'a VirtualServices,
    /// What the environment says.
    environment: &'a TelemetryDefaults,
    clusters: Clusters,
    /// Those of the compile before.
    known: Option<&'a Clusters>,
    /// Those in use, so that one receiver is one allocation.
    receivers: Vec<Arc<Destination>>,
    sink: &'a mut Sink,
}

/// Compiles, with what is left of the compile before; with errors in the sink the snapshot is of no use.
pub(crate) fn compile(
    resources: Resources,
    node: &Node,
    environment: &TelemetryDefaults,
    version: Version,
    known: Option<&Known>,
    allow_envoy_filters: bool,
    sink: &mut Sink,
) -> (Snapshot, Known) {
    let mesh = resources.mesh.clone().or_else(|| known?.default_mesh()).unwrap_or_default();
    let sidecar = sidecar::choose(&resources.sidecars, &mesh.root_namespace, node, sink);
    let view = View { node, mesh: &mesh, sidecar };
    let registry = Registry::build(&resources, &view, known.map(|known| &known.registry), sink);
    let owners = clusters::owners(sidecar, &registry, node);
    let alike = known.filter(|known| known.is_alike(&resources, &mesh, &registry, &owners));
    for filter in &resources.envoy_filters {
        envoy_filter::check(filter, &mesh.root_namespace, node, allow_envoy_filters, sink);
    }
    let before = sink.len();
    let (rules, virtual_services) = match alike {
        Some(known) => (Arc::clone(&known.plan.rules), Arc::clone(&known.plan.virtual_services)),
        None => {
            let default = &mesh.exports.virtual_services;
            let merged = delegates::merge(&resources.virtual_services, default, sink);
            merged.iter().for_each(|vs| lint::shadow(vs, sink));
            (
                Arc::new(Rules::merge(&resources.destination_rules, &mesh, node, sink)),
                Arc::new(VirtualServices::choose(&merged, &mesh, node, sink)),
            )
        }
    };
    let mut compiler = Compiler {
        node,
        mesh: &mesh,
        registry: &registry,
        rules: &rules,
        virtual_services: &virtual_services,
        environment,
        clusters: Clusters::default(),
        known: known.map(|known| &known.clusters),
        receivers: Vec::new(),
        sink,
    };
    let plan = match alike {
        Some(known) => {
            compiler.clusters = known.clusters.with_endpoints(known.plan.clusters, &registry, node);
            compiler.sink.extend(known.plan.findings.iter().cloned());
            known.plan.clone()
        }
        None => {
            compiler.check_references();
            let (listeners, tables) = compiler.listeners(sidecar, &owners);
            Plan {
                rules: Arc::clone(&rules),
                virtual_services: Arc::clone(&virtual_services),
                listeners: listeners.into(),
                tables: tables.into(),
                clusters: compiler.clusters.len(),
                owners,
                findings: compiler.sink.since(before).into(),
            }
        }
    };
    compiler.check_subsets();
    compiler.warn_loops(&plan.listeners);
    // Behind the listeners: the clusters of receivers come last.
    let telemetries = telemetry::choose(&resources.telemetries, &mesh.root_namespace, node, compiler.sink);
    let outbound = compiler.observation(&telemetries, Direction::Outbound);
    let inbound = compiler.observation(&telemetries, Direction::Inbound);
    let metrics = compiler.resolved(environment.metrics.as_ref());
    compiler.warn_never_ejects();
    let clusters = compiler.clusters;
    let snapshot = Snapshot {
        version,
        listeners: Arc::clone(&plan.listeners),
        route_tables: Arc::clone(&plan.tables),
        clusters: clusters.all(),
        outbound,
        inbound,
        paths: mesh.paths,
        metrics,
        node: node.clone(),
    };
    (snapshot, Known { resources, mesh, registry, plan, clusters })
}

impl Compiler<'_> {
    /// `owners` are the services behind the ingress listeners, in their order.
    fn listeners(&mut self, sidecar: Option<&Sidecar>, owners: &[Owner]) -> (Vec<Listener>, Vec<RouteTable>) {
        let Some(sidecar) = sidecar else {
            let found =
                self.sink.report(Code::NoListener, Span::default(), "no Sidecar applies to this proxy");
            found.note(format!(
                "its namespace is `{}`, the root namespace `{}`",
                self.node.namespace, self.mesh.root_namespace
            ));
            found.help("add a Sidecar with an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`");
            return (Vec::new(), Vec::new());
        };
        let outbound = sidecar.outbound.unwrap_or(self.mesh.outbound);
        let mut listeners: Vec<Listener> = Vec::new();
        let mut tables = Vec::new();
        for egress in &sidecar.egress {
            let protocol = egress.port.protocol;
            if self.is_carried(protocol, egress.span) {
                let origin = sidecar.meta.origin(egress.span);
                let carried = match protocol.is_http() {
                    true => http(self.outbound_table(egress, outbound, &sidecar.meta), &mut tables),
                    false => Carried::Tcp(Box::new(self.outbound_tcp(egress, outbound, origin.clone()))),
                };
                self.listen(egress.bind, Direction::Outbound, carried, origin, &mut listeners);
            }
        }
        for (ingress, owner) in sidecar.ingress.iter().zip(owners) {
            let protocol = ingress.port.protocol;
            if self.is_carried(protocol, ingress.span) {
                let origin = sidecar.meta.origin(ingress.span);
                let pool = ingress.pool.as_ref().or(sidecar.inbound_pool.as_ref());
                let carried = match protocol.is_http() {
                    true => http(self.inbound_table(ingress, pool, owner, &origin), &mut tables),
                    false => Carried::Tcp(Box::new(self.inbound_tcp(ingress, pool, owner, origin.clone()))),
                };
                self.listen(ingress.bind, Direction::Inbound, carried, origin, &mut listeners);
            }
        }
        if listeners.is_empty() {
            let message = format!("{} has no listener that can be bound", sidecar.meta.resource());
            let found = self.sink.report(Code::NoListener, sidecar.meta.span, message);
            found.help("give it an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`");
        }
        (listeners, tables)
    }

    fn is_carried(&mut self, protocol: PortProtocol, span: Span) -> bool {
        if protocol == PortProtocol::Udp {
            let found = self.sink.report(Code::NotHonoured, span, "UDP is not carried");
            found.label("this listener is left out");
        }
        protocol != PortProtocol::Udp
    }

    fn listen(
        &mut self,
        bind: crate::fields::Spanned<std::net::SocketAddr>,
        direction: Direction,
        carried: Carried,
        origin: Origin,
        listeners: &mut Vec<Listener>,
    ) {
        if listeners.iter().any(|other| other.bind == bind.value) {
            let message = format!("another listener is bound to {}", bind.value);
            self.sink.report(Code::DuplicateListener, bind.span, message);
            return;
        }
        listeners.push(Listener {
            name: format!("{}_{}", bind.value.ip(), bind.value.port()).into(),
            bind: bind.value,
            direction,
            carried,
            origin,
        });
    }

    fn warn_idle(&mut self, egress: &Egress) {
        let message = format!("no visible service has port {}", egress.port.number);
        let found = self.sink.report(Code::IdleListener, egress.span, message);
        found.label("carries no service");
        found.help("the listener's port is the port of the service, not of its endpoints");
    }

    /// The visible services with a port of the listener's number, then the last resort.
    fn outbound_table(&mut self, egress: &Egress, outbound: OutboundMode, sidecar: &Meta) -> RouteTable {
        let number = egress.port.number;
        let mut table = Table::default();
        let carried = self.registry.services.iter().filter(|service| {
            let taken = egress.hosts.service(&service.meta.namespace, &service.host);
            taken && service.port(number).is_some_and(|port| port.protocol.is_http())
        });
        for service in carried {
            self.all_clusters(service, number);
            let vs = self.virtual_services.of(service, &egress.hosts);
            let mut routes = vs.map(|vs| self.rules(vs, number)).unwrap_or_default();
            let origin = vs
                .filter(|_| !routes.is_empty())
                .map_or_else(|| service.origin.clone(), |vs| vs.meta.origin(vs.meta.span));
            if routes.is_empty() {
                routes.push(self.default_route(service, number));
            }
            let index = table.push(format!("{}:{number}", service.host), routes, origin);
            self.name(&mut table, index, service);
        }
        if number == 80 {
            self.unregistered_hosts(egress, &mut table);
        }
        if table.hosts_are_empty() {
            self.warn_idle(egress);
        }
        let origin = sidecar.origin(egress.span);
        let (name, route) = match outbound {
            OutboundMode::AllowAny => {
                let cluster = self.passthrough(&origin);
                ("allow_any", plain_route("allow_any", cluster, None, Box::default(), origin.clone()))
            }
            OutboundMode::RegistryOnly => {
                ("block_all", direct("block_all", StatusCode::BAD_GATEWAY, &origin))
            }
        };
        let index = table.push(name.to_owned(), vec![route], origin);
        table.hosts.insert("*", index);
        table.finish(number.to_string())
    }

    fn name(&mut self, table: &mut Table, index: u32, service: &Service) {
        for domain in domains(service, self.node) {
            if table.hosts.insert(&domain, index) {
                table.owners.insert(domain, service.origin.to_string());
                continue;
            }
            let owner = table.owners.get(&domain).cloned().unwrap_or_default();
            let written = |address: &&crate::fields::Spanned<Box<str>>| domain.contains(&*address.value);
            if let Some(address) = service.addresses.iter().find(written) {
                let message =
                    format!("the address {} belongs to another service of this port", address.value);
                let found = self.sink.report(Code::DomainTaken, address.span, message);
                found.label("requests to it reach the other service").note(owner);
            }
        }
    }

    /// Every subset of a carried service is kept ready: an operator sees it, and a reload finds its state.
    fn all_clusters(&mut self, service: &Service, number: u16) {
        self.outbound(&service.host, number, "");
        let subsets = self.rules.of(service).map(|rule| &*rule.subsets).unwrap_or_default();
        for subset in subsets {
            self.outbound(&service.host, number, &subset.name);
        }
    }

    /// Istio: hosts that no service has take effect on port 80 alone.
    fn unregistered_hosts(&mut self, egress: &Egress, table: &mut Table) {
        for vs in self.virtual_services.iter().filter(|vs| taken(&egress.hosts, vs)) {
            let known = |host: &str| self.registry.covered_by(host).next().is_some();
            let free: Vec<_> = vs.hosts.iter().filter(|host| !known(&host.value)).collect();
            if free.is_empty() {
                continue;
            }
            let routes = self.rules(vs, 80);
            if routes.is_empty() {
                continue;
            }
            let name = free.first().map(|host| format!("{}:80", host.value)).unwrap_or_default();
            let index = table.push(name, routes, vs.meta.origin(vs.meta.span));
            for host in free {
                table.hosts.insert(&host.value, index);
            }
        }
    }

    /// Everything goes to the workload; Istio retries here too, but not for gRPC.
    fn inbound_table(
        &mut self,
        ingress: &Ingress,
        pool: Option<&ConnectionPool>,
        owner: &Owner,
        origin: &Origin,
    ) -> RouteTable {
        let number = ingress.port.number;
        let cluster = self.inbound(ingress, pool, owner, origin.clone());
        let called = format!("{}:{number}", self.clusters.host(&cluster));
        let policy = self.mesh.inbound_retries.clone();
        let retry = policy.0.filter(|_| ingress.port.protocol != PortProtocol::Http2);
        let route = Route {
            operation: operation(&called, &RouteMatch::always()),
            ..plain_route("default", cluster, retry, Box::default(), origin.clone())
        };
        let mut table = Table::default();
        let index = table.push(format!("inbound|http|{number}"), vec![route], origin.clone());
        table.hosts.insert("*", index);
        table.finish(format!("inbound|{number}||"))
    }

    /// An endpoint that is one of our own outbound listeners: the request would come back to us.
    fn warn_loops(&mut self, listeners: &[Listener]) {
        for service in &self.registry.services {
            for port in &service.ports {
                for (address, workload) in service.serving(port) {
                    let own = |listener: &&Listener| {
                        listener.bind == address && listener.direction == Direction::Outbound
                    };
                    if let Some(listener) = listeners.iter().find(own) {
                        let message = format!("the endpoint {address} is a listener of this proxy");
                        let found = self.sink.report(Code::ListenerLoop, workload.span, message);
                        found.label(format!("port {} of the service", port.number));
                        found.note(format!("the listener is {}", listener.origin));
                        found.help("give the endpoint its own port: `ports: { NAME: NUMBER }`");
                    }
                }
            }
        }
    }
}

fn http(table: RouteTable, tables: &mut Vec<RouteTable>) -> Carried {
    let id = RouteTableId(u32::try_from(tables.len()).unwrap_or(u32::MAX));
    tables.push(table);
    Carried::Http(id)
}

/// A route table under construction.
#[derive(Default)]
struct Table {
    hosts: HostMap,
    virtual_hosts: Vec<VirtualHost>,
    /// For messages: who has a domain.
    owners: HashMap<String, String>,
}

impl Table {
    fn push(&mut self, name: String, routes: Vec<Route>, origin: Origin) -> u32 {
        let index = u32::try_from(self.virtual_hosts.len()).unwrap_or(u32::MAX);
        self.virtual_hosts.push(VirtualHost { name: name.into(), routes: routes.into(), origin });
        index
    }

    fn hosts_are_empty(&self) -> bool {
        self.virtual_hosts.is_empty()
    }

    fn finish(self, name: String) -> RouteTable {
        RouteTable { name: name.into(), hosts: self.hosts, virtual_hosts: self.virtual_hosts.into() }
    }
}

fn direct(name: &str, status: StatusCode, origin: &Origin) -> Route {
    let response = DirectResponse { status, body: Bytes::new() };
    Route::always(name, Action::Direct(Box::new(response)), origin.clone())
}
