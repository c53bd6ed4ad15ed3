//! `EnvoyFilter`: patches of Envoy's own configuration, which nothing but Envoy can apply. Only whom one selects is read.

use super::{Meta, ROOT_NAMESPACE, selects};
use crate::{
    LoadOptions,
    fields::Labels,
    report::Code,
    sink::{Sink, Span},
    yaml::Node,
};

const HELP: &str = "write it as a VirtualService, DestinationRule or Telemetry, or pass `--allow-envoyfilter` to run \
                    without the patches";

/// An error where it selects the proxy of `options`, unless that is allowed; a note where it does not.
pub(crate) fn check(document: &Node, meta: &Meta, options: &LoadOptions, sink: &mut Sink) {
    let span: Span = document.get("kind").map_or(document.span, |kind| kind.span);
    if let Some(why) = why_not(document.get("spec"), meta, &options.node) {
        let message = format!("{} does not select this workload", meta.resource());
        sink.report(Code::ForeignEnvoyFilter, span, message).label("no business of this proxy").note(why);
    } else if options.allow_envoy_filters {
        let message = format!("{} selects this workload, and is ignored", meta.resource());
        let found = sink.report(Code::KindNotHonoured, span, message);
        found.label("its patches are not applied").note("`--allow-envoyfilter` is given");
    } else {
        let message = format!("{} selects this workload, and cannot be applied", meta.resource());
        let found = sink.report(Code::EnvoyFilter, span, message);
        found.label("requests would be treated otherwise than its patches say").help(HELP);
    }
}

/// Istio's selection: the root namespace or the workload's own, all labels of the selector, and a patch that is not for
/// gateways alone.
fn why_not(spec: Option<&Node>, meta: &Meta, node: &crate::snapshot::Node) -> Option<String> {
    if meta.namespace != node.namespace && &*meta.namespace != ROOT_NAMESPACE {
        return Some(format!("it selects workloads of the namespace `{}`", meta.namespace));
    }
    // Without a spec it selects everything.
    let spec = spec?;
    if spec.get("targetRefs").is_some_and(|refs| !refs.items().is_empty()) {
        return Some("`targetRefs` name gateways and waypoints, never a sidecar".to_owned());
    }
    let selector: Labels = spec
        .get("workloadSelector")
        .and_then(|selector| selector.get("labels"))
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| Some((entry.key.as_ref().into(), entry.value.text()?.into())))
        .collect();
    if !selects(&selector, &node.labels) {
        let wanted: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return Some(format!("it selects workloads with the labels {}", wanted.join(", ")));
    }
    let patches = spec.get("configPatches").map(Node::items).unwrap_or_default();
    let elsewhere = |patch: &Node| {
        let context = patch.get("match").and_then(|matched| matched.get("context")).and_then(Node::text);
        matches!(context, Some("GATEWAY" | "WAYPOINT"))
    };
    let none = !patches.is_empty() && patches.iter().all(elsewhere);
    none.then(|| "all its patches are for gateways".to_owned())
}
