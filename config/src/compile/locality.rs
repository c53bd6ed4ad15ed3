//! Where the endpoints of a cluster stand as seen from the proxy: their priorities, and the weights of their
//! localities. Istio's rules (`pilot/pkg/networking/core/loadbalancer`).

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    fields::Labels,
    istio::locality::{Distribute, LocalitySetting},
    snapshot::{Endpoint, Locality, LocalityWeight, Node},
};

/// The endpoints that stay, and the weights of their localities where they count.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    pub(super) weights: Option<Box<[LocalityWeight]>>,
}

/// Applies the setting. Failover needs outlier detection, or no endpoint ever fails; `distribute` does without.
pub(super) fn place(
    endpoints: Box<[Arc<Endpoint>]>,
    setting: &LocalitySetting,
    node: &Node,
    detects: bool,
) -> Placed {
    if setting.disabled {
        return Placed { endpoints, weights: None };
    }
    if !setting.distribute.is_empty() {
        let from = setting.distribute.iter().find(|entry| node.locality.is_within(&entry.from));
        let (endpoints, weights) = distribute(endpoints, from);
        return Placed { endpoints, weights: Some(weights) };
    }
    if !detects {
        return Placed { endpoints, weights: None };
    }
    let mut ranks = vec![0; endpoints.len()];
    if !setting.failover_priority.is_empty() {
        ranks = endpoints.iter().map(|endpoint| label_rank(endpoint, setting, node)).collect();
    }
    if setting.failover_priority.is_empty() || !setting.failover.is_empty() {
        for (rank, endpoint) in ranks.iter_mut().zip(&endpoints) {
            // There are five ranks of region, zone and sub-zone within each rank of labels.
            *rank = *rank * 5 + region_rank(&endpoint.locality, setting, &node.locality);
        }
    }
    let endpoints = with_priorities(endpoints, &ranks);
    let explicit = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    let weights = explicit.then(|| weighed(&endpoints).into_values().collect());
    Placed { endpoints, weights }
}

/// By the first label that differs, counted from the end.
fn label_rank(endpoint: &Endpoint, setting: &LocalitySetting, node: &Node) -> u32 {
    if node.labels.is_empty() && node.locality.is_empty() {
        return 0;
    }
    let differs = |(name, value): &(Box<str>, Option<Box<str>>)| {
        let wanted = value.as_deref().unwrap_or_else(|| label(name, &node.labels, &node.locality));
        wanted != label(name, &endpoint.labels, &endpoint.locality)
    };
    let first = setting.failover_priority.iter().position(differs);
    first.map_or(0, |index| u32::try_from(setting.failover_priority.len() - index).unwrap_or(u32::MAX))
}

/// A workload's label; those of the topology follow from its locality, as Istio adds them to it.
fn label<'l>(name: &str, labels: &'l Labels, locality: &'l Locality) -> &'l str {
    let [region, zone, sub_zone] = Locality::LABELS;
    let written = labels.get(name).map(|value| &**value);
    written.unwrap_or_else(|| match name {
        _ if name == region => &locality.region,
        _ if name == zone => &locality.zone,
        _ if name == sub_zone => &locality.sub_zone,
        _ => "",
    })
}

/// The distance; of the other regions the one that `failover` names comes before the rest.
fn region_rank(endpoint: &Locality, setting: &LocalitySetting, own: &Locality) -> u32 {
    let distance = own.distance(endpoint);
    let next = setting.failover.iter().find(|(from, _)| **from == *own.region);
    match next {
        Some((_, to)) if distance == 3 && **to != *endpoint.region => 4,
        _ => distance,
    }
}

/// Priorities count from 0 without a gap.
fn with_priorities(mut endpoints: Box<[Arc<Endpoint>]>, ranks: &[u32]) -> Box<[Arc<Endpoint>]> {
    let mut present = ranks.to_vec();
    present.sort_unstable();
    present.dedup();
    for (endpoint, rank) in endpoints.iter_mut().zip(ranks) {
        let priority = present.partition_point(|other| other < rank);
        Arc::make_mut(endpoint).priority = u32::try_from(priority).unwrap_or(u32::MAX);
    }
    endpoints
}

/// Each locality weighs what its endpoints do, unless it is told otherwise.
fn weighed(endpoints: &[Arc<Endpoint>]) -> BTreeMap<(u32, Locality), LocalityWeight> {
    let mut weights = BTreeMap::new();
    for endpoint in endpoints {
        let (priority, locality) = (endpoint.priority, endpoint.locality.clone());
        let new = LocalityWeight { priority, locality: locality.clone(), weight: 0 };
        let entry = weights.entry((priority, locality)).or_insert(new);
        entry.weight = entry.weight.saturating_add(endpoint.weight);
    }
    weights
}

/// The endpoints of a locality that no pattern names get nothing. Several localities of one pattern share its
/// percentage by what their endpoints weigh.
fn distribute(
    endpoints: Box<[Arc<Endpoint>]>,
    entry: Option<&Distribute>,
) -> (Box<[Arc<Endpoint>]>, Box<[LocalityWeight]>) {
    let mut weights: Vec<LocalityWeight> = weighed(&endpoints).into_values().collect();
    let Some(entry) = entry else { return (endpoints, weights.into()) };
    let target = |locality: &Locality| entry.to.iter().position(|(pattern, _)| locality.is_within(pattern));
    let mut totals = vec![0_u64; entry.to.len()];
    for weight in &weights {
        if let Some(total) = target(&weight.locality).and_then(|index| totals.get_mut(index)) {
            *total += u64::from(weight.weight);
        }
    }
    weights.retain_mut(|weight| {
        let Some(index) = target(&weight.locality) else { return false };
        let (Some((_, percent)), Some(total)) = (entry.to.get(index), totals.get(index)) else {
            return false;
        };
        let share = (u64::from(weight.weight) * u64::from(*percent)).div_ceil((*total).max(1));
        weight.weight = u32::try_from(share).unwrap_or(u32::MAX);
        true
    });
    let endpoints = endpoints.into_iter().filter(|endpoint| target(&endpoint.locality).is_some()).collect();
    (endpoints, weights.into())
}
