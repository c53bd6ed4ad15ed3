//! Whatever is written, a load ends with a snapshot or a report that can be printed.

use proptest::prelude::*;

use crate::kubernetes::{PODS, SERVICE, SLICE};
use crate::support::{DESTINATION_RULE, MESH, REGISTRY, VIRTUAL_SERVICE, WEIGHTED, options, try_load};

const PIECES: [&str; 16] = [
    "",
    "-",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "*a",
    "&a ",
    "null",
    "|\n",
    "'",
    "\n",
    "  ",
    "-1",
    "99999999999999999999",
];

const FILES: [&str; 8] = [MESH, DESTINATION_RULE, REGISTRY, VIRTUAL_SERVICE, WEIGHTED, SERVICE, SLICE, PODS];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_text_never_panics(
        file in prop::sample::select(&FILES[..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..30, prop::sample::select(&PIECES[..])), 1..4),
    ) {
        let mut text = file.to_owned();
        for (at, length, piece) in edits {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            text.replace_range(start..end, piece);
        }
        let report = match try_load(&[MESH, &text], &options()) {
            Ok(loaded) => {
                prop_assert!(!loaded.warnings.has_errors());
                prop_assert!(loaded.snapshot.to_json().is_object());
                loaded.warnings
            }
            Err(report) => {
                prop_assert!(report.has_errors());
                report
            }
        };
        prop_assert_eq!(report.to_json_lines().lines().count(), report.diagnostics.len());
        prop_assert_eq!(report.to_string().is_empty(), report.diagnostics.is_empty());
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        let report = try_load(&[&text], &options());
        prop_assert!(report.map_or_else(|report| report.has_errors(), |loaded| !loaded.warnings.has_errors()));
    }
}
