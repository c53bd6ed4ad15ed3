//! What was read of the documents, before anything refers to anything.

use std::sync::Arc;

use crate::{
    istio::{
        Meta,
        destination_rule::DestinationRule,
        envoy_filter::EnvoyFilter,
        mesh::Mesh,
        peer_authentication::PeerAuthentication,
        service_entry::{ServiceEntry, Workload},
        sidecar::Sidecar,
        telemetry::Telemetry,
        virtual_service::VirtualService,
    },
    kubernetes::Cluster,
};

/// Of one document, or of all.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    pub(crate) virtual_services: Vec<Arc<VirtualService>>,
    pub(crate) destination_rules: Vec<Arc<DestinationRule>>,
    pub(crate) service_entries: Vec<Arc<ServiceEntry>>,
    pub(crate) workloads: Vec<Arc<(Meta, Workload)>>,
    pub(crate) cluster: Cluster,
    pub(crate) sidecars: Vec<Arc<Sidecar>>,
    pub(crate) telemetries: Vec<Arc<Telemetry>>,
    pub(crate) envoy_filters: Vec<Arc<EnvoyFilter>>,
    pub(crate) peer_authentications: Vec<Arc<PeerAuthentication>>,
    pub(crate) mesh: Option<Arc<Mesh>>,
}

impl Resources {
    /// Adds those of a document; the last settings of the mesh count.
    pub(crate) fn extend(&mut self, other: &Self) {
        let Self {
            virtual_services,
            destination_rules,
            service_entries,
            workloads,
            cluster,
            sidecars,
            telemetries,
            envoy_filters,
            peer_authentications,
            mesh,
        } = other;
        self.virtual_services.extend(virtual_services.iter().cloned());
        self.destination_rules.extend(destination_rules.iter().cloned());
        self.service_entries.extend(service_entries.iter().cloned());
        self.workloads.extend(workloads.iter().cloned());
        self.cluster.extend(cluster);
        self.sidecars.extend(sidecars.iter().cloned());
        self.telemetries.extend(telemetries.iter().cloned());
        self.envoy_filters.extend(envoy_filters.iter().cloned());
        self.peer_authentications.extend(peer_authentications.iter().cloned());
        self.mesh = mesh.clone().or(self.mesh.take());
    }
}
