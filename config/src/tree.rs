//! The documents of a text as trees with places, for tools that change some documents and pass the others on as they
//! are. Kinds and fields are not looked at: that is what a load is for.

use std::sync::Arc;

use crate::{
    Source,
    report::Report,
    sink::Sink,
    split::split,
    yaml::{Base, MAX_BYTES, parse},
};
pub use crate::{
    sink::Span,
    yaml::{Entry, Node, Value},
};

/// A stretch of a text with the documents in it: mostly one, none where there are only comments.
#[derive(Debug)]
pub struct Stretch<'t> {
    /// The stretches of a text, one after the other, are the text (without a byte order mark).
    pub text: &'t str,
    /// Documents that are not empty.
    pub documents: Vec<Node>,
}

/// Reads every document of a text.
///
/// # Errors
/// What is no YAML, stands twice in a mapping, or goes beyond the limits of a configuration (16 MiB, 100 nested
/// collections, 100,000 nodes by aliases).
pub fn stretches(source: &Source) -> Result<Vec<Stretch<'_>>, Report> {
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
    let mut sink = Sink::default();
    let mut stretches = Vec::new();
    let mut aliased = 0;
    let parts = if text.len() <= MAX_BYTES { split(text) } else { Vec::new() };
    let starts: Vec<_> = parts.iter().map(|part| text.len() - part.rest.len()).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let mut broken = parts.is_empty();
    for ((part, start), end) in parts.iter().zip(&starts).zip(ends) {
        let before = sink.len();
        let base = Base { file: 0, line: part.line, column: 0 };
        let parsed = parse(base, part.text, aliased, &mut sink);
        aliased = parsed.aliased;
        broken = parsed.broken;
        if broken && sink.len() > before {
            break;
        }
        stretches
            .push(Stretch { text: text.get(*start..end).unwrap_or_default(), documents: parsed.documents });
    }
    if broken {
        // Where it ends is for the parser to say.
        sink = Sink::default();
        stretches = vec![Stretch {
            text,
            documents: parse(Base { file: 0, line: 0, column: 0 }, text, 0, &mut sink).documents,
        }];
    }
    let lines: Vec<_> = text.lines().collect();
    let diagnostics: Vec<_> = sink
        .into_findings()
        .into_iter()
        .map(|finding| {
            let line = lines.get(finding.span.line.saturating_sub(1) as usize).copied().unwrap_or_default();
            Arc::new(finding.diagnostic(Arc::clone(&source.name), String::new(), line))
        })
        .collect();
    if diagnostics.is_empty() { Ok(stretches) } else { Err(Report { diagnostics }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { name: "a.yaml".into(), text: text.to_owned() }
    }

    #[test]
    fn stretches_together_are_the_text() {
        let text = "# head\n---\na: 1 # note\n---\n\n--- \nb: |\n  ---\n  x\n";
        let source = source(text);
        let stretches = stretches(&source).unwrap();
        assert_eq!(stretches.iter().map(|one| one.text).collect::<String>(), text);
        assert_eq!(stretches.iter().map(|one| one.documents.len()).collect::<Vec<_>>(), [0, 1, 0, 1]);
    }

    #[test]
    fn what_is_broken_is_reported_at_its_place_in_the_file() {
        let report = stretches(&source("a: 1\n---\nb: 1\nb: 2\n")).unwrap_err();
        let found = &report.diagnostics[0];
        assert_eq!((found.place.to_string().as_str(), found.source.as_str()), ("a.yaml:4:1", "b: 2"));
        let report = stretches(&source("a: 1\n---\nb: [1\nc: }\n")).unwrap_err();
        assert_eq!(report.diagnostics[0].place.file.as_ref(), "a.yaml");
        assert_eq!(report.diagnostics.len(), 1);
    }

    #[test]
    fn what_only_a_parser_can_split_is_one_stretch() {
        let source = source("%YAML 1.2\n---\na: 1\n---\nb: 1\n");
        let stretches = stretches(&source).unwrap();
        assert_eq!((stretches.len(), stretches[0].documents.len()), (1, 2));
    }
}
