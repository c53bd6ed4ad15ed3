//! The program: arguments, signals, exit codes.
//!
//! Exit codes: 0 stopped with nothing left, 1 not ready (`healthcheck`), 3 stopped with requests left, 64 usage,
//! 65 bad configuration, 69 cannot bind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::collector::Collector;
use crate::config::{self, Environment, LoadError, Loaded};
use crate::healthcheck;
use crate::logging;

const NOT_READY: u8 = 1;
const LEFT_OVER: u8 = 3;
const USAGE: u8 = 64;
const BAD_CONFIGURATION: u8 = 65;
const UNAVAILABLE: u8 = 69;

#[derive(Debug, Parser)]
#[command(name = "otlp-collector", version, about = "A small lossless OTLP collector")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Args)]
struct Files {
    /// A configuration file; several are merged in order. Without one it runs from the environment.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    config: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run (the default).
    Run(Files),
    /// Check a configuration and say everything that is wrong with it.
    Validate(Files),
    /// Print the configuration as it applies, with secrets hidden.
    PrintConfig(Files),
    /// Ask a collector that runs whether it is ready: exit code 0 if so, else 1 and the reason.
    Healthcheck {
        /// Where its health is served.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
        address: String,
    },
}

/// Runs the program. `args` begins with the name of the program.
pub fn main<I>(args: I) -> ExitCode
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let environment = config::process_environment();
    match arguments.command {
        None => run(&arguments.files, &environment),
        Some(Command::Run(files)) => run(&files.or(arguments.files), &environment),
        Some(Command::Validate(files)) => validate(&files.or(arguments.files), &environment),
        Some(Command::PrintConfig(files)) => print_config(&files.or(arguments.files), &environment),
        Some(Command::Healthcheck { address }) => check_health(&address),
    }
}

impl Files {
    fn or(self, other: Self) -> Self {
        if self.config.is_empty() { other } else { self }
    }
}

fn validate(files: &Files, environment: &Environment) -> ExitCode {
    match config::load(&files.config, environment) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            println!("the configuration is valid");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn print_config(files: &Files, environment: &Environment) -> ExitCode {
    match config::load(&files.config, environment) {
        Ok(loaded) => {
            print!("{}", loaded.printed);
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error),
    }
}

fn check_health(address: &str) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    match runtime.block_on(healthcheck::ask(address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("not ready: {reason}");
            ExitCode::from(NOT_READY)
        }
    }
}

fn refuse(error: &LoadError) -> ExitCode {
    for line in error.to_string().lines() {
        eprintln!("error: {line}");
    }
    ExitCode::from(BAD_CONFIGURATION)
}

fn run(files: &Files, environment: &Environment) -> ExitCode {
    let loaded = match config::load(&files.config, environment) {
        Ok(loaded) => loaded,
        Err(error) => {
            for problem in error.to_string().lines() {
                logging::line("error", "bad configuration", &[("error", problem.to_owned())]);
            }
            return refuse(&error);
        }
    };
    logging::start(loaded.config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("collector").build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(loaded)),
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::from(UNAVAILABLE)
        }
    }
}

async fn serve(loaded: Loaded) -> ExitCode {
    for warning in &loaded.warnings {
        tracing::warn!(problem = %warning, "configuration");
    }
    tracing::warn!("queues are in memory: a crash loses what is queued");
    // Before the listeners: a signal that comes early must not be missed.
    let signals =
        signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    let running = match Collector::start(loaded.config).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::from(UNAVAILABLE);
        }
    };
    for (name, address) in running.addresses() {
        logging::line("info", "listening", &[("name", name.clone()), ("address", address.to_string())]);
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    let stopped = tokio::select! {
        stopped = running.stop() => stopped,
        _ = terminate.recv() => return abandoned(),
        _ = interrupt.recv() => return abandoned(),
    };
    if stopped.requests == 0 {
        tracing::info!("stopped");
        return ExitCode::SUCCESS;
    }
    tracing::error!(requests = stopped.requests, items = stopped.items, "stopped; what was queued is lost");
    ExitCode::from(LEFT_OVER)
}

fn abandoned() -> ExitCode {
    tracing::error!("stopped at once by a second signal; what was queued is lost");
    ExitCode::from(LEFT_OVER)
}
