//! JSON, one object a line.

use std::fmt::Write as _;

use super::{Diagnostic, Report};

impl Diagnostic {
    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code.to_string(),
            "istio": self.code.istio(),
            "level": self.severity().as_str(),
            "file": &*self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "endLine": self.place.end_line,
            "endColumn": self.place.end_column,
            "field": self.path,
            "message": self.message,
            "label": self.label,
            "help": self.help,
            "notes": self.notes,
        })
    }
}

impl Report {
    /// One JSON object per line.
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        self.diagnostics.iter().fold(String::new(), |mut out, diagnostic| {
            let _ = writeln!(out, "{}", diagnostic.to_json());
            out
        })
    }
}
