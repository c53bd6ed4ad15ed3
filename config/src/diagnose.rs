//! Findings to diagnostics: places and field paths are spelled out, from the files and their documents.

use std::sync::Arc;

use crate::{
    report::{Diagnostic, Place, Report},
    sink::{Finding, Span},
    yaml::Node,
};

/// `findings` by place; `files` with their texts, by the number in a span.
pub(crate) fn report(findings: Vec<Finding>, files: &[(Arc<str>, &str)], documents: &[Node]) -> Report {
    let lines: Vec<Vec<&str>> = files.iter().map(|(_, text)| text.lines().collect()).collect();
    let mut documents: Vec<&Node> = documents.iter().collect();
    documents.sort_by_key(|node| (node.span.file, node.span.line));
    let diagnostics = findings.into_iter().map(|finding| {
        let span = finding.span;
        let file = files.get(span.file as usize).map(|(name, _)| Arc::clone(name)).unwrap_or_default();
        let lines = lines.get(span.file as usize).map(Vec::as_slice).unwrap_or_default();
        let line = lines.get(span.line.saturating_sub(1) as usize).copied().unwrap_or_default();
        Diagnostic {
            code: finding.code,
            place: Place {
                file,
                line: span.line,
                column: span.column,
                end_line: span.end_line,
                end_column: span.end_column,
            },
            path: path_of(&documents, span),
            message: finding.message,
            label: finding.label,
            source: line.to_owned(),
            help: finding.help,
            notes: finding.notes,
        }
    });
    Report { diagnostics: diagnostics.collect() }
}

/// The document that begins last before the place has it; documents are sorted.
fn path_of(documents: &[&Node], span: Span) -> String {
    let behind = documents.partition_point(|node| (node.span.file, node.span.line) <= (span.file, span.line));
    let before = documents.get(..behind).unwrap_or_default();
    before.last().and_then(|node| node.path_to(span)).unwrap_or_default()
}
