//! What the requests of one worker share: its own pools, balancers, random numbers and telemetry.
//!
//! Workers share the published configuration and the atomics of clusters, nothing else. What a worker does
//! is in `serve`.

use std::{
    cell::{Cell, RefCell, RefMut},
    fmt, io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::net::TcpStream;

use crate::{
    drain::Watch,
    http::{replay::ReplayBudget, upload::RequestBody},
    net::{
        listen::ListenerInfo,
        tls::{self, Inbound, Taken, TlsFailure},
    },
    overload::{Allowance, Overload},
    tcp::relay,
    telemetry::Shard,
    upstream::{
        Balancers, ClusterState, Host, Original, Originals, Published,
        pool::Pools,
        stats::{FilterStats, TlsStats},
    },
};

/// How connections of clients are treated.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A connection without a request is closed after this time.
    pub idle_timeout: Duration,
}

impl Default for Settings {
    /// Envoy's 1 h.
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(3600) }
    }
}

/// What workers count for the process.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Requests and connections that ended in a panic; each failed alone.
    pub panics: AtomicU64,
    /// HTTP/1 connections that wait for a request and hold next to nothing.
    pub parked: AtomicUsize,
    /// Captured connections whose protocol was not clear in time: their bytes passed unread.
    pub unclear: AtomicU64,
    /// What the filters before the router did.
    pub filters: FilterStats,
    /// Handshakes with clients.
    pub(crate) tls: TlsStats,
    /// Clients that spoke plain text where mutual TLS alone is taken.
    pub(crate) plaintext_refused: AtomicU64,
}

/// Held while a connection is parked.
pub(crate) struct Parked(Arc<WorkerStats>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Relaxed);
    }
}

/// What the requests of one thread share.
pub struct Worker {
    published: RefCell<Cache<Arc<ArcSwap<Published>>, Arc<Published>>>,
    /// Address of the configuration that was seen last.
    seen: Cell<usize>,
    pools: Pools<RequestBody>,
    balancers: Balancers,
    originals: Originals,
    rng: RefCell<SmallRng>,
    shard: Shard,
    drain: Watch,
    overload: Arc<Overload>,
    stats: Arc<WorkerStats>,
    settings: Settings,
    replay: Rc<ReplayBudget>,
    allowance: Rc<Allowance>,
    date: RefCell<(u64, HeaderValue)>,
    relay_buffer: RefCell<Vec<u8>>,
    /// The second in which a refusal was told last.
    refusal_told: Cell<u64>,
}

impl Worker {
    /// A worker whose random numbers follow from `seed`; give each worker its own.
    #[must_use]
    pub fn new(
        published: Arc<ArcSwap<Published>>,
        shard: Shard,
        drain: Watch,
        overload: Arc<Overload>,
        stats: Arc<WorkerStats>,
        settings: Settings,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            published: RefCell::new(Cache::new(published)),
            seen: Cell::new(0),
            pools: Pools::new(),
            balancers: Balancers::new(),
            originals: Originals::default(),
            rng: RefCell::new(SmallRng::seed_from_u64(seed)),
            shard,
            drain,
            replay: Rc::new(ReplayBudget::new(Arc::clone(&overload))),
            allowance: Rc::new(Allowance::new(Arc::clone(&overload))),
            overload,
            stats,
            settings,
            date: RefCell::new((0, HeaderValue::from_static(""))),
            relay_buffer: RefCell::default(),
            refusal_told: Cell::new(0),
        })
    }

    /// The newest configuration; a request takes it once and keeps it to its end.
    pub(crate) fn published(&self) -> Arc<Published> {
        let published = Arc::clone(self.published.borrow_mut().load());
        let address = Arc::as_ptr(&published) as usize;
        if self.seen.replace(address) != address {
            self.originals.forget_retired();
            self.pools.retire_removed();
        }
        published
    }

    pub(crate) fn pools(&self) -> &Pools<RequestBody> {
        &self.pools
    }

    /// The host for a request or connection, or none where no host takes it (flag UH). What was captured goes where it
    /// was going, if the cluster says so; otherwise as [`Balancers::pick`] says.
    pub(crate) fn pick(
        &self,
        cluster: &Arc<ClusterState>,
        original: Option<Original>,
        hash: Option<u64>,
        avoid: &[Arc<Host>],
    ) -> Option<Arc<Host>> {
        if let Some(original) = original.filter(|_| cluster.is_original()) {
            let (host, dropped) = self.originals.host(cluster, original);
            if dropped {
                self.pools.retire_removed();
            }
            return Some(host);
        }
        self.balancers.pick(cluster, hash, avoid, &mut self.rng())
    }

    /// Not to be held across an await.
    pub(crate) fn rng(&self) -> RefMut<'_, SmallRng> {
        self.rng.borrow_mut()
    }

    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }

    pub(crate) fn drain(&self) -> &Watch {
        &self.drain
    }

    /// Whether there is memory for new requests.
    pub(crate) fn is_shedding(&self) -> bool {
        self.overload.is_shedding()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    pub(crate) fn replay(&self) -> &Rc<ReplayBudget> {
        &self.replay
    }

    /// What bodies of requests may fill.
    pub(crate) fn allowance(&self) -> &Rc<Allowance> {
        &self.allowance
    }

    /// Where raw connections are read into, by one at a time: not to be held across an await. Made when the first one
    /// comes.
    pub(crate) fn relay_buffer(&self) -> &RefCell<Vec<u8>> {
        self.relay_buffer.borrow_mut().resize(relay::BUFFER, 0);
        &self.relay_buffer
    }

    /// The newest configuration, or the last one that had the listener.
    pub(crate) fn published_for(&self, listener: &ListenerInfo) -> Arc<Published> {
        let newest = self.published();
        if newest.has_listener(&listener.name) {
            return newest;
        }
        listener.departure.last(|last| last.has_listener(&listener.name)).unwrap_or(newest)
    }

    /// How a listener takes connections to this port now; `None` is bytes as they come.
    pub(crate) fn inbound(&self, listener: &ListenerInfo, port: u16) -> Option<Inbound> {
        self.published_for(listener).inbound(&listener.name, port).cloned()
    }

    /// Takes a connection; `raw` says that it carries no requests. `None`: the client sent nothing, or left.
    pub(crate) async fn take(
        &self,
        stream: TcpStream,
        inbound: &Inbound,
        listener: &ListenerInfo,
        raw: bool,
    ) -> io::Result<Option<Taken>> {
        // Only raw bytes are looked at in it.
        let space = if raw { self.relay_buffer() } else { &self.relay_buffer };
        let taken = tls::take(stream, inbound, raw, self.settings.idle_timeout, space).await;
        match &taken {
            Ok(Some(Taken { secured: Some(_), .. })) => self.stats.tls.ssl_handshake.inc(),
            Ok(Some(Taken { silent: true, .. })) => self.count_unclear(),
            Ok(_) => {}
            Err(error) => self.refused(error, listener),
        }
        taken
    }

    /// Counts it; one in a second is told, for a client may try for ever.
    fn refused(&self, error: &io::Error, listener: &ListenerInfo) {
        match TlsFailure::within(error) {
            Some(TlsFailure::Plaintext) => drop(self.stats.plaintext_refused.fetch_add(1, Relaxed)),
            Some(_) => self.stats.tls.failed(error),
            None => return,
        }
        let now = seconds(SystemTime::now());
        if self.refusal_told.replace(now) != now {
            tracing::warn!(listener = %listener.name, reason = %error, "a connection was refused");
        }
    }

    pub(crate) fn stats(&self) -> &Arc<WorkerStats> {
        &self.stats
    }

    /// Counts one connection as parked.
    pub(crate) fn park(&self) -> Parked {
        self.stats.parked.fetch_add(1, Relaxed);
        Parked(Arc::clone(&self.stats))
    }

    /// Counts a connection whose protocol was not clear in time.
    pub(crate) fn count_unclear(&self) {
        self.stats.unclear.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_panic(&self) {
        self.stats.panics.fetch_add(1, Relaxed);
    }

    /// The value of `date`, made once a second.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = SystemTime::now();
        let second = seconds(now);
        let mut date = self.date.borrow_mut();
        if date.0 != second
            && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            *date = (second, value);
        }
        date.1.clone()
    }
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("settings", &self.settings).finish_non_exhaustive()
    }
}
