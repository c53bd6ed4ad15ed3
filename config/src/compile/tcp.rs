//! Routes of raw connections: services become routes by name or address, and what claims the same is reported.

use std::{sync::Arc, time::Duration};

use super::{Compiler, policy::layered, routes::destination_port, tables::Scope};
use crate::{
    istio::{PortProtocol, destination::Destination, sidecar::OutboundMode, virtual_service::VirtualService},
    registry::Service,
    report::Code,
    sink::Span,
    snapshot::{
        ClusterRef, HashPolicy, HostMap, Origin, Subnet, TcpCluster, TcpDestination, TcpRoute, TcpRoutes,
    },
};

/// Envoy's idle timeout of raw connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// By what the services of a table are told apart, where no rule says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// By nothing but the server name: they share the port of a listener.
    Name,
    /// By their ranges of addresses too: they share a port of captured traffic.
    Range,
    /// The table is of one service.
    Not,
}

/// Everything goes to one cluster.
pub(super) fn lone_tcp(cluster: ClusterRef, origin: Origin) -> TcpRoutes {
    Table::default().finish(plain(cluster, origin))
}

impl Compiler<'_> {
    /// The services, the oldest first, as connections of this protocol; then the last resort.
    pub(super) fn outbound_tcp(
        &mut self,
        scope: &Scope<'_>,
        services: &[(&Service, PortProtocol)],
        apart: Apart,
    ) -> TcpRoutes {
        let number = scope.port;
        let mut table = Table::default();
        let carried = |(service, _): &&(&Service, PortProtocol)| {
            service.port(number).is_some_and(|port| port.protocol != PortProtocol::Udp)
        };
        let mut carried: Vec<_> = services.iter().filter(carried).collect();
        carried.sort_by(|(a, _), (b, _)| a.meta.age().cmp(&b.meta.age()));
        for (service, protocol) in carried {
            self.all_clusters(service, number);
            let virtual_services = self.virtual_services.all_of(service, scope.hosts);
            if *protocol == PortProtocol::Tls {
                self.by_server_name(&mut table, service, number, &virtual_services, apart);
            } else {
                self.by_address(&mut table, service, number, &virtual_services, apart);
            }
        }
        let last_resort = self.last_tcp(scope);
        table.finish(last_resort)
    }

    fn last_tcp(&mut self, scope: &Scope<'_>) -> TcpRoute {
        let cluster = match scope.outbound {
            OutboundMode::AllowAny => self.passthrough(&scope.origin),
            OutboundMode::RegistryOnly => self.black_hole(&scope.origin),
        };
        plain(cluster, scope.origin.clone())
    }

    /// Rules for TLS; a service without one has its host for a name.
    fn by_server_name(
        &mut self,
        table: &mut Table,
        service: &Service,
        port: u16,
        virtual_services: &[&VirtualService],
        apart: Apart,
    ) {
        let ranges = apart.ranges(service);
        let mut ruled = false;
        for vs in virtual_services {
            for rule in vs.tls.iter().filter(|rule| !rule.destinations.is_empty()) {
                for block in rule.matches.iter().filter(|block| block.l4.applies(self.node, port)) {
                    let route = self.tcp_route(&rule.destinations, port, vs.meta.origin(block.l4.span));
                    let names: Vec<_> = block.sni_hosts.iter().map(|name| &**name).collect();
                    let subnets = if block.l4.subnets.is_empty() { ranges } else { &block.l4.subnets };
                    self.claim(table, subnets, &names, route, Claimant::rule(block.l4.span));
                    ruled = true;
                }
            }
        }
        if !ruled {
            let route = self.default_tcp(service, port);
            // Istio: where an address is the service's own, its name need not tell it.
            let names: &[&str] = if apart == Apart::Not { &[] } else { &[&*service.host] };
            self.claim(table, ranges, names, route, Claimant::service(service));
        }
    }

    /// Rules for the rest, up to the first that takes every address; without one, that is the service itself.
    fn by_address(
        &mut self,
        table: &mut Table,
        service: &Service,
        port: u16,
        virtual_services: &[&VirtualService],
        apart: Apart,
    ) {
        let ranges = apart.ranges(service);
        for vs in virtual_services {
            for rule in vs.tcp.iter().filter(|rule| !rule.destinations.is_empty()) {
                let blocks = rule.matches.iter().filter(|block| block.applies(self.node, port));
                let blocks: Vec<_> = blocks.collect();
                if !rule.matches.is_empty() && blocks.is_empty() {
                    continue;
                }
                let span = blocks.first().map_or(rule.span, |block| block.span);
                let all = blocks.is_empty() || blocks.iter().any(|block| block.subnets.is_empty());
                let subnets: Vec<_> = match all {
                    true => ranges.to_vec(),
                    false => blocks.iter().flat_map(|block| block.subnets.iter().copied()).collect(),
                };
                let route = self.tcp_route(&rule.destinations, port, vs.meta.origin(span));
                self.claim(table, &subnets, &[], route, Claimant::rule(span));
                if all {
                    return;
                }
            }
        }
        let route = self.default_tcp(service, port);
        self.claim(table, ranges, &[], route, Claimant::service(service));
    }

    /// The first destination's idle timeout counts, and the client's address as a key if one of them asks for it.
    fn tcp_route(&mut self, destinations: &[Destination], port: u16, origin: Origin) -> TcpRoute {
        let clusters: Box<[_]> = destinations
            .iter()
            .map(|entry| TcpCluster { cluster: self.destination(entry, port), weight: entry.weight })
            .collect();
        let idle = destinations.first().and_then(|first| {
            let service = self.registry.find(&first.host.value)?;
            let rule = self.rules.of(service)?;
            let name = first.subset.as_ref().map(|subset| &subset.value);
            let subset = name.and_then(|name| rule.subsets.iter().find(|subset| subset.name == *name));
            let port = destination_port(first, Some(service), port);
            layered(Some(rule), subset, Some(port)).pool?.tcp_idle_timeout
        });
        TcpRoute {
            total_weight: clusters.iter().map(|entry| u64::from(entry.weight)).sum(),
            clusters,
            idle_timeout: idle_timeout(idle),
            hash_source_ip: self.hashes_by_source(destinations),
            origin,
        }
    }

    fn hashes_by_source(&mut self, destinations: &[Destination]) -> bool {
        let mut found = false;
        for entry in destinations {
            if let Some(service) = self.registry.find(&entry.host.value) {
                found |= self.is_source_ip(self.hash_of(entry).as_ref(), service);
            }
        }
        found
    }

    fn is_source_ip(&mut self, key: Option<&HashPolicy>, service: &Service) -> bool {
        let what = match key {
            None => return false,
            Some(HashPolicy::SourceIp) => return true,
            Some(HashPolicy::Header(_)) => "headers",
            Some(HashPolicy::Cookie(_)) => "cookies",
            Some(HashPolicy::Query(_)) => "query parameters",
        };
        if let Some(rule) = self.rules.of(service) {
            let message = format!("raw connections to `{}` have no {what} to hash", service.host);
            let found = self.sink.report(Code::UselessHashKey, rule.meta.span, message);
            found.label("each goes to any endpoint").help("write `consistentHash: { useSourceIp: true }`");
        }
        false
    }

    /// A service that no rule speaks for.
    fn default_tcp(&mut self, service: &Service, port: u16) -> TcpRoute {
        let blocks = layered(self.rules.of(service), None, Some(port));
        let key = blocks.load_balancer.and_then(|block| block.hash);
        TcpRoute {
            idle_timeout: idle_timeout(blocks.pool.and_then(|pool| pool.tcp_idle_timeout)),
            hash_source_ip: self.is_source_ip(key.as_ref(), service),
            ..plain(self.outbound(&service.host, port, ""), service.origin.clone())
        }
    }

    /// Istio keeps the first route of equal conditions.
    fn claim(
        &mut self,
        table: &mut Table,
        subnets: &[Subnet],
        names: &[&str],
        route: TcpRoute,
        by: Claimant,
    ) {
        let span = by.span;
        let taken = table.push(subnets, names, route, by);
        for (what, owner) in taken {
            let message = format!("an earlier route of this port takes {what}");
            let found = self.sink.report(Code::ConnectionsTaken, span, message);
            found.label("its connections go elsewhere").note(format!("{owner} comes first"));
            found.help(
                "connections carry no host: give each service `addresses` (captured DNS, `--dns-capture`, makes them) or a \
                 port of its own, or name the port `tls`",
            );
        }
    }
}

impl Apart {
    /// What the service claims of the addresses.
    fn ranges(self, service: &Service) -> &[Subnet] {
        match self {
            Self::Range => &service.ranges,
            Self::Name | Self::Not => &[],
        }
    }
}

/// The routes of one listener under construction.
#[derive(Default)]
struct Table {
    ranges: Vec<TcpDestination>,
    routes: Vec<TcpRoute>,
    /// Whose each is.
    claimants: Vec<Claimant>,
}

/// A rule, which claims the same again for each service that it speaks for, or a service.
#[derive(PartialEq, Eq)]
struct Claimant {
    span: Span,
    /// Of a service: its resource may define several.
    host: Option<Arc<str>>,
}

impl Claimant {
    fn rule(span: Span) -> Self {
        Self { span, host: None }
    }

    fn service(service: &Service) -> Self {
        Self { span: service.meta.span, host: Some(Arc::clone(&service.host)) }
    }
}

impl Table {
    /// Adds a route for all pairs of ranges and names; none stands for all. What another has already is returned, with
    /// who that is.
    fn push(
        &mut self,
        subnets: &[Subnet],
        names: &[&str],
        route: TcpRoute,
        by: Claimant,
    ) -> Vec<(String, Origin)> {
        let index = u32::try_from(self.routes.len()).unwrap_or(u32::MAX);
        let subnets: Vec<_> = match subnets {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        let names = if names.is_empty() { &["*"] } else { names };
        let mut taken = Vec::new();
        let all = subnets.len() * names.len();
        for subnet in subnets {
            let domains = self.range(subnet);
            for name in names {
                if !domains.insert(name, index) {
                    taken.push((described(subnet, name), owner(domains, name)));
                }
            }
        }
        let elsewhere = taken.iter().filter_map(|(what, owner)| {
            let owner = (*owner)? as usize;
            let (route, claimant) = self.routes.get(owner).zip(self.claimants.get(owner))?;
            (*claimant != by).then(|| (what.clone(), route.origin.clone()))
        });
        let elsewhere = elsewhere.collect();
        if taken.len() < all {
            self.routes.push(route);
            self.claimants.push(by);
        }
        elsewhere
    }

    fn range(&mut self, subnet: Option<Subnet>) -> &mut HostMap {
        let at = match self.ranges.iter().position(|range| range.subnet == subnet) {
            Some(at) => at,
            None => {
                let bits = |subnet: Option<Subnet>| subnet.map(|subnet| subnet.bits());
                let at = self.ranges.partition_point(|range| bits(range.subnet) >= bits(subnet));
                self.ranges.insert(at, TcpDestination { subnet, names: HostMap::default() });
                at
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found or inserted just now")]
        &mut self.ranges[at].names
    }

    fn finish(mut self, last_resort: TcpRoute) -> TcpRoutes {
        let at = u32::try_from(self.routes.len()).unwrap_or(u32::MAX);
        self.routes.push(last_resort);
        TcpRoutes {
            by_server_name: self
                .ranges
                .iter()
                .any(|range| !range.names.exact.is_empty() || !range.names.suffixes.by_text.is_empty()),
            destinations: self.ranges.into(),
            routes: self.routes.into(),
            last_resort: at,
        }
    }
}

/// Who has a domain.
fn owner(names: &HostMap, domain: &str) -> Option<u32> {
    match domain.strip_prefix('*') {
        Some("") => names.any,
        Some(suffix) => names.suffixes.by_text.get(suffix).copied(),
        None => names.exact.get(domain).copied(),
    }
}

fn described(subnet: Option<Subnet>, name: &str) -> String {
    let range = subnet.map(|subnet| format!(" to {subnet}")).unwrap_or_default();
    match name {
        "*" => format!("the connections{range} that no server name tells apart"),
        name => format!("the server name `{name}`{range}"),
    }
}

fn plain(cluster: ClusterRef, origin: Origin) -> TcpRoute {
    TcpRoute {
        clusters: [TcpCluster { cluster, weight: 1 }].into(),
        total_weight: 1,
        idle_timeout: Some(IDLE_TIMEOUT),
        hash_source_ip: false,
        origin,
    }
}

/// Zero is never.
fn idle_timeout(written: Option<Duration>) -> Option<Duration> {
    Some(written.unwrap_or(IDLE_TIMEOUT)).filter(|timeout| !timeout.is_zero())
}
