//! `EnvoyFilter`: patches of Envoy's own configuration, which nothing but Envoy can apply. Only whom one selects is read.

use super::{Meta, selects};
use crate::{
    fields::Labels,
    report::Code,
    sink::{Sink, Span},
    yaml::Node,
};

const HELP: &str = "write it as a VirtualService, DestinationRule or Telemetry, or pass `--allow-envoyfilter` to run \
                    without the patches";

/// One resource: whom it selects.
#[derive(Debug)]
pub(crate) struct EnvoyFilter {
    meta: Meta,
    span: Span,
    selector: Labels,
    /// Why no sidecar is meant at all.
    elsewhere: Option<&'static str>,
}

/// Reads the selection; without a spec everything is selected.
pub(crate) fn read(document: &Node, meta: Meta) -> EnvoyFilter {
    let spec = document.get("spec");
    let get = |field: &str| spec.and_then(|spec| spec.get(field));
    let labels = get("workloadSelector").and_then(|selector| selector.get("labels")).map(Node::entries);
    let pairs = labels.unwrap_or_default().iter();
    let patches = get("configPatches").map(Node::items).unwrap_or_default();
    let for_gateways = |patch: &Node| {
        let context = patch.get("match").and_then(|matched| matched.get("context")).and_then(Node::text);
        matches!(context, Some("GATEWAY" | "WAYPOINT"))
    };
    let elsewhere = if get("targetRefs").is_some_and(|refs| !refs.items().is_empty()) {
        Some("`targetRefs` name gateways and waypoints, never a sidecar")
    } else if !patches.is_empty() && patches.iter().all(for_gateways) {
        Some("all its patches are for gateways")
    } else {
        None
    };
    EnvoyFilter {
        span: document.get("kind").map_or(document.span, |kind| kind.span),
        selector: pairs
            .filter_map(|entry| Some((entry.key.as_ref().into(), entry.value.text()?.into())))
            .collect(),
        elsewhere,
        meta,
    }
}

/// An error where it selects the proxy, unless that is `allowed`; a note where it does not.
pub(crate) fn check(
    filter: &EnvoyFilter,
    root_namespace: &str,
    node: &crate::snapshot::Node,
    allowed: bool,
    sink: &mut Sink,
) {
    let EnvoyFilter { meta, span, .. } = filter;
    if let Some(why) = why_not(filter, root_namespace, node) {
        let message = format!("{} does not select this workload", meta.resource());
        sink.report(Code::ForeignEnvoyFilter, *span, message).label("no business of this proxy").note(why);
    } else if allowed {
        let message = format!("{} selects this workload, and is ignored", meta.resource());
        let found = sink.report(Code::KindNotHonoured, *span, message);
        found.label("its patches are not applied").note("`--allow-envoyfilter` is given");
    } else {
        let message = format!("{} selects this workload, and cannot be applied", meta.resource());
        let found = sink.report(Code::EnvoyFilter, *span, message);
        found.label("requests would be treated otherwise than its patches say").help(HELP);
    }
}

/// Istio's selection: the root namespace or the workload's own, all labels of the selector, and a patch that is not for
/// gateways alone.
fn why_not(filter: &EnvoyFilter, root_namespace: &str, node: &crate::snapshot::Node) -> Option<String> {
    let namespace = &filter.meta.namespace;
    if *namespace != node.namespace && **namespace != *root_namespace {
        return Some(format!("it selects workloads of the namespace `{namespace}`"));
    }
    if let Some(why) = filter.elsewhere {
        return Some(why.to_owned());
    }
    if !selects(&filter.selector, &node.labels) {
        let wanted: Vec<_> = filter.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Some(format!("it selects workloads with the labels {}", wanted.join(", ")));
    }
    None
}
