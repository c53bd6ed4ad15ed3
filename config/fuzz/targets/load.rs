//! Any text into a load: it ends with a snapshot or with errors, which can be printed; and a second load of the same
//! text, which takes the documents and clusters of the first, ends the same way.
//!
//! Time and memory of one text are bounded by libFuzzer's `-timeout` and `-rss_limit_mb`, see `config/fuzz/run`.

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use outrigger_config::{
    Loaded, Loader, Source,
    report::Report,
    snapshot::{Node, TelemetryDefaults},
};

fuzz_target!(|text: &str| {
    let mut loader = Loader::new(Node::default(), TelemetryDefaults::default());
    let sources = [Source { name: "fuzzed.yaml".into(), text: text.to_owned() }];
    let first = printed(loader.load(&sources, None));
    let second = printed(loader.load(&sources, None));
    assert_eq!(first, second, "the second load takes over what the first one read");
});

/// The snapshot as `/config_dump` shows it, where there is one, and the findings in two forms.
fn printed(result: Result<Loaded, Report>) -> (Option<String>, String) {
    let (snapshot, report) = match result {
        Ok(Loaded { snapshot, warnings }) => {
            assert!(!warnings.has_errors());
            (Some(snapshot.to_json().to_string()), warnings)
        }
        Err(report) => {
            assert!(report.has_errors());
            (None, report)
        }
    };
    black_box(report.to_json_lines());
    (snapshot, report.to_string())
}
