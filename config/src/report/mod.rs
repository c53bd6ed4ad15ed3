//! Diagnostics: what is wrong, where exactly, and what helps. They begin as findings of `sink`.
//!
//! A rendering is a file: text in the manner of rustc, JSON with one object a line, SARIF for code scanning, commands
//! for the log of a GitHub workflow.

mod codes;
mod github;
mod json;
mod pages;
mod sarif;
mod text;

use std::{fmt, sync::Arc};

pub use codes::Code;
pub use pages::diagnostics_markdown;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It does what it says, and is worth a look.
    Note,
    /// It loads, but does not do what it seems to say.
    Warning,
    /// It does not load.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A place in a file: lines and columns from 1, the end exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As given to `load`.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Line of the end.
    pub end_line: u32,
    /// Column behind the end.
    pub end_column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of finding.
    pub code: Code,
    /// Where; line 0 for a finding on the whole configuration.
    pub place: Place,
    /// Field path in the document: `spec.http[0].route[1].weight`; empty for a finding on the whole document.
    pub path: String,
    /// One sentence.
    pub message: String,
    /// What stands at the place, beside the caret.
    pub label: String,
    /// The line that the caret points into.
    pub source: String,
    /// What to do.
    pub help: Option<String>,
    /// What else belongs to it.
    pub notes: Vec<String>,
}

impl Diagnostic {
    /// That of its code.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// Message, label, notes and help, for renderings that show no source.
    fn paragraphs(&self) -> Vec<String> {
        let mut out = vec![self.message.clone()];
        if !self.label.is_empty() {
            out.push(self.label.clone());
        }
        out.extend(self.notes.iter().map(|note| format!("note: {note}")));
        out.extend(self.help.iter().map(|help| format!("help: {help}")));
        out
    }
}

/// All findings of one load, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By file, line and column.
    pub diagnostics: Vec<Arc<Diagnostic>>,
}

impl Report {
    /// True if one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity() == Severity::Error)
    }

    /// The findings of all other codes.
    #[must_use]
    pub fn without(mut self, codes: &[Code]) -> Self {
        self.diagnostics.retain(|diagnostic| !codes.contains(&diagnostic.code));
        self
    }
}

impl std::error::Error for Report {}
