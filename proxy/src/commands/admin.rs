//! `outrigger admin`: asks a running sidecar for a page of its own, as `pilot-agent request` does: from hooks, and from
//! people in a pod without curl.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;
use http::{Method, Uri};
use tokio::time::Instant;

use super::{UNAVAILABLE, show, sidecar};

/// Ask a running sidecar for one of its pages, and print it.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger admin GET /config_dump
  outrigger admin POST /drain           the agent's pages, on port 15020
  outrigger admin POST /quitquitquit    the same: ends a finished job's sidecar")]
pub(super) struct AdminArgs {
    /// GET, or POST for what changes something.
    #[arg(value_name = "METHOD", value_parser = method)]
    method: Method,
    /// The page, with its query.
    #[arg(value_name = "PATH", value_parser = path)]
    path: Uri,
    /// Who is asked [default: 127.0.0.1:15020 for the agent's pages /drain, /quitquitquit, /healthz/, /app-health/,
    /// /app-lifecycle/ and /debug/ndsz, else the admin port 127.0.0.1:15000].
    #[arg(long, value_name = "ADDR")]
    address: Option<SocketAddr>,
    /// How long to wait for the answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u32,
}

/// Prefixes of the agent's pages.
const AGENT: [&str; 6] =
    ["/drain", "/quitquitquit", "/healthz/", "/app-health/", "/app-lifecycle/", "/debug/ndsz"];

pub(super) fn run(args: &AdminArgs) -> ExitCode {
    let port = if is_agents(args.path.path()) { 15020 } else { 15000 };
    let address = args.address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)));
    let asked = sidecar::runtime().map(|runtime| {
        runtime.block_on(async {
            let deadline = Instant::now() + Duration::from_secs(args.timeout.into());
            sidecar::ask(address, &args.method, &args.path, deadline).await
        })
    });
    match asked {
        Ok(Ok(page)) => {
            let text = String::from_utf8_lossy(&page.body);
            if page.status.is_success() {
                show(&text);
                return ExitCode::SUCCESS;
            }
            eprintln!("error: {address} says {}: {}", page.status, text.trim_end());
            ExitCode::FAILURE
        }
        Ok(Err(why)) => {
            eprintln!("error: {why}");
            UNAVAILABLE.into()
        }
        Err(error) => {
            eprintln!("error: {error}");
            UNAVAILABLE.into()
        }
    }
}

/// `/drain_listeners` is Envoy's.
fn is_agents(path: &str) -> bool {
    AGENT.iter().any(|page| if page.ends_with('/') { path.starts_with(page) } else { path == *page })
}

fn method(text: &str) -> Result<Method, String> {
    match text.to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::GET),
        "POST" => Ok(Method::POST),
        _ => Err(format!("`{text}` is neither GET nor POST")),
    }
}

/// As `pilot-agent request`, without a leading slash too.
fn path(text: &str) -> Result<Uri, String> {
    let slash = if text.starts_with('/') { "" } else { "/" };
    format!("{slash}{text}").parse().map_err(|error| format!("`{text}` is not a path: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_pages_are_asked_of_the_agent() {
        for page in ["/drain", "/quitquitquit", "/healthz/ready", "/app-health/web/livez"] {
            assert!(is_agents(page), "{page}");
        }
        for page in ["/drain_listeners", "/config_dump", "/stats/prometheus", "/ready", "/healthcheck/fail"] {
            assert!(!is_agents(page), "{page}");
        }
        assert_eq!(path("drain").unwrap(), "/drain");
    }
}
