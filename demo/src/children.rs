//! The processes that the demo starts: this very program in another role, which says on its standard output where it
//! listens, one JSON line per listener.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::File,
    io,
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout},
};

/// A process in one of the demo's roles. Killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    addresses: BTreeMap<String, SocketAddr>,
    ready_after: Duration,
}

/// Why a process is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// Could not be started, or its output not be read.
    #[error("{name}: {source}")]
    Io {
        /// Which process.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Ended, or said nothing for too long.
    #[error("{name} did not say where it listens on {missing}; its log:\n{log}")]
    NotListening {
        /// Which process.
        name: String,
        /// The listener that is missing.
        missing: String,
        /// Its standard error.
        log: String,
    },
}

impl Process {
    /// Starts this program as `role`, with more variables in its environment, and waits for its listeners.
    pub(crate) async fn start<A: AsRef<OsStr>>(
        name: &str,
        role: &str,
        args: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
        listeners: &[&str],
        logs: &Path,
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Io { name: name.to_owned(), source };
        let log = logs.join(format!("{name}.log"));
        let program = std::env::current_exe().map_err(failed)?;
        let began = Instant::now();
        let mut child = Command::new(program)
            .arg(role)
            .args(args)
            // Each ends as soon as its clients have gone, not after the grace that a mesh needs.
            .env("PROXY_CONFIG", r#"{"terminationDrainDuration":"100ms"}"#)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(failed)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| failed(io::Error::other("no standard output")))?;
        let mut lines = BufReader::new(stdout).lines();
        let mut addresses = BTreeMap::new();
        let told = timeout(Duration::from_secs(10), read_addresses(&mut lines, listeners, &mut addresses));
        if !matches!(told.await, Ok(true)) {
            let missing = listeners.iter().find(|listener| !addresses.contains_key(**listener));
            return Err(ProcessError::NotListening {
                name: name.to_owned(),
                missing: missing.copied().unwrap_or_default().to_owned(),
                log: std::fs::read_to_string(&log).unwrap_or_default(),
            });
        }
        let ready_after = began.elapsed();
        // A process whose output nobody reads would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { name: name.to_owned(), child, addresses, ready_after })
    }

    /// Address of a listener that [`Process::start`] waited for.
    pub(crate) fn address(&self, listener: &str) -> Result<SocketAddr, ProcessError> {
        self.addresses.get(listener).copied().ok_or_else(|| ProcessError::NotListening {
            name: self.name.clone(),
            missing: listener.to_owned(),
            log: String::new(),
        })
    }

    /// From start to the last of its listeners.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Asks it to end, as Kubernetes does, and waits.
    pub(crate) async fn terminate(mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        let failed = |name: &str, source| ProcessError::Io { name: name.to_owned(), source };
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|error| failed(&self.name, error.into()))?;
        }
        match timeout(patience, self.child.wait()).await {
            Ok(status) => status.map_err(|error| failed(&self.name, error)),
            Err(_) => {
                Err(failed(&self.name, io::Error::new(io::ErrorKind::TimedOut, "did not end on SIGTERM")))
            }
        }
    }
}

/// True once every listener has said its address.
async fn read_addresses(
    lines: &mut Lines<BufReader<ChildStdout>>,
    listeners: &[&str],
    addresses: &mut BTreeMap<String, SocketAddr>,
) -> bool {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |key| line.get(key).and_then(Value::as_str);
        if let (Some(name), Some(Ok(address))) = (text("name"), text("address").map(str::parse)) {
            addresses.insert(name.to_owned(), address);
        }
        if listeners.iter().all(|listener| addresses.contains_key(*listener)) {
            return true;
        }
    }
    false
}
