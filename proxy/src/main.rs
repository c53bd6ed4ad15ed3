//! The binary: everything is in the library.

use std::process::ExitCode;

/// Gives memory of closed and parked connections back, and has size classes for the buffers of a request
/// (docs/adr/0006). Without transparent huge pages: a sidecar's memory is small and scattered.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outrigger::commands::main(std::env::args_os())
}
