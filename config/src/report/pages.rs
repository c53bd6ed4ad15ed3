//! A page for each code: what it means, what becomes of requests, an example that yields it and what to write instead.
//! The tests load both, so that a page cannot lie. `docs/diagnostics.md` is all pages behind each other.

use std::fmt::Write as _;

use super::{Code, Severity};

macro_rules! page {
    ($number:literal) => {
        (concat!("OUT", $number), include_str!(concat!("pages/OUT", $number, ".md")))
    };
}

/// By code.
const PAGES: &[(&str, &str)] = &[
    page!("0001"),
    page!("0002"),
    page!("0003"),
    page!("0004"),
    page!("0005"),
    page!("0006"),
    page!("0007"),
    page!("0010"),
    page!("0011"),
    page!("0012"),
    page!("0013"),
    page!("0014"),
    page!("0020"),
    page!("0021"),
    page!("0022"),
    page!("0023"),
    page!("0024"),
    page!("0025"),
    page!("0026"),
    page!("0101"),
    page!("0102"),
    page!("0103"),
    page!("0104"),
    page!("0105"),
    page!("0106"),
    page!("0107"),
    page!("0108"),
    page!("0109"),
    page!("0110"),
    page!("0111"),
    page!("0112"),
    page!("0120"),
    page!("0121"),
    page!("0122"),
    page!("0123"),
    page!("0124"),
    page!("0130"),
    page!("0131"),
    page!("0140"),
    page!("0141"),
    page!("0142"),
    page!("0143"),
    page!("0160"),
    page!("0161"),
    page!("0201"),
    page!("0202"),
    page!("0203"),
    page!("0204"),
    page!("0210"),
    page!("0211"),
    page!("0212"),
    page!("0213"),
    page!("0230"),
    page!("0301"),
    page!("0302"),
    page!("0303"),
    page!("0304"),
    page!("0310"),
    page!("0311"),
    page!("0312"),
    page!("0320"),
    page!("0321"),
    page!("0401"),
    page!("0402"),
    page!("0403"),
    page!("0404"),
    page!("0405"),
    page!("0420"),
    page!("0421"),
    page!("0501"),
    page!("0502"),
    page!("0503"),
    page!("0504"),
    page!("0505"),
];

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
        let text = PAGES.iter().find(|(code, _)| *code == self.to_string()).map_or("", |(_, text)| text);
        format!("## {self}: {}\n\n{severity}{istio}\n\n{text}", self.title())
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
