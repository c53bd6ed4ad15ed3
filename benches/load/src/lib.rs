//! Outrigger beside a real Envoy and a bare hyper forwarder: the same intent, the same load, one run.
//!
//! `benches/README.md` says how to run and how to read it. Nothing depends on this crate.

mod backend;
mod callgrind;
mod cli;
mod door;
mod envoy;
mod forwarder;
mod goals;
mod identity;
mod instr;
mod intent;
mod istio;
mod load;
mod machine;
mod measure;
mod mesh;
mod metric;
mod process;
mod programs;
mod proxy;
mod report;
mod rounds;
mod scenario;
mod serve;
mod sink;
mod stages;
mod stats;

pub use cli::bench_load;
pub use instr::bench_instr;
pub use mesh::bench_mesh;

/// A bench has no caller that could tell errors apart: each is a sentence for a person.
pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
