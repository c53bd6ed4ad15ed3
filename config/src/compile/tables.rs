//! Route tables: their virtual hosts in order, and what becomes of a host that none has.

use std::collections::HashMap;

use bytes::Bytes;
use http::StatusCode;

use super::{
    Compiler,
    hosts::{domains, taken},
    routes::{operation, plain_route},
};
use crate::{
    istio::{PortProtocol, imports::Imports, sidecar::OutboundMode},
    registry::Service,
    report::Code,
    sink::Span,
    snapshot::{
        Action, ClusterRef, DirectResponse, HostMap, Origin, Route, RouteMatch, RouteTable, VirtualHost,
    },
};

/// What a listener carries, or a port of captured traffic.
pub(super) struct Scope<'s> {
    /// Of the services.
    pub(super) port: u16,
    /// Which of them, and which virtual services.
    pub(super) hosts: &'s Imports,
    /// What becomes of the rest.
    pub(super) outbound: OutboundMode,
    pub(super) origin: Origin,
}

/// A service with its virtual host on a port.
pub(super) type Hosted<'s> = (&'s Service, VirtualHost);

impl<'a> Compiler<'a> {
    /// The visible services that have the port, in order of the documents.
    pub(super) fn carried(&self, scope: &Scope<'_>) -> Vec<&'a Service> {
        let registry = self.registry;
        let services = registry.services.iter().map(|service| &**service).filter(|service| {
            let taken = scope.hosts.service(&service.meta.namespace, &service.host);
            taken && service.port(scope.port).is_some()
        });
        services.collect()
    }

    /// Those of the services whose port carries requests, each with its routes.
    pub(super) fn outbound_hosts<'s>(
        &mut self,
        scope: &Scope<'_>,
        services: &[&'s Service],
    ) -> Vec<Hosted<'s>> {
        let number = scope.port;
        let http = |service: &&&Service| service.port(number).is_some_and(|port| port.protocol.is_http());
        let mut hosts = Vec::new();
        for service in services.iter().filter(http) {
            self.all_clusters(service, number);
            let vs = self.virtual_services.of(service, scope.hosts);
            let mut routes = vs.map(|vs| self.rules(vs, number)).unwrap_or_default();
            let origin = vs
                .filter(|_| !routes.is_empty())
                .map_or_else(|| service.origin.clone(), |vs| vs.meta.origin(vs.meta.span));
            if routes.is_empty() {
                routes.push(self.default_route(service, number));
            }
            let name = format!("{}:{number}", service.host).into();
            hosts.push((*service, VirtualHost { name, routes: routes.into(), origin }));
        }
        hosts
    }

    /// The virtual hosts by all names of their services, then the last resort.
    pub(super) fn outbound_table(&mut self, scope: &Scope<'_>, hosts: Vec<Hosted<'_>>) -> RouteTable {
        let mut table = Table::default();
        for (service, host) in hosts {
            let index = table.push(host);
            self.name(&mut table, index, service);
        }
        if scope.port == 80 {
            self.unregistered_hosts(scope.hosts, &mut table);
        }
        let origin = &scope.origin;
        let (name, route) = match scope.outbound {
            OutboundMode::AllowAny => {
                let cluster = self.passthrough(origin);
                ("allow_any", plain_route("allow_any", cluster, None, Box::default(), origin.clone()))
            }
            OutboundMode::RegistryOnly => ("block_all", direct("block_all", StatusCode::BAD_GATEWAY, origin)),
        };
        table.last_resort(name, route);
        table.finish(scope.port.to_string())
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
    pub(super) fn all_clusters(&mut self, service: &Service, number: u16) {
        self.outbound(&service.host, number, "");
        let subsets = self.rules.of(service).map(|rule| &*rule.subsets).unwrap_or_default();
        for subset in subsets {
            self.outbound(&service.host, number, &subset.name);
        }
    }

    /// Istio: hosts that no service has take effect on port 80 alone.
    fn unregistered_hosts(&mut self, hosts: &Imports, table: &mut Table) {
        for vs in self.virtual_services.iter().filter(|vs| taken(hosts, vs)) {
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
            let origin = vs.meta.origin(vs.meta.span);
            let index = table.push(VirtualHost { name: name.into(), routes: routes.into(), origin });
            for host in free {
                table.hosts.insert(&host.value, index);
            }
        }
    }

    /// Everything goes to the workload; Istio retries here too, but not for gRPC.
    pub(super) fn inbound_table(
        &mut self,
        number: u16,
        protocol: PortProtocol,
        cluster: ClusterRef,
        origin: &Origin,
    ) -> RouteTable {
        let host = self.clusters.host(&cluster);
        let called = (!host.is_empty()).then(|| format!("{host}:{number}"));
        let policy = self.mesh.inbound_retries.clone();
        let retry = policy.0.filter(|_| protocol != PortProtocol::Http2);
        let name = self.clusters.name(&cluster).to_owned();
        let route = Route {
            operation: called.and_then(|called| operation(&called, &RouteMatch::always())),
            ..plain_route("default", cluster, retry, Box::default(), origin.clone())
        };
        let mut table = Table::default();
        table.last_resort(&format!("inbound|http|{number}"), route);
        table.finish(name)
    }

    pub(super) fn warn_idle(&mut self, port: u16, span: Span) {
        let message = format!("no visible service has port {port}");
        let found = self.sink.report(Code::IdleListener, span, message);
        found.label("carries no service");
        found.help("the listener's port is the port of the service, not of its endpoints");
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
    fn push(&mut self, host: VirtualHost) -> u32 {
        let index = u32::try_from(self.virtual_hosts.len()).unwrap_or(u32::MAX);
        self.virtual_hosts.push(host);
        index
    }

    /// A virtual host for whatever has no other.
    fn last_resort(&mut self, name: &str, route: Route) {
        let origin = route.origin.clone();
        let index = self.push(VirtualHost { name: name.into(), routes: [route].into(), origin });
        self.hosts.insert("*", index);
    }

    fn finish(self, name: String) -> RouteTable {
        RouteTable { name: name.into(), hosts: self.hosts, virtual_hosts: self.virtual_hosts.into() }
    }
}

/// The table of one service, whatever its requests call it: the client's destination was its own.
pub(super) fn lone_table(host: VirtualHost) -> RouteTable {
    let mut table = Table::default();
    let name = host.name.to_string();
    let index = table.push(host);
    table.hosts.insert("*", index);
    table.finish(name)
}

fn direct(name: &str, status: StatusCode, origin: &Origin) -> Route {
    let response = DirectResponse { status, body: Bytes::new() };
    Route::always(name, Action::Direct(Box::new(response)), origin.clone())
}
