//! The documents of all files. Each is read once for each content: what a load has in common with the one before is
//! taken as it is, and of a document's tree nothing is kept.
//!
//! A document is known by its file, its first line and the hash of its text, since everything in it remembers its line:
//! one that has moved is read again.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{
    Source,
    decide::xxh64,
    istio::Meta,
    read::{Document, Page, Role, read},
    report::Code,
    resources::Resources,
    sink::Sink,
    snapshot::Node,
    split::{Stretch, split},
    yaml::{MAX_ALIASED, MAX_BYTES},
};

/// What was read so far.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Of a name, and which of the sources of that name it is.
    ids: Cache<(Arc<str>, usize), u32>,
    next: u32,
    read: Cache<Key, Arc<Document>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    file: u32,
    role: Role,
    line: u32,
    text: u64,
}

/// One source with its documents.
#[derive(Debug)]
pub(crate) struct File<'t> {
    pub(crate) name: &'t Arc<str>,
    pub(crate) pages: Vec<(Page<'t>, Arc<Document>)>,
}

impl Documents {
    /// Reads what is not known yet; the mesh's own file comes last.
    pub(crate) fn read<'t>(
        &mut self,
        sources: &'t [Source],
        mesh: Option<&'t Source>,
        node: &Node,
    ) -> Vec<File<'t>> {
        let sources = sources.iter().map(|source| (source, Role::Resources));
        let mut names: HashMap<&str, usize> = HashMap::new();
        let files = sources.chain(mesh.map(|source| (source, Role::Mesh))).map(|(source, role)| {
            let nth = names.entry(&source.name).or_default();
            let file = self.file(&source.name, *nth);
            *nth += 1;
            File { name: &source.name, pages: self.pages(source, file, role, node) }
        });
        files.collect()
    }

    /// Of what this load has not used, only what is in force is kept for the next one.
    pub(crate) fn settle(&mut self, in_force: bool) {
        self.ids.settle(in_force);
        self.read.settle(in_force);
    }

    fn file(&mut self, name: &Arc<str>, nth: usize) -> u32 {
        let next = &mut self.next;
        *self.ids.get_or((Arc::clone(name), nth), || {
            *next = next.wrapping_add(1);
            *next
        })
    }

    fn pages<'t>(
        &mut self,
        source: &'t Source,
        file: u32,
        role: Role,
        node: &Node,
    ) -> Vec<(Page<'t>, Arc<Document>)> {
        let text = source.text.strip_prefix('\u{feff}').unwrap_or(&source.text);
        let stretches = match role {
            Role::Resources if text.len() <= MAX_BYTES => split(text),
            _ => vec![Stretch { line: 0, text, rest: text }],
        };
        let mut pages = Vec::with_capacity(stretches.len());
        let mut aliased = 0;
        for stretch in stretches {
            let page =
                Page { file, name: &source.name, line: stretch.line, text: stretch.text, role, aliased };
            let key = Key { file, role, line: stretch.line, text: xxh64(stretch.text.as_bytes(), 0) };
            // Aliases are limited by file: the same text may be fine in one and too much in another.
            let fits = |document: &Arc<Document>| aliased + document.aliased <= MAX_ALIASED;
            if let Some(known) = self.read.get(&key).filter(|known| fits(known)) {
                aliased += known.aliased;
                pages.push((page, known));
                continue;
            }
            let (document, _) = read(&page, node);
            if document.broken && stretch.text.len() < stretch.rest.len() {
                // Where it ends is for the parser to say, and nothing is read behind what is broken.
                let page = Page { text: stretch.rest, ..page };
                pages.push((page, Arc::new(read(&page, node).0)));
                break;
            }
            aliased += document.aliased;
            let document = Arc::new(document);
            self.read.insert(key, Arc::clone(&document));
            pages.push((page, document));
        }
        pages
    }
}

/// All resources in order. What can only be said of all documents together goes to the sink.
pub(crate) fn resources(files: &[File<'_>], sink: &mut Sink) -> Resources {
    let mut resources = Resources::default();
    let mut seen: HashMap<(&str, &str, &str), &Meta> = HashMap::new();
    for (page, document) in files.iter().flat_map(|file| &file.pages) {
        for meta in &document.metas {
            if let Some(first) = seen.insert((meta.kind, &meta.namespace, &meta.name), meta) {
                let message = format!("{} is defined twice", meta.resource());
                let found = sink.report(Code::DuplicateResource, meta.span, message);
                found.note(format!("first: {}", first.reference()));
            }
        }
        if page.role == Role::Mesh {
            // A file of its own wins.
            resources.mesh = None;
        }
        resources.extend(&document.resources);
    }
    resources
}

/// Values that the next load may want.
#[derive(Debug)]
struct Cache<K, V>(HashMap<K, Kept<V>>);

#[derive(Debug)]
struct Kept<V> {
    value: V,
    /// By this load.
    used: bool,
    /// By the last load that went well.
    in_force: bool,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Cache<K, V> {
    fn get(&mut self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        let kept = self.0.get_mut(key)?;
        kept.used = true;
        Some(kept.value.clone())
    }

    fn get_or(&mut self, key: K, make: impl FnOnce() -> V) -> &V {
        let kept = self.0.entry(key).or_insert_with(|| Kept { value: make(), used: true, in_force: false });
        kept.used = true;
        &kept.value
    }

    fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, Kept { value, used: true, in_force: false });
    }

    fn settle(&mut self, good: bool) {
        self.0.retain(|_, kept| {
            let used = std::mem::take(&mut kept.used);
            kept.in_force = if good { used } else { kept.in_force };
            used || kept.in_force
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.into(), text: text.to_owned() }
    }

    fn entry(name: &str) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.example.com]\n"
        )
    }

    /// Which of the pages of two loads are the same object.
    fn shared(before: &[File<'_>], after: &[File<'_>]) -> Vec<bool> {
        let of = |files: &[File<'_>]| -> Vec<Arc<Document>> {
            files.iter().flat_map(|file| &file.pages).map(|(_, document)| Arc::clone(document)).collect()
        };
        let before = of(before);
        of(after).iter().map(|new| before.iter().any(|old| Arc::ptr_eq(old, new))).collect()
    }

    #[test]
    fn only_a_changed_or_moved_document_is_read_again() {
        let node = Node::default();
        let mut documents = Documents::default();
        let first = [source("a.yaml", &(entry("a") + &entry("b"))), source("c.yaml", &entry("c"))];
        let before = documents.read(&first, None, &node);
        documents.settle(true);
        // A file before them is no change, nor is one of two documents.
        let second = [source("0.yaml", ""), source("a.yaml", &(entry("a") + &entry("x"))), first[1].clone()];
        let after = documents.read(&second, None, &node);
        assert_eq!(shared(&before, &after), [false, true, false, true]);
        documents.settle(true);
        let moved = [source("a.yaml", &(entry("a") + "\n" + &entry("x"))), first[1].clone()];
        let third = documents.read(&moved, None, &node);
        assert_eq!(shared(&after, &third), [false, false, true]);
    }

    #[test]
    fn what_is_in_force_stays_known_while_broken_texts_come_and_go() {
        let node = Node::default();
        let mut documents = Documents::default();
        let good = [source("a.yaml", &(entry("a") + &entry("b")))];
        let before = documents.read(&good, None, &node);
        documents.settle(true);
        for broken in ["kind: [", "kind: {"] {
            documents.read(&[source("a.yaml", broken)], None, &node);
            documents.settle(false);
        }
        assert_eq!(documents.read.0.len(), 3, "what is in force, and what was refused last");
        assert_eq!(shared(&before, &documents.read(&good, None, &node)), [true, true]);
    }

    type Said = Vec<(Code, (u32, u32, u32, u32), String, String)>;

    fn said(document: &Document) -> (Said, Vec<String>) {
        let findings = document.diagnostics.iter().map(|one| {
            let place = &one.place;
            let place = (place.line, place.column, place.end_line, place.end_column);
            (one.code, place, one.message.clone(), one.source.clone())
        });
        (findings.collect(), document.metas.iter().map(Meta::reference).collect())
    }

    const LINES: [&str; 22] = [
        "---",
        "--- # c",
        "---x",
        "...",
        "%YAML 1.2",
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: a }",
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: { name: b }\nspec: { egress: [] }",
        "spec: { hosts: [a.example.com], oops: 1 }",
        "spec:\n  hosts: &h [b.example.com]\n  addresses: *h",
        "text: |",
        "  ---",
        "  - indented",
        "quoted: '",
        "'",
        "\"",
        "flow: [",
        "]",
        "# comment",
        "",
        "\r",
        "kind: twice",
        "\0",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pages_say_what_the_whole_file_says(
            lines in prop::collection::vec(prop::sample::select(&LINES[..]), 0..14),
            end in prop::sample::select(&["\n", "\r\n"][..]),
        ) {
            let source = source("a.yaml", &lines.join(end));
            let node = Node::default();
            let whole = Page {
                file: 1, name: &source.name, line: 0, text: &source.text, role: Role::Resources, aliased: 0,
            };
            let mut whole = said(&read(&whole, &node).0);
            let sources = [source];
            let files = Documents::default().read(&sources, None, &node);
            let mut pages: (Said, Vec<String>) = Default::default();
            for (_, document) in &files[0].pages {
                let (findings, metas) = said(document);
                pages.0.extend(findings);
                pages.1.extend(metas);
            }
            pages.0.sort();
            whole.0.sort();
            prop_assert_eq!(pages, whole);
        }
    }

    #[test]
    fn aliases_are_limited_by_file_whatever_is_known_of_its_documents() {
        let node = Node::default();
        let document = format!("---\na: &a [{}]\nb: [{}]\n", ["1"; 200].join(","), ["*a"; 200].join(","));
        let broken = |documents: &mut Documents, count: usize| {
            let sources = [source("a.yaml", &document.repeat(count))];
            let files = documents.read(&sources, None, &node);
            files[0].pages.last().unwrap().1.broken
        };
        let mut documents = Documents::default();
        assert!(!broken(&mut documents, 2));
        assert!(broken(&mut documents, 3));
        assert!(broken(&mut documents, 3));
        assert!(!broken(&mut documents, 2));
    }
}
