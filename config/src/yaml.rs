//! YAML text to one tree of nodes per document, each with its place. The only file that names the YAML crate.
//!
//! Typed decoding through serde would end at the first error, lose the spans of keys and the quotes of scalars (`"true"`
//! is a string, `true` is not), so the tree is built from the parser's events. A plain scalar keeps its text: where a
//! string is expected `yes`, `012` and `1.10` are what the user wrote.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span as Range};

use crate::{
    report::Code,
    sink::{Sink, Span},
};

/// Bytes of one file.
pub(crate) const MAX_BYTES: usize = 16 << 20;
/// Nested collections.
const MAX_DEPTH: usize = 100;
/// Nodes that aliases may add to one file.
pub(crate) const MAX_ALIASED: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// From its first to its last character.
    pub span: Span,
    /// What it holds.
    pub value: Value,
}

/// What a node holds; scalars are not resolved before it is known what is expected.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A word or a text.
    Scalar {
        /// As it stands in the source, without its quotes.
        text: Box<str>,
        /// Written without quotes: it may be a number or a boolean.
        plain: bool,
    },
    /// A list.
    Seq(Vec<Node>),
    /// A mapping, in the order of the source, merge keys resolved.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As it stands in the source.
    pub key: Box<str>,
    /// Where the key stands.
    pub key_span: Span,
    /// What it leads to.
    pub value: Node,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| &*entry.key == key)
    }

    /// The value of a key; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value).filter(|value| !value.is_null())
    }

    /// For messages: `a mapping`, `a list`, `a string`.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Scalar { plain: false, .. } => "a string",
            Value::Scalar { text, .. } if matches!(&**text, "true" | "false") => "a boolean",
            Value::Scalar { text, .. } if text.parse::<f64>().is_ok() => "a number",
            Value::Scalar { .. } => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Field path of the node or key at a place: `spec.http[0].name`.
    pub(crate) fn path_to(&self, span: Span) -> Option<String> {
        match &self.value {
            Value::Map(entries) => entries.iter().find_map(|entry| {
                // The value first: a mapping that begins where its first key begins is not meant by that place.
                let below = entry.value.path_to(span);
                let here = (entry.key_span == span || entry.value.span == span).then(String::new);
                below.or(here).map(|rest| join(&entry.key, &rest))
            }),
            Value::Seq(items) => items.iter().enumerate().find_map(|(index, item)| {
                let here = (item.span == span).then(String::new);
                item.path_to(span).or(here).map(|rest| join(&format!("[{index}]"), &rest))
            }),
            _ => None,
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Seq(items) => items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
            _ => 0,
        }
    }
}

fn join(head: &str, rest: &str) -> String {
    if rest.is_empty() || rest.starts_with('[') { format!("{head}{rest}") } else { format!("{head}.{rest}") }
}

/// Where a text stands: a whole file, or a block of another document (the ConfigMap's `mesh`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// What a text holds.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// All documents that are not empty.
    pub(crate) documents: Vec<Node>,
    /// Nodes that aliases have added, those of the texts before it among them.
    pub(crate) aliased: usize,
    /// It was not read to its end.
    pub(crate) broken: bool,
}

/// What is broken goes to the sink, and what stands before it is kept. `aliased` counts from the texts before this one
/// in its file.
pub(crate) fn parse(base: Base, text: &str, aliased: usize, sink: &mut Sink) -> Parsed {
    let mut builder =
        Builder { base, sink, stack: Vec::new(), anchors: HashMap::new(), aliased, documents: Vec::new() };
    let mut broken = false;
    if text.len() > MAX_BYTES {
        let span = Span { file: base.file, line: 1, column: 1, end_line: 1, end_column: 1 };
        builder.sink.report(Code::YamlLimit, span, "the file is larger than 16 MiB");
        return Parsed { documents: Vec::new(), aliased, broken: true };
    }
    let options = granit_parser::options! { emit_comments: false };
    for next in Parser::new_from_str_with_options(text.strip_prefix('\u{feff}').unwrap_or(text), options) {
        match next {
            Ok((event, range)) => {
                broken = builder.event(event, range).is_err();
                if broken {
                    break;
                }
            }
            Err(error) => {
                let span = builder.span(Range::empty(*error.marker()));
                let code = match error.kind() {
                    ErrorKind::RecursionLimitExceeded => Code::YamlLimit,
                    _ => Code::YamlSyntax,
                };
                builder.sink.report(code, span, error.info());
                broken = true;
                break;
            }
        }
    }
    Parsed { documents: builder.documents, aliased: builder.aliased, broken }
}

/// Reported already; the rest of the file is not read.
struct Stop;

struct Builder<'s> {
    base: Base,
    sink: &'s mut Sink,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    documents: Vec<Node>,
}

/// A collection under construction.
struct Frame {
    span: Span,
    anchor: usize,
    content: Content,
}

enum Content {
    Seq(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashSet<Box<str>>, key: Option<(Box<str>, Span)> },
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, range: Range) -> Result<(), Stop> {
        let span = self.span(range);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !forced;
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    _ => Value::Scalar { text: text.into(), plain },
                };
                self.place(Node { span, value }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(span, anchor, Content::Seq(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Map { entries: Vec::new(), seen: HashSet::new(), key: None };
                self.open(span, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    self.sink.report(Code::YamlSyntax, span, "an alias stands within its own anchor");
                    return Err(Stop);
                };
                self.aliased += node.size();
                if self.aliased > MAX_ALIASED {
                    let message = format!("aliases expand to more than {MAX_ALIASED} nodes");
                    self.sink.report(Code::YamlLimit, span, message);
                    return Err(Stop);
                }
                self.place(node.clone(), 0)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, content: Content) -> Result<(), Stop> {
        if self.stack.len() >= MAX_DEPTH {
            self.sink.report(Code::YamlLimit, span, format!("more than {MAX_DEPTH} nested collections"));
            return Err(Stop);
        }
        let span = Span { end_line: span.line, end_column: span.column, ..span };
        self.stack.push(Frame { span, anchor, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stop> {
        let Some(Frame { span, anchor, content }) = self.stack.pop() else { return Ok(()) };
        let value = match content {
            Content::Seq(items) => Value::Seq(items),
            Content::Map { entries, seen, .. } => Value::Map(merged(entries, seen)),
        };
        self.place(Node { span, value }, anchor)
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            None => self.documents.extend(Some(node).filter(|node| !node.is_null())),
            Some(Content::Seq(items)) => items.push(node),
            Some(Content::Map { entries, seen, key }) => match key.take() {
                Some((key, key_span)) => entries.push(Entry { key, key_span, value: node }),
                None => {
                    let name = match node.value {
                        Value::Scalar { text, .. } => text,
                        Value::Null => "null".into(),
                        Value::Seq(_) | Value::Map(_) => {
                            self.sink.report(Code::YamlSyntax, node.span, "a key is not a scalar");
                            return Err(Stop);
                        }
                    };
                    if !seen.insert(name.clone()) {
                        let message = format!("the key `{name}` stands twice in this mapping");
                        let help = "remove one of them; YAML readers disagree which one counts";
                        self.sink.report(Code::DuplicateKey, node.span, message).help(help);
                    }
                    *key = Some((name, node.span));
                }
            },
        }
        Ok(())
    }

    fn span(&self, range: Range) -> Span {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (start, end) = (range.start, range.end);
        Span {
            file: self.base.file,
            line: number(start.line()).saturating_add(self.base.line),
            column: number(start.col()).saturating_add(1 + self.base.column),
            end_line: number(end.line()).saturating_add(self.base.line),
            end_column: number(end.col()).saturating_add(1 + self.base.column),
        }
    }
}

/// Resolves `<<`: keys of the mapping itself win over those merged in.
fn merged(entries: Vec<Entry>, mut seen: HashSet<Box<str>>) -> Vec<Entry> {
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| &*entry.key == "<<");
    for merge in merges {
        let sources = match merge.value.value {
            Value::Seq(items) => items,
            _ => vec![merge.value],
        };
        for source in sources {
            let Value::Map(entries) = source.value else { continue };
            own.extend(entries.into_iter().filter(|entry| seen.insert(entry.key.clone())));
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Base = Base { file: 0, line: 0, column: 0 };

    fn read(text: &str) -> (Vec<Node>, Vec<(Code, u32, u32)>) {
        let mut sink = Sink::default();
        let documents = parse(BASE, text, 0, &mut sink).documents;
        let findings = sink.into_findings();
        let found = findings.iter().map(|finding| (finding.code, finding.span.line, finding.span.column));
        (documents, found.collect())
    }

    #[test]
    fn scalars_keep_their_text() {
        let (documents, found) = read("a: yes\nb: 012\nc: '5'\nd: ~\ne: !!str 7\n");
        assert_eq!(found, []);
        let root = &documents[0];
        assert_eq!(root.get("a").unwrap().text(), Some("yes"));
        assert_eq!(root.get("b").unwrap().text(), Some("012"));
        assert_eq!(root.get("b").unwrap().kind(), "a number");
        assert_eq!(root.get("c").unwrap().kind(), "a string");
        assert_eq!(root.get("e").unwrap().kind(), "a string");
        assert!(root.get("d").is_none() && root.entry("d").is_some());
    }

    #[test]
    fn places_and_paths_are_exact() {
        let (documents, _) = read("spec:\n  http:\n  - name: x\n    route: [a, b]\n");
        let route = documents[0].get("spec").unwrap().get("http").unwrap().items()[0].get("route").unwrap();
        let b = route.items()[1].span;
        assert_eq!((b.line, b.column, b.end_column), (4, 16, 17));
        assert_eq!(documents[0].path_to(b).unwrap(), "spec.http[0].route[1]");
    }

    #[test]
    fn three_thousand_documents_are_read() {
        let text = "a: {b: [1, 2, 3], c: d}\n---\n".repeat(3000);
        let (documents, found) = read(&text);
        assert_eq!((documents.len(), found.len()), (3000, 0));
    }

    #[test]
    fn more_comments_than_the_parser_buffers_do_no_harm() {
        let text = format!("{}a: 1\n", "# note\n".repeat(500));
        assert_eq!(read(&text).1, []);
    }

    #[test]
    fn duplicate_keys_are_errors_on_the_second() {
        assert_eq!(read("a: 1\nb: 2\na: 3\n").1, [(Code::DuplicateKey, 3, 1)]);
    }

    #[test]
    fn nesting_and_aliases_are_limited() {
        let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
        assert_eq!(read(&deep).1, [(Code::YamlLimit, 1, 103)]);
        let bomb = (1..9).fold("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned(), |text, n| {
            let items = vec![format!("*a{}", n - 1); 10].join(",");
            format!("{text}a{n}: &a{n} [{items}]\n")
        });
        assert_eq!(read(&bomb).1.first().unwrap().0, Code::YamlLimit);
        assert_eq!(read(&"a".repeat(MAX_BYTES + 1)).1, [(Code::YamlLimit, 1, 1)]);
    }

    #[test]
    fn merge_keys_fill_in_what_is_not_set() {
        let (documents, _) = read("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\n");
        let used = documents[0].get("use").unwrap();
        assert_eq!(used.get("x").unwrap().text(), Some("1"));
        assert_eq!(used.get("y").unwrap().text(), Some("3"));
    }

    #[test]
    fn what_stands_before_broken_text_is_kept() {
        let (documents, found) = read("a: 1\n---\nb: [1\nc: }\n");
        assert_eq!(documents.len(), 1);
        assert_eq!(found.first().unwrap().0, Code::YamlSyntax);
    }
}
