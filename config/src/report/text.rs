//! Text in the manner of rustc: the line, a caret, what stands beside it.

use std::{fmt, fmt::Write as _};

use super::{Diagnostic, Report};

impl Diagnostic {
    fn write_text(&self, out: &mut String) {
        let gutter = " ".repeat(self.place.line.to_string().len());
        let caret = if self.place.end_line == self.place.line {
            self.place.end_column.saturating_sub(self.place.column).max(1)
        } else {
            1
        };
        let indent = " ".repeat(self.place.column.saturating_sub(1) as usize);
        let carets = "^".repeat(caret as usize);
        let istio = self.code.istio().map(|code| format!(" ({code})")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}[{}]: {}{istio}", self.severity().as_str(), self.code, self.message);
        if self.place.line > 0 {
            let _ = writeln!(out, "{gutter}--> {}", self.place);
            let _ = writeln!(out, "{gutter} |");
            let _ = writeln!(out, "{} | {}", self.place.line, self.source);
            let _ = writeln!(out, "{}", format!("{gutter} | {indent}{carets} {}", self.label).trim_end());
        }
        if !self.path.is_empty() {
            let _ = writeln!(out, "{gutter} = field: {}", self.path);
        }
        for note in &self.notes {
            let _ = writeln!(out, "{gutter} = note: {note}");
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{gutter} = help: {help}");
        }
    }
}

/// A blank line between findings.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            diagnostic.write_text(&mut out);
        }
        f.write_str(&out)
    }
}
