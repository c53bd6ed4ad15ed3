//! SARIF 2.1.0, which GitHub's code scanning and most editors read.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Code, Diagnostic, Place, Report};

impl Report {
    /// One run with all findings, and the rules that they name.
    #[must_use]
    pub fn to_sarif(&self) -> Value {
        let mut codes: Vec<Code> = self.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        codes.sort_unstable();
        codes.dedup();
        let results = self.diagnostics.iter().map(|diagnostic| {
            // Every code is among them.
            let rule = codes.binary_search(&diagnostic.code).unwrap_or_default();
            result(diagnostic, rule)
        });
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "outrigger",
                    "semanticVersion": env!("CARGO_PKG_VERSION"),
                    "rules": codes.iter().copied().map(rule).collect::<Vec<_>>(),
                } },
                "columnKind": "unicodeCodePoints",
                "results": results.collect::<Vec<_>>(),
            }],
        })
    }
}

fn rule(code: Code) -> Value {
    json!({
        "id": code.to_string(),
        "name": format!("{code:?}"),
        "shortDescription": { "text": code.title() },
        "help": { "text": code.page(), "markdown": code.page() },
        "defaultConfiguration": { "level": code.severity().as_str() },
        "properties": { "tags": code.istio().into_iter().collect::<Vec<_>>() },
    })
}

fn result(diagnostic: &Diagnostic, rule: usize) -> Value {
    json!({
        "ruleId": diagnostic.code.to_string(),
        "ruleIndex": rule,
        "level": diagnostic.severity().as_str(),
        "message": { "text": diagnostic.paragraphs().join("\n") },
        "locations": [location(&diagnostic.place, &diagnostic.path)],
    })
}

fn location(place: &Place, path: &str) -> Value {
    let mut physical = json!({ "artifactLocation": { "uri": uri(&place.file) } });
    // Line 0 is a finding on the whole configuration.
    if let (1.., Some(physical)) = (place.line, physical.as_object_mut()) {
        let region = json!({
            "startLine": place.line,
            "startColumn": place.column,
            "endLine": place.end_line,
            "endColumn": place.end_column,
        });
        physical.insert("region".to_owned(), region);
    }
    let mut location = json!({ "physicalLocation": physical });
    if let (false, Some(location)) = (path.is_empty(), location.as_object_mut()) {
        location.insert("logicalLocations".to_owned(), json!([{ "fullyQualifiedName": path }]));
    }
    location
}

/// A path as a reference: relative paths stay relative to where the program ran.
fn uri(path: &str) -> String {
    let mut out = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_references() {
        assert_eq!(uri("rules/a b:c.yaml"), "rules/a%20b%3Ac.yaml");
        assert_eq!(uri("/etc/\u{e9}.yaml"), "file:///etc/%C3%A9.yaml");
    }
}
