//! What Istio's validation rejects or warns of in a `Sidecar` beyond what reading it needs.

use std::collections::BTreeSet;

use super::{Meta, check_name, check_protocol, is_label};
use crate::{
    fields::{Object, Spanned},
    report::Code,
    sink::Sink,
};

/// Checks the spec as it is written.
pub(super) fn check(spec: &Object<'_>, meta: &Meta, sink: &mut Sink) {
    let parts = ["egress", "ingress", "outboundTrafficPolicy", "inboundConnectionPool"];
    if !parts.iter().any(|part| spec.has(part)) {
        sink.report(Code::MissingField, spec.span(), "the Sidecar says nothing")
            .help(format!("give it one of {}", parts.join(", ")));
    }
    let (egress, ingress) = (spec.objects("egress"), spec.objects("ingress"));
    for listeners in [&egress, &ingress] {
        ports(listeners, sink);
    }
    for entry in &egress {
        hosts(&entry.texts("hosts"), meta, sink);
    }
}

fn ports(listeners: &[Object<'_>], sink: &mut Sink) {
    let mut numbers = BTreeSet::new();
    for port in listeners.iter().filter_map(|entry| entry.object("port")) {
        if let Some(name) = port.text("name").filter(|name| !name.value.is_empty() && !is_label(name.value)) {
            sink.report(Code::InvalidValue, name.span, format!("`{}` is not a port's name", name.value));
        }
        check_protocol(&port, sink);
        if port.int("targetPort").is_some_and(|target| target.value != 0) {
            let message = "targetPort has no meaning for a listener";
            sink.report(Code::InvalidValue, port.key_span("targetPort"), message);
        }
        if let Some(number) = port.int("number").filter(|number| !numbers.insert(number.value)) {
            let message = format!("another listener has the port {}", number.value);
            sink.report(Code::DuplicateName, number.span, message);
        }
    }
}

/// `namespace/host`, the host a full name; other forms are reported by reading.
fn hosts(written: &[Spanned<&str>], meta: &Meta, sink: &mut Sink) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for text in written {
        let Some((namespace, host)) = text.value.split_once('/') else { continue };
        if !(matches!(namespace, "*" | ".") || namespace.starts_with('~') || is_label(namespace)) {
            sink.report(Code::InvalidHost, text.span, format!("`{namespace}` is not a namespace"));
        }
        if check_name(&Spanned { value: host, span: text.span }, sink) && host != "*" {
            if !host.contains('.') {
                let found = sink.report(Code::InvalidHost, text.span, format!("`{host}` is a short name"));
                found.help(format!("write `{namespace}/{host}.NAMESPACE.svc.cluster.local`"));
            } else if host.contains('*') && !host.starts_with("*.") {
                let message = format!("the wildcard of `{host}` is not the whole first label");
                sink.report(Code::InvalidHost, text.span, message);
            }
        }
        let namespace = if namespace == "." { &*meta.namespace } else { namespace };
        let again = |(other, known): &(&str, &str)| {
            *other == namespace && (*known == host || *known == "*" || host == "*")
        };
        if seen.iter().any(again) {
            let message = format!("`{}` is there already", text.value);
            sink.report(Code::SchemaWarning, text.span, message).label("adds nothing, or makes others idle");
        }
        seen.push((namespace, host));
    }
    if let Some(all) = written.iter().find(|text| text.value == "*/*")
        && seen.iter().any(|(namespace, _)| *namespace != "*")
    {
        sink.report(Code::SchemaWarning, all.span, "`*/*` takes every host: the others add nothing");
    }
}
