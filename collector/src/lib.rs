//! A small OTLP collector that loses nothing it has accepted.

pub mod budget;
pub mod config;
pub mod exporters;
pub mod metrics;
pub mod otlp;
pub mod pipeline;
pub mod queue;
pub mod receivers;
mod signal;
pub mod status;

pub use signal::Signal;
