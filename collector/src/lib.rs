//! A small OTLP collector that loses nothing it has accepted.
//!
//! A request comes in through one of the [`receivers`], is checked and counted in place by [`otlp`], waits in the
//! bounded [`queue`] of every exporter of its [`pipeline`], and is delivered by the [`exporters`] as the bytes it
//! came in. When there is no room, the sender is told to come back; it is never told "accepted" first.
//!
//! [`Collector::start`] runs one inside a program; [`cli::main`] is the program.

pub mod admin;
pub mod budget;
pub mod cli;
mod collector;
pub mod config;
pub mod exporters;
mod healthcheck;
mod logging;
pub mod metrics;
mod offload;
pub mod otlp;
pub mod pipeline;
pub mod queue;
pub mod receivers;
mod signal;
pub mod status;

pub use collector::{Collector, Running, Stopped};
pub use receivers::connection::BindError;
pub use signal::Signal;
