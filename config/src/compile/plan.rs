//! What a compile leaves for the next one: the clusters, and all that follows from anything but endpoints, which is
//! taken over whole as long as nothing but endpoints changes.

use std::sync::Arc;

use super::{Clusters, PeerPolicies, Resources, Rules, VirtualServices, capture::ByEndpoint};
use crate::{
    istio::mesh::Mesh,
    registry::Registry,
    sink::Finding,
    snapshot::{HostNames, Listener, RouteTable},
};

/// The last good compile.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) resources: Resources,
    pub(super) mesh: Arc<Mesh>,
    pub(super) peers: Arc<PeerPolicies>,
    pub(super) registry: Registry,
    pub(super) plan: Plan,
    pub(super) clusters: Clusters,
}

/// Rules, listeners and routes. Ids in it are positions among the first clusters, which stay where they are.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) rules: Arc<Rules>,
    pub(super) virtual_services: Arc<VirtualServices>,
    pub(super) listeners: Arc<[Listener]>,
    pub(super) tables: Arc<[RouteTable]>,
    pub(super) host_names: Arc<HostNames>,
    /// How many clusters it has asked for.
    pub(super) clusters: usize,
    /// What of it follows from endpoints.
    pub(super) by_endpoint: ByEndpoint,
    /// What was found on the way.
    pub(super) findings: Arc<[Finding]>,
}

impl Known {
    /// Settings that were not written are the same object every time.
    pub(super) fn default_mesh(&self) -> Option<Arc<Mesh>> {
        self.resources.mesh.is_none().then(|| Arc::clone(&self.mesh))
    }

    /// The policies, if they are as they were.
    pub(super) fn peers(&self, resources: &Resources, mesh: &Mesh) -> Option<Arc<PeerPolicies>> {
        let alike = same(&self.resources.peer_authentications, &resources.peer_authentications)
            && self.mesh.root_namespace == mesh.root_namespace;
        alike.then(|| Arc::clone(&self.peers))
    }

    /// True if the plan for these would be the same.
    pub(super) fn is_alike(
        &self,
        resources: &Resources,
        mesh: &Arc<Mesh>,
        peers: &Arc<PeerPolicies>,
        registry: &Registry,
        by_endpoint: &ByEndpoint,
    ) -> bool {
        same(&self.resources.virtual_services, &resources.virtual_services)
            && same(&self.resources.destination_rules, &resources.destination_rules)
            && same(&self.resources.sidecars, &resources.sidecars)
            && Arc::ptr_eq(&self.mesh, mesh)
            && Arc::ptr_eq(&self.peers, peers)
            && self.plan.by_endpoint == *by_endpoint
            && self.registry.is_alike(registry)
    }
}

/// True if they are the same objects.
fn same<T>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other))
}
