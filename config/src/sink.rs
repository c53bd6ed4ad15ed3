//! Findings as they are made: a code, a place by numbers and what there is to say. Names of files and paths of fields
//! come later, in `diagnose`.

use std::collections::HashSet;

use crate::report::Code;

/// A place by numbers, cheap to keep in every node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_line: u32,
    pub(crate) end_column: u32,
}

/// A finding before its place is spelled out.
#[derive(Debug)]
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

    /// All of them by place; what was said twice is there once.
    pub(crate) fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| (finding.span, finding.code));
        let mut seen = HashSet::new();
        self.findings.retain(|finding| seen.insert((finding.span, finding.code, finding.message.clone())));
        self.findings
    }
}
