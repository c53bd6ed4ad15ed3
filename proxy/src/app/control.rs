//! The control thread: everything that is not a request.

use std::{
    convert::Infallible,
    future::pending,
    pin::pin,
    sync::{Arc, mpsc::SyncSender},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use outrigger_config::Loader;
use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Bound, Command, ConfigStatus, Control, DrainTimes, Options, StartError,
    ending::{Ending, wish_to_end},
    listeners::Listeners,
    signals::watch_signals,
    workers::Pings,
};
use crate::{
    drain::{Drain, Phase},
    export::Exporter,
    net::{listen::Workers, tls::Secrets},
    reload::{POLL, Watcher},
    upstream::{Published, Upstreams},
};

/// What the control thread owns while the process runs. It is made in `start`, follows changes of the configuration in
/// `change`, and ends in `ending`.
#[derive(Debug)]
pub(super) struct Process {
    /// Has read nothing: for the next load after one that panicked.
    pub(super) unread: Loader,
    /// What the last load leaves for the next; away while that one runs, and gone if it fails to return.
    pub(super) loader: Option<Loader>,
    pub(super) watcher: Watcher,
    pub(super) retry_at: Option<Instant>,
    /// Somebody has asked for a reload that has not begun.
    pub(super) reload: Arc<Notify>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) published: Arc<ArcSwap<Published>>,
    pub(super) config: Arc<ConfigStatus>,
    pub(super) drain: Arc<Drain>,
    pub(super) times: DrainTimes,
    /// When clients were first told to go away.
    pub(super) announced: Option<Instant>,
    /// When the listeners close, if that was asked for.
    pub(super) close_at: Option<Instant>,
    pub(super) listeners: Listeners,
    pub(super) pings: Pings,
    pub(super) connections: Workers,
    pub(super) workers: Vec<JoinHandle<()>>,
    pub(super) log_writer: JoinHandle<()>,
    pub(super) exporter: Exporter,
    pub(super) bound: Arc<Bound>,
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
        Ok(runtime) => {
            runtime.block_on(live(options, control, &mut commands, started));
            // A file that cannot be read to its end must not keep the process alive.
            runtime.shutdown_background();
        }
        Err(error) => drop(started.send(Err(error.into()))),
    }
}

async fn live(
    options: Options,
    control: Control,
    commands: &mut mpsc::Receiver<Command>,
    started: &SyncSender<Result<Arc<Bound>, StartError>>,
) {
    // First of all: the system gives no default action to the first process of a container, and a start may take long.
    if options.signals
        && let Err(error) = watch_signals(&control)
    {
        let _ = started.send(Err(error.into()));
        return;
    }
    let process = tokio::select! {
        process = Process::start(options, control) => process,
        _ = wish_to_end(commands) => Err(StartError::Stopped),
    };
    match process {
        Ok(mut process) => {
            let _ = started.send(Ok(Arc::clone(&process.bound)));
            let ending = process.serve(commands).await;
            process.end(ending, commands).await;
        }
        Err(error) => drop(started.send(Err(error))),
    }
}

impl Process {
    /// Follows configuration changes and commands until the process is to end.
    async fn serve(&mut self, commands: &mut mpsc::Receiver<Command>) -> Ending {
        let Err(ending) = self.follow(commands).await;
        ending
    }

    async fn follow(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<Infallible, Ending> {
        let mut look = interval(POLL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reload = Arc::clone(&self.reload);
        loop {
            let asked = async {
                tokio::select! {
                    _ = look.tick() => false,
                    () = reload.notified() => true,
                }
            };
            if self.meanwhile(commands, asked).await? {
                let documents = self.watcher.force();
                self.change(documents, false, commands).await?;
                continue;
            }
            self.secrets.poll();
            let again = self.retry_at.is_some_and(|at| at <= Instant::now());
            if again {
                self.watcher.repeat();
            }
            if let Some(documents) = self.watcher.poll() {
                self.change(documents, again, commands).await?;
            }
        }
    }

    /// Waits for `what`, and does what is asked for meanwhile. If the process is to end, `what` is dropped at once.
    pub(super) async fn meanwhile<T>(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        what: impl Future<Output = T>,
    ) -> Result<T, Ending> {
        let mut what = pin!(what);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Reload) => self.reload.notify_one(),
                    Some(Command::DrainListeners { graceful, close }) => {
                        let announced = self.announce();
                        let at = if graceful { announced + self.times.announce } else { Instant::now() };
                        if close {
                            self.close_at = Some(self.close_at.map_or(at, |before| before.min(at)));
                        }
                    }
                    Some(Command::End(ending)) => return Err(ending),
                    None => return Err(Ending::Drain),
                },
                () = passed(self.close_at) => self.close(),
                done = what.as_mut() => return Ok(done),
            }
        }
    }

    /// Tells clients to go away, unless they have been told; when that was.
    pub(super) fn announce(&mut self) -> Instant {
        self.drain.enter(Phase::Announced);
        *self.announced.get_or_insert_with(Instant::now)
    }

    pub(super) fn close(&mut self) {
        self.close_at = None;
        self.drain.enter(Phase::Closing);
        self.listeners.close_all();
    }
}

/// Waits until then, if there is such a time.
async fn passed(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
