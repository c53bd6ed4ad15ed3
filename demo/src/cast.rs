//! Who takes part: a sink behind each of three collectors, and the sidecar before them.

use std::{io, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;

use crate::{
    COLLECTOR, SIDECAR,
    children::{Process, ProcessError},
    ledger::{Ledger, SinkId},
    load::Targets,
    mesh::{Collector, MeshFiles, NAMESPACE},
    observe::Sidecar,
    sink::Sink,
};

const NAMES: [&str; 3] = ["v1-a", "v1-b", "v2-a"];
const COLLECTOR_CONFIG: &str = include_str!("../collector.yaml");
/// The sidecar reports by OTLP to the service of the mesh: through its own cluster of the collectors, that is through
/// itself. Every request is a span, and batches leave soon, so that a person can watch.
const OWN_TELEMETRY: [(&str, &str); 5] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otlp-collector.observability.svc.cluster.local:4317"),
    ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
    ("OTEL_BSP_SCHEDULE_DELAY", "500"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "500"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "2000"),
];
/// A collector delivers what it holds before it ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// All processes, and the files they read.
pub(crate) struct Cast {
    /// The collectors' sinks, by [`SinkId`].
    pub(crate) sinks: [Sink; 3],
    /// Where the collectors listen, by [`SinkId`].
    pub(crate) collectors: [Collector; 3],
    /// The sidecar's pages.
    pub(crate) sidecar: Sidecar,
    /// The sidecar's listeners.
    pub(crate) targets: Targets,
    /// The sidecar's configuration.
    pub(crate) mesh: MeshFiles,
    /// From the sidecar's start to its last listener.
    pub(crate) ready_after: Duration,
    sidecar_process: Process,
    collector_processes: [Process; 3],
    /// Gone when dropped.
    _logs: TempDir,
}

/// Why the demo cannot begin or end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CastError {
    /// A process is of no use.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file or a socket.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Cast {
    /// Starts everything, from the sinks up.
    pub(crate) async fn gather(ledger: &Arc<Ledger>) -> Result<Self, CastError> {
        let logs = tempfile::Builder::new().prefix("outrigger-demo-logs-").tempdir()?;
        let (sink_a, process_a, collector_a) = collector(SinkId(0), ledger, logs.path()).await?;
        let (sink_b, process_b, collector_b) = collector(SinkId(1), ledger, logs.path()).await?;
        let (sink_c, process_c, collector_c) = collector(SinkId(2), ledger, logs.path()).await?;
        let collectors = [collector_a, collector_b, collector_c];
        let mesh = MeshFiles::write(collectors)?;
        let process = sidecar(&mesh, logs.path()).await?;
        Ok(Self {
            sinks: [sink_a, sink_b, sink_c],
            collectors,
            sidecar: Sidecar { admin: process.address("admin")?, metrics: process.address("metrics")? },
            targets: Targets {
                grpc: process.address("127.0.0.1_4317")?,
                http: process.address("127.0.0.1_4318")?,
            },
            mesh,
            ready_after: process.ready_after(),
            sidecar_process: process,
            collector_processes: [process_a, process_b, process_c],
            _logs: logs,
        })
    }

    /// Ends every process as Kubernetes would, the sidecar first.
    pub(crate) async fn dismiss(self) -> Result<(), CastError> {
        self.sidecar_process.terminate(PATIENCE).await?;
        for collector in self.collector_processes {
            collector.terminate(PATIENCE).await?;
        }
        Ok(())
    }
}

async fn collector(
    id: SinkId,
    ledger: &Arc<Ledger>,
    folder: &Path,
) -> Result<(Sink, Process, Collector), CastError> {
    let name = NAMES.get(id.0).copied().unwrap_or("collector");
    let sink = Sink::start(id, ledger).await?;
    let config = folder.join(format!("{name}.yaml"));
    std::fs::write(&config, COLLECTOR_CONFIG.replace("SINK", &sink.address.to_string()))?;
    let args = ["--config".into(), config];
    let process = Process::start(name, COLLECTOR, args, &[], &["otlp_grpc", "otlp_http"], folder).await?;
    let collector = Collector { grpc: process.address("otlp_grpc")?, http: process.address("otlp_http")? };
    Ok((sink, process, collector))
}

async fn sidecar(mesh: &MeshFiles, folder: &Path) -> Result<Process, CastError> {
    const ANY: &str = "127.0.0.1:0";
    let config = mesh.folder().to_string_lossy().into_owned();
    let args = [
        ["proxy", "--config", &config].as_slice(),
        &["--namespace", NAMESPACE, "--ports", "ephemeral"],
        &["--admin", ANY, "--metrics", ANY, "--health", ANY],
    ]
    .concat();
    let listeners = ["127.0.0.1_4317", "127.0.0.1_4318", "admin", "metrics"];
    Ok(Process::start("sidecar", SIDECAR, args, &OWN_TELEMETRY, &listeners, folder).await?)
}
