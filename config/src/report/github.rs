//! Workflow commands of GitHub Actions: a line in the log that becomes an annotation on the file.

use std::fmt::Write as _;

use super::{Diagnostic, Report, Severity};

impl Report {
    /// One command per finding.
    #[must_use]
    pub fn to_github_commands(&self) -> String {
        self.diagnostics.iter().fold(String::new(), |mut out, diagnostic| {
            let _ = writeln!(out, "{}", command(diagnostic));
            out
        })
    }
}

/// `::warning file=a.yaml,line=1,col=2,...,title=OUT0105::message`
fn command(diagnostic: &Diagnostic) -> String {
    let level = match diagnostic.severity() {
        Severity::Note => "notice",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let place = &diagnostic.place;
    let mut properties = Vec::new();
    if place.line > 0 {
        properties.push(format!("file={}", property(&place.file)));
        properties.push(format!("line={},endLine={}", place.line, place.end_line));
        // Annotations have columns within one line only.
        if place.line == place.end_line {
            properties.push(format!("col={},endColumn={}", place.column, place.end_column));
        }
    }
    let istio = diagnostic.code.istio().map(|code| format!(" ({code})")).unwrap_or_default();
    let title = format!("{}{istio}: {}", diagnostic.code, diagnostic.code.title());
    properties.push(format!("title={}", property(&title)));
    format!("::{level} {}::{}", properties.join(","), data(&diagnostic.paragraphs().join("\n")))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_is_made_of_is_escaped() {
        assert_eq!(data("50%\r\nof a:b,c"), "50%25%0D%0Aof a:b,c");
        assert_eq!(property("C:\\a,b%\n"), "C%3A\\a%2Cb%25%0A");
    }
}
