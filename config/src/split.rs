//! Where the documents of a text begin, found without parsing: each stretch can be parsed by itself, and once for
//! each content.
//!
//! A line that begins with `---` begins a document wherever it stands, in a block of text and within quotes as well.
//! The exceptions (directives, line breaks of a lone CR, NUL) are not worth knowing: such a text is one stretch.

use memchr::{memchr, memchr_iter, memmem};

/// A part of a text that holds whole documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch<'t> {
    /// Lines before it.
    pub(crate) line: u32,
    /// With the `---` of the next one, so that the parser sees how it ends.
    pub(crate) text: &'t str,
    /// From here to the end of the file.
    pub(crate) rest: &'t str,
}

/// All stretches, in order; together they are the text.
pub(crate) fn split(text: &str) -> Vec<Stretch<'_>> {
    const MARKER: &str = "---";
    let mut stretches = Vec::new();
    let whole = is_whole(text);
    let (mut line, mut start) = (0, 0);
    let found = memmem::find_iter(text.as_bytes(), b"\n---").map(|at| at + 1);
    let marks = found.filter(|at| is_marker(text.as_bytes().get(at + MARKER.len())));
    for mark in marks.filter(|_| !whole).chain([text.len()]) {
        let rest = text.get(start..).unwrap_or_default();
        let end = text.len().min(mark + MARKER.len());
        stretches.push(Stretch { line, text: text.get(start..end).unwrap_or_default(), rest });
        let lines = memchr_iter(b'\n', text.as_bytes().get(start..mark).unwrap_or_default()).count();
        line = line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        start = mark;
    }
    stretches
}

fn is_marker(next: Option<&u8>) -> bool {
    next.is_none_or(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// True for a text that only a parser can split.
fn is_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    let directive = bytes.starts_with(b"%") || memmem::find(bytes, b"\n%").is_some();
    let lone_cr = memchr_iter(b'\r', bytes).any(|at| bytes.get(at + 1) != Some(&b'\n'));
    directive || lone_cr || memchr(0, bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(u32, &str)> {
        split(text).into_iter().map(|stretch| (stretch.line, stretch.text)).collect()
    }

    #[test]
    fn a_stretch_ends_with_the_marker_of_the_next() {
        assert_eq!(
            texts("a: 1\n---\nb: |\n ---\n--- # c\nc: 3"),
            [(0, "a: 1\n---"), (1, "---\nb: |\n ---\n---"), (4, "--- # c\nc: 3")]
        );
        assert_eq!(texts("---\na\n---"), [(0, "---\na\n---"), (2, "---")]);
        assert_eq!(texts(""), [(0, "")]);
    }

    #[test]
    fn only_a_whole_word_is_a_marker() {
        assert_eq!(texts("a\n---b\n----\n--- c").len(), 2);
    }

    #[test]
    fn what_only_a_parser_can_split_stays_whole() {
        for text in [
            "%YAML 1.2\n---\na\n---\nb",
            "a\n...\n%YAML 1.2\n---\nb",
            "a\r---\nb\n---\nc",
            "a\n---\n\0\n---\n",
        ] {
            assert_eq!(texts(text), [(0, text)]);
        }
    }
}
