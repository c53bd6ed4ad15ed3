//! The sidecar as a library: what the binary, the demo and the tests start.
//!
//! Modules form floors: the snapshot (crate `outrigger-config`) and [`telemetry`] records at the bottom, then
//! upstream, the request path beside the [`export`] of telemetry, workers, and the wiring on top.

mod admin;
pub mod app;
pub mod application;
mod capture_rules;
pub mod commands;
mod dns_proxy;
pub mod drain;
pub mod export;
pub mod http;
pub mod net;
pub mod overload;
pub mod reload;
pub mod serve;
mod tcp;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod upstream;
pub mod webhook;
pub mod worker;
