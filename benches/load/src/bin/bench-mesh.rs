//! `cargo bench-mesh`; everything is in the library. The allocator is the sidecar's.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outrigger_bench::bench_mesh()
}
