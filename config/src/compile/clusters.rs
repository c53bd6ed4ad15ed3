//! Clusters: a service's port with the policy of a subset, made once for each name.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Compiler,
    locality::{Placed, place},
    peers::PeerPolicies,
    policy::layered,
    tls,
};
use crate::{
    fields::Labels,
    istio::{
        PortProtocol,
        connection_pool::ConnectionPool,
        destination_rule::{Blocks, DestinationRule, Subset},
        locality::LocalitySetting,
        mesh::Mesh,
        peer_authentication::PeerMode,
        service_entry::Resolution,
    },
    registry::{self, Registry},
    report::Code,
    snapshot::{
        Balancer, Cluster, ClusterId, ClusterRef, Discovery, Dns, Endpoint, Limits, NamedEndpoint, Node,
        Origin, Protocol, Service, Source, Target, UpstreamTls,
    },
};

/// Istio's idle timeout of upstream connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Envoy's limit of streams on a connection.
const MAX_STREAMS: u32 = i32::MAX.unsigned_abs();

/// Clusters by name, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    by_name: HashMap<Arc<str>, ClusterId>,
    list: Vec<Made>,
}

/// A cluster, and what it was made from.
#[derive(Debug, Clone)]
struct Made {
    cluster: Arc<Cluster>,
    /// `None` for those that no service stands behind.
    from: Option<Inputs>,
}

/// All that a service's cluster is made from beside its name and the node, which never changes within one loader.
#[derive(Debug, Clone)]
struct Inputs {
    service: Arc<registry::Service>,
    rule: Option<Arc<DestinationRule>>,
    mesh: Arc<Mesh>,
    peers: Arc<PeerPolicies>,
}

impl Inputs {
    fn are(&self, other: &Self) -> bool {
        let rule = match (&self.rule, &other.rule) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        rule && Arc::ptr_eq(&self.service, &other.service)
            && Arc::ptr_eq(&self.mesh, &other.mesh)
            && Arc::ptr_eq(&self.peers, &other.peers)
    }

    /// The blocks that count on a port.
    fn blocks(&self, subset: Option<&Subset>, port: u16) -> Blocks {
        let blocks = layered(self.rule.as_deref(), subset, Some(port));
        let mesh = &self.mesh.policy;
        Blocks {
            pool: blocks.pool.or_else(|| mesh.pool.clone()),
            outlier: blocks.outlier.or_else(|| mesh.outlier.clone()),
            ..blocks
        }
    }

    /// `None` if the rule does not define the subset; the whole service has none.
    fn subset(&self, name: &str) -> Option<Option<&Subset>> {
        match name {
            "" => Some(None),
            name => self.rule.as_ref()?.subsets.iter().find(|subset| &*subset.name == name).map(Some),
        }
    }
}

impl Clusters {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn all(&self) -> Box<[Arc<Cluster>]> {
        self.list.iter().map(|made| Arc::clone(&made.cluster)).collect()
    }

    /// The one of this name, if it was asked for.
    pub(super) fn named(&self, name: &str) -> Option<ClusterId> {
        self.by_name.get(name).copied()
    }

    fn get(&self, name: &str) -> Option<&Made> {
        self.list.get(self.by_name.get(name)?.0 as usize)
    }

    fn add(&mut self, made: Made) -> ClusterId {
        let id = ClusterId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.by_name.insert(Arc::clone(&made.cluster.name), id);
        self.list.push(made);
        id
    }

    /// The first `count` clusters under their ids, for other endpoints of the same services.
    pub(crate) fn with_endpoints(&self, count: usize, registry: &Registry, node: &Node) -> Self {
        let list = self.list.iter().take(count).map(|made| match &made.from {
            Some(from) => made.with_endpoints(from, registry, node),
            None => made.clone(),
        });
        let kept = |id: &ClusterId| (id.0 as usize) < count;
        let by_name = self.by_name.iter().filter(|(_, id)| kept(id));
        Self { by_name: by_name.map(|(name, id)| (Arc::clone(name), *id)).collect(), list: list.collect() }
    }

    /// The name of a cluster.
    pub(crate) fn name<'c>(&'c self, cluster: &'c ClusterRef) -> &'c str {
        match cluster {
            ClusterRef::Known(id) => self.list.get(id.0 as usize).map_or("", |made| &made.cluster.name),
            ClusterRef::Missing(name) => name,
        }
    }

    /// Host of the service behind a cluster; empty for a missing one.
    pub(crate) fn host(&self, cluster: &ClusterRef) -> &str {
        match cluster {
            ClusterRef::Known(id) => {
                self.list.get(id.0 as usize).map_or("", |made| &made.cluster.service.host)
            }
            ClusterRef::Missing(_) => "",
        }
    }
}

/// The name that users see in logs and metrics.
pub(crate) fn outbound_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

impl Made {
    fn with_endpoints(&self, from: &Inputs, registry: &Registry, node: &Node) -> Self {
        let Service { port, subset, .. } = &self.cluster.service;
        let service = registry.shared(&from.service.host).unwrap_or(&from.service);
        if Arc::ptr_eq(service, &from.service) {
            return self.clone();
        }
        let from = Inputs { service: Arc::clone(service), ..from.clone() };
        let cluster = build(&from, node, *port, subset);
        Self {
            cluster: cluster.map_or_else(|| Arc::clone(&self.cluster), |new| kept(new, Some(self))),
            from: Some(from),
        }
    }
}

/// The old one if it is the same.
fn kept(new: Cluster, old: Option<&Made>) -> Arc<Cluster> {
    old.filter(|old| *old.cluster == new).map_or_else(|| Arc::new(new), |old| Arc::clone(&old.cluster))
}

/// `None` if the service has no such port, or no rule such a subset. It sees nothing but its arguments, so that equal
/// ones need not be asked again.
fn build(from: &Inputs, node: &Node, number: u16, subset: &str) -> Option<Cluster> {
    let Inputs { service, mesh, peers, .. } = from;
    let port = service.port(number)?;
    let subset = from.subset(subset)?;
    let blocks = from.blocks(subset, number);
    let name = subset.map_or("", |subset| &subset.name);
    let all = Labels::new();
    let mut endpoints = service.endpoints(port, subset.map_or(&all, |subset| &subset.labels));
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.mutual) {
        let (namespace, number) = (&service.meta.namespace, endpoint.address.port());
        let refused = || peers.mode(namespace, &endpoint.labels, Some(number)) == PeerMode::Disable;
        if service.is_external() || refused() {
            Arc::make_mut(endpoint).mutual = false;
        }
    }
    let own = blocks.load_balancer.as_ref().and_then(|block| block.locality.as_ref());
    // Endpoints that are near come first even if none is ever found unhealthy: there may be none.
    let close = (own.is_none() && service.close).then(LocalitySetting::close);
    let setting = own.or(close.as_ref()).unwrap_or(&mesh.locality);
    let fails_over = blocks.outlier.is_some() || close.is_some();
    let Placed { endpoints, weights } = place(endpoints, setting, node, fails_over);
    let (discovery, endpoints) = match service.headless && node.interception.is_on() {
        // Istio: the client has chosen the pod.
        true => (Discovery::OriginalDestination, endpoints),
        false => discovery(mesh, service.resolution, endpoints),
    };
    let pool = blocks.pool.unwrap_or_default();
    let named = matches!(port.protocol, PortProtocol::Http1 | PortProtocol::Http2);
    let protocol = match port.protocol {
        _ if pool.client_protocol => Protocol::Client,
        _ if pool.upgrade.unwrap_or(mesh.upgrade && named) => Protocol::Http2,
        PortProtocol::Http2 => Protocol::Http2,
        PortProtocol::Http1 => Protocol::Http1,
        PortProtocol::Sniffed | PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Udp => Protocol::Client,
    };
    let cluster = bare(
        mesh,
        outbound_name(port.number, name, &service.host).into(),
        Service {
            host: Arc::clone(&service.host),
            name: service.short_name().into(),
            namespace: Arc::clone(&service.meta.namespace),
            port: port.number,
            subset: name.into(),
        },
        endpoints,
        protocol,
        subset.map_or_else(|| service.origin.clone(), |subset| subset.meta.origin(subset.span)),
    );
    let cluster = Cluster {
        discovery,
        localities: weights,
        warmup: blocks.load_balancer.as_ref().and_then(|block| block.warmup),
        retry_budget: blocks.retry_budget,
        balancer: blocks.load_balancer.map_or(Balancer::LeastRequest, |block| block.balancer),
        tls: tls::upstream(blocks.tls.as_ref(), service, &cluster.service, node, mesh),
        panic_threshold: blocks.outlier.as_ref().map_or(0, |detection| detection.panic_threshold),
        outlier: blocks.outlier.map(|detection| detection.outlier),
        ..cluster
    };
    Some(pooled(cluster, &pool))
}

/// A service by DNS whose endpoints are all written as addresses needs no look-up. Stand-ins become names.
fn discovery(
    mesh: &Mesh,
    resolution: Resolution,
    endpoints: Box<[Arc<Endpoint>]>,
) -> (Discovery, Box<[Arc<Endpoint>]>) {
    let is_name = |endpoint: &Arc<Endpoint>| !endpoint.hostname.is_empty();
    match resolution {
        Resolution::Dns { first_only } if endpoints.iter().any(is_name) => {
            let targets = endpoints.into_iter().map(target).collect();
            let dns = Dns { targets, first_only, refresh: mesh.dns_refresh };
            (Discovery::Dns(Box::new(dns)), Box::default())
        }
        Resolution::None => (Discovery::OriginalDestination, endpoints),
        _ => (Discovery::Static, endpoints),
    }
}

fn target(endpoint: Arc<Endpoint>) -> Target {
    if endpoint.hostname.is_empty() {
        return Target::Address(endpoint);
    }
    Target::Name(NamedEndpoint {
        name: Arc::clone(&endpoint.hostname),
        port: endpoint.address.port(),
        weight: endpoint.weight,
        labels: endpoint.labels.clone(),
        locality: endpoint.locality.clone(),
        priority: endpoint.priority,
        mutual: endpoint.mutual,
    })
}

impl Compiler<'_> {
    /// The cluster of a destination, or the name of the one that is missing.
    pub(crate) fn outbound(&mut self, host: &str, port: u16, subset: &str) -> ClusterRef {
        let name = outbound_name(port, subset, host);
        if let Some(id) = self.clusters.by_name.get(&*name) {
            return ClusterRef::Known(*id);
        }
        match self.make_outbound(&name, host, port, subset) {
            Some(made) => ClusterRef::Known(self.clusters.add(made)),
            None => ClusterRef::Missing(name.into()),
        }
    }

    fn make_outbound(&self, name: &str, host: &str, port: u16, subset: &str) -> Option<Made> {
        let service = self.registry.shared(host)?;
        let rule = self.rules.shared(service).map(Arc::clone);
        let (mesh, peers) = (Arc::clone(self.mesh), Arc::clone(self.peers));
        let from = Inputs { service: Arc::clone(service), rule, mesh, peers };
        let old = self.known.and_then(|known| known.get(name));
        if let Some(old) = old.filter(|old| old.from.as_ref().is_some_and(|known| known.are(&from))) {
            return Some(old.clone());
        }
        let cluster = kept(build(&from, self.node, port, subset)?, old);
        Some(Made { cluster, from: Some(from) })
    }

    /// One that no service stands behind.
    pub(super) fn add_bare(&mut self, cluster: Cluster) -> ClusterRef {
        let old = self.known.and_then(|known| known.get(&cluster.name));
        let cluster = kept(cluster, old);
        ClusterRef::Known(self.clusters.add(Made { cluster, from: None }))
    }

    /// Envoy ejects only if 100 * (ejected + 1) / endpoints stays within the limit. With a lone endpoint there is
    /// nothing to go to instead, so that it is no trap.
    pub(crate) fn warn_never_ejects(&mut self) {
        for Made { cluster, from } in &self.clusters.list {
            let (Some(outlier), Some(from)) = (&cluster.outlier, from) else { continue };
            // How many endpoints a name becomes is not known here: none are counted.
            let (endpoints, limit) = (cluster.endpoints.len(), usize::from(outlier.max_ejection_percent));
            if endpoints < 2 || 100 <= limit * endpoints {
                continue;
            }
            let subset = from.subset(&cluster.service.subset).flatten();
            let Some(detection) = from.blocks(subset, cluster.service.port).outlier else { continue };
            let message =
                format!("of {endpoints} endpoints {limit} % is less than one: none is ever ejected");
            let found = self.sink.report(Code::NeverEjects, detection.span, message);
            found.note(format!("cluster {}", cluster.name));
            found.help(format!("set maxEjectionPercent to {} or more", 100_usize.div_ceil(endpoints)));
        }
    }
}

/// A cluster without a destination rule.
pub(super) fn bare(
    mesh: &Mesh,
    name: Arc<str>,
    service: Service,
    endpoints: Box<[Arc<Endpoint>]>,
    protocol: Protocol,
    origin: Origin,
) -> Cluster {
    Cluster {
        name,
        service,
        discovery: Discovery::Static,
        endpoints,
        localities: None,
        balancer: Balancer::LeastRequest,
        warmup: None,
        limits: Limits::default(),
        retry_budget: None,
        outlier: None,
        panic_threshold: 0,
        tls: UpstreamTls::Off,
        protocol,
        source: Source::System,
        connect_timeout: mesh.connect_timeout,
        idle_timeout: Some(IDLE_TIMEOUT),
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_concurrent_streams: MAX_STREAMS,
        keepalive: mesh.keepalive,
        http2_keepalive: None,
        origin,
    }
}

/// With the limits and times of a pool; what it leaves out is as in the mesh.
pub(super) fn pooled(cluster: Cluster, pool: &ConnectionPool) -> Cluster {
    Cluster {
        limits: pool.limits,
        connect_timeout: pool.connect_timeout.unwrap_or(cluster.connect_timeout),
        idle_timeout: pool.idle_timeout.or(cluster.idle_timeout).filter(|timeout| !timeout.is_zero()),
        max_requests_per_connection: pool.max_requests_per_connection,
        max_connection_duration: pool.max_connection_duration,
        max_concurrent_streams: pool.max_concurrent_streams.unwrap_or(cluster.max_concurrent_streams),
        keepalive: pool.keepalive.or(cluster.keepalive),
        http2_keepalive: pool.http2_keepalive,
        ..cluster
    }
}
