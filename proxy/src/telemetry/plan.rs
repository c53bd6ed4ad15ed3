//! What a worker makes of the requests of one direction: decided when a configuration is taken up, so that a request
//! only fills in values.

use std::sync::Arc;

use outrigger_config::snapshot::{AccessLog, Destination, Direction, Observation, Snapshot};

use super::{Resource, Target, access_log::Log, capture::Captures, span::SpanPlan};

/// Logs and spans of one direction.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) captures: Captures,
    pub(super) logs: Box<[Log]>,
    pub(super) spans: Option<SpanPlan>,
}

impl Plan {
    /// `None` where requests leave no trace but metrics.
    pub(super) fn new(snapshot: &Snapshot, direction: Direction, resource: &Resource) -> Option<Arc<Self>> {
        let Observation { tracing, access_logs } = snapshot.observation(direction);
        let mut captures = Captures::default();
        let target = |to: &Arc<Destination>, log_name: Option<&str>| {
            Arc::new(Target::new(snapshot, to, resource, log_name))
        };
        let log = |log: &AccessLog| Log::new(log, &snapshot.node, &mut captures, target);
        let logs: Box<[Log]> = access_logs.iter().map(log).collect();
        captures.end_of_logs();
        let spans = tracing.report.as_ref().map(|to| {
            SpanPlan::new(
                tracing,
                direction,
                &snapshot.node,
                resource.environment,
                target(to, None),
                &mut captures,
            )
        });
        (!logs.is_empty() || spans.is_some()).then(|| Arc::new(Self { captures, logs, spans }))
    }
}

impl Target {
    /// A receiver of this snapshot.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        to: &Arc<Destination>,
        resource: &Resource,
        log_name: Option<&str>,
    ) -> Self {
        Self {
            destination: Arc::clone(to),
            cluster: to.cluster.map(|cluster| Arc::clone(&snapshot[cluster].name)),
            resource: resource.encode(&snapshot.node, to.semantic_service_name, log_name),
        }
    }
}
