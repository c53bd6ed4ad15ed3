//! `outrigger healthcheck`: whether a sidecar is ready, for images without a shell or curl.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;
use tokio::time::Instant;

use super::sidecar;

/// Tell whether a running sidecar is ready: exits with 0, or with 1 and the reason.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger healthcheck
  outrigger healthcheck --wait 30 --address 127.0.0.1:15021")]
pub(super) struct HealthcheckArgs {
    /// Go on asking for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
    /// The page for readiness, `/healthz/ready`.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15021")]
    address: SocketAddr,
}

pub(super) fn run(args: &HealthcheckArgs) -> ExitCode {
    let runtime = match sidecar::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wait = Duration::from_secs(args.wait.into());
    match runtime.block_on(async { sidecar::ready(args.address, Instant::now() + wait).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
