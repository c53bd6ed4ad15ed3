//! `Pod` (v1): labels, addresses, the service account, and whether it is ready. The rest, which changes with every
//! version of Kubernetes, is not looked into.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    istio::{
        Meta,
        service_entry::{Account, Address, Workload},
    },
    snapshot::Locality,
    yaml::Node,
};

/// One resource.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) meta: Meta,
    pub(crate) addresses: Vec<IpAddr>,
    account: Option<Arc<str>>,
    ready: bool,
}

/// Reads `status.podIPs`, or `status.podIP`, and the conditions.
pub(crate) fn read(document: &Node, meta: Meta) -> Pod {
    let status = document.get("status");
    let several = status.and_then(|status| status.get("podIPs")).map(Node::items).unwrap_or_default();
    let lone = status.and_then(|status| status.get("podIP"));
    let nodes = several.iter().filter_map(|entry| entry.get("ip")).chain(lone.filter(|_| several.is_empty()));
    let addresses = nodes.filter_map(|node| node.text()?.parse().ok()).collect();
    let ends = document.get("metadata").and_then(|metadata| metadata.get("deletionTimestamp")).is_some();
    Pod {
        meta,
        addresses,
        account: document.get("spec").and_then(|spec| spec.get("serviceAccountName")?.text()).map(Into::into),
        ready: !ends && status.and_then(|status| status.get("conditions")).is_none_or(is_ready),
    }
}

fn is_ready(conditions: &Node) -> bool {
    let says =
        |condition: &Node, key: &str, value: &str| condition.get(key).and_then(Node::text) == Some(value);
    conditions.items().iter().any(|one| says(one, "type", "Ready") && says(one, "status", "True"))
}

impl Pod {
    /// As an endpoint of a `ServiceEntry` that selects it; a pod that is not ready is none.
    pub(crate) fn workload(&self) -> Option<Workload> {
        Some(Workload {
            address: Address::Ip(*self.addresses.first().filter(|_| self.ready)?),
            ports: BTreeMap::new(),
            labels: self.meta.labels.clone(),
            weight: 1,
            locality: Some(self.locality()).filter(|locality| !locality.is_empty()),
            account: self.account(),
            span: self.meta.span,
        })
    }

    /// That of `spec.serviceAccountName`, which the API server always writes.
    pub(crate) fn account(&self) -> Account {
        self.account.clone().map_or(Account::Unknown, Account::OfPod)
    }

    /// By its labels, among them those that Kubernetes may copy from the node.
    pub(crate) fn locality(&self) -> Locality {
        Locality::of_labels(&self.meta.labels)
    }
}
