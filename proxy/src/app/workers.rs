//! The worker threads: each with its own runtime, pools, random source and telemetry.

use std::{io, rc::Rc, sync::Arc, thread::JoinHandle};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
};

use crate::{
    drain::Watch,
    net::listen::Accepted,
    overload::Overload,
    serve::serve,
    telemetry::{Queues, Requests, Shard},
    upstream::Published,
    worker::{Settings, Worker, WorkerStats},
};

/// What every worker is made from.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) published: Arc<ArcSwap<Published>>,
    pub(super) requests: Arc<Requests>,
    pub(super) queues: Queues,
    pub(super) drain: Watch,
    pub(super) overload: Arc<Overload>,
    pub(super) stats: Arc<WorkerStats>,
    pub(super) seed: u64,
}

/// Asks workers for a sign of life, and to take up the newest configuration.
#[derive(Debug, Clone)]
pub(crate) struct Pings(Arc<[mpsc::Sender<oneshot::Sender<()>>]>);

impl Pings {
    /// Whether every worker answers. Waits for as long as one is busy.
    pub(crate) async fn all_answer(&self) -> bool {
        let answers = self.0.iter().map(|worker| async {
            let (answer, answered) = oneshot::channel();
            worker.send(answer).await.is_ok() && answered.await.is_ok()
        });
        join_all(answers).await.into_iter().all(|answered| answered)
    }
}

/// Starts a thread for each lane.
pub(super) fn start(
    lanes: Vec<mpsc::Receiver<Accepted>>,
    parts: &Parts,
) -> io::Result<(Vec<JoinHandle<()>>, Pings)> {
    let mut threads = Vec::with_capacity(lanes.len());
    let mut pings = Vec::with_capacity(lanes.len());
    for (index, lane) in lanes.into_iter().enumerate() {
        let (sender, receiver) = mpsc::channel(1);
        let parts = parts.clone();
        threads.push(
            std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(index, parts, lane, receiver))?,
        );
        pings.push(sender);
    }
    Ok((threads, Pings(pings.into())))
}

fn run(
    index: usize,
    parts: Parts,
    lane: mpsc::Receiver<Accepted>,
    mut pings: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(Default::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker has no runtime");
            return;
        }
    };
    runtime.block_on(async move {
        let shard = Shard::new(index, parts.requests, parts.queues);
        let seed = parts.seed.wrapping_add(index as u64);
        let (settings, stats) = (Settings::default(), parts.stats);
        let worker = Worker::new(parts.published, shard, parts.drain, parts.overload, stats, settings, seed);
        let pinged = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            while let Some(answer) = pings.recv().await {
                // Without a request it would keep connections to endpoints that have left the configuration.
                pinged.published();
                // Who asked may have given up.
                let _ = answer.send(());
            }
        });
        serve(lane, worker).await;
    });
}
