//! Texts: every workload in them is changed, and every other document is passed on byte for byte.
//!
//! A changed document is written anew in the order of its keys; its comments are lost. One that the change leaves equal
//! keeps its bytes.

use outrigger_config::{
    Source,
    report::Place,
    tree::{self, Stretch},
};
use serde_saphyr::ser_options;

use crate::{
    options::Options,
    pod::{self, Outcome},
    problem::{Error, Path, Problem, Refused},
    value::{Map, Value, map},
    workload::{Workload, each_pod},
};

/// What is done to each workload.
#[derive(Debug, Clone, Copy)]
pub enum Verb<'o> {
    /// Put the sidecar in.
    Inject(&'o Options),
    /// Take it out.
    Uninject,
}

/// How to write the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Documents with `---` between them.
    Yaml,
    /// One object; a `List` for several documents.
    Json,
}

/// The texts after the change.
#[derive(Debug)]
pub struct Changed {
    /// All documents of all sources.
    pub text: String,
    /// Every workload, in order.
    pub workloads: Vec<Done>,
    /// Documents that hold no workload.
    pub others: usize,
}

/// What was done to one workload.
#[derive(Debug)]
pub struct Done {
    /// Where its document begins.
    pub place: Place,
    /// Which one.
    pub workload: Workload,
    /// What became of it.
    pub outcome: Outcome,
}

impl Verb<'_> {
    /// Changes one document; a list is changed item by item.
    ///
    /// # Errors
    /// The first field that stands against it. The document may be changed in part then.
    pub fn change(self, document: &mut Value) -> Result<Vec<(Workload, Outcome)>, Problem> {
        let namespace = match self {
            Self::Inject(options) => options.namespace.as_deref(),
            Self::Uninject => None,
        };
        each_pod(document, namespace, &mut |workload: &Workload, pod: &mut Map, path: &Path| match self {
            Self::Inject(options) => pod::inject(pod, path, workload, options),
            Self::Uninject => pod::uninject(pod, path),
        })
    }
}

/// A stretch of a text after the change.
struct Page<'t> {
    text: &'t str,
    documents: Vec<Value>,
    is_changed: bool,
}

/// Changes all workloads of the sources.
///
/// # Errors
/// Everything that is wrong with any of them; there is no text then.
pub fn change(sources: &[Source], verb: Verb<'_>, format: Format) -> Result<Changed, Vec<Error>> {
    let mut workloads = Vec::new();
    let mut others = 0;
    let mut pages = Vec::new();
    let mut errors = Vec::new();
    for source in sources {
        let stretches = match tree::stretches(source) {
            Ok(stretches) => stretches,
            Err(report) => {
                errors.push(Error::Unreadable(report));
                continue;
            }
        };
        for Stretch { text, documents } in stretches {
            let mut page = Page { text, documents: Vec::new(), is_changed: false };
            for root in &documents {
                let before = Value::of(root);
                let mut after = before.clone();
                match verb.change(&mut after) {
                    Err(problem) => {
                        let refused = Refused::new(problem, root, &source.name, &source.text);
                        errors.push(Error::Refused(Box::new(refused)));
                    }
                    Ok(done) => {
                        others += usize::from(done.is_empty());
                        let place = root.span.place(source.name.clone());
                        let done = done.into_iter();
                        workloads.extend(done.map(|(workload, outcome)| Done {
                            place: place.clone(),
                            workload,
                            outcome,
                        }));
                    }
                }
                page.is_changed |= after != before;
                page.documents.push(after);
            }
            pages.push(page);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let text = match format {
        Format::Yaml => yaml(&pages),
        Format::Json => json(pages),
    };
    Ok(Changed { text, workloads, others })
}

fn yaml(pages: &[Page<'_>]) -> String {
    let mut out = String::new();
    for page in pages {
        let begins = page.text.starts_with("---");
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        if !begins && !out.is_empty() && !page.text.is_empty() {
            // The first document of a further file.
            out.push_str("---\n");
        }
        if !page.is_changed {
            out.push_str(page.text);
            continue;
        }
        let documents: Vec<_> = page.documents.iter().map(to_yaml).collect();
        if begins {
            out.push_str("---\n");
        }
        out.push_str(&documents.join("---\n"));
    }
    out
}

/// One document by itself, several as `kubectl get -o json` shows them.
fn json(pages: Vec<Page<'_>>) -> String {
    let mut documents: Vec<_> = pages.into_iter().flat_map(|page| page.documents).collect();
    let shown = match documents.len() {
        0 => return String::new(),
        1 => documents.remove(0),
        _ => map([("apiVersion", "v1".into()), ("kind", "List".into()), ("items", Value::List(documents))]),
    };
    // Keys are strings and numbers are finite: it cannot fail.
    serde_json::to_string_pretty(&shown).unwrap_or_default() + "\n"
}

/// A document as `kubectl` reads it: quoted wherever YAML 1.1 would see something else than a string.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let options = ser_options! { indent_step: 2, compact_list_indent: true, yaml_12: false };
    // Writing to a string does not fail, and keys are strings.
    let mut text = serde_saphyr::to_string_with_options(value, options).unwrap_or_default();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}
