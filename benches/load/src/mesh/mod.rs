//! `cargo bench-mesh`: what a large mesh costs. Time and memory to compile it, time to look a route up in it, and time
//! from one changed endpoint to the published snapshot. No socket, no peer.
//!
//! Times are CPU times of the one thread that does the work, so that a busy neighbour counts little.

mod text;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use http::{HeaderMap, Method};
use outrigger::upstream::Upstreams;
use outrigger_config::{
    Loaded, Loader, Source,
    decide::{Decision, RequestView, decide},
    snapshot::{Cluster, Node, Snapshot, TelemetryDefaults},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    Outcome,
    process::Memory,
    stats::{median, range},
};
use text::{ENDPOINTS, Hosts, ROUTES};

/// Everything, and the proxy's own namespace.
const ALL: &str = "*/*";
const OWN: &str = "./*";

#[derive(Debug, Parser)]
#[command(
    name = "bench-mesh",
    about = "What a large mesh costs: compiling, looking up, changing an endpoint."
)]
struct Cli {
    /// Services of the mesh, each with 5 endpoints, 10 routes and 3 documents.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    services: usize,
    /// Meshes in which routes are looked up, by their services.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "100,1000,10000")]
    lookups: Vec<usize>,
    /// Changed endpoints that are timed.
    #[arg(long, value_name = "N", default_value_t = 20)]
    changes: usize,
    /// Write the mesh there, and do nothing else.
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// What this program does as a child: compiles the files of a folder and prints its memory.
    #[arg(long, hide = true)]
    memory: Option<PathBuf>,
}

/// `cargo bench-mesh`.
#[must_use]
pub fn bench_mesh() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (&cli.memory, &cli.write) {
        (Some(folder), _) => print_memory(folder),
        (None, Some(folder)) => write(&text::mesh(cli.services, Hosts::Exact, ALL), folder),
        (None, None) => all(&cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-mesh: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(cli: &Cli) -> Outcome<()> {
    let sources = text::mesh(cli.services, Hosts::Exact, ALL);
    let bytes: usize = sources.iter().map(|source| source.text.len()).sum();
    println!(
        "a mesh of {} services, {} endpoints, {} routes: {} documents, {:.1} MB",
        cli.services,
        cli.services * ENDPOINTS,
        cli.services * ROUTES,
        cli.services * 3 + 1,
        bytes as f64 / 1e6,
    );
    compile(&sources)?;
    memory("everything is in scope", &sources)?;
    memory("one namespace is in scope", &text::mesh(cli.services, Hosts::Exact, OWN))?;
    change("one changed endpoint, published", text::moved, &sources, cli.changes)?;
    change("one changed route, published", text::rerouted, &sources, cli.changes)?;
    for hosts in [Hosts::Exact, Hosts::Wildcard] {
        for services in &cli.lookups {
            look_up(*services, hosts)?;
        }
    }
    Ok(())
}

fn compile(sources: &[Source]) -> Outcome<()> {
    let mut millis = Vec::new();
    for _ in 0..3 {
        let before = cpu();
        let loaded = compiled(sources)?;
        millis.push(millis_since(before));
        drop(loaded);
    }
    println!("{:<38} {}", "compile, nothing known", shown(&millis, "ms"));
    Ok(())
}

/// In a child, so that nothing else has used memory before.
fn memory(what: &str, sources: &[Source]) -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("outrigger-mesh-").tempdir()?;
    write(sources, folder.path())?;
    let output = Command::new(std::env::current_exe()?).arg("--memory").arg(folder.path()).output()?;
    if !output.status.success() {
        return Err(format!("the child failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    println!("{:<38} {}", format!("memory, {what}"), String::from_utf8_lossy(&output.stdout).trim());
    Ok(())
}

fn print_memory(folder: &Path) -> Outcome<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    files.sort();
    let sources = files
        .iter()
        .map(|file| Ok(Source { name: file.display().to_string().into(), text: fs::read_to_string(file)? }))
        .collect::<Outcome<Vec<_>>>()?;
    let before = Memory::of_this_process()?;
    let mut loader = loader();
    let loaded = loader.load(&sources, None).map_err(|report| report.to_string())?;
    drop(sources);
    let after = Memory::of_this_process()?;
    let routes: usize = loaded.snapshot.route_tables.iter().map(|table| table.virtual_hosts.len()).sum();
    let mib = |kib: u64| kib as f64 / 1024.0;
    println!(
        "peak {:.0} MiB, {:.0} before, {:.0} kept; {} clusters, {routes} virtual hosts",
        mib(after.peak),
        mib(before.rss),
        mib(after.rss),
        loaded.snapshot.clusters.len(),
    );
    drop(loader);
    Ok(())
}

/// From the changed text to the published snapshot.
fn change(
    what: &str,
    edit: fn(&mut [Source], usize, usize),
    sources: &[Source],
    changes: usize,
) -> Outcome<()> {
    let mut sources = sources.to_vec();
    let upstreams = Upstreams::new();
    let mut loader = loader();
    let mut load = |sources: &[Source]| -> Outcome<_> {
        let loaded = loader.load(sources, None).map_err(|report| report.to_string())?;
        Ok(upstreams.publish(Arc::new(loaded.snapshot)))
    };
    let mut published = load(&sources)?;
    let (mut millis, mut rebuilt) = (Vec::new(), Vec::new());
    for round in 0..changes {
        edit(&mut sources, 17, round);
        let before = cpu();
        let next = load(&sources)?;
        millis.push(millis_since(before));
        rebuilt.push(not_shared(&published.snapshot, &next.snapshot) as f64);
        published = next;
    }
    println!("{what:<38} {}", shown(&millis, "ms"));
    println!("{:<38} {}", "  clusters rebuilt", shown(&rebuilt, "of them"));
    Ok(())
}

/// Clusters that are not those of the snapshot before.
fn not_shared(before: &Snapshot, after: &Snapshot) -> usize {
    let kept = |cluster: &&Arc<Cluster>| before.clusters.iter().any(|old| Arc::ptr_eq(old, cluster));
    after.clusters.len() - after.clusters.iter().filter(kept).count()
}

fn look_up(services: usize, hosts: Hosts) -> Outcome<()> {
    let snapshot = compiled(&text::mesh(services, hosts, ALL))?.snapshot;
    let listener = snapshot.listeners.first().ok_or("the mesh has a listener")?;
    let table = &snapshot[listener.route_table().ok_or("it carries HTTP")?];
    let headers = HeaderMap::new();
    let paths: Vec<_> = (0..ROUTES).map(text::path).collect();
    // A stride that is prime to the number visits all of them, in an order that no cache likes.
    let authorities: Vec<_> = (0..services).map(|n| text::authority(n * 7919 % services, hosts)).collect();
    let rounds = (100_000 / services).max(1);
    let mut micros = Vec::new();
    for _ in 0..5 {
        let (before, mut found) = (cpu(), 0);
        for round in 0..rounds {
            for (number, authority) in authorities.iter().enumerate() {
                let path = paths.get((round + number) % ROUTES).ok_or("a path for each route")?;
                let view = RequestView {
                    method: &Method::GET,
                    scheme: "http",
                    authority,
                    path_and_query: path,
                    headers: &headers,
                };
                match decide(table, &view, || number as u64) {
                    Decision::Forward { route, .. } if route.name.starts_with("route-") => found += 1,
                    other => return Err(format!("{authority}{path}: {other:?}").into()),
                }
            }
        }
        micros.push(millis_since(before) * 1000.0 / f64::from(found));
    }
    println!("{:<38} {}", format!("host and route of {services}, {hosts:?}"), shown(&micros, "us"));
    Ok(())
}

fn compiled(sources: &[Source]) -> Outcome<Loaded> {
    loader().load(sources, None).map_err(|report| report.to_string().into())
}

fn loader() -> Loader {
    Loader::new(Node { namespace: "shop-0".into(), ..Node::default() }, TelemetryDefaults::default())
}

fn write(sources: &[Source], folder: &Path) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    sources.iter().try_for_each(|source| fs::write(folder.join(&*source.name), &source.text))?;
    Ok(())
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn millis_since(before: Duration) -> f64 {
    (cpu() - before).as_secs_f64() * 1000.0
}

fn shown(values: &[f64], unit: &str) -> String {
    let (least, greatest) = range(values);
    format!("{:.2} {unit} ({least:.2}-{greatest:.2})", median(values).unwrap_or(f64::NAN))
}
