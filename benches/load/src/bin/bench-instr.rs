//! `cargo bench-instr`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger_bench::bench_instr()
}
