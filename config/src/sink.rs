//! Findings as they are made: a code, a place by numbers and what there is to say. They become diagnostics while the
//! document is at hand (`read`), or in `diagnose`.

use std::sync::Arc;

use crate::report::{Code, Diagnostic, Place};

/// A place by numbers, cheap to keep in every node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The same in each load for the same file.
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_line: u32,
    pub(crate) end_column: u32,
}

impl Span {
    /// The place in the file of this name.
    #[must_use]
    pub fn place(self, file: Arc<str>) -> Place {
        let Self { line, column, end_line, end_column, .. } = self;
        Place { file, line, column, end_line, end_column }
    }
}

/// A finding before its place is spelled out.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) code: Code,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) label: String,
    pub(crate) help: Option<String>,
    pub(crate) notes: Vec<String>,
}

impl Finding {
    pub(crate) fn label(&mut self, text: impl Into<String>) -> &mut Self {
        self.label = text.into();
        self
    }

    pub(crate) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) -> &mut Self {
        self.notes.push(text.into());
        self
    }

    /// `path` is that of the field, `source` the line that it stands in.
    pub(crate) fn diagnostic(self, file: Arc<str>, path: String, source: &str) -> Diagnostic {
        Diagnostic {
            code: self.code,
            place: self.span.place(file),
            path,
            message: self.message,
            label: self.label,
            source: source.to_owned(),
            help: self.help,
            notes: self.notes,
        }
    }
}

/// Collects findings: nothing stops at the first error.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    findings: Vec<Finding>,
}

impl Sink {
    pub(crate) fn report(&mut self, code: Code, span: Span, message: impl Into<String>) -> &mut Finding {
        self.findings.push(Finding {
            code,
            span,
            message: message.into(),
            label: String::new(),
            help: None,
            notes: Vec::new(),
        });
        #[expect(clippy::unwrap_used, reason = "pushed just now")]
        self.findings.last_mut().unwrap()
    }

    /// What was found elsewhere.
    pub(crate) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.findings.len()
    }

    /// Those made when there were `before` already.
    pub(crate) fn since(&self, before: usize) -> Vec<Finding> {
        self.findings.iter().skip(before).cloned().collect()
    }

    /// As they were made.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}
