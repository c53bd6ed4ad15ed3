//! The route tables of HTTP listeners: their virtual hosts in order, and what becomes of a host that none has.

use std::collections::HashMap;

use bytes::Bytes;
use http::StatusCode;

use super::{
    Compiler,
    clusters::Owner,
    hosts::{domains, taken},
    routes::{operation, plain_route},
};
use crate::{
    istio::{
        Meta, PortProtocol,
        connection_pool::ConnectionPool,
        sidecar::{Egress, Ingress, OutboundMode},
    },
    registry::Service,
    report::Code,
    snapshot::{Action, DirectResponse, HostMap, Origin, Route, RouteMatch, RouteTable, VirtualHost},
};

impl Compiler<'_> {
    /// The visible services with a port of the listener's number, then the last resort.
    pub(super) fn outbound_table(
        &mut self,
        egress: &Egress,
        outbound: OutboundMode,
        sidecar: &Meta,
    ) -> RouteTable {
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
    pub(super) fn all_clusters(&mut self, service: &Service, number: u16) {
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
    pub(super) fn inbound_table(
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

    pub(super) fn warn_idle(&mut self, egress: &Egress) {
        let message = format!("no visible service has port {}", egress.port.number);
        let found = self.sink.report(Code::IdleListener, egress.span, message);
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
