//! Findings to diagnostics: places and field paths are spelled out, from the files and their documents.

use std::{collections::HashMap, sync::Arc};

use crate::{
    documents::File,
    read::{Page, path_of, read},
    report::{Diagnostic, Place, Report},
    sink::{Finding, Sink, Span},
    snapshot,
    yaml::Node,
};

/// All of them by place.
pub(crate) fn report(sink: Sink, files: &[File<'_>], node: &snapshot::Node) -> Report {
    let positions = files.iter().enumerate();
    let positions = positions.filter_map(|(at, file)| Some((file.pages.first()?.0.file, at)));
    let positions: HashMap<u32, usize> = positions.collect();
    let position = |file: u32| positions.get(&file).copied().unwrap_or_default();
    let mut places = Places { files, node, lines: HashMap::new(), last: None };
    let findings = sink.finish(position).into_iter();
    Report {
        diagnostics: findings
            .map(|finding| places.diagnostic(position(finding.span.file), finding))
            .collect(),
    }
}

/// What findings point into.
struct Places<'f> {
    files: &'f [File<'f>],
    node: &'f snapshot::Node,
    /// By the position of the file.
    lines: HashMap<usize, Vec<&'f str>>,
    /// The page that was read again last, and its trees: findings come by place.
    last: Option<((u32, u32), Vec<Node>)>,
}

impl Places<'_> {
    fn diagnostic(&mut self, at: usize, finding: Finding) -> Diagnostic {
        let span = finding.span;
        let file = self.files.get(at);
        let text = file.map_or("", |file| file.text);
        let lines = self.lines.entry(at).or_insert_with(|| text.lines().collect());
        let line = lines.get(span.line.saturating_sub(1) as usize).copied().unwrap_or_default();
        Diagnostic {
            code: finding.code,
            place: Place {
                file: file.map(|file| Arc::clone(file.name)).unwrap_or_default(),
                line: span.line,
                column: span.column,
                end_line: span.end_line,
                end_column: span.end_column,
            },
            path: finding.path.map_or_else(|| self.path(at, span), String::from),
            message: finding.message,
            label: finding.label,
            source: line.to_owned(),
            help: finding.help,
            notes: finding.notes,
        }
    }

    /// Of a finding that was made when all documents had been read: its own is read again, since no tree is kept.
    fn path(&mut self, at: usize, span: Span) -> String {
        let pages = self.files.get(at).map(|file| &*file.pages).unwrap_or_default();
        let behind = pages.partition_point(|(page, _)| page.line < span.line);
        let Some((page, _)) = behind.checked_sub(1).and_then(|last| pages.get(last)) else {
            return String::new();
        };
        path_of(self.trees(page), span)
    }

    fn trees(&mut self, page: &Page<'_>) -> &[Node] {
        let place = (page.file, page.line);
        let known = self.last.take().filter(|(last, _)| *last == place);
        &self.last.insert(known.unwrap_or_else(|| (place, read(page, self.node).1))).1
    }
}
