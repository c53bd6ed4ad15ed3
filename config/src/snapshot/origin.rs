//! Where the parts of a snapshot were written.

use std::{fmt, sync::Arc};

/// Where a route, cluster or listener was written: file, line and resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Kind, namespace and name: `VirtualService observability/otlp-collector`.
    pub resource: Arc<str>,
    /// Path as it was given on the command line.
    pub file: Arc<str>,
    /// Line, from 1; 0 for what no file says.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.resource),
            line => write!(f, "{} ({}:{line})", self.resource, self.file),
        }
    }
}
