//! What is wrong with a configuration, with file and line, and a hint where there is one.

use std::fmt;
use std::sync::Arc;

/// A line of a file, or of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as named on the command line, or `environment`.
    pub file: Arc<str>,
    /// Counted from one; zero where lines mean nothing.
    pub line: u64,
}

impl Place {
    pub(super) fn new(file: &Arc<str>, line: u64) -> Self {
        Self { file: Arc::clone(file), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The field, as `exporters.otlp_grpc.endpoint`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Every error and warning of one load.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Any of these stops the start.
    pub errors: Vec<Problem>,
    /// These are logged.
    pub warnings: Vec<Problem>,
}

impl Report {
    pub(super) fn error(
        &mut self,
        place: &Place,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let (place, path) = (place.clone(), path.to_owned());
        self.errors.push(Problem { place, path, message: message.into(), hint });
    }

    pub(super) fn warn(&mut self, place: &Place, path: &str, message: impl Into<String>) {
        let (place, path) = (place.clone(), path.to_owned());
        self.warnings.push(Problem { place, path, message: message.into(), hint: None });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
