//! `cargo bench-instr`: instructions of Outrigger's own code for one request, which no neighbour on the machine
//! changes. What the kernel does for it is not counted.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;

use crate::{
    Outcome,
    backend::{self, Backend},
    callgrind::{self, Costs},
    identity::Identities,
    load::{Load, Running, Tally, h2::Call},
    machine,
    programs::{self, Kind},
    proxy::{Proxy, Run},
    serve,
    sink::Sink,
    stages,
};

#[derive(Debug, Parser)]
#[command(name = "bench-instr", about = "Instructions of Outrigger's own code for one request, by valgrind.")]
struct Cli {
    /// Scenarios [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    scenarios: Vec<String>,
    /// Requests that one run has more than the other.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    requests: u64,
    /// Also print the functions that execute most instructions themselves.
    #[arg(long, value_name = "N", default_value_t = 0)]
    top: usize,
    /// An Outrigger that is built already, with symbols [default: this tree's, profile `quick`, built now].
    #[arg(long, value_name = "PATH")]
    outrigger: Option<PathBuf>,
    /// Another Outrigger, to see what a change does.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// What this program does under valgrind.
    #[arg(long, hide = true)]
    stages: Option<u64>,
    #[arg(long, hide = true, action = clap::ArgAction::Set, default_value_t = false)]
    traced: bool,
}

/// The stages alone, without sockets: name, whether every request is traced.
const STAGES: [(&str, bool); 2] = [("stages", false), ("stages-t100", true)];

const H1: Load = Load::H1 { connections: 8 };
const GRPC: Load = Load::H2 { connections: 2, streams: 8, call: Call::Grpc };

/// Name, load, percentage of requests that are traced, mutual TLS on both sides.
const SCENARIOS: [(&str, Load, u8, bool); 7] = [
    ("h1", H1, 1, false),
    ("grpc-8k", GRPC, 1, false),
    ("h2", Load::H2 { connections: 2, streams: 8, call: Call::Get }, 1, false),
    ("h1-t100", H1, 100, false),
    ("grpc-8k-t100", GRPC, 100, false),
    ("h1-mtls", H1, 1, true),
    ("grpc-8k-mtls", GRPC, 1, true),
];

/// `cargo bench-instr`.
#[must_use]
pub fn bench_instr() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.stages {
        Some(requests) => stages::run(requests, cli.traced),
        None => count(&cli),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-instr: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count(cli: &Cli) -> Outcome<()> {
    let valgrind =
        programs::in_path("valgrind").ok_or("*** NO VALGRIND: nothing is counted. Install valgrind ***")?;
    let known = || STAGES.iter().map(|(name, _)| *name).chain(SCENARIOS.iter().map(|(name, ..)| *name));
    if let Some(name) = cli.scenarios.iter().find(|name| !known().any(|known| known == *name)) {
        let known = known().collect::<Vec<_>>().join(", ");
        return Err(format!("there is no scenario `{name}`: there are {known}").into());
    }
    let wanted = |name: &str| cli.scenarios.is_empty() || cli.scenarios.iter().any(|wanted| wanted == name);
    println!("instructions of a request outside the kernel, {} requests", cli.requests);
    for (name, traced) in STAGES.into_iter().filter(|(name, _)| wanted(name)) {
        let [short, long] =
            [cli.requests, 2 * cli.requests].map(|requests| count_stages(&valgrind, requests, traced));
        let costs = callgrind::difference(long?, &short?);
        println!("{name:<14} {:>8.0}", costs.values().sum::<i64>() as f64 / cli.requests as f64);
        top(&costs, cli.top, cli.requests);
    }
    if !SCENARIOS.iter().any(|(name, ..)| wanted(name)) {
        return Ok(());
    }
    let outrigger = match &cli.outrigger {
        Some(path) => programs::existing(path.clone())?,
        None => programs::build("quick")?,
    };
    let baseline = cli.baseline.clone().map(programs::existing).transpose()?;
    machine::pin(machine::LOAD_CPU)?;
    let folder = tempfile::tempdir()?;
    let identities = Identities::issue(folder.path())?;
    let backend = backend::start(&identities)?;
    let counter = Counter { valgrind, backend, identities, sink: Sink::start()?, requests: cli.requests };
    serve::runtime()?.block_on(async {
        for (name, load, sampling, mtls) in SCENARIOS {
            if !wanted(name) {
                continue;
            }
            let before = match &baseline {
                Some(path) => Some(counter.costs(path, load, sampling, mtls).await?),
                None => None,
            };
            let spans = counter.sink.spans();
            let now = counter.costs(&outrigger, load, sampling, mtls).await?;
            let spans = (counter.sink.spans() - spans) as f64 / (3 * cli.requests) as f64;
            let each = counter.per_request(&now);
            let change = before.map_or_else(String::new, |before| {
                let before = counter.per_request(&before);
                format!("  baseline {before:>8.0}, {:+.1} %", (each / before - 1.0) * 100.0)
            });
            println!("{name:<14} {each:>8.0}  {spans:.2} spans/req{change}");
            top(&now, cli.top, cli.requests);
        }
        Ok(())
    })
}

/// Runs this very program under valgrind.
fn count_stages(valgrind: &Path, requests: u64, traced: bool) -> Outcome<Costs> {
    let folder = tempfile::Builder::new().prefix("outrigger-instr-").tempdir()?;
    let written = folder.path().join("callgrind.out");
    let mut file = OsString::from("--callgrind-out-file=");
    file.push(&written);
    let output = std::process::Command::new(valgrind)
        .args(["--tool=callgrind".into(), file])
        .arg(stages::program()?.as_os_str())
        .args(stages::arguments(requests, traced))
        .output()?;
    if !output.status.success() {
        return Err(format!("the stages failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    callgrind::read(&written)
}

struct Counter {
    valgrind: PathBuf,
    backend: Backend,
    identities: Identities,
    sink: Sink,
    requests: u64,
}

impl Counter {
    fn per_request(&self, costs: &Costs) -> f64 {
        costs.values().sum::<i64>() as f64 / self.requests as f64
    }

    /// Two runs, the second with twice the requests: the difference has no start, no first connections and no end.
    async fn costs(&self, program: &Path, load: Load, sampling: u8, mtls: bool) -> Outcome<Costs> {
        let short = self.run(program, load, (sampling, mtls), self.requests).await?;
        let long = self.run(program, load, (sampling, mtls), 2 * self.requests).await?;
        Ok(callgrind::difference(long, &short))
    }

    async fn run(
        &self,
        program: &Path,
        load: Load,
        (sampling, mtls): (u8, bool),
        requests: u64,
    ) -> Outcome<Costs> {
        let folder = tempfile::Builder::new().prefix("outrigger-instr-").tempdir()?;
        let written = folder.path().join("callgrind.out");
        let mut file = OsString::from("--callgrind-out-file=");
        file.push(&written);
        let run = Run {
            kind: Kind::Outrigger,
            program,
            under: vec![self.valgrind.clone().into(), "--tool=callgrind".into(), file],
            backend: &self.backend,
            identities: &self.identities,
            mtls,
            sink: self.sink.grpc,
            sampling,
            max_requests_per_connection: None,
            filler: 0,
        };
        let proxy = Proxy::start(&run).await?;
        let tally = Tally::new(requests);
        let running = Running::start(load, &proxy.h1, &proxy.h2, 0, &tally).await?;
        running.end(Duration::from_secs(300)).await?;
        if let Some(failure) = tally.failure() {
            return Err(failure.into());
        }
        proxy.terminate().await?;
        callgrind::read(&written)
    }
}

fn top(costs: &Costs, count: usize, requests: u64) {
    let total = costs.values().sum::<i64>().max(1) as f64;
    let mut order: Vec<_> = costs.iter().collect();
    order.sort_by_key(|(_, cost)| std::cmp::Reverse(**cost));
    for (name, cost) in order.into_iter().take(count) {
        let cost = *cost as f64;
        println!("  {:>8.0} {:>5.1} %  {name}", cost / requests as f64, 100.0 * cost / total);
    }
}
