//! A page for each code: what it means, what becomes of requests, an example that yields it and what to write instead.
//! The tests load both, so that a page cannot lie. `docs/diagnostics.md` is all pages behind each other.

use std::fmt::Write as _;

use super::{Code, Severity};

/// The mesh beside which the examples stand, unless their block is marked `alone`.
const MESH: &str = include_str!("pages/mesh.yaml");

impl Code {
    /// The page: title, severity, explanation, example and what to write instead, as Markdown.
    #[must_use]
    pub fn page(self) -> String {
        let istio =
            self.istio().map(|code| format!(" `istioctl analyze` calls it {code}.")).unwrap_or_default();
        let severity = match self.severity() {
            Severity::Error => {
                "An **error**: it does not load. A starting proxy ends with exit code 65, a running one keeps its \
                 last good configuration."
            }
            Severity::Warning => "A **warning**: it loads, and does not do all that it seems to say.",
            Severity::Note => "A **note**: it does what it says, and is worth a look.",
        };
        format!("## {self}: {}\n\n{severity}{istio}\n\n{}", self.title(), self.text())
    }
}

/// `docs/diagnostics.md`.
#[must_use]
pub fn diagnostics_markdown() -> String {
    let mut out = HEAD.to_owned();
    out.push_str("| code | severity | Istio | |\n|---|---|---|---|\n");
    for code in Code::ALL {
        let (severity, istio) = (code.severity().as_str(), code.istio().unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(out, "| {code} | {severity} | {istio} | {} |", code.title());
    }
    let _ = write!(
        out,
        "\nThe examples stand beside this mesh, unless their block is marked `alone`:\n\n```yaml\n{MESH}```\n"
    );
    for code in Code::ALL {
        let _ = write!(out, "\n{}", code.page());
    }
    out
}

const HEAD: &str = "\
<!-- Generated from config/src/report. Do not edit: run the tests of outrigger-config with OUTRIGGER_BLESS=1. -->

# Diagnostics

What `outrigger validate` finds, and the proxy when it loads. `outrigger validate --explain CODE` prints one of these
pages, `-S CODE` leaves a code out, and `--failure-threshold` says which severity fails. A code is one of the table, or
Istio's own, which may stand beside several.

";
