//! Clusters for the tests of this module.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use outrigger_config::snapshot::{
    Balancer, Cluster, Discovery, Endpoint, Limits, Locality, Node, Observation, Origin, Outlier,
    PathNormalization, Protocol, Service, Snapshot, Source, UpstreamTls, Version,
};
use tokio::{sync::Notify, time::Instant};

use super::ClusterState;

/// A cluster with what a test sets; all else is Istio's default.
pub(super) struct ClusterBuilder(pub(super) Cluster);

impl ClusterBuilder {
    /// `hosts` endpoints of weight 1, 10.0.0.1:8080 and so on.
    pub(super) fn new(hosts: u16) -> Self {
        let endpoints: Vec<_> =
            (1..=hosts).map(|n| (format!("10.0.{}.{}:8080", n / 256, n % 256), 1)).collect();
        Self(Cluster {
            name: "outbound|80||test".into(),
            service: Service {
                host: "test".into(),
                name: "test".into(),
                namespace: "default".into(),
                port: 80,
                subset: "".into(),
            },
            discovery: Discovery::Static,
            endpoints: Box::default(),
            localities: None,
            balancer: Balancer::RoundRobin,
            warmup: None,
            limits: Limits::default(),
            retry_budget: None,
            outlier: None,
            panic_threshold: 0,
            tls: UpstreamTls::Off,
            protocol: Protocol::Http1,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: None,
            max_requests_per_connection: None,
            max_connection_duration: None,
            max_concurrent_streams: i32::MAX as u32,
            source: Source::System,
            keepalive: None,
            http2_keepalive: None,
            origin: Origin { resource: "ServiceEntry test".into(), file: "test.yaml".into(), line: 1 },
        })
        .endpoints(endpoints.iter().map(|(address, weight)| (address.as_str(), *weight)))
    }

    pub(super) fn endpoints<'a>(mut self, endpoints: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        self.0.endpoints = endpoints.into_iter().map(|(address, weight)| endpoint(address, weight)).collect();
        self
    }

    /// One endpoint.
    pub(super) fn to(self, address: SocketAddr) -> Self {
        self.endpoints([(address.to_string().as_str(), 1)])
    }

    pub(super) fn balancer(mut self, balancer: Balancer) -> Self {
        self.0.balancer = balancer;
        self
    }

    pub(super) fn limits(mut self, limits: Limits) -> Self {
        self.0.limits = limits;
        self
    }

    pub(super) fn outlier(mut self, outlier: Outlier) -> Self {
        self.0.outlier = Some(outlier);
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Cluster)) -> Self {
        change(&mut self.0);
        self
    }
}

/// Ejects after `errors` 5xx, any share of the hosts, for 1 s, swept each 0.5 s.
pub(super) fn outlier(errors: u32) -> Outlier {
    Outlier {
        consecutive_5xx: errors,
        consecutive_gateway: 0,
        split_local_origin: false,
        consecutive_local_origin: 0,
        interval: Duration::from_millis(500),
        base_ejection_time: Duration::from_secs(1),
        max_ejection_percent: 100,
        error_codes: None,
    }
}

pub(super) fn endpoint(address: &str, weight: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: address.parse().unwrap(),
        key: address.into(),
        hostname: "".into(),
        weight,
        labels: BTreeMap::new(),
        locality: Locality::default(),
        priority: 0,
        mutual: false,
    })
}

pub(super) fn state(cluster: ClusterBuilder) -> Arc<ClusterState> {
    Arc::new(ClusterState::new(Arc::new(cluster.0), Arc::new(Notify::new()), Arc::default(), Instant::now()))
}

pub(super) fn snapshot(clusters: impl IntoIterator<Item = ClusterBuilder>) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        host_names: Arc::default(),
        version: Version(0),
        node: Node::default(),
        listeners: Arc::default(),
        route_tables: Arc::default(),
        clusters: clusters.into_iter().map(|cluster| Arc::new(cluster.0)).collect(),
        outbound: Observation::off(),
        inbound: Observation::off(),
        paths: PathNormalization::Base,
        metrics: None,
    })
}
