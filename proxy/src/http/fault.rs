//! Faults that a route injects (Envoy's filter `fault`): it stands before the router, so that neither the route's
//! timeout nor its retries know of them.

use std::sync::Arc;

use outrigger_config::snapshot::{Fault, Share};
use rand::Rng;
use tokio::time::sleep;

use super::{context::RequestContext, reply::Failure};
use crate::{
    telemetry::Flag,
    worker::{Worker, WorkerStats},
};

/// Holds the request back, then perhaps fails it; both are drawn for independently.
///
/// # Errors
/// The request is to be aborted.
pub(crate) async fn inject(
    worker: &Worker,
    context: &mut RequestContext,
    fault: &Fault,
) -> Result<(), Failure> {
    let hits = |share: Share| share.hits(worker.rng().next_u64());
    let stats = worker.stats();
    if let Some(delay) = fault.delay.filter(|delay| hits(delay.share)) {
        stats.filters.fault_delays_injected.inc();
        context.record().flags.raise(Flag::DelayInjected);
        context.suffer(ActiveFault::new(stats));
        sleep(delay.duration).await;
    }
    match fault.abort.filter(|abort| hits(abort.share)) {
        Some(abort) => {
            stats.filters.fault_aborts_injected.inc();
            context.suffer(ActiveFault::new(stats));
            Err(Failure::Fault(abort.status))
        }
        None => Ok(()),
    }
}

/// A request with a fault, counted as long as it lives.
#[derive(Debug)]
pub(crate) struct ActiveFault(Arc<WorkerStats>);

impl ActiveFault {
    fn new(stats: &Arc<WorkerStats>) -> Self {
        stats.filters.fault_active_faults.inc();
        Self(Arc::clone(stats))
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.filters.fault_active_faults.dec();
    }
}
