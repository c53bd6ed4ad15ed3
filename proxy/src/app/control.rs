//! The control thread: everything that is not a request.

use std::{
    future::pending,
    io,
    sync::{Arc, atomic::AtomicBool, mpsc::SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config::{
    Loaded, Loader,
    report::{Diagnostic, Report, Severity},
};
use tokio::{
    runtime::Builder,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    Bound, Command, ConfigStatus, Control, DrainTimes, Options, StartError,
    listeners::{self, Listeners},
    workers::{self, Parts, Pings},
};
use crate::{
    admin::{self, Admin, Server},
    drain::{Drain, Phase},
    export::{Accounts, Exporter},
    net::{
        listen::Workers,
        tls::{Identity, Secrets},
    },
    reload::{Documents, POLL, Sources, Unreadable, Watcher},
    telemetry::{LogQueue, Metrics, Outbox, Queues, Requests},
    upstream::{Lookup, Published, Upstreams},
    worker::WorkerStats,
};

/// How long the end of the process waits for the last log lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// How long a configuration waits for the first answers about its names. Later ones count as soon as they come.
const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// How often a configuration is tried again that was refused for an address in use.
const RETRY: Duration = Duration::from_secs(2);
/// Descriptors that are not for connections: files, pages, the runtime.
const OTHER_FILES: usize = 64;

/// What the control thread owns while the process runs.
#[derive(Debug)]
struct Process {
    /// Has read nothing: for the next load after one that panicked.
    unread: Loader,
    /// What the last load leaves for the next; away while that one runs, and gone if it fails to return.
    loader: Option<Loader>,
    watcher: Watcher,
    retry_at: Option<Instant>,
    upstreams: Arc<Upstreams>,
    secrets: Arc<Secrets>,
    published: Arc<ArcSwap<Published>>,
    config: Arc<ConfigStatus>,
    drain: Arc<Drain>,
    times: DrainTimes,
    listeners: Listeners,
    pings: Pings,
    connections: Workers,
    workers: Vec<JoinHandle<()>>,
    log_writer: JoinHandle<()>,
    exporter: Exporter,
    bound: Arc<Bound>,
}

/// The body of the thread. Tells `started` when all is up, or why it is not.
pub(super) fn run(
    options: Options,
    control: Control,
    mut commands: mpsc::Receiver<Command>,
    started: &SyncSender<Result<Arc<Bound>, StartError>>,
) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        // A compiler, and name servers that do not answer.
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build_local(Default::default());
    // Whoever waits for the start is in `App::start`, and stays there until told.
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            match Process::start(options, control).await {
                Ok(mut process) => {
                    let _ = started.send(Ok(Arc::clone(&process.bound)));
                    process.serve(&mut commands).await;
                    process.end(&mut commands).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        }),
        Err(error) => drop(started.send(Err(error.into()))),
    }
}

impl Process {
    /// Loads, binds, then starts threads: what can fail comes first.
    async fn start(options: Options, control: Control) -> Result<Self, StartError> {
        let sources = Sources::new(options.config, options.mesh_config);
        let documents = sources.read()?;
        let unread = Loader::new(options.node.clone(), options.otel.defaults.clone())
            .allow_envoy_filters(options.allow_envoy_filters);
        let mut loader = unread.afresh();
        let loaded = documents.compile(&mut loader).map_err(StartError::Config)?;
        warn_of(&loaded.warnings);
        let snapshot = Arc::new(loaded.snapshot);

        let concurrency = options.concurrency.get();
        let bound = Arc::new(Bound::default());
        let (lanes, receivers) = Workers::new(concurrency, max_connections());
        let mut listeners = Listeners::new(options.ports, lanes.clone(), Arc::clone(&bound));
        let prepared = listeners.prepare(&snapshot)?;
        let admin_page = listeners::bind(&"admin".into(), options.admin)?;
        let health_page = listeners::bind(&"health".into(), options.health)?;
        let metrics_pages = options
            .metrics
            .iter()
            .map(|address| listeners::bind(&"metrics".into(), *address))
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
            workers: stats,
            concurrency,
        }));
        metrics.add(admin::certificate_samples(Arc::clone(&secrets)));
        let counted = accounts.clone();
        metrics.add(move || counted.samples());
        let metrics = Arc::new(metrics);
        let exporter = Exporter::start(
            &options.otel,
            (spans_out, records_out),
            &accounts,
            Arc::clone(&metrics),
            Arc::clone(&upstreams),
            Arc::clone(&published),
        );
        if options.signals {
            watch_signals(&control)?;
        }
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
            unhealthy: AtomicBool::new(false),
            secrets: Arc::clone(&secrets),
        });
        listeners.follow(prepared, &snapshot);
        bound.add("admin".into(), admin_page.1, false);
        tokio::spawn(admin::serve_admin(admin_page.0, Arc::clone(&admin)));
        for (at, (listener, address)) in metrics_pages.into_iter().enumerate() {
            let name = if at == 0 { "metrics".into() } else { format!("metrics_{}", address.port()).into() };
            bound.add(name, address, false);
            tokio::spawn(admin::serve_metrics(listener, Arc::clone(&admin)));
        }
        bound.add("health".into(), health_page.1, false);
        tokio::spawn(admin::serve_health(health_page.0, admin));
        let sweeping = Arc::clone(&upstreams);
        tokio::spawn(async move { sweeping.maintain().await });

        Ok(Self {
            unread,
            loader: Some(loader),
            watcher: Watcher::new(sources, &documents),
            retry_at: None,
            upstreams,
            secrets,
            published,
            config,
            drain,
            times: options.drain,
            listeners,
            pings,
            connections: lanes,
            workers: threads,
            log_writer,
            exporter,
            bound,
        })
    }

    /// Follows configuration changes and commands until the process is to end.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let mut look = interval(POLL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut close_at = None;
        loop {
            let close = async {
                match close_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = look.tick() => {
                    self.secrets.poll();
                    let again = self.retry_at.is_some_and(|at| at <= Instant::now());
                    if again {
                        self.watcher.repeat();
                    }
                    if let Some(documents) = self.watcher.poll() {
                        self.change(documents, again).await;
                    }
                }
                () = close => {
                    close_at = None;
                    self.close();
                }
                command = commands.recv() => match command {
                    Some(Command::Reload) => {
                        let documents = self.watcher.force();
                        self.change(documents, false).await;
                    }
                    Some(Command::DrainListeners { graceful, close }) => {
                        self.drain.enter(Phase::Announced);
                        let now = Instant::now();
                        let at = if graceful { now + self.times.announce } else { now };
                        close_at = close.then_some(at);
                    }
                    Some(Command::Quit) => {
                        self.drain.enter(Phase::Forced);
                        return;
                    }
                    Some(Command::Drain) | None => return,
                },
            }
        }
    }

    /// Takes a new configuration, or says why not and keeps the old one. `again` says that it was refused before, so
    /// that the same refusal is no news.
    async fn change(&mut self, documents: Result<Documents, Unreadable>, again: bool) {
        self.retry_at = None;
        match self.compile(documents).await {
            Ok(loaded) => {
                let snapshot = Arc::new(loaded.snapshot);
                match self.listeners.prepare(&snapshot) {
                    Ok(prepared) => {
                        warn_of(&loaded.warnings);
                        self.upstreams.prepare(&snapshot, FIRST_ANSWERS).await;
                        self.listeners.dismiss(&snapshot, &self.published.load());
                        let old = self.published.swap(self.upstreams.publish(Arc::clone(&snapshot)));
                        self.listeners.follow(prepared, &snapshot);
                        let pings = self.pings.clone();
                        tokio::spawn(async move {
                            pings.all_answer().await;
                            // Taken apart here, unless a request has it still: a large one takes milliseconds.
                            drop(old);
                        });
                        self.config.apply();
                        tracing::info!(version = %snapshot.version, "configuration applied");
                    }
                    Err(error) => {
                        self.retry_at = Some(Instant::now() + RETRY);
                        let error = error.to_string();
                        if !again || self.config.last_rejection().as_ref() != Some(&error) {
                            self.refuse(&error.clone(), error);
                        }
                    }
                }
            }
            Err((first, all)) => self.refuse(&first, all),
        }
    }

    /// On an error: its first line, and all of it.
    async fn compile(
        &mut self,
        documents: Result<Documents, Unreadable>,
    ) -> Result<Loaded, (String, String)> {
        let documents = documents.map_err(|error| (error.to_string(), error.to_string()))?;
        let known = self.loader.take();
        let mut loader = known.unwrap_or_else(|| self.unread.afresh());
        let compiling = tokio::task::spawn_blocking(move || (documents.compile(&mut loader), loader));
        match compiling.await {
            Ok((result, loader)) => {
                self.loader = Some(loader);
                result.map_err(|report| (first_error(&report), report.to_string()))
            }
            Err(error) => Err((format!("the compiler failed: {error}"), error.to_string())),
        }
    }

    fn refuse(&self, first: &str, all: String) {
        tracing::error!(error = first, "configuration rejected, the last good one stays in force");
        self.config.reject(all);
    }

    fn close(&mut self) {
        self.drain.enter(Phase::Closing);
        self.listeners.close_all();
    }

    /// Drains, unless that is cut short by another command, and waits for the threads.
    async fn end(mut self, commands: &mut mpsc::Receiver<Command>) {
        let mut at_once = self.drain.phase() == Phase::Forced;
        if !at_once {
            tracing::info!("draining");
            at_once = tokio::select! {
                () = self.drain_connections() => false,
                () = cut_short(commands) => true,
            };
        }
        self.drain.enter(Phase::Forced);
        self.listeners.close_all();
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        // The workers are done: nothing more is told.
        self.exporter.finish(at_once).await;
        // Whoever reads the log may have stopped reading: that must not keep the process alive.
        let writer = self.log_writer;
        let last_lines = tokio::task::spawn_blocking(move || writer.join());
        if timeout(LAST_LINES, last_lines).await.is_err() {
            tracing::warn!("the last access log lines could not be written");
        }
        tracing::info!("stopped");
    }

    async fn drain_connections(&mut self) {
        self.drain.enter(Phase::Announced);
        match self.times.until_idle {
            Some(least) => {
                tokio::time::sleep(least).await;
                self.connections.idle().await;
            }
            None => tokio::time::sleep(self.times.announce).await,
        }
        self.close();
        // Whether it became idle or not: what is still open is cut.
        let _ = timeout(self.times.close, self.listeners.idle()).await;
    }
}

/// Another wish to end.
async fn cut_short(commands: &mut mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        if matches!(command, Command::Drain | Command::Quit) {
            return;
        }
    }
}

/// SIGTERM and SIGINT drain, SIGHUP reloads.
fn watch_signals(control: &Control) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for (kind, command) in [
        (SignalKind::terminate(), Command::Drain),
        (SignalKind::interrupt(), Command::Drain),
        (SignalKind::hangup(), Command::Reload),
    ] {
        let mut signals = signal(kind)?;
        let control = control.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                control.ask(command);
            }
        });
    }
    Ok(())
}

/// Notes are for who writes the configuration, not for who runs it.
fn warn_of(warnings: &Report) {
    let counts = |diagnostic: &&Arc<Diagnostic>| diagnostic.severity() > Severity::Note;
    for diagnostic in warnings.diagnostics.iter().filter(counts) {
        let place = &diagnostic.place;
        tracing::warn!(
            code = %diagnostic.code,
            at = format_args!("{}:{}:{}", place.file, place.line, place.column),
            path = diagnostic.path,
            "{}", diagnostic.message
        );
    }
}

/// One line of a report.
fn first_error(report: &Report) -> String {
    let error = report.diagnostics.iter().find(|diagnostic| diagnostic.severity() == Severity::Error);
    error.map_or_else(String::new, |diagnostic| {
        let place = &diagnostic.place;
        format!("{}:{}:{}: {}", place.file, place.line, place.column, diagnostic.message)
    })
}

/// A connection takes two descriptors, one on either side; without a limit known, as many as one could want.
fn max_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files: Option<usize> = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    files.map_or(usize::MAX, |files| (files.saturating_sub(OTHER_FILES) / 2).max(1))
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(body)
}
