//! The rules of delegates take the place of the entries that refer to them, as in Istio
//! `mergeVirtualServicesIfNeeded`. What a rule leaves open it has from its root.

use std::{collections::HashSet, sync::Arc};

use super::refine::refined;
use crate::{
    istio::{
        Exports,
        delegate::Delegate,
        virtual_service::{Does, HttpRule, VirtualService},
    },
    report::Code,
    sink::Sink,
};

/// The virtual services that have hosts. They keep their age and exports, whatever those of their delegates are.
pub(super) fn merge(
    written: &[Arc<VirtualService>],
    default: &Exports,
    sink: &mut Sink,
) -> Vec<Arc<VirtualService>> {
    let (delegates, mut roots): (Vec<_>, Vec<_>) = written.iter().cloned().partition(|vs| vs.is_delegate);
    let mut used = HashSet::new();
    for root in roots.iter_mut().filter(|root| root.http.iter().any(HttpRule::is_delegated)) {
        let mut rules = Vec::new();
        for rule in &root.http {
            let Does::Delegate(to) = &rule.does else {
                rules.push(rule.clone());
                continue;
            };
            let named =
                |vs: &&Arc<VirtualService>| vs.meta.name == to.name && vs.meta.namespace == to.namespace;
            let Some(delegate) = delegates.iter().find(named) else {
                report_missing(to, "does not exist", sink);
                continue;
            };
            used.insert(delegate.meta.resource());
            if delegate.exports.or(default).visible(&delegate.meta.namespace, &root.meta.namespace) {
                let fitting = delegate.http.iter().filter_map(|leaf| merged(rule, to, leaf, sink));
                rules.extend(fitting);
            } else {
                let why = format!("is not exported to `{}`", root.meta.namespace);
                report_missing(to, &why, sink);
            }
        }
        *root = Arc::new(VirtualService { http: rules, ..VirtualService::clone(root) });
    }
    for unused in delegates.iter().filter(|vs| !used.contains(&vs.meta.resource())) {
        let message = format!("nothing refers to {}", unused.meta.resource());
        let found = sink.report(Code::UnusedDelegate, unused.meta.span, message);
        found.label("has no effect");
        found.help("list its `hosts`, or refer to it by `delegate` in a VirtualService that has hosts");
    }
    roots
}

fn report_missing(to: &Delegate, why: &str, sink: &mut Sink) {
    let message = format!("the delegate {}/{} {why}", to.namespace, to.name);
    let found = sink.report(Code::MissingDelegate, to.span, message);
    found.label("the entry has no effect");
    found.help(
        "a delegate is a VirtualService without hosts; without `namespace` it is one of the same namespace",
    );
}

/// Istio `mergeHTTPRoute`; `None` where no match is left.
fn merged(root: &HttpRule, to: &Delegate, leaf: &HttpRule, sink: &mut Sink) -> Option<HttpRule> {
    let Some(matches) = refined(&root.matches, leaf) else {
        let message = "a match of the rule fits none of its root";
        let found = sink.report(Code::ConflictingDelegate, leaf.span, message);
        found.label("the rule has no effect there").note(format!("the root is {}", root.origin));
        found.help("a delegate may narrow a match, and not widen it: a longer prefix, further conditions");
        return None;
    };
    Some(HttpRule {
        name: joined(&root.name, &leaf.name),
        span: leaf.span,
        origin: leaf.origin.clone(),
        matches,
        does: match (&leaf.does, &to.direct) {
            (Does::Route(_), Some(direct)) => Does::Direct(direct.clone()),
            (does, _) => does.clone(),
        },
        rewrite: leaf.rewrite.as_ref().or(root.rewrite.as_ref()).cloned(),
        timeout: leaf.timeout.or(root.timeout),
        retries_span: if leaf.retries.is_some() { leaf.retries_span } else { root.retries_span },
        retries: leaf.retries.as_ref().or(root.retries.as_ref()).cloned(),
        fault: leaf.fault.as_ref().or(root.fault.as_ref()).cloned(),
        cors: leaf.cors.as_ref().or(root.cors.as_ref()).cloned(),
        mirrors: if leaf.mirrors.is_empty() { &root.mirrors } else { &leaf.mirrors }.clone(),
        headers: leaf.headers.as_ref().or(root.headers.as_ref()).cloned(),
    })
}

/// `root-leaf`, or the one that there is.
pub(super) fn joined(root: &str, leaf: &str) -> Box<str> {
    match (root, leaf) {
        ("", name) | (name, "") => name.into(),
        (root, leaf) => format!("{root}-{leaf}").into(),
    }
}
