//! One batch to its receiver: tried again while there is time, and settled in the account whatever becomes of it.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use rand::RngExt;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{answer::Verdict, batch, client::Client};
use crate::telemetry::{Account, Item, Loss, Signal, Target};

/// First wait before another try, doubled each time; half of it is random.
const BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Delivers the batches of one signal, one after the other.
#[derive(Debug)]
pub(super) struct Delivery {
    signal: Signal,
    client: Rc<Client>,
    account: Account,
    stop: watch::Receiver<bool>,
    /// The last batch was lost: said once, and once more when it is over.
    failing: bool,
}

impl Delivery {
    pub(super) fn new(
        signal: Signal,
        client: Rc<Client>,
        account: Account,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self { signal, client, account, stop, failing: false }
    }

    /// Delivers spans or log records.
    pub(super) async fn items(&mut self, target: &Arc<Target>, items: Vec<Item>) {
        let body = batch::encode(target, &items);
        let count = items.len() as u64;
        drop(items);
        self.message(target, body.into(), count).await;
    }

    /// Delivers a request message that holds `count` items, which count as queued already. True if the receiver took
    /// it.
    pub(super) async fn message(&mut self, target: &Target, body: Bytes, count: u64) -> bool {
        let deadline = Instant::now() + target.destination.timeout;
        let (loss, why) = match self.attempts(target, body, deadline).await {
            Verdict::Delivered { rejected, why } => {
                let rejected = rejected.min(count);
                self.account.settle(count - rejected, None);
                if rejected == 0 {
                    self.succeed(target);
                    return true;
                }
                self.account.settle(rejected, Some(Loss::Rejected));
                self.complain(target, Loss::Rejected, rejected, &why);
                return true;
            }
            Verdict::Refused(why) => (Loss::Rejected, why),
            Verdict::Again { why, .. } => {
                (if *self.stop.borrow() { Loss::Shutdown } else { Loss::Unavailable }, why)
            }
        };
        self.account.settle(count, Some(loss));
        self.complain(target, loss, count, &why);
        false
    }

    /// The verdict on the last try.
    async fn attempts(&self, target: &Target, body: Bytes, deadline: Instant) -> Verdict {
        let body = match self.client.pack(target, body).await {
            Ok(body) => body,
            Err(why) => return Verdict::Refused(why),
        };
        let mut backoff = BACKOFF;
        loop {
            let verdict = self.client.send(target, self.signal, body.clone(), deadline).await;
            let Verdict::Again { after, .. } = &verdict else { return verdict };
            let wait = after.unwrap_or_else(|| backoff.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0));
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            // A wait that leaves no time for a try is none; nor does the end of the process wait.
            if Instant::now() + wait >= deadline || *self.stop.borrow() {
                return verdict;
            }
            sleep(wait).await;
        }
    }

    fn succeed(&mut self, target: &Target) {
        if std::mem::take(&mut self.failing) {
            tracing::info!(signal = self.signal.as_str(), to = %address(target), "telemetry is exported again");
        }
    }

    fn complain(&mut self, target: &Target, loss: Loss, lost: u64, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                signal = self.signal.as_str(),
                provider = %target.destination.name,
                to = %address(target),
                reason = loss.as_str(),
                lost,
                error = why,
                "telemetry is lost; requests are not affected, outrigger_otlp_dropped_total counts"
            );
        }
    }
}

fn address(target: &Target) -> String {
    format!("{}:{}", target.destination.host, target.destination.port)
}
