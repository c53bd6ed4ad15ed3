//! Which mode of `PeerAuthentication` applies to a port of a workload, ours or an endpoint's.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    fields::Labels,
    istio::{
        peer_authentication::{PeerAuthentication, PeerMode},
        selects,
    },
    report::Code,
    sink::Sink,
};

/// All policies, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct PeerPolicies {
    /// Without a selector, by namespace.
    whole: BTreeMap<Arc<str>, Arc<PeerAuthentication>>,
    /// With one.
    selecting: Vec<Arc<PeerAuthentication>>,
    root_namespace: Box<str>,
}

impl PeerPolicies {
    pub(super) fn new(written: &[Arc<PeerAuthentication>], root_namespace: &str) -> Self {
        let mut written = written.to_vec();
        written.sort_by(|a, b| a.meta.age().cmp(&b.meta.age()));
        let mut policies = Self { root_namespace: root_namespace.into(), ..Self::default() };
        for policy in written {
            if policy.selector.is_some() {
                if *policy.meta.namespace != *root_namespace {
                    policies.selecting.push(policy);
                }
            } else {
                policies.whole.entry(Arc::clone(&policy.meta.namespace)).or_insert(policy);
            }
        }
        policies
    }

    /// Istio's `ComposePeerAuthentication`: root namespace, then namespace, then workload, then port; what is UNSET is
    /// as the level before, and PERMISSIVE at last. A policy with a selector in the root namespace counts for nobody, as
    /// in Istio; the oldest that selects counts.
    pub(super) fn mode(&self, namespace: &str, labels: &Labels, port: Option<u16>) -> PeerMode {
        let whole = |namespace: &str| self.whole.get(namespace).and_then(|policy| policy.mode);
        let workload = self.selecting(namespace, labels);
        let of_port = workload.and_then(|policy| {
            policy.ports.iter().find(|(number, _)| Some(*number) == port).and_then(|(_, mode)| *mode)
        });
        of_port
            .or_else(|| workload?.mode)
            .or_else(|| whole(namespace))
            .or_else(|| whole(&self.root_namespace))
            .unwrap_or(PeerMode::Permissive)
    }

    /// The ports of a workload that have a mode of their own.
    pub(super) fn ports(&self, namespace: &str, labels: &Labels) -> impl Iterator<Item = u16> {
        let policy = self.selecting(namespace, labels);
        policy.into_iter().flat_map(|policy| policy.ports.iter().map(|(port, _)| *port))
    }

    /// Istio takes a policy with a selector in the root namespace, and says nothing: it counts for nobody.
    pub(super) fn check(written: &[Arc<PeerAuthentication>], root_namespace: &str, sink: &mut Sink) {
        let in_root = written.iter().filter(|policy| *policy.meta.namespace == *root_namespace);
        for policy in in_root.filter(|policy| policy.selector.is_some()) {
            let message = format!("{} selects nobody", policy.meta.resource());
            let found = sink.report(Code::NoEffect, policy.meta.span, message);
            found.label("has no effect");
            found.note(format!("in the root namespace `{root_namespace}` a policy is for the whole mesh"));
            found.help("write it in the namespace of the workload, or leave the selector out");
        }
    }

    fn selecting(&self, namespace: &str, labels: &Labels) -> Option<&PeerAuthentication> {
        let found = self.selecting.iter().find(|policy| {
            *policy.meta.namespace == *namespace
                && policy.selector.as_ref().is_some_and(|wanted| selects(wanted, labels))
        });
        found.map(|policy| &**policy)
    }
}
