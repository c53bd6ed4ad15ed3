//! Why a workload cannot be injected: the field, what is wrong with it, and what to write instead.

use std::{fmt, sync::Arc};

use outrigger_config::{
    report::{Place, Report},
    tree::{self, Node},
};

/// The way from a document to a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The field `key` of it.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// The fields `keys`, one within the other.
    pub(crate) fn keys(&self, keys: &[&str]) -> Self {
        keys.iter().fold(self.clone(), |path, key| path.key(key))
    }

    /// The item of this number.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// The field in the tree, or the innermost one around it that is there.
    fn find<'n>(&self, root: &'n Node) -> &'n Node {
        let mut node = root;
        for step in &self.0 {
            let next = match (step, &node.value) {
                (Step::Key(key), tree::Value::Map(entries)) => {
                    entries.iter().find(|entry| *entry.key == **key).map(|entry| &entry.value)
                }
                (Step::Index(index), tree::Value::Seq(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[\"{key}\"]")?,
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// One field that stands against an injection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Problem {
    /// From the document, or from the pod where there is no document.
    pub path: Path,
    /// One sentence.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Problem {
    pub(crate) fn new(path: Path, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { path, message: message.into(), help: help.into() }
    }
}

/// Why a text cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no YAML.
    #[error("{0}")]
    Unreadable(Report),
    /// A workload in it is wrong.
    #[error("{0}")]
    Refused(Box<Refused>),
}

/// A problem with its place.
#[derive(Debug)]
pub struct Refused {
    /// Where in the text.
    pub place: Place,
    /// The line there.
    pub source: String,
    /// What is wrong.
    pub problem: Problem,
}

impl Refused {
    pub(crate) fn new(problem: Problem, root: &Node, file: &Arc<str>, text: &str) -> Self {
        let place = problem.path.find(root).span.place(Arc::clone(file));
        let line = text.lines().nth(place.line.saturating_sub(1) as usize);
        Self { source: line.unwrap_or_default().to_owned(), place, problem }
    }
}

/// In the manner of rustc, as the findings of `validate` are shown.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, source, problem } = self;
        let gutter = " ".repeat(place.line.to_string().len());
        let indent = " ".repeat(place.column.saturating_sub(1) as usize);
        let width =
            if place.end_line == place.line { place.end_column.saturating_sub(place.column) } else { 1 };
        writeln!(f, "error: {}", problem.message)?;
        writeln!(f, "{gutter}--> {place}")?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{} | {source}", place.line)?;
        writeln!(f, "{gutter} | {indent}{}", "^".repeat(width.max(1) as usize))?;
        writeln!(f, "{gutter} = field: {}", problem.path)?;
        writeln!(f, "{gutter} = help: {}", problem.help)
    }
}
