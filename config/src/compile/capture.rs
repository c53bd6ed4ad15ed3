//! `virtualOutbound` and `virtualInbound`: captured traffic as Istio's listeners without a socket sort it, by the address
//! and port that a client was going to. Explicit listeners are made elsewhere, of the same routes.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Compiler,
    inbound::{Owner, owners},
    table,
    tables::{Hosted, Scope, lone_table},
    tcp::{Apart, lone_tcp},
    tls,
};
use crate::{
    istio::{
        PortProtocol,
        imports::Imports,
        sidecar::{Door, OutboundMode, Sidecar},
    },
    registry::{Registry, Service},
    report::Code,
    snapshot::{
        Captured, Carried, Chain, ClusterRef, Direction, InboundTls, Listener, Node, Origin, RouteTable,
        Silent,
    },
};

/// Istio's ports for captured traffic.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

/// What of a plan follows from endpoints: a plan is made anew if it differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ByEndpoint {
    /// The services behind the ingress listeners, in the order of these.
    pub(super) owners: Vec<Owner>,
    /// The own ports that services name, where inbound traffic is captured.
    served: Vec<Served>,
    /// The endpoints of headless services, where outbound traffic or DNS is captured: clients go to each by its address.
    headless: Vec<(Arc<str>, u16, Vec<SocketAddr>)>,
}

/// A port of the workload, and the service's port that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) target: u16,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl ByEndpoint {
    pub(super) fn of(sidecar: Option<&Sidecar>, registry: &Registry, node: &Node) -> Self {
        let owners = owners(sidecar, registry, node);
        if !node.interception.is_on() && !node.dns_capture {
            return Self { owners, ..Self::default() };
        }
        // Istio: ingress listeners take the place of what the services say.
        let served = match sidecar.is_some_and(|sidecar| !sidecar.ingress.is_empty()) {
            true => Vec::new(),
            false => served(registry, node),
        };
        let headless = registry.services.iter().filter(|service| service.headless).flat_map(|service| {
            service.ports.iter().map(|port| {
                let addresses = service.serving(port).map(|(address, _)| address).collect();
                (Arc::clone(&service.host), port.number, addresses)
            })
        });
        Self { owners, served, headless: headless.collect() }
    }

    fn endpoints(&self, host: &str, port: u16) -> &[SocketAddr] {
        let found = self.headless.iter().find(|(of, number, _)| &**of == host && *number == port);
        found.map(|(.., addresses)| &**addresses).unwrap_or_default()
    }
}

/// Of two services with one port of the workload the older has it, as in Istio.
fn served(registry: &Registry, node: &Node) -> Vec<Served> {
    let Ok(own) = node.address.parse::<IpAddr>() else { return Vec::new() };
    let mut services: Vec<_> = registry.services.iter().collect();
    services.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
    let mut served: Vec<Served> = Vec::new();
    for service in services {
        for port in service.ports.iter().filter(|port| port.protocol != PortProtocol::Udp) {
            let own = service.serving(port).find(|(address, _)| address.ip() == own);
            let Some(target) = own.map(|(address, _)| address.port()) else { continue };
            if !served.iter().any(|other| other.target == target) {
                served.push(Served { target, host: Arc::clone(&service.host), port: port.number });
            }
        }
    }
    served
}

/// A listener's chains under construction.
struct Chains<'t> {
    destinations: HashMap<SocketAddr, Chain>,
    /// Whose each is, for messages.
    owners: HashMap<SocketAddr, String>,
    ports: HashMap<u16, Chain>,
    by_endpoint: &'t ByEndpoint,
    tables: &'t mut Vec<RouteTable>,
}

impl<'a> Compiler<'a> {
    /// Both listeners; their route tables go behind those in `tables`.
    pub(super) fn capture(
        &mut self,
        sidecar: Option<&Sidecar>,
        outbound: OutboundMode,
        by_endpoint: &ByEndpoint,
        tables: &mut Vec<RouteTable>,
    ) -> [Listener; 2] {
        let origin = match sidecar {
            Some(sidecar) => sidecar.meta.origin(sidecar.meta.span),
            None => Origin {
                resource: format!("interception mode {}", self.node.interception).into(),
                file: "".into(),
                line: 0,
            },
        };
        let outbound = self.outbound_chains(sidecar, outbound, &origin, by_endpoint, tables);
        let inbound = self.inbound_chains(sidecar, &origin, by_endpoint, tables);
        let listener = |name: &str, port, direction, tls, captured| Listener {
            name: name.into(),
            bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            direction,
            tls,
            carried: Carried::Captured(Box::new(captured)),
            origin: origin.clone(),
        };
        let tls = tls::inbound(self.peers, None, self.node, self.mesh);
        [
            listener("virtualOutbound", OUTBOUND, Direction::Outbound, InboundTls::Off, outbound),
            listener("virtualInbound", INBOUND, Direction::Inbound, tls, inbound),
        ]
    }

    fn outbound_chains(
        &mut self,
        sidecar: Option<&Sidecar>,
        outbound: OutboundMode,
        origin: &Origin,
        by_endpoint: &ByEndpoint,
        tables: &mut Vec<RouteTable>,
    ) -> Captured {
        let (destinations, owners, ports) = Default::default();
        let mut chains = Chains { destinations, owners, ports, by_endpoint, tables };
        let mut taken = HashSet::new();
        for egress in sidecar.map(|sidecar| &*sidecar.egress).unwrap_or_default() {
            let Door::Captured(address) = egress.door.value else { continue };
            let protocol = egress.port.protocol;
            if !self.is_carried(protocol, egress.span) {
                continue;
            }
            let origin = sidecar.map_or_else(|| origin.clone(), |sidecar| sidecar.meta.origin(egress.span));
            let scope = Scope { port: egress.port.number, hosts: &egress.hosts, outbound, origin };
            let services = self.carried(&scope);
            if services.is_empty() {
                self.warn_idle(scope.port, egress.span);
            }
            taken.insert(scope.port);
            let chain = self.port_chain(&scope, &services, Some(protocol), &mut chains);
            match (chain, address) {
                (Some(chain), Some(ip)) => drop(chains.destinations.insert((ip, scope.port).into(), chain)),
                (Some(chain), None) => drop(chains.ports.insert(scope.port, chain)),
                (None, _) => {}
            }
        }
        let everything = Imports::everything();
        let rest = match sidecar {
            None => Some(&everything),
            Some(sidecar) => sidecar.catch_all.as_ref(),
        };
        if let Some(hosts) = rest {
            for (port, services) in self.by_port(hosts) {
                // Istio: a listener with a port has the port for itself.
                if taken.contains(&port) {
                    continue;
                }
                let scope = Scope { port, hosts, outbound, origin: origin.clone() };
                if let Some(chain) = self.port_chain(&scope, &services, None, &mut chains) {
                    chains.ports.insert(port, chain);
                }
            }
        }
        let scope = Scope { port: 0, hosts: &everything, outbound, origin: origin.clone() };
        Captured {
            destinations: chains.destinations,
            ports: chains.ports,
            last_resort: Chain::Bytes(Arc::new(self.outbound_tcp(&scope, &[], Apart::Range))),
            detection: self.mesh.detection,
            tls: BTreeMap::new(),
        }
    }

    /// One port of many services. Those whose bytes have an address of their own are told apart by it; for the rest the
    /// client's destination says no more than the port. `None` if there is no rest. What a listener of its own is said to
    /// carry goes for all of its services (Istio), else what each says of its port.
    fn port_chain(
        &mut self,
        scope: &Scope<'_>,
        services: &[&Service],
        listener: Option<PortProtocol>,
        chains: &mut Chains<'_>,
    ) -> Option<Chain> {
        let spoken = |service: &Service| {
            let own = service.port(scope.port)?.protocol;
            // Nobody's bytes can become datagrams.
            Some(listener.filter(|_| own != PortProtocol::Udp).unwrap_or(own))
        };
        let hosts = match listener {
            Some(PortProtocol::Tcp | PortProtocol::Tls) => Vec::new(),
            _ => self.outbound_hosts(scope, services),
        };
        let mut shared: Vec<(&Service, PortProtocol)> = Vec::new();
        for service in services {
            let Some(protocol) = spoken(service) else { continue };
            if matches!(protocol, PortProtocol::Http1 | PortProtocol::Http2 | PortProtocol::Udp) {
                continue;
            }
            let own: Vec<_> = match service.headless {
                true => chains.by_endpoint.endpoints(&service.host, scope.port).to_vec(),
                false => service.ips().map(|ip| SocketAddr::new(ip, scope.port)).collect(),
            };
            if own.is_empty() && !service.headless || !service.ranges.is_empty() {
                shared.push((service, protocol));
            }
            if !own.is_empty() {
                let chain = self.own_chain(scope, service, protocol, &hosts, chains.tables);
                for destination in own {
                    self.claim_destination(chains, destination, &chain, service);
                }
            }
        }
        if hosts.is_empty() && shared.is_empty() {
            return None;
        }
        let bytes = Arc::new(self.outbound_tcp(scope, &shared, Apart::Range));
        Some(match hosts.is_empty() {
            true => Chain::Bytes(bytes),
            // Istio: what is no request on a port of requests is passed through.
            false => {
                let named = |service: &&Service| spoken(service) != Some(PortProtocol::Sniffed);
                let all_named = shared.is_empty() && services.iter().all(named);
                Chain::Sniffed {
                    requests: table(self.outbound_table(scope, hosts), chains.tables),
                    bytes,
                    silent: if all_named { Silent::Requests } else { Silent::Bytes },
                }
            }
        })
    }

    /// What goes to an address of one service alone.
    fn own_chain(
        &mut self,
        scope: &Scope<'_>,
        service: &Service,
        protocol: PortProtocol,
        hosts: &[Hosted<'_>],
        tables: &mut Vec<RouteTable>,
    ) -> Chain {
        let bytes = Arc::new(self.outbound_tcp(scope, &[(service, protocol)], Apart::Not));
        let host = hosts.iter().find(|(of, _)| std::ptr::eq(*of, service));
        match host {
            Some((_, host)) => Chain::Sniffed {
                requests: table(lone_table(host.clone()), tables),
                bytes,
                silent: Silent::Bytes,
            },
            None => Chain::Bytes(bytes),
        }
    }

    fn claim_destination(
        &mut self,
        chains: &mut Chains<'_>,
        destination: SocketAddr,
        chain: &Chain,
        service: &Service,
    ) {
        match chains.destinations.entry(destination) {
            Entry::Vacant(free) => {
                free.insert(chain.clone());
                chains.owners.insert(destination, service.origin.to_string());
            }
            // Pods may serve several headless services.
            Entry::Occupied(_) if service.headless => {}
            Entry::Occupied(_) => {
                let message = format!("{destination} belongs to another service");
                let found = self.sink.report(Code::DomainTaken, service.meta.span, message);
                found.label("connections to it reach the other service");
                found.note(chains.owners.get(&destination).cloned().unwrap_or_default());
            }
        }
    }

    /// The services that the list takes, by their ports.
    fn by_port(&self, hosts: &Imports) -> BTreeMap<u16, Vec<&'a Service>> {
        let registry = self.registry;
        let mut ports: BTreeMap<u16, Vec<&Service>> = BTreeMap::new();
        for service in &registry.services {
            if hosts.service(&service.meta.namespace, &service.host) {
                for port in &service.ports {
                    let services = ports.entry(port.number).or_default();
                    // A number may serve TCP and UDP.
                    if services.last().is_none_or(|last| !std::ptr::eq(*last, &**service)) {
                        services.push(service);
                    }
                }
            }
        }
        ports
    }

    fn inbound_chains(
        &mut self,
        sidecar: Option<&Sidecar>,
        origin: &Origin,
        by_endpoint: &ByEndpoint,
        tables: &mut Vec<RouteTable>,
    ) -> Captured {
        let mut ports = HashMap::new();
        let (peers, node, mesh) = (self.peers, self.node, self.mesh);
        let apart = peers.ports(&node.namespace, &node.labels);
        let mut apart: BTreeMap<_, _> =
            apart.map(|port| (port, tls::inbound(peers, Some(port), node, mesh))).collect();
        if let Some(sidecar) = sidecar {
            for (ingress, owner) in sidecar.ingress.iter().zip(&by_endpoint.owners) {
                if ingress.captured && self.is_carried(ingress.port.protocol, ingress.span) {
                    let origin = sidecar.meta.origin(ingress.span);
                    let pool = ingress.pool.as_ref().or(sidecar.inbound_pool.as_ref());
                    let number = ingress.port.number;
                    let (tls, protocol) = self.ended(ingress);
                    if ingress.tls.is_some() {
                        apart.insert(number, tls);
                    }
                    let cluster = self.inbound(ingress, protocol, pool, owner, origin.clone());
                    ports.insert(number, self.inbound_chain(number, protocol, cluster, &origin, tables));
                }
            }
        }
        for served in &by_endpoint.served {
            let pool = sidecar.and_then(|sidecar| sidecar.inbound_pool.as_ref());
            if let Some((cluster, protocol, origin)) = self.inbound_served(served, pool) {
                ports.insert(
                    served.target,
                    self.inbound_chain(served.target, protocol, cluster, &origin, tables),
                );
            }
        }
        let passthrough = self.inbound_passthrough(origin);
        Captured {
            destinations: HashMap::new(),
            ports,
            last_resort: self.inbound_chain(0, PortProtocol::Sniffed, passthrough, origin, tables),
            detection: self.mesh.detection,
            tls: apart,
        }
    }

    fn inbound_chain(
        &mut self,
        number: u16,
        protocol: PortProtocol,
        cluster: ClusterRef,
        origin: &Origin,
        tables: &mut Vec<RouteTable>,
    ) -> Chain {
        let bytes = |cluster| Arc::new(lone_tcp(cluster, origin.clone()));
        match protocol {
            PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Udp => Chain::Bytes(bytes(cluster)),
            PortProtocol::Http1 | PortProtocol::Http2 => {
                Chain::Requests(table(self.inbound_table(number, protocol, cluster, origin), tables))
            }
            PortProtocol::Sniffed => Chain::Sniffed {
                bytes: bytes(cluster.clone()),
                requests: table(self.inbound_table(number, protocol, cluster, origin), tables),
                silent: Silent::Bytes,
            },
        }
    }
}
