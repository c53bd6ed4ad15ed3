//! The start: the configuration is loaded and every address bound before anything is served or a thread started.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
};

use arc_swap::ArcSwap;
use outrigger_config::{Loaded, Loader};
use tokio::time::Instant;

use super::{
    Bound, ConfigStatus, Control, Options, StartError,
    change::{FIRST_ANSWERS, warn_of},
    control::Process,
    listeners::{self, Listeners},
    workers::{self, Parts},
};
use crate::{
    admin::{self, Admin, Server},
    dns_proxy::{self, DnsProxy},
    drain::Drain,
    export::{Accounts, Exporter},
    net::{
        listen::Workers,
        tls::{Identity, Secrets},
    },
    overload::Overload,
    reload::{Documents, Sources, Watcher},
    telemetry::{LogQueue, Metrics, Outbox, Queues, Requests},
    upstream::{Lookup, NameServers, Upstreams},
    worker::WorkerStats,
};

/// Descriptors that are not for connections: files, pages, the runtime.
const OTHER_FILES: usize = 64;

impl Process {
    /// Loads, binds, then starts threads: what can fail comes first.
    pub(super) async fn start(options: Options, control: Control) -> Result<Self, StartError> {
        let sources = Sources::new(options.config, options.mesh_config);
        let unread = Loader::new(options.node.clone(), options.otel.defaults.clone())
            .allow_envoy_filters(options.allow_envoy_filters);
        let (documents, loader, loaded) = load(sources.clone(), unread.afresh()).await?;
        warn_of(&loaded.warnings);
        let snapshot = Arc::new(loaded.snapshot);

        let concurrency = options.concurrency.get();
        let bound = Arc::new(Bound::default());
        let overload = Arc::<Overload>::default();
        let captures_dns = options.node.dns_capture;
        let other_files = OTHER_FILES + if captures_dns { dns_proxy::MOST_SOCKETS } else { 0 };
        let (lanes, receivers) =
            Workers::new(concurrency, max_connections(other_files), Arc::clone(&overload));
        let mut listeners = Listeners::new(options.ports, lanes.clone(), Arc::clone(&bound));
        let prepared = listeners.prepare(&snapshot)?;
        let admin_page = listeners::bind(&"admin".into(), options.admin)?;
        let health_page = listeners::bind_page(&"health".into(), options.health)?;
        let metrics_pages = options
            .metrics
            .iter()
            .map(|address| listeners::bind_page(&"metrics".into(), *address))
            .collect::<Result<Vec<_>, _>>()?;

        let dns_sockets = options.dns.iter().filter(|_| captures_dns);
        let dns_sockets = dns_sockets
            .filter_map(|address| listeners::bind_dns(*address).transpose())
            .collect::<Result<Vec<_>, _>>()?;

        let secrets = Arc::new(Secrets::new(options.identity.map(Identity::new)));
        let upstreams = Arc::new(Upstreams::with(Arc::clone(&secrets)));
        let resolving = Arc::clone(&upstreams);
        tokio::spawn(async move { resolving.resolve(Lookup::of_system).await });
        upstreams.prepare(&snapshot, FIRST_ANSWERS).await;
        let published = Arc::new(ArcSwap::new(upstreams.publish(Arc::clone(&snapshot))));
        let drain = Arc::new(Drain::default());
        let config = Arc::new(ConfigStatus::default());
        config.apply();
        let (log, writer) = LogQueue::new();
        let (spans, spans_out) = Outbox::new(options.otel.spans.bounds);
        let (records, records_out) = Outbox::new(options.otel.records.bounds);
        let accounts = Accounts::new(&spans_out, &records_out);
        let log_counts = log.counts();
        let log_writer = thread("access-log", move || writer.run())?;
        let requests = Requests::new(concurrency);
        let stats = Arc::<WorkerStats>::default();
        let parts = Parts {
            published: Arc::clone(&published),
            requests: Arc::clone(&requests),
            queues: Queues { log, spans, records, resource: Arc::clone(&options.otel.resource) },
            drain: drain.watch(),
            overload: Arc::clone(&overload),
            stats: Arc::clone(&stats),
            seed: options.seed.unwrap_or_else(rand::random),
        };
        let (threads, pings) = workers::start(receivers, &parts)?;

        let mut metrics = Metrics::new(requests);
        metrics.add(admin::cluster_samples(Arc::clone(&upstreams)));
        metrics.add(admin::server_samples(Server {
            drain: Arc::clone(&drain),
            config: Arc::clone(&config),
            log: log_counts,
            connections: lanes.clone(),
            overload: Arc::clone(&overload),
            workers: stats,
            concurrency,
        }));
        metrics.add(admin::certificate_samples(Arc::clone(&secrets)));
        let counted = accounts.clone();
        metrics.add(move || counted.samples());
        if let Some(scrape) = options.application.scrape.clone() {
            metrics.add(move || scrape.samples());
        }
        let dns = captures_dns.then(|| {
            let own: Vec<_> = dns_sockets.iter().filter_map(|(udp, _)| udp.local_addr().ok()).collect();
            DnsProxy::new(Arc::clone(&published), &system_name_servers(), &own)
        });
        if let Some(dns) = &dns {
            let counted = Arc::clone(dns);
            metrics.add(move || counted.samples());
        }
        let metrics = Arc::new(metrics);
        let exporter = Exporter::start(
            &options.otel,
            (spans_out, records_out),
            &accounts,
            Arc::clone(&metrics),
            Arc::clone(&upstreams),
            Arc::clone(&published),
        );
        let admin = Arc::new(Admin {
            upstreams: Arc::clone(&upstreams),
            published: Arc::clone(&published),
            metrics,
            config: Arc::clone(&config),
            drain: Arc::clone(&drain),
            bound: Arc::clone(&bound),
            workers: pings.clone(),
            control,
            started: Instant::now(),
            concurrency,
            application: options.application,
            unhealthy: AtomicBool::new(false),
            secrets: Arc::clone(&secrets),
            dns: dns.clone(),
            was_ready: AtomicBool::new(false),
        });
        listeners.follow(prepared, &snapshot);
        bound.add("admin".into(), admin_page.1, false);
        tokio::spawn(admin::serve_admin(admin_page.0, Arc::clone(&admin)));
        for (at, sockets) in metrics_pages.into_iter().enumerate() {
            for (listener, address) in sockets {
                let port = address.port();
                let name = if at == 0 { "metrics".into() } else { format!("metrics_{port}").into() };
                bound.add(name, address, false);
                // The first one is the agent's, as in Istio.
                if at == 0 {
                    tokio::spawn(admin::serve_agent(listener, Arc::clone(&admin)));
                } else {
                    tokio::spawn(admin::serve_metrics(listener, Arc::clone(&admin)));
                }
            }
        }
        for (datagrams, connections) in dns_sockets {
            for (name, address) in [("dns", datagrams.local_addr()?), ("dns_tcp", connections.local_addr()?)]
            {
                bound.add(name.into(), address, false);
            }
            if let Some(dns) = &dns {
                dns.start(datagrams, connections);
            }
        }
        for (listener, address) in health_page {
            bound.add("health".into(), address, false);
            tokio::spawn(admin::serve_health(listener, Arc::clone(&admin)));
        }
        let groups = options.cgroups;
        tokio::spawn(async move { overload.follow(&groups).await });
        let sweeping = Arc::clone(&upstreams);
        tokio::spawn(async move { sweeping.maintain().await });

        Ok(Self {
            unread,
            loader: Some(loader),
            watcher: Watcher::new(sources, &documents),
            retry_at: None,
            reload: Arc::default(),
            upstreams,
            secrets,
            published,
            config,
            drain,
            times: options.drain,
            announced: None,
            close_at: None,
            listeners,
            pings,
            connections: lanes,
            workers: threads,
            log_writer,
            exporter,
            bound,
        })
    }
}

/// Reads and compiles beside the control thread, which has to hear a wish to end meanwhile.
async fn load(sources: Sources, mut loader: Loader) -> Result<(Documents, Loader, Loaded), StartError> {
    let loading = tokio::task::spawn_blocking(move || {
        let documents = sources.read()?;
        let loaded = documents.compile(&mut loader).map_err(StartError::Config)?;
        Ok((documents, loader, loaded))
    });
    loading.await.unwrap_or_else(|error| Err(StartError::Thread(io::Error::other(error))))
}

/// Without any the mesh is answered all the same, and nothing else.
fn system_name_servers() -> NameServers {
    NameServers::of_system().unwrap_or_else(|error| {
        tracing::warn!(
            error,
            "/etc/resolv.conf gives no name server: names outside of the mesh are not resolved"
        );
        NameServers::default()
    })
}

/// A connection takes two descriptors, one on either side; without a limit known, as many as one could want.
fn max_connections(other_files: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files: Option<usize> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    files.map_or(usize::MAX, |files| (files.saturating_sub(other_files) / 2).max(1))
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(body)
}
