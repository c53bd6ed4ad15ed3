//! One cluster at run time: its host set, breakers and counters, and what a reported outcome does to them.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, Guard};
use outrigger_config::snapshot::{Cluster, Discovery, Endpoint, Outlier, Protocol, UpstreamTls};
use tokio::{sync::Notify, time::Instant};

use super::{
    Breaker, ClusterStats, Host, HostSet, Outcome, Overflow, RequestPermit, RetryPermit,
    stats::{Kind, TlsStats},
};
use crate::net::tls::{Secrets, Security};

/// The state of a cluster that outlives the snapshots which describe it.
#[derive(Debug)]
pub struct ClusterState {
    /// As in the configuration.
    pub name: Arc<str>,
    /// Envoy's counters.
    pub stats: ClusterStats,
    /// Those of its TLS handshakes.
    pub(crate) tls: TlsStats,
    /// Limits and what is in use.
    pub breaker: Breaker,
    id: u64,
    config: ArcSwap<Cluster>,
    hosts: ArcSwap<HostSet>,
    /// Held while health or membership changes: never by a request that succeeds.
    changing: Mutex<Ticks>,
    /// A health change awaits a new table, which the control thread builds.
    stale: AtomicBool,
    wake: Arc<Notify>,
    secrets: Arc<Secrets>,
    /// Kept, so that what is in use stays loaded whether there are endpoints or not.
    securities: ArcSwap<Securities>,
    retired: AtomicBool,
}

/// When this cluster is swept.
#[derive(Debug, Default)]
struct Ticks {
    next: Option<Instant>,
}

impl ClusterState {
    pub(super) fn new(config: Arc<Cluster>, wake: Arc<Notify>, secrets: Arc<Secrets>, now: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let securities = Securities::of(&config.tls, &secrets);
        let host = |endpoint: &Arc<Endpoint>| {
            Arc::new(Host::new(endpoint.clone(), securities.with(endpoint), config.source))
        };
        let hosts: Vec<_> = config.endpoints.iter().map(host).collect();
        let stats = ClusterStats::default();
        let set = HostSet::new(&config, hosts.into(), &stats, false);
        stats.membership_change.add(u64::from(!config.endpoints.is_empty()));
        Self {
            name: config.name.clone(),
            stats,
            breaker: Breaker::new(&config.limits),
            id: NEXT.fetch_add(1, Relaxed),
            hosts: ArcSwap::from_pointee(set),
            changing: Mutex::new(Ticks {
                next: config.outlier.as_ref().map(|outlier| now + outlier.interval),
            }),
            config: ArcSwap::new(config),
            stale: AtomicBool::new(false),
            tls: TlsStats::default(),
            wake,
            secrets,
            securities: ArcSwap::from_pointee(securities),
            retired: AtomicBool::new(false),
        }
    }

    /// Unlike the name, never used again once the cluster is gone.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The latest description.
    pub fn config(&self) -> Arc<Cluster> {
        self.config.load_full()
    }

    /// What the endpoints speak, without a count of the description's users: workers share that.
    pub fn protocol(&self) -> Protocol {
        self.config.load().protocol
    }

    /// Whether captured traffic goes where it was going.
    pub(crate) fn is_original(&self) -> bool {
        matches!(self.config.load().discovery, Discovery::OriginalDestination)
    }

    /// How connections to an endpoint that is in no host set are secured.
    pub(super) fn security(&self, endpoint: &Endpoint) -> Option<Arc<Security>> {
        self.securities.load().with(endpoint)
    }

    /// The latest description, without a count of its users.
    pub(super) fn description(&self) -> Guard<Arc<Cluster>> {
        self.config.load()
    }

    /// The most requests that one HTTP/2 connection gets.
    pub(super) fn max_concurrent_streams(&self) -> u32 {
        self.config.load().max_concurrent_streams
    }

    /// The hosts, and which of them take requests now.
    pub fn hosts(&self) -> Guard<Arc<HostSet>> {
        self.hosts.load()
    }

    /// Reports how a try to `host` ended; the endpoint is ejected at once if that was one failure too many.
    ///
    /// Not for what was refused by a breaker, nor where the client left: neither says anything about the endpoint.
    pub fn report(&self, host: &Host, outcome: Outcome, now: Instant) {
        let stats = host.stats();
        match outcome {
            Outcome::Status(..500) => stats.rq_success.inc(),
            Outcome::Timeout => {
                stats.rq_timeout.inc();
                stats.rq_error.inc();
            }
            _ => stats.rq_error.inc(),
        }
        self.watch(host, outcome, now);
    }

    /// As [`report`](Self::report), for what is no request and counts as none.
    pub(super) fn watch(&self, host: &Host, outcome: Outcome, now: Instant) {
        let config = self.config.load();
        let Some(policy) = &config.outlier else { return };
        for reason in host.health().observe(outcome, policy).into_iter().flatten() {
            let _changing = self.changing();
            let set = self.hosts.load();
            if host.is_removed() || !host.health().eject(reason, set.all.len(), policy, &self.stats, now) {
                continue;
            }
            if set.is_table() {
                self.stale.store(true, Relaxed);
                self.wake.notify_one();
            } else {
                self.rebuild(&config, set.all.clone());
            }
        }
    }

    /// Admits an active request to `host`.
    ///
    /// # Errors
    /// At `http2MaxRequests`; it is counted.
    pub fn acquire_request(self: &Arc<Self>, host: &Arc<Host>) -> Result<RequestPermit, Overflow> {
        RequestPermit::acquire(self, host)
    }

    /// How many retries may be under way now.
    pub fn max_retries(&self) -> u32 {
        let breaker = &self.breaker;
        self.config.load().retry_budget.map_or(breaker.retries.limit(), |budget| {
            budget.limit(u64::from(breaker.requests.used()) + u64::from(breaker.pending.used()))
        })
    }

    /// Admits a retry.
    ///
    /// # Errors
    /// At `maxRetries`, or what the budget allows; it is counted.
    pub fn acquire_retry(self: &Arc<Self>) -> Result<RetryPermit, Overflow> {
        RetryPermit::acquire(self)
    }

    /// Calls `see` with each statistic, the gauges of the breakers included.
    pub fn each_stat(&self, mut see: impl FnMut(&'static str, Kind, u64)) {
        self.stats.each(&mut see);
        if self.config.load().tls != UpstreamTls::Off {
            self.tls.each(&mut see);
        }
        let breaker = &self.breaker;
        see("upstream_rq_active", Kind::Gauge, breaker.requests.used().into());
        see("upstream_rq_pending_active", Kind::Gauge, breaker.pending.used().into());
        see("upstream_cx_active", Kind::Gauge, breaker.connections.used().into());
        see("circuit_breakers_default_cx_open", Kind::Gauge, breaker.connections.is_open().into());
        see("circuit_breakers_default_rq_open", Kind::Gauge, breaker.requests.is_open().into());
        see("circuit_breakers_default_rq_pending_open", Kind::Gauge, breaker.pending.is_open().into());
        see("circuit_breakers_default_rq_retry_open", Kind::Gauge, breaker.retries.is_open().into());
    }

    /// Takes over a new description; hosts keep their state by address. The same object again changes nothing.
    pub(crate) fn update(&self, config: &Arc<Cluster>, now: Instant) {
        if Arc::ptr_eq(&self.config.load(), config) {
            return;
        }
        let mut changing = self.changing();
        let old = self.hosts.load_full();
        let securities = Securities::of(&config.tls, &self.secrets);
        let hosts: Vec<Arc<Host>> = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let security = securities.with(endpoint);
                match old.all.iter().find(|host| host.address() == endpoint.address) {
                    Some(host) if host.is_described(endpoint, security.as_ref()) => host.clone(),
                    Some(host) => Arc::new(host.described(endpoint.clone(), security)),
                    None => Arc::new(Host::new(endpoint.clone(), security, config.source)),
                }
            })
            .collect();
        let mut acquitted = false;
        let mut stayed = 0;
        for host in old.all.iter() {
            let stays = hosts.iter().any(|other| other.id() == host.id());
            if stays {
                stayed += 1;
            } else {
                host.remove();
            }
            if !stays || config.outlier.is_none() {
                acquitted |= host.health().acquit(&self.stats);
            }
        }
        if stayed < hosts.len().max(old.all.len()) {
            self.stats.membership_change.inc();
        }
        let before = self.config.load_full();
        if interval(&before) != interval(config) {
            changing.next = interval(config).map(|interval| now + interval);
        }
        self.breaker.set_limits(&config.limits);
        let same_hosts =
            hosts.len() == old.all.len() && hosts.iter().zip(old.all.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
        let same_policy = before.balancer == config.balancer
            && before.warmup == config.warmup
            && before.localities == config.localities
            && before.panic_threshold == config.panic_threshold;
        self.securities.store(Arc::new(securities));
        self.config.store(config.clone());
        if !same_hosts || !same_policy || acquitted {
            self.rebuild(config, hosts.into());
        }
    }

    /// The cluster left the configuration: its idle connections are to be closed.
    pub(super) fn retire(&self) {
        let _changing = self.changing();
        self.retired.store(true, Relaxed);
        self.hosts.load().all.iter().for_each(|host| host.remove());
    }

    /// Whether it has left the configuration.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// When the next sweep is due, if endpoints are watched at all.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        self.changing().next
    }

    /// Runs the sweep if its tick has come: endpoints return, back-off decays.
    pub(super) fn sweep(&self, now: Instant) {
        let mut changing = self.changing();
        let config = self.config.load_full();
        let (Some(Outlier { interval, .. }), Some(tick)) = (&config.outlier, changing.next) else { return };
        if now < tick {
            return;
        }
        let missed = (now - tick).as_nanos() / interval.as_nanos().max(1);
        changing.next =
            Some(tick + *interval * (u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1)));
        let set = self.hosts.load();
        let mut returned = false;
        for host in set.all.iter() {
            returned |= host.health().sweep(&self.stats, now);
        }
        if returned {
            self.rebuild(&config, set.all.clone());
        }
    }

    /// Builds the table that a health change asked for; off the workers, since a large one takes milliseconds.
    pub(super) fn refresh(&self) {
        if self.stale.load(Relaxed) {
            let _changing = self.changing();
            let config = self.config.load();
            let all = self.hosts.load().all.clone();
            self.rebuild(&config, all);
        }
    }

    fn rebuild(&self, config: &Cluster, all: Arc<[Arc<Host>]>) {
        self.stale.store(false, Relaxed);
        let used = self.hosts.load().is_used();
        self.hosts.store(Arc::new(HostSet::new(config, all, &self.stats, used)));
    }

    fn changing(&self) -> MutexGuard<'_, Ticks> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How connections to the endpoints of a cluster are secured.
#[derive(Debug)]
struct Securities {
    /// To those that take Istio's mutual TLS.
    mutual: Option<Arc<Security>>,
    others: Option<Arc<Security>>,
}

impl Securities {
    fn of(tls: &UpstreamTls, secrets: &Secrets) -> Self {
        let (mutual, others) = match tls {
            UpstreamTls::On(tls) => (Some(tls), Some(tls)),
            UpstreamTls::Auto(tls) if secrets.has_identity() => (Some(tls), None),
            UpstreamTls::Auto(_) | UpstreamTls::Off => (None, None),
        };
        let mutual = mutual.map(|tls| Arc::new(Security::new(tls, secrets)));
        Self { others: others.and(mutual.clone()), mutual }
    }

    fn with(&self, endpoint: &Endpoint) -> Option<Arc<Security>> {
        if endpoint.mutual { self.mutual.clone() } else { self.others.clone() }
    }
}

fn interval(config: &Cluster) -> Option<std::time::Duration> {
    config.outlier.as_ref().map(|outlier| outlier.interval)
}
