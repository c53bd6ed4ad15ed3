//! A proxy as a child process, on its own CPU, from its configuration to its end.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    Outcome,
    backend::{Backend, Endpoints},
    door::Door,
    envoy,
    identity::{Identities, Party},
    intent::{Intent, Mtls},
    istio,
    load::h1::{Connection, Requests},
    machine,
    programs::Kind,
    serve::Protocol,
};

/// How a proxy is run.
#[derive(Debug, Clone)]
pub(crate) struct Run<'a> {
    pub(crate) kind: Kind,
    pub(crate) program: &'a Path,
    /// What the program is run under, with its arguments: nothing, or valgrind.
    pub(crate) under: Vec<OsString>,
    pub(crate) backend: &'a Backend,
    pub(crate) identities: &'a Identities,
    /// Mutual TLS on both sides.
    pub(crate) mtls: bool,
    /// Where spans go.
    pub(crate) sink: SocketAddr,
    /// Percentage of requests that are traced.
    pub(crate) sampling: u8,
    pub(crate) max_requests_per_connection: Option<u32>,
    /// Services beside the one that is called.
    pub(crate) filler: usize,
}

/// A proxy that answers. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    folder: TempDir,
    pub(crate) pid: u32,
    pub(crate) h1: Door,
    pub(crate) h2: Door,
    /// From its start to its first answer.
    pub(crate) started: Duration,
}

impl Proxy {
    /// Starts it and waits for its first answer.
    pub(crate) async fn start(run: &Run<'_>) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("outrigger-bench-").tempdir()?;
        let mtls = || -> Outcome<Mtls> {
            let identities = run.identities.clone();
            Ok(Mtls { h1_port: machine::free_port()?, h2_port: machine::free_port()?, identities })
        };
        let Endpoints { h1, h2 } = run.backend.endpoints(run.mtls).clone();
        let intent = Intent {
            h1_port: machine::free_port()?,
            h2_port: machine::free_port()?,
            h1,
            h2,
            mtls: run.mtls.then(mtls).transpose()?,
            sink: run.sink,
            sampling: run.sampling,
            max_requests_per_connection: run.max_requests_per_connection,
            filler: run.filler,
            log: folder.path().join("access.log"),
        };
        let mut words = run.under.clone();
        words.push(run.program.into());
        words.extend(arguments(run.kind, &intent, folder.path())?);
        let (program, arguments) = words.split_first().ok_or("nothing to run")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.stderr(fs::File::create(folder.path().join("stderr"))?);
        environment(&mut command, run.sink);
        let began = Instant::now();
        let child = machine::on_proxy_cpu(|| command.spawn())?;
        let pid = child.id().ok_or("the proxy has ended")?;
        let (h1, h2) = (door(&intent, Protocol::H1)?, door(&intent, Protocol::H2)?);
        let mut proxy = Self { child, folder, pid, h1, h2, started: Duration::ZERO };
        proxy.first_answer().await.map_err(|error| format!("{}: {error}", run.kind))?;
        proxy.started = began.elapsed();
        proxy.takes_tls_alone().await?;
        Ok(proxy)
    }

    async fn first_answer(&mut self) -> Outcome<()> {
        let requests = Requests::new();
        let ask = async {
            loop {
                let answer = async { Connection::open(&self.h1).await?.exchange(requests.of(0)).await };
                match answer.await {
                    Ok(()) => return Ok(()),
                    Err(error) if self.child.try_wait()?.is_some() => return Outcome::Err(error),
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            }
        };
        let answer = timeout(Duration::from_secs(60), ask)
            .await
            .unwrap_or_else(|_| Err("no answer in a minute".into()));
        let log = || fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        answer.map_err(|error| format!("{error}; its log:\n{}", log()).into())
    }

    /// Where mutual TLS is measured, it is no matter of choice.
    async fn takes_tls_alone(&self) -> Outcome<()> {
        if !self.h1.is_secured() {
            return Ok(());
        }
        let requests = Requests::new();
        let ask = async { Connection::open(&self.h1.without_tls()).await?.exchange(requests.of(0)).await };
        match timeout(Duration::from_secs(10), ask).await {
            Ok(Err(_)) => Ok(()),
            Ok(Ok(())) => Err("plain text is answered where mutual TLS is asked for".into()),
            Err(_) => Err("plain text is neither answered nor refused".into()),
        }
    }

    /// Bytes of the access log so far.
    pub(crate) fn log_bytes(&self) -> u64 {
        fs::metadata(self.folder.path().join("access.log")).map_or(0, |file| file.len())
    }

    /// Kills it and waits, so that the next one has its CPU alone.
    pub(crate) async fn kill(mut self) -> Outcome<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to end and waits until it has: valgrind writes what it counted.
    pub(crate) async fn terminate(mut self) -> Outcome<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        kill_process(pid, Signal::TERM)?;
        timeout(Duration::from_secs(60), self.child.wait()).await??;
        Ok(())
    }
}

/// Where a client goes.
fn door(intent: &Intent, protocol: Protocol) -> Outcome<Door> {
    let h1 = protocol == Protocol::H1;
    let local =
        |h1_port, h2_port| SocketAddr::from((Ipv4Addr::LOCALHOST, if h1 { h1_port } else { h2_port }));
    match &intent.mtls {
        None => Ok(Door::plain(local(intent.h1_port, intent.h2_port))),
        Some(mtls) => {
            let address = local(mtls.h1_port, mtls.h2_port);
            Door::mutual(address, &mtls.identities, (Party::Client, Party::Proxy), protocol)
        }
    }
}

/// Writes the configuration; the arguments that name it.
fn arguments(kind: Kind, intent: &Intent, folder: &Path) -> Outcome<Vec<OsString>> {
    let text = |path: &Path| -> Outcome<String> {
        Ok(path.to_str().ok_or("the temporary folder has a strange name")?.to_owned())
    };
    let write = |name: &str, content: String| -> Outcome<String> {
        let path = folder.join(name);
        fs::write(&path, content)?;
        text(&path)
    };
    let list =
        |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let words: Vec<String> = match kind {
        Kind::Outrigger | Kind::Baseline => {
            let documents = write("rules.yaml", istio::documents(intent))?;
            let mesh = write("mesh.yaml", istio::mesh(intent))?;
            let fixed = "--concurrency 1 --admin 127.0.0.1:0 --metrics 127.0.0.1:0 --health 127.0.0.1:0";
            let files = ["proxy", "--config", &documents, "--mesh-config", &mesh].map(str::to_owned);
            let mut words: Vec<String> =
                files.into_iter().chain(fixed.split(' ').map(str::to_owned)).collect();
            if let Some(mtls) = &intent.mtls {
                words.extend(["--identity".to_owned(), text(&mtls.identities.of(Party::Proxy))?]);
            }
            words
        }
        Kind::Envoy => {
            let config = write("envoy.json", envoy::bootstrap(intent).to_string())?;
            let fixed = "--concurrency 1 --disable-hot-restart --log-level error";
            ["-c".to_owned(), config].into_iter().chain(fixed.split(' ').map(str::to_owned)).collect()
        }
        Kind::Hyper => {
            let mut words = vec!["hyper-forwarder".to_owned()];
            words.extend([format!("--h1-port={}", intent.h1_port), format!("--h2-port={}", intent.h2_port)]);
            words.extend([format!("--h1={}", list(&intent.h1)), format!("--h2={}", list(&intent.h2))]);
            words.extend(intent.max_requests_per_connection.map(|limit| format!("--max-requests={limit}")));
            if let Some(mtls) = &intent.mtls {
                let ports = [("h1", mtls.h1_port), ("h2", mtls.h2_port)];
                words.extend(ports.map(|(name, port)| format!("--mtls-{name}-port={port}")));
                words.push(format!("--identities={}", text(mtls.identities.folder())?));
            }
            words
        }
        Kind::Direct => return Err("there is no proxy to start".into()),
    };
    Ok(words.into_iter().map(Into::into).collect())
}

/// No setting of the caller's reaches the proxies; Outrigger is told by the environment where spans go.
fn environment(command: &mut Command, sink: SocketAddr) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let prefixes = ["OTEL_", "OUTRIGGER_", "ISTIO_", "POD_", "INSTANCE_IP", "PROXY_CONFIG", "RUST_LOG"];
        if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", format!("http://{sink}"));
    command.env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc");
    // It ends at once when it is asked to, not after the grace that a mesh needs.
    command.env("PROXY_CONFIG", r#"{"terminationDrainDuration":"1ms"}"#);
}
