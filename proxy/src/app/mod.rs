//! All wiring, and the only place that starts threads: the workers, one control thread, one writer of the log.
//!
//! The control thread loads the configuration, binds, accepts, answers the admin pages, watches for changes, sweeps
//! ejections and ends the process. Workers only serve.

mod change;
mod control;
mod ending;
mod listeners;
mod signals;
mod start;
mod status;
#[cfg(test)]
mod tests;
mod workers;

use std::{
    io, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration,
};

use outrigger_config::{report::Report, snapshot::Node};
use tokio::sync::mpsc;

pub use ending::DrainTimes;
pub(crate) use ending::Ending;
pub(crate) use status::{Bound, ConfigStatus};
pub(crate) use workers::Pings;

use crate::{application::Application, export::Otel, overload::Cgroups, reload::Unreadable};

/// How to run. Nothing else is read from the environment.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files or folders with Istio documents.
    pub config: Vec<PathBuf>,
    /// Mesh settings of their own; they win over the ConfigMap `istio`.
    pub mesh_config: Option<PathBuf>,
    /// An `EnvoyFilter` that selects the proxy is ignored with a warning, and is no error.
    pub allow_envoy_filters: bool,
    /// Who the proxy is.
    pub node: Node,
    /// A folder with the proxy's own certificate, its key and the roots of the mesh, if it is to have an identity.
    pub identity: Option<PathBuf>,
    /// Worker threads.
    pub concurrency: NonZeroUsize,
    /// Admin pages; port 0 takes a free one, here as below.
    pub admin: SocketAddr,
    /// The scrape, on each of these. The first one is named `metrics` and has all pages of Istio's agent, others are
    /// named `metrics_<port>`.
    pub metrics: Vec<SocketAddr>,
    /// Readiness.
    pub health: SocketAddr,
    /// Where the pod's questions for addresses are answered, by UDP and TCP, if they are captured
    /// ([`Node::dns_capture`]).
    pub dns: Vec<SocketAddr>,
    /// Seed of all random choices; `None` takes one from the system.
    pub seed: Option<u64>,
    /// Ports of the configured listeners.
    pub ports: Ports,
    /// What the environment says about telemetry.
    pub otel: Otel,
    /// How the process ends.
    pub drain: DrainTimes,
    /// The application beside the sidecar.
    pub application: Application,
    /// Where the kernel tells how much memory there is.
    pub cgroups: Cgroups,
    /// Whether SIGTERM and SIGINT drain (twice: end at once) and SIGHUP reloads.
    pub signals: bool,
}

impl Options {
    /// One worker on loopback and free ports throughout, no signals and no waiting at the end: for tests.
    #[must_use]
    pub fn ephemeral(config: Vec<PathBuf>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            config,
            mesh_config: None,
            allow_envoy_filters: false,
            identity: None,
            node: Node { namespace: "default".into(), cluster: "Kubernetes".into(), ..Node::default() },
            concurrency: NonZeroUsize::MIN,
            admin: any,
            metrics: vec![any],
            health: any,
            dns: vec![any],
            seed: Some(0),
            ports: Ports::Ephemeral,
            otel: Otel::default(),
            drain: DrainTimes { announce: Duration::ZERO, ..DrainTimes::default() },
            application: Application::default(),
            cgroups: Cgroups::default(),
            signals: false,
        }
    }
}

/// Where the configured listeners bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ports {
    /// As the configuration says.
    Configured,
    /// On loopback and a free port each; they keep the names of the configuration.
    Ephemeral,
}

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be read.
    #[error("error: {0}")]
    Unreadable(#[from] Unreadable),
    /// The configuration has errors; the display is the rendered report.
    #[error("{0}")]
    Config(Report),
    /// An address cannot be bound.
    #[error("error: cannot bind {name} at {address}: {error}")]
    Bind {
        /// Name of the listener.
        name: Arc<str>,
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// It was asked to end before it had started.
    #[error("stopped before the start was complete")]
    Stopped,
    /// A thread or its runtime cannot be started.
    #[error("error: cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// The sidecar as a whole.
#[derive(Debug)]
pub struct App;

impl App {
    /// Starts it and returns once the configuration is loaded and every listener is bound. Blocks for as long as that
    /// takes.
    ///
    /// # Errors
    /// Whatever keeps it from starting; nothing is left behind then.
    pub fn start(options: Options) -> Result<Running, StartError> {
        let (commands, received) = mpsc::channel(COMMANDS);
        let control = Control(commands);
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = {
            let control = control.clone();
            std::thread::Builder::new().name("control".to_owned()).spawn(move || {
                control::run(options, control, received, &report);
            })?
        };
        match started.recv() {
            Ok(Ok(bound)) => Ok(Running { bound, control, thread: Some(thread) }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StartError::Thread(io::Error::other("the control thread ended early"))),
        }
    }
}

/// A started sidecar. Dropping it ends it at once.
#[derive(Debug)]
pub struct Running {
    bound: Arc<Bound>,
    control: Control,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Where a listener is bound: its name in the configuration (`127.0.0.1_4317`), `admin`, `metrics` or `health`.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|(bound, _)| &**bound == name).map(|(_, address)| address)
    }

    /// All bound listeners.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.bound.all()
    }

    /// Begins to drain, as SIGTERM does; a second time it ends at once. Wait for the end with [`join`](Self::join).
    pub fn drain(&self) {
        self.control.ask(Command::End(Ending::Drain));
    }

    /// Reads the configuration now, as SIGHUP does, changed or not.
    pub fn reload(&self) {
        self.control.ask(Command::Reload);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end, which something else must bring about: a signal, `/quitquitquit`, [`drain`](Self::drain).
    /// False if it has panicked.
    pub fn join(mut self) -> bool {
        self.wait()
    }

    fn wait(&mut self) -> bool {
        let ended = self.thread.take().map(JoinHandle::join);
        let panicked = matches!(ended, Some(Err(_)));
        if panicked {
            tracing::error!("the control thread panicked");
        }
        !panicked
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The queue may be full of other wishes; the control thread is at them.
        while !self.is_finished() && !self.control.ask(Command::End(Ending::Now)) {
            std::thread::yield_now();
        }
        self.wait();
    }
}

/// What the control thread can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// End; asked twice, at once.
    End(Ending),
    /// Drain without ending.
    DrainListeners {
        /// Announce it first; else close at once.
        graceful: bool,
        /// Close the listeners when it was announced for long enough.
        close: bool,
    },
    /// Read the configuration now.
    Reload,
}

/// Commands that may wait.
const COMMANDS: usize = 8;

/// Asks the control thread.
#[derive(Debug, Clone)]
pub(crate) struct Control(mpsc::Sender<Command>);

impl Control {
    /// Waits until there is room.
    async fn tell(&self, command: Command) {
        // Without a receiver the process is ending.
        let _ = self.0.send(command).await;
    }

    /// False if too many commands wait already, or the thread has ended.
    pub(crate) fn ask(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }
}
