//! Injection of texts: golden files, decisions, errors, and the laws that hold for any pod.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, in its helpers too")]

mod golden;
mod laws;
mod refusals;
mod reviews;

use outrigger_config::Source;
use outrigger_inject::{Changed, Error, Format, Options, Verb, change};

fn source(text: &str) -> [Source; 1] {
    [Source { name: "pods.yaml".into(), text: text.to_owned() }]
}

fn inject_with(options: &Options, text: &str) -> Result<Changed, Vec<Error>> {
    change(&source(text), Verb::Inject(options), Format::Yaml)
}

fn inject(text: &str) -> String {
    inject_with(&Options::default(), text).unwrap().text
}

fn uninject(text: &str) -> String {
    change(&source(text), Verb::Uninject, Format::Yaml).unwrap().text
}
