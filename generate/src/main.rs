//! Prints one case as JSON: `generate SEED [REQUESTS]`. The same seed is the same case.

use std::process::ExitCode;

use outrigger_generate::{case, nowhere};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::json;

fn main() -> ExitCode {
    let numbers: Option<Vec<u64>> = std::env::args().skip(1).map(|word| word.parse().ok()).collect();
    let (seed, requests) = match numbers.as_deref() {
        Some([seed]) => (*seed, 20),
        Some([seed, requests]) => (*seed, usize::try_from(*requests).unwrap_or(usize::MAX)),
        _ => {
            eprintln!("usage: generate SEED [REQUESTS]");
            return ExitCode::from(64);
        }
    };
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    match case(&nowhere(), requests).new_tree(&mut runner) {
        Ok(tree) => {
            let case = tree.current();
            let requests: Vec<_> = case.requests.iter().map(|asked| asked.to_json()).collect();
            println!("{:#}", json!({ "yaml": case.yaml, "requests": requests }));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
