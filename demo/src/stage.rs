//! Looking on: waits for what is to happen while the load goes on, and measures it.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    ledger::Ledger,
    observe::{Ejection, OwnAccount, PageError, Sidecar},
    screen::Screen,
};

const VERSIONS: [&str; 2] = ["v1.0.0", "v2.0.0"];
/// What does not happen in this time does not happen.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longer than the interval at which ejected endpoints are looked at.
const STAYS_HEALTHY: Duration = Duration::from_millis(1500);

/// Where the audience sits.
pub(crate) struct Stage {
    /// What a person sees.
    pub(crate) screen: Screen,
    /// What became of the items.
    pub(crate) ledger: Arc<Ledger>,
    /// What the sidecar says of itself.
    pub(crate) sidecar: Sidecar,
}

impl Stage {
    /// Lets time pass, and shows that it does.
    pub(crate) async fn pass(&self, span: Duration, what: &str) {
        let deadline = Instant::now() + span;
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            let totals = self.ledger.totals();
            self.screen
                .progress(&format!("{what}; {} items sent, {} received", totals.made, totals.received));
            sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// Reads the split of a while off the sidecar's `istio_requests_total`.
    pub(crate) async fn measure_split(&self, span: Duration) -> Result<Split, PageError> {
        let before = self.sidecar.requests_by_version().await?;
        self.pass(span, "counting requests by version").await;
        let after = self.sidecar.requests_by_version().await?;
        let requests =
            |counts: &BTreeMap<String, u64>, version| counts.get(version).copied().unwrap_or_default();
        let [v1, v2] = VERSIONS.map(|version| requests(&after, version) - requests(&before, version));
        Ok(Split { v1, v2 })
    }

    /// The first ejection of one of these hosts.
    pub(crate) async fn see_ejection(&self, hosts: &[String]) -> Result<Option<Ejection>, PageError> {
        self.see("waiting for the ejection", async || {
            Ok(self.sidecar.ejections().await?.into_iter().find(|ejection| hosts.contains(&ejection.host)))
        })
        .await
    }

    /// True once none of these hosts is ejected, and for a while: one might be ejected again at once.
    pub(crate) async fn see_return(&self, hosts: &[String]) -> Result<bool, PageError> {
        let mut healthy_since = None;
        let seen = self.see("waiting for the return", async || {
            if self.sidecar.ejections().await?.iter().any(|ejection| hosts.contains(&ejection.host)) {
                healthy_since = None;
                return Ok(None);
            }
            Ok((healthy_since.get_or_insert_with(Instant::now).elapsed() > STAYS_HEALTHY).then_some(()))
        });
        Ok(seen.await?.is_some())
    }

    /// True once another configuration than this is in force.
    pub(crate) async fn see_reload(&self, before: &str) -> Result<bool, PageError> {
        let seen = self.see("waiting for the reload", async || {
            Ok((self.sidecar.config_version().await? != before).then_some(()))
        });
        Ok(seen.await?.is_some())
    }

    /// Waits until nothing accepted is missing any more.
    pub(crate) async fn see_all_arrive(&self) -> Result<bool, PageError> {
        let seen = self.see("waiting for the last items", async || {
            Ok((self.ledger.totals().missing == 0).then_some(()))
        });
        Ok(seen.await?.is_some())
    }

    /// Waits until the sidecar has exported its own spans and log records, and what a collector accepted of them is at a
    /// sink.
    pub(crate) async fn see_own_telemetry(&self) -> Result<Own, PageError> {
        self.see("waiting for the sidecar's own telemetry", async || {
            let own = self.own_telemetry().await?;
            Ok((own.account.queued == 0 && own.received >= own.account.exported).then_some(()))
        })
        .await?;
        self.own_telemetry().await
    }

    async fn own_telemetry(&self) -> Result<Own, PageError> {
        let spans = self.sidecar.own_telemetry("traces").await?;
        let records = self.sidecar.own_telemetry("logs").await?;
        let received = self.ledger.own();
        let account = OwnAccount {
            produced: spans.produced + records.produced,
            exported: spans.exported + records.exported,
            queued: spans.queued + records.queued,
            dropped: spans.dropped + records.dropped,
        };
        let distinct = received.spans.len() + received.records.len();
        Ok(Own { account, received: distinct as u64, points: received.points })
    }

    /// Looks until there is something to see, or patience ends.
    async fn see<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Option<T>, PageError>,
    ) -> Result<Option<T>, PageError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = look().await?;
            if seen.is_some() || Instant::now() > deadline {
                return Ok(seen);
            }
            self.pass(LOOK_EVERY, what).await;
        }
    }
}

/// The sidecar's own telemetry: what it says, and what the sinks have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// Of spans and log records.
    pub(crate) account: OwnAccount,
    /// Distinct spans and log records at the sinks.
    pub(crate) received: u64,
    /// Metric points at the sinks.
    pub(crate) points: u64,
}

impl Own {
    /// `produced = exported + dropped`, and what was exported has arrived.
    pub(crate) fn adds_up(&self) -> bool {
        let OwnAccount { produced, exported, queued, dropped } = self.account;
        produced > 0 && produced == exported + dropped && queued == 0 && self.received == exported
    }
}

/// Requests of a while, by version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    v1: u64,
    v2: u64,
}

impl Split {
    /// Within more than four standard deviations of what a thousand draws would give.
    pub(crate) fn is_near(self, percent_v1: f64) -> bool {
        (self.percent_v1() - percent_v1).abs() < 7.0
    }

    fn percent_v1(self) -> f64 {
        self.v1 as f64 * 100.0 / (self.v1 + self.v2).max(1) as f64
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (v1, v2) = (self.percent_v1(), 100.0 - self.percent_v1());
        write!(f, "{v1:.1}/{v2:.1} ({} requests to v1, {} to v2)", self.v1, self.v2)
    }
}
