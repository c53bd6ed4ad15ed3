//! The program `otlp-collector`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    otlp_collector::cli::main(std::env::args_os())
}
