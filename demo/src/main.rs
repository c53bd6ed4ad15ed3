//! `cargo demo`: real telemetry from the OpenTelemetry SDK, through the sidecar with the seed's configuration, to
//! three collectors, one of which fails and comes back.
//!
//! The program is its own supervisor: it executes itself again for the sidecar and for each collector, so that they
//! are processes of their own, as in a pod, and no other binary is needed.

mod cast;
mod children;
mod ledger;
mod load;
mod mesh;
mod observe;
mod screen;
mod sink;
mod stage;
mod story;

use std::{ffi::OsString, process::ExitCode};

/// First argument of the processes that the demo starts.
const SIDECAR: &str = "sidecar";
const COLLECTOR: &str = "collector";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_else(|| OsString::from("demo"));
    match args.next() {
        None => demo(),
        Some(role) if role == SIDECAR => outrigger::commands::main([program].into_iter().chain(args)),
        Some(role) if role == COLLECTOR => otlp_collector::cli::main([program].into_iter().chain(args)),
        Some(other) => {
            eprintln!("the demo takes no arguments, and `{}` is none of its roles", other.display());
            ExitCode::from(64)
        }
    }
}

fn demo() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        tokio::select! {
            outcome = story::tell() => match outcome {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    eprintln!("\nthe demo could not go on: {error}");
                    ExitCode::FAILURE
                }
            },
            _ = tokio::signal::ctrl_c() => {
                // The children share the terminal and have had the signal too; what is dropped here ends them.
                println!("\ninterrupted");
                ExitCode::from(130)
            }
        }
    });
    // The SDK's threads may still use it after an interruption: it ends with the process.
    std::mem::forget(runtime);
    code
}
