//! Clusters: a service's port with the policy of a subset, made once for each name.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    Compiler,
    locality::{Placed, place},
    policy::layered,
};
use crate::{
    fields::Labels,
    istio::{
        PortProtocol,
        destination_rule::{Blocks, Subset},
        service_entry::ServicePort,
        sidecar::Ingress,
    },
    registry::Service,
    report::Code,
    snapshot::{
        self, Balancer, Cluster, ClusterId, ClusterRef, Discovery, Endpoint, Limits, Origin, Protocol,
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
    pub(crate) list: Vec<Arc<Cluster>>,
}

impl Clusters {
    fn add(&mut self, cluster: Cluster) -> ClusterId {
        let id = ClusterId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.by_name.insert(Arc::clone(&cluster.name), id);
        self.list.push(Arc::new(cluster));
        id
    }

    /// Host of the service behind a cluster; empty for a missing one.
    pub(crate) fn host(&self, cluster: &ClusterRef) -> &str {
        match cluster {
            ClusterRef::Known(id) => self.list.get(id.0 as usize).map_or("", |cluster| &cluster.service.host),
            ClusterRef::Missing(_) => "",
        }
    }
}

/// The name that users see in logs and metrics.
pub(crate) fn outbound_name(port: u16, subset: &str, host: &str) -> String {
    format!("outbound|{port}|{subset}|{host}")
}

impl Compiler<'_> {
    /// The cluster of a destination, or the name of the one that is missing.
    pub(crate) fn outbound(&mut self, host: &str, port: u16, subset: &str) -> ClusterRef {
        let name = outbound_name(port, subset, host);
        if let Some(id) = self.clusters.by_name.get(&*name) {
            return ClusterRef::Known(*id);
        }
        match self.make_outbound(host, port, subset) {
            Some(cluster) => ClusterRef::Known(self.clusters.add(cluster)),
            None => ClusterRef::Missing(name.into()),
        }
    }

    fn make_outbound(&mut self, host: &str, port: u16, subset: &str) -> Option<Cluster> {
        let service = self.registry.find(host)?;
        let port = service.port(port)?;
        let rule = self.rules.of(service);
        let subset = match subset {
            "" => None,
            name => Some(rule?.subsets.iter().find(|subset| &*subset.name == name)?),
        };
        let blocks = layered(rule, subset, Some(port.number));
        let cluster = self.build(service, port, subset, blocks);
        Some(cluster)
    }

    fn build(
        &mut self,
        service: &Service,
        port: &ServicePort,
        subset: Option<&Subset>,
        blocks: Blocks,
    ) -> Cluster {
        let name = subset.map_or("", |subset| &subset.name);
        let all = Labels::new();
        let endpoints = service.endpoints(port, subset.map_or(&all, |subset| &subset.labels));
        let own = blocks.load_balancer.as_ref().and_then(|block| block.locality.as_ref());
        let detects = blocks.outlier.is_some();
        if let Some(span) = own.filter(|own| !own.disabled && !detects).and_then(|own| own.failover_span) {
            let message = "failover has no effect without outlierDetection: no endpoint ever fails";
            self.sink.report(Code::IneffectivePolicy, span, message).help("add `outlierDetection`");
        }
        let setting = own.unwrap_or(&self.mesh.locality);
        let Placed { endpoints, weights } = place(endpoints, setting, self.node, detects);
        let pool = blocks.pool.unwrap_or_default();
        let outlier = blocks.outlier.inspect(|detection| {
            self.warn_never_ejects(
                detection,
                endpoints.len(),
                &outbound_name(port.number, name, &service.host),
            );
        });
        let protocol = match port.protocol {
            _ if pool.upgrade => Protocol::Http2,
            _ if pool.client_protocol => Protocol::Client,
            PortProtocol::Http2 => Protocol::Http2,
            PortProtocol::Http1 => Protocol::Http1,
            PortProtocol::Sniffed | PortProtocol::Other => Protocol::Client,
        };
        Cluster {
            name: outbound_name(port.number, name, &service.host).into(),
            service: snapshot::Service {
                host: Arc::clone(&service.host),
                name: service.short_name().into(),
                namespace: Arc::clone(&service.meta.namespace),
                port: port.number,
                subset: name.into(),
            },
            discovery: Discovery::Static,
            endpoints,
            localities: weights,
            warmup: blocks.load_balancer.as_ref().and_then(|block| block.warmup),
            balancer: blocks.load_balancer.map_or(Balancer::LeastRequest, |block| block.balancer),
            limits: pool.limits,
            retry_budget: blocks.retry_budget,
            panic_threshold: outlier.as_ref().map_or(0, |detection| detection.panic_threshold),
            outlier: outlier.map(|detection| detection.outlier),
            protocol,
            connect_timeout: pool.connect_timeout.unwrap_or(self.mesh.connect_timeout),
            idle_timeout: Some(pool.idle_timeout.unwrap_or(IDLE_TIMEOUT))
                .filter(|timeout| !timeout.is_zero()),
            max_requests_per_connection: pool.max_requests_per_connection,
            max_connection_duration: pool.max_connection_duration,
            max_concurrent_streams: pool.max_concurrent_streams.unwrap_or(MAX_STREAMS),
            keepalive: pool.keepalive.or(self.mesh.keepalive),
            http2_keepalive: pool.http2_keepalive,
            origin: subset.map_or_else(|| service.origin.clone(), |subset| subset.meta.origin(subset.span)),
        }
    }

    /// Envoy ejects only if 100 * (ejected + 1) / endpoints stays within the limit. With a lone endpoint there is
    /// nothing to go to instead, so that it is no trap.
    fn warn_never_ejects(
        &mut self,
        detection: &crate::istio::outlier::OutlierDetection,
        endpoints: usize,
        cluster: &str,
    ) {
        let limit = usize::from(detection.outlier.max_ejection_percent);
        if endpoints < 2 || 100 <= limit * endpoints {
            return;
        }
        let message = format!("of {endpoints} endpoints {limit} % is less than one: none is ever ejected");
        let found = self.sink.report(Code::NeverEjects, detection.span, message);
        found.note(format!("cluster {cluster}"));
        found.help(format!("set maxEjectionPercent to {} or more", 100_usize.div_ceil(endpoints)));
    }

    /// The last resort of ALLOW_ANY: an explicit listener knows no original destination, so it has no endpoint.
    pub(crate) fn passthrough(&mut self, origin: &Origin) -> ClusterRef {
        const NAME: &str = "PassthroughCluster";
        if let Some(id) = self.clusters.by_name.get(NAME) {
            return ClusterRef::Known(*id);
        }
        let service = snapshot::Service {
            host: NAME.into(),
            name: NAME.into(),
            namespace: "unknown".into(),
            port: 0,
            subset: "".into(),
        };
        let cluster = self.bare(NAME.into(), service, Box::default(), Protocol::Client, origin.clone());
        let cluster = Cluster { discovery: Discovery::OriginalDestination, ..cluster };
        ClusterRef::Known(self.clusters.add(cluster))
    }

    /// The workload itself, behind an ingress listener.
    pub(crate) fn inbound(&mut self, ingress: &Ingress, origin: Origin) -> ClusterRef {
        let node = self.node;
        let label = |name: &str| node.labels.get(name).map(Arc::clone);
        let name = label("service.istio.io/canonical-name")
            .or_else(|| label("app.kubernetes.io/name"))
            .or_else(|| label("app"))
            .unwrap_or_else(|| Arc::clone(&node.workload));
        let service = snapshot::Service {
            host: Arc::clone(&name),
            name,
            namespace: Arc::clone(&node.namespace),
            port: ingress.port.number,
            subset: "".into(),
        };
        let endpoint = Endpoint {
            address: ingress.endpoint,
            key: ingress.endpoint.to_string().into(),
            weight: 1,
            labels: node.labels.clone(),
            locality: node.locality.clone(),
            priority: 0,
        };
        let protocol = match ingress.port.protocol {
            PortProtocol::Http2 => Protocol::Http2,
            PortProtocol::Http1 => Protocol::Http1,
            PortProtocol::Sniffed | PortProtocol::Other => Protocol::Client,
        };
        let name = format!("inbound|{}||", ingress.port.number).into();
        let cluster = self.bare(name, service, [Arc::new(endpoint)].into(), protocol, origin);
        ClusterRef::Known(self.clusters.add(cluster))
    }

    /// A cluster without a destination rule.
    fn bare(
        &self,
        name: Arc<str>,
        service: snapshot::Service,
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
            protocol,
            connect_timeout: self.mesh.connect_timeout,
            idle_timeout: Some(IDLE_TIMEOUT),
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_concurrent_streams: MAX_STREAMS,
            keepalive: self.mesh.keepalive,
            http2_keepalive: None,
            origin,
        }
    }
}
