//! The report of a load: what each document says of itself, and what was found when all had been read, by place.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    documents::File,
    read::{Document, Page, path_of, read},
    report::{Diagnostic, Report},
    sink::{Finding, Sink},
    snapshot,
};

/// `late` holds what was found when all documents had been read.
pub(crate) fn report(late: Sink, files: &[File<'_>], node: &snapshot::Node) -> Report {
    let positions = files.iter().enumerate();
    let positions = positions.filter_map(|(at, file)| Some((file.pages.first()?.0.file, at)));
    let positions: HashMap<u32, usize> = positions.collect();
    let position = |finding: &Finding| positions.get(&finding.span.file).copied().unwrap_or_default();
    let mut late = late.into_findings();
    late.sort_by_key(|finding| (position(finding), finding.span));
    let mut late = late.into_iter().peekable();
    let mut diagnostics = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let start = diagnostics.len();
        let pages = file.pages.iter();
        diagnostics.extend(pages.flat_map(|(_, document)| &*document.diagnostics).cloned());
        if late.peek().is_some_and(|finding| position(finding) == at) {
            let mut places = Places { file, node, lines: None };
            let mut of_file = diagnostics.split_off(start);
            while let Some(finding) = late.next_if(|finding| position(finding) == at) {
                of_file.push(Arc::new(places.diagnostic(finding)));
            }
            diagnostics.extend(in_order(of_file));
        }
    }
    // Of no file, where there is none.
    diagnostics.extend(late.map(|finding| Arc::new(finding.diagnostic(Arc::default(), String::new(), ""))));
    Report { diagnostics }
}

/// Those of one file by place; what was said twice is there once.
pub(crate) fn in_order(mut diagnostics: Vec<Arc<Diagnostic>>) -> Vec<Arc<Diagnostic>> {
    fn key(one: &Diagnostic) -> impl Ord + std::hash::Hash + use<> {
        let place = &one.place;
        (place.line, place.column, place.end_line, place.end_column, one.code)
    }
    diagnostics.sort_by_key(|one| key(one));
    let mut seen = HashSet::new();
    let is_new: Vec<_> = diagnostics.iter().map(|one| seen.insert((key(one), &*one.message))).collect();
    let mut is_new = is_new.into_iter();
    diagnostics.retain(|_| is_new.next().unwrap_or_default());
    diagnostics
}

/// What the findings in one file point into.
struct Places<'f> {
    file: &'f File<'f>,
    node: &'f snapshot::Node,
    /// Of the page that was asked for last: findings come by place.
    lines: Option<(u32, Vec<&'f str>)>,
}

impl<'f> Places<'f> {
    fn diagnostic(&mut self, finding: Finding) -> Diagnostic {
        let name = Arc::clone(self.file.name);
        let behind = self.file.pages.partition_point(|(page, _)| page.line < finding.span.line);
        let Some((page, document)) = behind.checked_sub(1).and_then(|last| self.file.pages.get(last)) else {
            return finding.diagnostic(name, String::new(), "");
        };
        let path = self.path(page, document, &finding);
        let source = self.line(page, finding.span.line);
        finding.diagnostic(name, path, source)
    }

    /// The document is read again, since no tree is kept, but only once for a place.
    fn path(&self, page: &Page<'_>, document: &Document, finding: &Finding) -> String {
        let mut paths = document.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = paths
            .entry(finding.span)
            .or_insert_with(|| path_of(&read(page, self.node).1, finding.span).into());
        path.to_string()
    }

    fn line(&mut self, page: &Page<'f>, line: u32) -> &'f str {
        let known = self.lines.take().filter(|(of, _)| *of == page.line);
        let (_, lines) = self.lines.insert(known.unwrap_or_else(|| (page.line, page.text.lines().collect())));
        lines.get(page.index(line)).copied().unwrap_or_default()
    }
}
