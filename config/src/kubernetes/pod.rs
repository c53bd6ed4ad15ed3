//! `Pod` (v1): labels and addresses. The rest, which changes with every version of Kubernetes, is not looked into.

use std::net::IpAddr;

use crate::{istio::Meta, yaml::Node};

/// One resource.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) meta: Meta,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Reads `status.podIPs`, or `status.podIP`.
pub(crate) fn read(document: &Node, meta: Meta) -> Pod {
    let status = document.get("status");
    let several = status.and_then(|status| status.get("podIPs")).map(Node::items).unwrap_or_default();
    let lone = status.and_then(|status| status.get("podIP"));
    let nodes = several.iter().filter_map(|entry| entry.get("ip")).chain(lone.filter(|_| several.is_empty()));
    let addresses = nodes.filter_map(|node| node.text()?.parse().ok()).collect();
    Pod { meta, addresses }
}
