//! All the wiring: from a configuration to a running collector, and back to nothing without losing anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Admin;
use crate::budget::Budget;
use crate::config::{Config, Connection, Receiver, Shutdown};
use crate::exporters::Sender;
use crate::metrics::Metrics;
use crate::pipeline::Route;
use crate::queue::Queue;
use crate::receivers::connection::{BindError, Listener, Versions};
use crate::receivers::http::Door;
use crate::receivers::{Intake, grpc, http};
use crate::signal::Signal;

/// The collector as a library.
#[derive(Debug)]
pub struct Collector;

/// A collector at work. Dropping it stops it at once and forgets what is queued; [`Running::stop`] does not.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<(String, SocketAddr)>,
    admin: Arc<Admin>,
    shutdown: Shutdown,
    drain: CancellationToken,
    connections: TaskTracker,
    flush: CancellationToken,
    senders: Vec<JoinHandle<()>>,
    close: CancellationToken,
}

/// What was left when a collector had stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Requests that were accepted and could not be delivered in time, summed over exporters.
    pub requests: u64,
    /// The items in them.
    pub items: u64,
}

impl Collector {
    /// Binds every listener, then starts. Must run inside a tokio runtime.
    pub async fn start(config: Config) -> Result<Running, BindError> {
        let metrics = Arc::new(Metrics::new());
        let flush = CancellationToken::new();
        let drain = CancellationToken::new();
        let close = CancellationToken::new();
        let connections = TaskTracker::new();

        let mut doors = Vec::new();
        for (index, receiver) in config.receivers.iter().enumerate() {
            if config.pipelines.iter().any(|pipeline| pipeline.receivers.contains(&index)) {
                doors.push((index, receiver, bind(receiver).await?));
            }
        }
        let metrics_listener = Listener::bind("metrics", &config.metrics).await?;
        let health_listener = Listener::bind("health", &config.health).await?;

        let mut queues = Vec::new();
        let mut senders = Vec::new();
        let mut tasks = Vec::new();
        for settings in &config.exporters {
            let counters = metrics.exporter(&settings.name, settings.queue.max_requests);
            let (queue, frames) = Queue::new(&settings.queue, &counters);
            let sender = Arc::new(Sender::new(settings, counters, flush.clone()));
            tasks.push(tokio::spawn(Arc::clone(&sender).run(frames, settings.queue.clone())));
            senders.push(sender);
            queues.push(Arc::new(queue));
        }

        let admin =
            Arc::new(Admin { metrics: Arc::clone(&metrics), senders, draining: AtomicBool::new(false) });
        let budget = Budget::new(config.memory_limit);
        let mut addresses = Vec::new();
        for (index, receiver, listeners) in doors {
            let routes = Signal::ALL.map(|signal| route(&config, index, signal, &queues));
            let intake = |transport: &str, max_request: usize, read_timeout: Duration| Intake {
                routes: routes.clone(),
                budget: budget.clone(),
                max_request,
                read_timeout,
                metrics: metrics.receiver(&receiver.name, transport),
            };
            if let (Some(settings), Some(listener)) = (&receiver.grpc, listeners.grpc) {
                addresses.push((listener.name.clone(), listener.address));
                let intake = intake("grpc", settings.max_request, settings.connection.read_timeout);
                let intake = Arc::new(intake);
                let handle = move |request| grpc::handle(Arc::clone(&intake), request);
                let limits = settings.connection.clone();
                let serve =
                    listener.serve(Versions::Http2, limits, drain.clone(), connections.clone(), handle);
                connections.spawn(serve);
            }
            if let (Some(settings), Some(listener)) = (&receiver.http, listeners.http) {
                addresses.push((listener.name.clone(), listener.address));
                let intake = intake("http", settings.max_request, settings.connection.read_timeout);
                let door = Arc::new(Door { intake, paths: settings.paths.clone() });
                let handle = move |request| http::handle(Arc::clone(&door), request);
                let limits = settings.connection.clone();
                let serve =
                    listener.serve(Versions::Both, limits, drain.clone(), connections.clone(), handle);
                connections.spawn(serve);
            }
        }
        for listener in [metrics_listener, health_listener] {
            addresses.push((listener.name.clone(), listener.address));
            let (admin, metrics) = (Arc::clone(&admin), listener.name == "metrics");
            let handle = move |request| {
                let answer = if metrics { admin.metrics(&request) } else { admin.health(&request) };
                std::future::ready(answer)
            };
            let limits = Connection { max_connections: 64, ..Connection::default() };
            tokio::spawn(listener.serve(Versions::Both, limits, close.clone(), TaskTracker::new(), handle));
        }
        connections.close();
        let shutdown = config.shutdown;
        Ok(Running { addresses, admin, shutdown, drain, connections, flush, senders: tasks, close })
    }
}

impl Running {
    /// Every bound listener by name: `otlp_grpc`, `otlp_http`, `metrics`, `health`.
    pub fn addresses(&self) -> &[(String, SocketAddr)] {
        &self.addresses
    }

    /// The address of one listener.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses.iter().find(|(known, _)| known == name).map(|(_, address)| *address)
    }

    /// The collector's own numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.admin.metrics
    }

    /// Stops in order: unready, no new connections, requests in flight finish, queues empty. Nothing that was
    /// accepted is lost unless the destinations do not take it in time; that is what is returned.
    pub async fn stop(mut self) -> Stopped {
        self.admin.draining.store(true, Ordering::Release);
        tokio::time::sleep(self.shutdown.delay).await;
        self.drain.cancel();
        if timeout(self.shutdown.in_flight, self.connections.wait()).await.is_err() {
            tracing::warn!("some connections did not finish in time");
        }
        self.flush.cancel();
        let senders = std::mem::take(&mut self.senders);
        let aborts: Vec<_> = senders.iter().map(JoinHandle::abort_handle).collect();
        let flushed = async {
            for sender in senders {
                let _ = sender.await;
            }
        };
        let late = timeout(self.shutdown.flush, flushed).await.is_err();
        let left = self.left();
        if late {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        left
    }

    /// What is queued now.
    pub fn left(&self) -> Stopped {
        self.admin.senders.iter().map(|sender| sender.metrics()).fold(Stopped::default(), |sum, metrics| {
            Stopped {
                requests: sum.requests + metrics.queue_size.value(),
                items: sum.items + metrics.queue_items.value(),
            }
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain.cancel();
        self.close.cancel();
        self.senders.iter().for_each(JoinHandle::abort);
    }
}

struct Listeners {
    grpc: Option<Listener>,
    http: Option<Listener>,
}

async fn bind(receiver: &Receiver) -> Result<Listeners, BindError> {
    let name = |transport: &str| format!("{}_{transport}", receiver.name);
    let grpc = match &receiver.grpc {
        Some(settings) => Some(Listener::bind(&name("grpc"), &settings.endpoint).await?),
        None => None,
    };
    let http = match &receiver.http {
        Some(settings) => Some(Listener::bind(&name("http"), &settings.endpoint).await?),
        None => None,
    };
    Ok(Listeners { grpc, http })
}

/// The queues that a signal from a receiver leads to, each once.
fn route(config: &Config, receiver: usize, signal: Signal, queues: &[Arc<Queue>]) -> Option<Route> {
    let mut exporters: Vec<usize> = config
        .pipelines
        .iter()
        .filter(|pipeline| pipeline.signal == signal && pipeline.receivers.contains(&receiver))
        .flat_map(|pipeline| pipeline.exporters.iter().copied())
        .collect();
    exporters.sort_unstable();
    exporters.dedup();
    let queues: Vec<_> = exporters.iter().filter_map(|index| queues.get(*index).cloned()).collect();
    (!queues.is_empty()).then_some(Route { queues })
}
