//! Which destination rule applies to a service, and what its layers add up to.

use std::{collections::HashMap, sync::Arc};

use crate::{
    by_host::ByHost,
    istio::{
        Exports,
        destination_rule::{Blocks, DestinationRule, Policy, Subset},
        mesh::Mesh,
        selects,
    },
    registry::Service,
    report::Code,
    sink::Sink,
    snapshot::Node,
};

/// The rules that may apply to this proxy, those for one host merged.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<Arc<DestinationRule>>,
    by_host: ByHost,
    namespace: Box<str>,
    root_namespace: Box<str>,
    /// `defaultDestinationRuleExportTo`
    exports: Exports,
}

impl Rules {
    /// Merges the rules of one namespace and host, the oldest first: new subsets are appended, the first
    /// `trafficPolicy` counts.
    pub(crate) fn merge(written: &[Arc<DestinationRule>], mesh: &Mesh, node: &Node, sink: &mut Sink) -> Self {
        let applies = |rule: &&Arc<DestinationRule>| {
            let chosen = rule.selector.as_ref().is_none_or(|labels| selects(labels, &node.labels));
            chosen && (rule.meta.namespace == node.namespace || rule.selector.is_none())
        };
        let mut written: Vec<_> = written.iter().filter(applies).cloned().collect();
        written.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        let mut rules: Vec<Arc<DestinationRule>> = Vec::new();
        let mut alike: HashMap<(Arc<str>, Box<str>), Vec<usize>> = HashMap::new();
        for rule in written {
            let alike = alike.entry((rule.meta.namespace.clone(), rule.host.value.clone())).or_default();
            let same = |other: &Arc<DestinationRule>| {
                other.exports == rule.exports && other.selector == rule.selector
            };
            let first = alike.iter().copied().find(|index| rules.get(*index).is_some_and(same));
            match first.and_then(|index| rules.get_mut(index)) {
                Some(first) => merge_into(Arc::make_mut(first), &rule, sink),
                None => {
                    alike.push(rules.len());
                    rules.push(rule);
                }
            }
        }
        let mut by_host = ByHost::default();
        for (index, rule) in rules.iter().enumerate() {
            by_host.add(&rule.host.value, index);
        }
        Self {
            rules,
            by_host,
            namespace: node.namespace.as_ref().into(),
            root_namespace: mesh.root_namespace.clone(),
            exports: mesh.exports.destination_rules.clone(),
        }
    }

    pub(crate) fn of(&self, service: &Service) -> Option<&DestinationRule> {
        self.shared(service).map(|rule| &**rule)
    }

    /// As an object that the next load may find unchanged.
    pub(crate) fn shared(&self, service: &Service) -> Option<&Arc<DestinationRule>> {
        self.search(service, |_| true)
    }

    /// That of the own service, for requests that come in: rules with a selector are for those that leave.
    pub(crate) fn inbound(&self, service: &Service) -> Option<&DestinationRule> {
        self.search(service, |rule| rule.selector.is_none()).map(|rule| &**rule)
    }

    /// Istio's search: the client's namespace, the service's, the root namespace.
    fn search(&self, service: &Service, fits: fn(&DestinationRule) -> bool) -> Option<&Arc<DestinationRule>> {
        let own = &*self.namespace;
        let client = (own != &*self.root_namespace).then(|| self.best(own, service, fits)).flatten();
        client
            .or_else(|| self.best(&service.meta.namespace, service, fits))
            .or_else(|| self.best(&self.root_namespace, service, fits))
    }

    /// The selecting rule first, then the most specific host, then the oldest.
    fn best(
        &self,
        namespace: &str,
        service: &Service,
        fits: fn(&DestinationRule) -> bool,
    ) -> Option<&Arc<DestinationRule>> {
        let found = self.by_host.of(&service.host).filter_map(|(_, index)| self.rules.get(index));
        let visible =
            |rule: &DestinationRule| rule.exports.or(&self.exports).visible(namespace, &self.namespace);
        let here = found.filter(|rule| &*rule.meta.namespace == namespace && visible(rule) && fits(rule));
        here.min_by_key(|rule| {
            let host = &rule.host.value;
            (rule.selector.is_none(), host.starts_with('*'), std::cmp::Reverse(host.len()))
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &DestinationRule> {
        self.rules.iter().map(|rule| &**rule)
    }
}

fn merge_into(first: &mut DestinationRule, rule: &DestinationRule, sink: &mut Sink) {
    let other = first.meta.reference();
    for subset in &rule.subsets {
        if first.subsets.iter().any(|known| known.name == subset.name) {
            let message = format!("the subset `{}` is defined already", subset.name);
            let found = sink.report(Code::ConflictingRules, subset.span, message);
            found.label("has no effect").note(format!("{other} defines it"));
        } else {
            first.subsets.push(subset.clone());
        }
    }
    match (&first.policy, &rule.policy) {
        (None, policy) => first.policy.clone_from(policy),
        (Some(_), Some(_)) => {
            let found = sink.report(
                Code::ConflictingRules,
                rule.meta.span,
                format!("the trafficPolicy of {} has no effect", rule.meta.resource()),
            );
            found.note(format!("the rules of one host are merged, and {other} has one"));
        }
        (Some(_), None) => {}
    }
}

/// The blocks that count for a cluster or route: top level, its port, the subset, the subset's port.
pub(crate) fn layered(rule: Option<&DestinationRule>, subset: Option<&Subset>, port: Option<u16>) -> Blocks {
    let top = rule.and_then(|rule| level(rule.policy.as_ref(), port)).cloned().unwrap_or_default();
    let over = subset.and_then(|subset| level(subset.policy.as_ref(), port)).cloned().unwrap_or_default();
    Blocks {
        load_balancer: over.load_balancer.or(top.load_balancer),
        pool: over.pool.or(top.pool),
        outlier: over.outlier.or(top.outlier),
        retry_budget: over.retry_budget.or(top.retry_budget),
        tls: over.tls.or(top.tls),
    }
}

/// A port's entry replaces its level as a whole: a block that it leaves out is not inherited. It cannot have a retry
/// budget, and was given that of its level.
fn level(policy: Option<&Policy>, port: Option<u16>) -> Option<&Blocks> {
    let policy = policy?;
    let entry = policy.ports.iter().find(|(number, _)| Some(*number) == port);
    Some(entry.map_or(&policy.blocks, |(_, blocks)| blocks))
}
