//! The command line: one file a verb.
//!
//! Exit codes follow `sysexits`: 64 usage, 65 bad configuration, 69 cannot bind, 79 findings of `validate`;
//! `diff` has 1 for differences, as `kubectl diff`.

mod diff;
mod explain;
mod identity;
mod inject;
mod proxy;
#[cfg(test)]
mod tests;
mod validate;
mod webhook;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum, error::ErrorKind};

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
    /// Check configuration without running it.
    Validate(validate::ValidateArgs),
    /// Tell where a configuration sends a request, and why.
    Explain(explain::ExplainArgs),
    /// Tell what differs between two configurations.
    Diff(diff::DiffArgs),
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
/// A listener cannot be bound, or a thread not started (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// `validate` has findings, as `istioctl analyze`.
const FINDINGS: u8 = 79;

/// Runs the command line `args`, its first word being the program's name.
///
/// The environment is read here and nowhere else.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => match cli.verb {
            Verb::Proxy(args) => proxy::run(*args),
            Verb::Validate(args) => validate::run(&args),
            Verb::Explain(args) => explain::run(&args),
            Verb::Diff(args) => diff::run(&args),
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

/// A variable of the environment, if it is set, not empty and text.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Prints an answer. A reader that has seen enough (`| head`) is no error.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
