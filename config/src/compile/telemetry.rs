//! Tracing of each direction: the `Telemetry` resources that apply, over the mesh's settings, over the environment's.

use std::sync::Arc;

use super::Compiler;
use crate::{
    istio::{
        selects,
        telemetry::{Telemetry, TracingRule, hundredths},
    },
    report::Code,
    sink::Sink,
    snapshot::{Direction, Node, Observation, Propagation, Tracing},
};

/// One resource a level, the most general first: root namespace, namespace, workload. The oldest wins a level.
pub(super) fn choose<'t>(
    written: &'t [Arc<Telemetry>],
    root_namespace: &str,
    node: &Node,
    sink: &mut Sink,
) -> Vec<&'t Telemetry> {
    let level = |telemetry: &Telemetry| match &telemetry.selector {
        _ if telemetry.attached => None,
        None if &*telemetry.meta.namespace == root_namespace => Some(0),
        None if telemetry.meta.namespace == node.namespace => Some(1),
        Some(labels) if telemetry.meta.namespace == node.namespace && selects(labels, &node.labels) => {
            Some(2)
        }
        _ => None,
    };
    let mut leveled: Vec<_> = written.iter().filter_map(|one| Some((level(one)?, &**one))).collect();
    leveled.sort_by(|a, b| (a.0, a.1.meta.age()).cmp(&(b.0, b.1.meta.age())));
    let mut chosen: Vec<(u8, &Telemetry)> = Vec::new();
    for (level, telemetry) in leveled {
        match chosen.last() {
            Some((taken, first)) if *taken == level => {
                let message = format!("{} has no effect", telemetry.meta.resource());
                let found = sink.report(Code::SeveralTelemetries, telemetry.meta.span, message);
                found.note(format!("{} applies", first.meta.reference()));
                found.help(if level == 2 {
                    "one Telemetry with a selector applies to a proxy: merge them"
                } else {
                    "one Telemetry without a selector applies in a namespace: merge them, or give one a selector"
                });
            }
            _ => chosen.push((level, telemetry)),
        }
    }
    chosen.into_iter().map(|(_, telemetry)| telemetry).collect()
}

impl Compiler<'_> {
    /// Everything that is told of the requests of one direction.
    pub(super) fn observation(&mut self, levels: &[&Telemetry], direction: Direction) -> Observation {
        Observation {
            tracing: self.tracing(levels, direction),
            access_logs: self.access_logs(levels, direction),
        }
    }

    fn tracing(&mut self, levels: &[&Telemetry], direction: Direction) -> Tracing {
        let rules = levels.iter().flat_map(|level| &level.tracing);
        let rules: Vec<_> = rules.filter(|rule| rule.mode.takes(direction)).collect();
        let mut explicit = None;
        for rule in &rules {
            explicit = self.tracer(&rule.providers).or(explicit);
        }
        let (mesh, environment) = (self.mesh, self.environment);
        let default = self.tracer(&mesh.tracers);
        let (settings, chosen) = (&mesh.tracing, explicit.or(default));
        let tracer = chosen.map(|(_, tracer)| tracer);
        let propagation = if settings.disabled && explicit.is_none() {
            Propagation::Off
        } else {
            let said = tracer.map(|tracer| tracer.propagation).or(settings.propagation);
            said.or(environment.propagation).unwrap_or(Tracing::default().propagation)
        };
        let disabled = last(&rules, |rule| rule.disabled).unwrap_or(false);
        let report = if disabled || propagation == Propagation::Off {
            None
        } else if let Some((provider, Some(receiver))) =
            chosen.map(|(provider, tracer)| (provider, tracer.receiver.as_ref()))
        {
            Some(self.receiver(provider, receiver))
        } else {
            self.resolved(environment.traces.as_ref())
        };
        let sampling = last(&rules, |rule| rule.sampling);
        // Istio: an empty map is none.
        let tags = last(&rules, |rule| rule.custom_tags.as_ref()).filter(|tags| !tags.is_empty());
        let istio_tags = last(&rules, |rule| rule.istio_tags).or(settings.istio_tags);
        let default = Tracing::default();
        Tracing {
            propagation,
            sampling: sampling.unwrap_or_else(|| self.mesh_sampling()),
            by_request_id: last(&rules, |rule| rule.by_request_id).unwrap_or(default.by_request_id),
            parent_based: !environment.ignore_parent,
            report,
            custom_tags: tags.unwrap_or(&settings.custom_tags).clone(),
            istio_tags: istio_tags.unwrap_or(default.istio_tags),
            max_path_length: tracer
                .and_then(|tracer| tracer.max_path_length)
                .or(settings.max_path_length)
                .unwrap_or(default.max_path_length),
        }
    }

    /// Without a `Telemetry` that says it: the mesh's, the environment's, Istio's.
    fn mesh_sampling(&mut self) -> u16 {
        let fallback = self.environment.sampling.unwrap_or(Tracing::default().sampling);
        let Some(percent) = self.mesh.tracing.sampling else { return fallback };
        hundredths(percent.value).unwrap_or_else(|| {
            let message = format!("{} is not a percentage, which is 0 to 100", percent.value);
            let found = self.sink.report(Code::InvalidSampling, percent.span, message);
            let used = f64::from(fallback) / 100.0;
            found.label(format!("{used} % of new traces are sampled instead"));
            fallback
        })
    }
}

/// What the most specific rule says that says something.
fn last<'r, T>(rules: &[&'r TracingRule], field: impl Fn(&'r TracingRule) -> Option<T>) -> Option<T> {
    rules.iter().rev().find_map(|rule| field(rule))
}
