//! A small OTLP collector that loses nothing it has accepted.

pub mod otlp;
mod signal;

pub use signal::Signal;
