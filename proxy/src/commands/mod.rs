//! The command line: one file a verb.
//!
//! Exit codes follow `sysexits`: 64 usage, 65 bad configuration, 69 cannot bind, 70 a fault of ours, 71 refused by the kernel, 77 not
//! permitted, 79 findings of `validate`; `diff` has 1 for differences, as `kubectl diff`, `run` has that of its command,
//! and `init` has 126 for rules that are not in force, as Istio's validation.

mod admin;
mod diff;
mod explain;
mod healthcheck;
mod identity;
mod init;
mod inject;
mod proxy;
mod run;
mod settings;
mod sidecar;
#[cfg(test)]
mod tests;
mod validate;
mod webhook;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, error::ErrorKind};

/// A sidecar that speaks Istio's YAML.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the sidecar.
    Proxy(Box<proxy::ProxyArgs>),
    /// Run a command beside a sidecar: start it when the sidecar is ready, and end the sidecar after it.
    Run(run::RunArgs),
    /// Tell whether a running sidecar is ready.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Ask a running sidecar for one of its pages.
    Admin(admin::AdminArgs),
    /// Check configuration without running it.
    Validate(validate::ValidateArgs),
    /// Tell where a configuration sends a request, and why.
    Explain(explain::ExplainArgs),
    /// Tell what differs between two configurations.
    Diff(diff::DiffArgs),
    /// Capture a pod's connections: install the kernel's rules before the sidecar starts.
    Init(Box<init::InitArgs>),
    /// Put the sidecar into workloads.
    Inject(Box<inject::InjectArgs>),
    /// Take the sidecar out of workloads.
    Uninject(inject::UninjectArgs),
    /// Put the sidecar into pods while the API server makes them.
    Webhook(Box<webhook::WebhookArgs>),
}

/// How a tool that answers a question shows its answer.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Wrong usage (`EX_USAGE`).
const USAGE: u8 = 64;
/// Bad or unreadable configuration (`EX_DATAERR`).
const BAD_CONFIGURATION: u8 = 65;
/// A listener cannot be bound, a thread not started, a sidecar not reached (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// A fault of our own (`EX_SOFTWARE`).
const FAULT: u8 = 70;
/// The kernel refused what it was asked for (`EX_OSERR`).
const OS_ERROR: u8 = 71;
/// A capability is missing (`EX_NOPERM`).
const NOT_PERMITTED: u8 = 77;
/// The capture rules are not in force: what Istio's CNI plugin looks for to repair a pod.
const NOT_IN_FORCE: u8 = 126;
/// `validate` has findings, as `istioctl analyze`.
const FINDINGS: u8 = 79;

/// Runs the command line `args`, its first word being the program's name.
///
/// The environment is read here and nowhere else.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse(args) {
        Ok(cli) => match cli.verb {
            Verb::Proxy(args) => proxy::run(*args),
            Verb::Run(args) => run::run(&args),
            Verb::Healthcheck(args) => healthcheck::run(&args),
            Verb::Admin(args) => admin::run(&args),
            Verb::Validate(args) => validate::run(&args),
            Verb::Explain(args) => explain::run(&args),
            Verb::Diff(args) => diff::run(&args),
            Verb::Init(args) => init::run(&args),
            Verb::Inject(args) => inject::inject(&args),
            Verb::Uninject(args) => inject::uninject(&args),
            Verb::Webhook(args) => webhook::run(*args),
        },
        Err(error) => {
            // A closed terminal is no reason to fail twice.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => USAGE.into(),
            }
        }
    }
}

/// With what depends on whether a flag or the environment says something, which clap's own conflicts do not tell apart.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(args)?;
    if let Some(("webhook", given)) = matches.subcommand() {
        webhook::check(given).map_err(|why| command.error(ErrorKind::ArgumentConflict, why))?;
    }
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// A variable of the environment, if it is set, not empty and text.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// As Istio's programs read a variable (Go's `ParseBool`).
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// Prints an answer. A reader that has seen enough (`| head`) is no error.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
