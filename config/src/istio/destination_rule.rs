//! `DestinationRule`: policies and subsets as blocks, before they are layered for a cluster.

use super::{
    Exports, Meta, check_labels, check_name,
    client_tls::{CLIENT_TLS, ClientTls, client_tls},
    connection_pool::{CONNECTION_POOL, ConnectionPool, connection_pool},
    destination::PORT_SELECTOR,
    is_label, later,
    load_balancer::{LOAD_BALANCER, LoadBalancer, load_balancer},
    locality,
    outlier::{OUTLIER, OutlierDetection, outlier},
    port,
    retry_budget::{RETRY_BUDGET, retry_budget},
    selector,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, warned, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::RetryBudget,
};

/// One resource; the host is a full name.
#[derive(Debug, Clone)]
pub(crate) struct DestinationRule {
    pub(crate) meta: Meta,
    pub(crate) host: Spanned<Box<str>>,
    pub(crate) policy: Option<Policy>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) exports: Exports,
    pub(crate) selector: Option<Labels>,
}

/// One entry of `subsets`.
#[derive(Debug, Clone)]
pub(crate) struct Subset {
    pub(crate) name: Box<str>,
    pub(crate) meta: Meta,
    pub(crate) span: Span,
    pub(crate) labels: Labels,
    pub(crate) policy: Option<Policy>,
}

/// `trafficPolicy`.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) blocks: Blocks,
    /// `portLevelSettings`
    pub(crate) ports: Vec<(u16, Blocks)>,
}

/// What a layer may override; a whole block at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) pool: Option<ConnectionPool>,
    pub(crate) outlier: Option<OutlierDetection>,
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) tls: Option<ClientTls>,
}

pub(crate) static DESTINATION_RULE: Message = Message {
    name: "DestinationRule",
    fields: &[
        yes("host", Type::Text, "short_names_take_the_namespace_of_the_rule"),
        yes("trafficPolicy", Type::Object(&TRAFFIC_POLICY), "policies_are_layered_block_by_block"),
        yes("subsets", Type::List(&Type::Object(&SUBSET)), "the_seed_compiles"),
        yes("exportTo", Type::List(&Type::Text), "exports_limit_who_sees_a_resource"),
        yes("workloadSelector", Type::Object(&RULE_SELECTOR), "a_rule_with_a_selector_wins"),
    ],
};

/// `istio.type.v1beta1.WorkloadSelector`, which has no `labels`.
static RULE_SELECTOR: Message = Message {
    name: "DestinationRuleSelector",
    fields: &[yes("matchLabels", Type::Map(&Type::Text), "a_rule_with_a_selector_wins")],
};

static SUBSET: Message = Message {
    name: "Subset",
    fields: &[
        yes("name", Type::Text, "the_seed_compiles"),
        yes("labels", Type::Map(&Type::Text), "the_seed_compiles"),
        yes("trafficPolicy", Type::Object(&TRAFFIC_POLICY), "policies_are_layered_block_by_block"),
    ],
};

pub(crate) static TRAFFIC_POLICY: Message = Message {
    name: "TrafficPolicy",
    fields: &[
        yes("loadBalancer", Type::Object(&LOAD_BALANCER), "policies_are_layered_block_by_block"),
        yes("connectionPool", Type::Object(&CONNECTION_POOL), "policies_are_layered_block_by_block"),
        yes("outlierDetection", Type::Object(&OUTLIER), "policies_are_layered_block_by_block"),
        yes("tls", Type::Object(&CLIENT_TLS), "tls_is_layered_like_the_other_blocks"),
        yes(
            "portLevelSettings",
            Type::List(&Type::Object(&PORT_POLICY)),
            "policies_are_layered_block_by_block",
        ),
        warned("tunnel", Type::Object(&later::TUNNEL), "tunnels are not built yet"),
        warned("proxyProtocol", Type::Object(&later::PROXY_PROTOCOL), "the PROXY protocol is not built yet"),
        yes("retryBudget", Type::Object(&RETRY_BUDGET), "a_retry_budget_stands_in_for_max_retries"),
    ],
};

static PORT_POLICY: Message = Message {
    name: "PortTrafficPolicy",
    fields: &[
        yes("port", Type::Object(&PORT_SELECTOR), "policies_are_layered_block_by_block"),
        yes("loadBalancer", Type::Object(&LOAD_BALANCER), "policies_are_layered_block_by_block"),
        yes("connectionPool", Type::Object(&CONNECTION_POOL), "policies_are_layered_block_by_block"),
        yes("outlierDetection", Type::Object(&OUTLIER), "policies_are_layered_block_by_block"),
        yes("tls", Type::Object(&CLIENT_TLS), "tls_is_layered_like_the_other_blocks"),
    ],
};

/// `defaultTrafficPolicy` of the mesh.
pub(crate) static DEFAULT_TRAFFIC_POLICY: Message = Message {
    name: "DefaultTrafficPolicy",
    fields: &[
        yes(
            "connectionPool",
            Type::Object(&CONNECTION_POOL),
            "the_default_traffic_policy_is_the_lowest_layer",
        ),
        yes("outlierDetection", Type::Object(&OUTLIER), "the_default_traffic_policy_is_the_lowest_layer"),
        warned("loadBalancer", Type::Object(&LOAD_BALANCER), MESH_WIDE),
        warned("tls", Type::Object(&CLIENT_TLS), MESH_WIDE),
        warned("portLevelSettings", Type::List(&Type::Object(&PORT_POLICY)), MESH_WIDE),
        warned("tunnel", Type::Object(&later::TUNNEL), MESH_WIDE),
        warned("proxyProtocol", Type::Object(&later::PROXY_PROTOCOL), MESH_WIDE),
        warned("retryBudget", Type::Object(&RETRY_BUDGET), MESH_WIDE),
    ],
};

const MESH_WIDE: &str = "Istio takes connectionPool and outlierDetection for the whole mesh";

/// Reads the spec; `None` without a host.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> Option<DestinationRule> {
    let Some(host) = spec.text("host") else {
        sink.report(Code::MissingField, spec.span(), "a DestinationRule needs a host");
        return None;
    };
    if !check_name(&host, sink) {
        return None;
    }
    let mut subsets: Vec<Subset> = Vec::new();
    for entry in spec.objects("subsets") {
        if let Some(subset) = subset(&entry, &meta, sink) {
            if subsets.iter().any(|other| other.name == subset.name) {
                let message = format!("the subset `{}` is defined twice", subset.name);
                sink.report(Code::DuplicateName, entry.span(), message);
            }
            subsets.push(subset);
        }
    }
    let exports = Exports::read(spec, &meta, sink);
    let selector = selector(spec, "workloadSelector", "matchLabels", sink);
    if selector.is_some() && spec.has("exportTo") && !exports.private_to(&meta.namespace, &meta.namespace) {
        let message = "a rule with a workloadSelector is exported to its own namespace only";
        sink.report(Code::ExclusiveFields, spec.key_span("exportTo"), message)
            .help("write `exportTo: [\".\"]`");
    }
    Some(DestinationRule {
        host: Spanned { value: meta.full_host(host.value), span: host.span },
        policy: spec.object("trafficPolicy").map(|policy| traffic_policy(&policy, sink)),
        subsets,
        exports,
        selector,
        meta,
    })
}

fn subset(entry: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Option<Subset> {
    let Some(name) = entry.text("name") else {
        sink.report(Code::MissingField, entry.span(), "the subset has no name");
        return None;
    };
    if !is_label(name.value) {
        let found =
            sink.report(Code::InvalidValue, name.span, format!("`{}` is not a subset's name", name.value));
        found.help("letters, digits and inner hyphens, 63 characters at most");
    }
    check_labels(entry.entries("labels"), sink);
    Some(Subset {
        name: name.value.into(),
        meta: meta.clone(),
        span: entry.span(),
        labels: entry.labels("labels"),
        policy: entry.object("trafficPolicy").map(|policy| traffic_policy(&policy, sink)),
    })
}

fn traffic_policy(policy: &Object<'_>, sink: &mut Sink) -> Policy {
    if policy.node.entries().is_empty() {
        sink.report(Code::MissingField, policy.span(), "the trafficPolicy is empty");
    }
    if policy.has("tunnel") && policy.has("proxyProtocol") {
        let message = "tunnel and proxyProtocol exclude each other";
        sink.report(Code::ExclusiveFields, policy.key_span("proxyProtocol"), message);
    }
    let budget = policy.object("retryBudget").map(|block| retry_budget(&block, sink));
    let mut ports = Vec::new();
    for entry in policy.objects("portLevelSettings") {
        let number = entry.object("port").and_then(|port| port.int("number"));
        match number {
            None => {
                sink.report(Code::MissingField, entry.span(), "the entry has no port");
            }
            Some(number) => ports.extend(port(number, sink).map(|port| (port, blocks(&entry, budget, sink)))),
        }
        if !["loadBalancer", "connectionPool", "outlierDetection", "tls"].iter().any(|block| entry.has(block))
        {
            sink.report(Code::MissingField, entry.span(), "the entry says nothing of its port");
        }
    }
    Policy { blocks: blocks(policy, budget, sink), ports }
}

/// `retry_budget` is that of the whole policy.
pub(crate) fn blocks(policy: &Object<'_>, retry_budget: Option<RetryBudget>, sink: &mut Sink) -> Blocks {
    if let Some(block) = policy.object("loadBalancer") {
        locality::check(&block, policy.has("outlierDetection"), sink);
    }
    Blocks {
        load_balancer: policy.object("loadBalancer").and_then(|block| load_balancer(&block, sink)),
        pool: policy.object("connectionPool").map(|block| connection_pool(&block, sink)),
        outlier: policy.object("outlierDetection").map(|block| outlier(&block, sink)),
        retry_budget,
        tls: policy.object("tls").map(|block| client_tls(&block, sink)),
    }
}
