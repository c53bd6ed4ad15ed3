//! The crate as its users see it: YAML in, a snapshot or diagnostics out.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, in its helpers too")]

mod support;

mod access_logs;
mod actions;
mod capture;
mod compatibility;
mod delegates;
mod diagnostics;
mod diff;
mod dns;
mod explain;
mod filters;
mod hosts;
mod kubernetes;
mod lints;
mod locality;
mod matching;
mod mesh;
mod names;
mod policies;
mod receivers;
mod reference;
mod registry;
mod reload;
mod robust;
mod routes;
mod seed;
mod server_tls;
mod sidecars;
mod tcp;
mod telemetry;
mod tls;
mod tracing;
