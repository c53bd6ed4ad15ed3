//! Clusters of no service's endpoints: the workload itself, and wherever a client was going.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Compiler,
    capture::Served,
    clusters::{bare, pooled},
    policy::layered,
};
use crate::{
    istio::{
        PortProtocol,
        connection_pool::ConnectionPool,
        sidecar::{Ingress, Sidecar},
    },
    registry::Registry,
    snapshot::{
        Cluster, ClusterRef, Discovery, Endpoint, Interception, Node, Origin, Protocol, Service, Source,
    },
};

impl Compiler<'_> {
    /// The last resort of ALLOW_ANY. An explicit listener knows no original destination, so that it has no endpoint there.
    pub(crate) fn passthrough(&mut self, origin: &Origin) -> ClusterRef {
        self.without_endpoints("PassthroughCluster", Discovery::OriginalDestination, Source::System, origin)
    }

    /// The last resort of REGISTRY_ONLY for raw connections: Istio's cluster that leads nowhere.
    pub(crate) fn black_hole(&mut self, origin: &Origin) -> ClusterRef {
        self.without_endpoints("BlackHoleCluster", Discovery::Static, Source::System, origin)
    }

    /// Captured inbound traffic to a port that no service names.
    pub(crate) fn inbound_passthrough(&mut self, origin: &Origin) -> ClusterRef {
        let (name, source) = ("InboundPassthroughCluster", self.inbound_source());
        self.without_endpoints(name, Discovery::OriginalDestination, source, origin)
    }

    /// Istio: transparent sockets show the workload its client.
    fn inbound_source(&self) -> Source {
        match self.node.interception {
            Interception::Tproxy => Source::Client,
            Interception::Redirect | Interception::None => Source::Inbound,
        }
    }

    fn without_endpoints(
        &mut self,
        name: &str,
        discovery: Discovery,
        source: Source,
        origin: &Origin,
    ) -> ClusterRef {
        if let Some(id) = self.clusters.named(name) {
            return ClusterRef::Known(id);
        }
        let service = Service {
            host: "".into(),
            name: name.into(),
            namespace: "unknown".into(),
            port: 0,
            subset: "".into(),
        };
        let cluster = bare(self.mesh, name.into(), service, Box::default(), Protocol::Client, origin.clone());
        self.add_bare(Cluster { discovery, source, ..cluster })
    }

    /// The workload itself, behind an ingress listener, where this is spoken. Of a rule only the pool counts here.
    pub(crate) fn inbound(
        &mut self,
        ingress: &Ingress,
        protocol: PortProtocol,
        pool: Option<&ConnectionPool>,
        owner: &Owner,
        origin: Origin,
    ) -> ClusterRef {
        let node = self.node;
        let label = |name: &str| node.labels.get(name).map(Arc::clone);
        let name = label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .unwrap_or_else(|| Arc::clone(&node.workload));
        let service = Service {
            host: Arc::clone(&name),
            name,
            namespace: Arc::clone(&node.namespace),
            port: ingress.port.number,
            subset: "".into(),
        };
        let endpoint = Endpoint {
            address: ingress.endpoint,
            key: ingress.endpoint.to_string().into(),
            hostname: "".into(),
            weight: 1,
            labels: node.labels.clone(),
            locality: node.locality.clone(),
            priority: 0,
            mutual: false,
        };
        let of_rule = self.own_pool(owner);
        let pool = pool.or(of_rule.as_ref()).cloned().unwrap_or_default();
        let cluster = self.inbound_cluster(ingress.port.number, service, protocol, &pool, origin);
        // Rules of the kernel lead the proxy's own calls to the pod's address back to it, but for those of this source.
        let own = node.interception.is_on() && !endpoint.address.ip().is_loopback();
        let source = if own { Source::Inbound } else { Source::System };
        self.add_bare(Cluster { endpoints: [Arc::new(endpoint)].into(), source, ..cluster })
    }

    /// The workload's port that a service names, at whatever address the client was going to; with the protocol that the
    /// service gives it, and the service's origin.
    pub(super) fn inbound_served(
        &mut self,
        served: &Served,
        pool: Option<&ConnectionPool>,
    ) -> Option<(ClusterRef, PortProtocol, Origin)> {
        let of = self.registry.find(&served.host)?;
        let protocol = of.port(served.port)?.protocol;
        let service = Service {
            host: Arc::clone(&of.host),
            name: of.short_name().into(),
            namespace: Arc::clone(&of.meta.namespace),
            port: served.target,
            subset: "".into(),
        };
        let of_rule = self.own_pool(&Some((Arc::clone(&served.host), served.port)));
        let pool = pool.or(of_rule.as_ref()).cloned().unwrap_or_default();
        let cluster = self.inbound_cluster(served.target, service, protocol, &pool, of.origin.clone());
        let source = self.inbound_source();
        let cluster = Cluster { discovery: Discovery::OriginalDestination, source, ..cluster };
        Some((self.add_bare(cluster), protocol, of.origin.clone()))
    }

    fn inbound_cluster(
        &self,
        port: u16,
        service: Service,
        protocol: PortProtocol,
        pool: &ConnectionPool,
        origin: Origin,
    ) -> Cluster {
        let protocol = match protocol {
            _ if pool.client_protocol => Protocol::Client,
            PortProtocol::Http2 => Protocol::Http2,
            PortProtocol::Http1 => Protocol::Http1,
            PortProtocol::Sniffed | PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Udp => {
                Protocol::Client
            }
        };
        let name = format!("inbound|{port}||").into();
        pooled(bare(self.mesh, name, service, Box::default(), protocol, origin), pool)
    }

    fn own_pool(&self, owner: &Owner) -> Option<ConnectionPool> {
        let (host, port) = owner.as_ref()?;
        let rule = self.rules.inbound(self.registry.find(host)?);
        layered(rule, None, Some(*port)).pool
    }
}

/// A service, and the port of it, that an ingress listener serves.
pub(super) type Owner = Option<(Arc<str>, u16)>;

/// The services that have the ingress listeners as endpoints, in the order of these.
pub(super) fn owners(sidecar: Option<&Sidecar>, registry: &Registry, node: &Node) -> Vec<Owner> {
    let own: Option<IpAddr> = node.address.parse().ok();
    let owner = |ingress: &Ingress| {
        let bound = ingress.bind.value;
        let is_here = |address: SocketAddr| {
            address.port() == bound.port() && (address == bound || Some(address.ip()) == own)
        };
        let services = registry.services.iter();
        let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let (service, port) =
            ports.find(|(service, port)| service.serving(port).any(|(address, _)| is_here(address)))?;
        Some((Arc::clone(&service.host), port.number))
    };
    sidecar.map(|sidecar| &*sidecar.ingress).unwrap_or_default().iter().map(owner).collect()
}
