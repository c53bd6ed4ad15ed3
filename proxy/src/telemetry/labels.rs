//! Istio's labels of a request or connection: who called whom, and how it ended.
//!
//! An empty value counts as an absent label in Prometheus, and dashboards drop such series: what is not known is
//! written `unknown`. Only `grpc_response_status` is left out where a request is not gRPC, and `response_code` of
//! connections.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_config::snapshot::{Cluster, Direction, Endpoint, Node};

use super::Flags;
use crate::net::tls::{Parties, namespace};

/// Names in Istio's order.
pub(super) const NAMES: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

const UNKNOWN: &str = "unknown";

/// Values in the order of [`NAMES`]; an empty one is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Labels(pub(super) [Arc<str>; NAMES.len()]);

/// One end of a request, as labels tell it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    workload: Arc<str>,
    namespace: Arc<str>,
    app: Arc<str>,
    version: Arc<str>,
    canonical_service: Arc<str>,
    canonical_revision: Arc<str>,
    cluster: Arc<str>,
}

/// The label `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Http,
    Grpc,
    /// A connection that passed as bytes.
    Tcp,
}

/// What a request or connection tells about itself.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) direction: Direction,
    pub(super) cluster: Option<&'a Cluster>,
    pub(super) endpoint: Option<&'a Endpoint>,
    /// Host of the request, where no cluster tells the service: there is none, or one for traffic to anywhere.
    pub(super) host: Option<&'a str>,
    pub(super) spoken: Spoken,
    pub(super) grpc_status: Option<u32>,
    pub(super) status: u16,
    pub(super) flags: Flags,
    /// Of the connection to whoever the other is, if it is secured.
    pub(super) parties: Option<&'a Parties>,
}

impl Labels {
    pub(super) fn new(own: &Peer, outcome: &Outcome<'_>) -> Self {
        let unknown = || Arc::<str>::from(UNKNOWN);
        let outbound = outcome.direction == Direction::Outbound;
        let (mut source, mut destination) = if outbound {
            (own.clone(), Peer::destination(own, outcome))
        } else {
            (Peer::unknown(), own.clone())
        };
        let principal = |of: fn(&Parties) -> Option<&Arc<str>>| {
            outcome.parties.and_then(of).cloned().unwrap_or_else(unknown)
        };
        let (ours, theirs) = (principal(Parties::own_principal), principal(Parties::peer_principal));
        // The certificate is proof of a namespace, labels are not.
        let other = if outbound { &mut destination } else { &mut source };
        if let Some(proven) = namespace(&theirs) {
            other.namespace = proven.into();
        }
        let (source_principal, destination_principal) =
            if outbound { (ours, theirs) } else { (theirs, ours) };
        let service = match (outcome.cluster, outcome.host) {
            (Some(cluster), _) if !cluster.service.host.is_empty() => Arc::clone(&cluster.service.host),
            (_, Some(host)) if outbound => host.into(),
            _ if outbound => unknown(),
            _ => Arc::clone(&own.canonical_service),
        };
        let (service_name, service_namespace) = match outcome.cluster {
            Some(cluster) => (Arc::clone(&cluster.service.name), known(&cluster.service.namespace)),
            None => (Arc::clone(&service), Arc::clone(&destination.namespace)),
        };
        let grpc_status = match outcome.grpc_status {
            Some(code) if outcome.spoken == Spoken::Grpc => code.to_string().into(),
            _ => Arc::default(),
        };
        Self([
            if outbound { "source" } else { "destination" }.into(),
            source.workload,
            source.canonical_service,
            source.canonical_revision,
            source.namespace,
            source_principal,
            source.app,
            source.version,
            source.cluster,
            destination.workload,
            destination.namespace,
            destination_principal,
            destination.app,
            destination.version,
            service,
            destination.canonical_service,
            destination.canonical_revision,
            service_name,
            service_namespace,
            destination.cluster,
            match outcome.spoken {
                Spoken::Http => "http",
                Spoken::Grpc => "grpc",
                Spoken::Tcp => "tcp",
            }
            .into(),
            match outcome.spoken {
                Spoken::Tcp => "".into(),
                Spoken::Http | Spoken::Grpc => outcome.status.to_string().into(),
            },
            grpc_status,
            outcome.flags.to_string().into(),
            // Istio: the client side always says `unknown`.
            match (outbound, outcome.parties) {
                (true, _) => UNKNOWN,
                (false, Some(_)) => "mutual_tls",
                (false, None) => "none",
            }
            .into(),
        ])
    }

    /// Names and values; an empty one is left out.
    pub(super) fn pairs(&self) -> Vec<(&'static str, Arc<str>)> {
        let pairs = NAMES.into_iter().zip(&self.0).filter(|(_, value)| !value.is_empty());
        pairs.map(|(name, value)| (name, Arc::clone(value))).collect()
    }

    /// The series that takes what no longer fits.
    pub(super) fn overflow() -> Self {
        Self(std::array::from_fn(|_| "overflow".into()))
    }
}

impl Peer {
    /// The pod that this proxy stands beside.
    pub(super) fn own(node: &Node) -> Self {
        Self::from_labels(&node.labels, &node.workload, &node.namespace, &node.cluster)
    }

    fn unknown() -> Self {
        Self { canonical_revision: "latest".into(), ..Self::from_labels(&BTreeMap::new(), "", "", "") }
    }

    /// What an endpoint's labels tell: it is in the service's namespace, and in our own cluster.
    fn destination(own: &Self, outcome: &Outcome<'_>) -> Self {
        match (outcome.cluster, outcome.endpoint) {
            (Some(cluster), Some(endpoint)) => {
                Self::from_labels(&endpoint.labels, "", &cluster.service.namespace, &own.cluster)
            }
            _ => Self::unknown(),
        }
    }

    fn from_labels(
        labels: &BTreeMap<Arc<str>, Arc<str>>,
        workload: &str,
        namespace: &str,
        cluster: &str,
    ) -> Self {
        let first = |names: &[&str]| {
            names.iter().filter_map(|name| labels.get(*name)).find(|value| !value.is_empty()).cloned()
        };
        let workload = known(workload);
        Self {
            namespace: known(namespace),
            app: first(&["app.kubernetes.io/name", "app"]).unwrap_or_else(|| UNKNOWN.into()),
            version: first(&["app.kubernetes.io/version", "version"]).unwrap_or_else(|| UNKNOWN.into()),
            canonical_service: first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .unwrap_or_else(|| Arc::clone(&workload)),
            canonical_revision: first(&[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ])
            .unwrap_or_else(|| "latest".into()),
            cluster: known(cluster),
            workload,
        }
    }
}

fn known(value: &str) -> Arc<str> {
    if value.is_empty() { UNKNOWN.into() } else { value.into() }
}
