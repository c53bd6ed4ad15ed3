//! From the resources of one mesh to the snapshot of one proxy. Passes: registry, rules, references, then for every
//! listener its virtual hosts, routes and clusters. All findings are collected.

mod access_logs;
mod actions;
mod capture;
mod clusters;
mod delegates;
mod hosts;
mod inbound;
mod locality;
mod mirrors;
mod names;
mod peers;
mod plan;
mod policy;
mod receivers;
mod references;
mod refine;
mod routes;
mod tables;
mod tcp;
mod telemetry;
mod tls;

use std::{net::SocketAddr, sync::Arc};

use capture::ByEndpoint;
use clusters::Clusters;
use hosts::VirtualServices;
use peers::PeerPolicies;
pub(crate) use plan::Known;
use plan::Plan;
use policy::Rules;
use tables::Scope;
use tcp::{Apart, lone_tcp};

use crate::{
    fields::Spanned,
    istio::{
        PortProtocol, envoy_filter,
        mesh::Mesh,
        sidecar::{self, Door, Ingress, OutboundMode, Sidecar},
    },
    lint,
    registry::{Registry, View},
    report::Code,
    resources::Resources,
    sink::{Sink, Span},
    snapshot::{
        Carried, Destination, Direction, InboundTls, Listener, Node, Origin, RouteTable, RouteTableId,
        Snapshot, TelemetryDefaults, Version,
    },
};

/// What the passes share.
struct Compiler<'a> {
    node: &'a Node,
    mesh: &'a Arc<Mesh>,
    peers: &'a Arc<PeerPolicies>,
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
    let peers = known.and_then(|known| known.peers(&resources, &mesh)).unwrap_or_else(|| {
        Arc::new(PeerPolicies::new(&resources.peer_authentications, &mesh.root_namespace))
    });
    PeerPolicies::check(&resources.peer_authentications, &mesh.root_namespace, sink);
    let by_endpoint = ByEndpoint::of(sidecar, &registry, node);
    let alike = known.filter(|known| known.is_alike(&resources, &mesh, &peers, &registry, &by_endpoint));
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
        peers: &peers,
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
            let (listeners, tables) = compiler.listeners(sidecar, &by_endpoint);
            Plan {
                rules: Arc::clone(&rules),
                virtual_services: Arc::clone(&virtual_services),
                listeners: listeners.into(),
                tables: tables.into(),
                host_names: Arc::new(names::host_names(&registry, sidecar, node)),
                clusters: compiler.clusters.len(),
                by_endpoint,
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
        host_names: Arc::clone(&plan.host_names),
        outbound,
        inbound,
        paths: mesh.paths,
        metrics,
        node: node.clone(),
    };
    (snapshot, Known { resources, mesh, peers, registry, plan, clusters })
}

impl Compiler<'_> {
    fn listeners(
        &mut self,
        sidecar: Option<&Sidecar>,
        by_endpoint: &ByEndpoint,
    ) -> (Vec<Listener>, Vec<RouteTable>) {
        let outbound = sidecar.and_then(|sidecar| sidecar.outbound).unwrap_or(self.mesh.outbound);
        let (mut listeners, mut tables) = (Vec::new(), Vec::new());
        if let Some(sidecar) = sidecar {
            self.bound_egress(sidecar, outbound, &mut listeners, &mut tables);
            self.bound_ingress(sidecar, by_endpoint, &mut listeners, &mut tables);
        }
        if self.node.interception.is_on() {
            listeners.extend(self.capture(sidecar, outbound, by_endpoint, &mut tables));
        }
        if listeners.is_empty() {
            self.warn_no_listener(sidecar);
        }
        (listeners, tables)
    }

    fn bound_egress(
        &mut self,
        sidecar: &Sidecar,
        outbound: OutboundMode,
        listeners: &mut Vec<Listener>,
        tables: &mut Vec<RouteTable>,
    ) {
        for egress in &sidecar.egress {
            let (Door::Bound(bind), port) = (egress.door.value, &egress.port) else { continue };
            if !self.is_carried(port.protocol, egress.span) {
                continue;
            }
            let origin = sidecar.meta.origin(egress.span);
            let scope = Scope { port: port.number, hosts: &egress.hosts, outbound, origin: origin.clone() };
            let services = self.carried(&scope);
            // The last resort is always there.
            let (carried, idle) = if port.protocol.is_http() {
                let hosts = self.outbound_hosts(&scope, &services);
                let made = self.outbound_table(&scope, hosts);
                let idle = made.virtual_hosts.len() < 2;
                (Carried::Http(table(made, tables)), idle)
            } else {
                let services: Vec<_> = services.iter().map(|service| (*service, port.protocol)).collect();
                let routes = self.outbound_tcp(&scope, &services, Apart::Name);
                let idle = routes.routes.len() < 2;
                (Carried::Tcp(Box::new(routes)), idle)
            };
            if idle {
                self.warn_idle(port.number, egress.span);
            }
            let bind = Spanned { value: bind, span: egress.door.span };
            self.listen(bind, InboundTls::Off, Direction::Outbound, carried, origin, listeners);
        }
    }

    fn bound_ingress(
        &mut self,
        sidecar: &Sidecar,
        by_endpoint: &ByEndpoint,
        listeners: &mut Vec<Listener>,
        tables: &mut Vec<RouteTable>,
    ) {
        for (ingress, owner) in sidecar.ingress.iter().zip(&by_endpoint.owners) {
            let port = &ingress.port;
            if ingress.captured || !self.is_carried(port.protocol, ingress.span) {
                continue;
            }
            let (tls, protocol) = self.ended(ingress);
            let origin = sidecar.meta.origin(ingress.span);
            let pool = ingress.pool.as_ref().or(sidecar.inbound_pool.as_ref());
            let cluster = self.inbound(ingress, protocol, pool, owner, origin.clone());
            let carried = match protocol.is_http() {
                true => {
                    Carried::Http(table(self.inbound_table(port.number, protocol, cluster, &origin), tables))
                }
                false => Carried::Tcp(Box::new(lone_tcp(cluster, origin.clone()))),
            };
            self.listen(ingress.bind, tls, Direction::Inbound, carried, origin, listeners);
        }
    }

    /// What TLS ends at an ingress listener, and what is spoken inside. Istio: a port has TLS of its own where it takes no
    /// mutual TLS of the mesh.
    fn ended(&mut self, ingress: &Ingress) -> (InboundTls, PortProtocol) {
        let mesh = tls::inbound(self.peers, Some(ingress.port.number), self.node, self.mesh);
        match &ingress.tls {
            Some(own) if mesh == InboundTls::Off => (InboundTls::Own(Arc::clone(&own.settings)), own.inside),
            Some(own) => {
                let mode = if matches!(mesh, InboundTls::Strict(_)) { "STRICT" } else { "PERMISSIVE" };
                let message = format!("the port takes mutual TLS of the mesh: PeerAuthentication is {mode}");
                let found = self.sink.report(Code::NoEffect, own.span, message);
                found.label("has no effect").help(format!(
                    "add a PeerAuthentication with a selector for this workload, and \
                     `portLevelMtls: {{ {}: {{ mode: DISABLE }} }}`",
                    ingress.port.number
                ));
                (mesh, ingress.port.protocol)
            }
            None => (mesh, ingress.port.protocol),
        }
    }

    fn warn_no_listener(&mut self, sidecar: Option<&Sidecar>) {
        let Some(sidecar) = sidecar else {
            let found =
                self.sink.report(Code::NoListener, Span::default(), "no Sidecar applies to this proxy");
            found.note(format!(
                "its namespace is `{}`, the root namespace `{}`",
                self.node.namespace, self.mesh.root_namespace
            ));
            found.help(
                "add a Sidecar with an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`; or pass \
                 `--interception-mode REDIRECT`, as an injected pod runs",
            );
            return;
        };
        let message = format!("{} has no listener that can be bound", sidecar.meta.resource());
        let found = self.sink.report(Code::NoListener, sidecar.meta.span, message);
        found.help("give it an egress listener: `port`, `bind`, `captureMode: NONE`, `hosts`");
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
        bind: Spanned<SocketAddr>,
        tls: InboundTls,
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
            tls,
            carried,
            origin,
        });
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

/// Adds a table.
fn table(table: RouteTable, tables: &mut Vec<RouteTable>) -> RouteTableId {
    let id = RouteTableId(u32::try_from(tables.len()).unwrap_or(u32::MAX));
    tables.push(table);
    id
}
