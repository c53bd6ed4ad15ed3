//! From the resources of one mesh to the snapshot of one proxy. Passes: registry, rules, references, then for every
//! listener its virtual hosts, routes and clusters. All findings are collected.

mod access_logs;
mod clusters;
mod hosts;
mod locality;
mod policy;
mod receivers;
mod references;
mod routes;
mod telemetry;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use http::StatusCode;

use clusters::Clusters;
use hosts::{VirtualServices, domains, taken};
use policy::Rules;
use routes::{operation, plain_route};

use crate::{
    LoadOptions,
    istio::{
        Meta, PortProtocol, ROOT_NAMESPACE,
        destination_rule::DestinationRule,
        mesh::Mesh,
        retries::default_retry,
        service_entry::{ServiceEntry, Workload},
        sidecar::{self, Egress, Ingress, OutboundMode, Sidecar},
        telemetry::Telemetry,
        virtual_service::VirtualService,
    },
    registry::{Registry, Service},
    report::Code,
    sink::{Sink, Span},
    snapshot::{
        Action, Destination, DirectResponse, Direction, HostMap, Listener, Node, Origin, RetryOn,
        RetryPolicy, Route, RouteMatch, RouteTable, RouteTableId, Snapshot, TelemetryDefaults, Version,
        VirtualHost,
    },
};

/// Everything that was read.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    pub(crate) virtual_services: Vec<VirtualService>,
    pub(crate) destination_rules: Vec<DestinationRule>,
    pub(crate) service_entries: Vec<ServiceEntry>,
    pub(crate) workloads: Vec<(Meta, Workload)>,
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) telemetries: Vec<Telemetry>,
    pub(crate) mesh: Option<Mesh>,
}

/// What the passes share.
struct Compiler<'a> {
    node: &'a Node,
    mesh: &'a Mesh,
    registry: &'a Registry,
    rules: &'a Rules,
    virtual_services: &'a VirtualServices<'a>,
    /// What the environment says.
    environment: &'a TelemetryDefaults,
    clusters: Clusters,
    /// Those in use, so that one receiver is one allocation.
    receivers: Vec<Arc<Destination>>,
    sink: &'a mut Sink,
}

/// Compiles; with errors in the sink the snapshot is of no use.
pub(crate) fn compile(
    resources: Resources,
    options: &LoadOptions,
    version: Version,
    sink: &mut Sink,
) -> Snapshot {
    let node = &options.node;
    let mesh = resources.mesh.unwrap_or_default();
    let registry = Registry::build(resources.service_entries, &resources.workloads, node, sink);
    let rules = Rules::merge(resources.destination_rules, node, sink);
    let virtual_services = VirtualServices::choose(&resources.virtual_services, node, sink);
    let sidecar = sidecar::choose(&resources.sidecars, node, sink);
    let telemetries = telemetry::choose(&resources.telemetries, node, sink);
    let mut compiler = Compiler {
        node,
        mesh: &mesh,
        registry: &registry,
        rules: &rules,
        virtual_services: &virtual_services,
        environment: &options.telemetry,
        clusters: Clusters::default(),
        receivers: Vec::new(),
        sink,
    };
    compiler.check_references();
    let (listeners, route_tables) = compiler.listeners(sidecar);
    // Behind the listeners: the clusters of receivers come last.
    let outbound = compiler.observation(&telemetries, Direction::Outbound);
    let inbound = compiler.observation(&telemetries, Direction::Inbound);
    let metrics = compiler.resolved(options.telemetry.metrics.as_ref());
    Snapshot {
        version,
        listeners: listeners.into(),
        route_tables: route_tables.into(),
        clusters: compiler.clusters.list.into(),
        outbound,
        inbound,
        metrics,
        node: node.clone(),
    }
}

impl Compiler<'_> {
    fn listeners(&mut self, sidecar: Option<&Sidecar>) -> (Vec<Listener>, Vec<RouteTable>) {
        let Some(sidecar) = sidecar else {
            let found =
                self.sink.report(Code::NoListener, Span::default(), "no Sidecar applies to this proxy");
            found.note(format!(
                "its namespace is `{}`, the root namespace `{ROOT_NAMESPACE}`",
                self.node.namespace
            ));
            found.help("add a Sidecar with an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`");
            return (Vec::new(), Vec::new());
        };
        let outbound = sidecar.outbound.unwrap_or(self.mesh.outbound);
        let mut listeners: Vec<Listener> = Vec::new();
        let mut tables = Vec::new();
        for egress in &sidecar.egress {
            if self.is_http(egress.port.protocol, egress.span) {
                let table = self.outbound_table(egress, outbound, &sidecar.meta);
                let origin = sidecar.meta.origin(egress.span);
                self.listen(egress.bind, Direction::Outbound, table, origin, &mut listeners, &mut tables);
            }
        }
        for ingress in &sidecar.ingress {
            if self.is_http(ingress.port.protocol, ingress.span) {
                let origin = sidecar.meta.origin(ingress.span);
                let table = self.inbound_table(ingress, &origin);
                self.listen(ingress.bind, Direction::Inbound, table, origin, &mut listeners, &mut tables);
            }
        }
        if listeners.is_empty() {
            let message = format!("{} has no listener that can be bound", sidecar.meta.resource());
            let found = self.sink.report(Code::NoListener, sidecar.meta.span, message);
            found.help("give it an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`");
        }
        self.warn_loops(&listeners);
        (listeners, tables)
    }

    fn is_http(&mut self, protocol: PortProtocol, span: Span) -> bool {
        if protocol == PortProtocol::Other {
            let found = self.sink.report(Code::NotHonoured, span, "only HTTP listeners are built yet");
            found.label("this listener is left out");
            found.help("name the port `http...` or `grpc...`, or set its `protocol`");
        }
        protocol != PortProtocol::Other
    }

    fn listen(
        &mut self,
        bind: crate::fields::Spanned<std::net::SocketAddr>,
        direction: Direction,
        table: RouteTable,
        origin: Origin,
        listeners: &mut Vec<Listener>,
        tables: &mut Vec<RouteTable>,
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
            routes: RouteTableId(u32::try_from(tables.len()).unwrap_or(u32::MAX)),
            origin,
        });
        tables.push(table);
    }

    /// The visible services with a port of the listener's number, then the last resort.
    fn outbound_table(&mut self, egress: &Egress, outbound: OutboundMode, sidecar: &Meta) -> RouteTable {
        let number = egress.port.number;
        let mut table = Table::default();
        let carried = self.registry.services.iter().filter(|service| {
            let taken =
                egress.hosts.iter().any(|filter| filter.takes(&service.meta.namespace, &service.host));
            taken && service.port(number).is_some_and(|port| port.protocol != PortProtocol::Other)
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
            let message = format!("no visible service has port {number}");
            let found = self.sink.report(Code::IdleListener, egress.span, message);
            found.label("carries no service");
            found.help("the listener's port is the port of the service, not of its endpoints");
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

    /// Everything goes to the workload; Istio retries what never left, but not for gRPC.
    fn inbound_table(&mut self, ingress: &Ingress, origin: &Origin) -> RouteTable {
        let number = ingress.port.number;
        let cluster = self.inbound(ingress, origin.clone());
        let called = format!("{}:{number}", self.clusters.host(&cluster));
        let retry = (ingress.port.protocol != PortProtocol::Http2).then(|| RetryPolicy {
            attempts: NonZeroU32::MIN.saturating_add(1),
            on: RetryOn { reset_before_request: true, ..RetryOn::default() },
            avoid_previous_hosts: false,
            ..default_retry()
        });
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
                for (endpoint, workload) in
                    service.endpoints(port, &Default::default()).iter().zip(&service.endpoints)
                {
                    let own = |listener: &&Listener| {
                        listener.bind == endpoint.address && listener.direction == Direction::Outbound
                    };
                    if let Some(listener) = listeners.iter().find(own) {
                        let message =
                            format!("the endpoint {} is a listener of this proxy", endpoint.address);
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
