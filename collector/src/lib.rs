//! A small OTLP collector that loses nothing it has accepted.

pub mod config;
pub mod otlp;
mod signal;
pub mod status;

pub use signal::Signal;
