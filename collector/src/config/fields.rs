//! Reading a map of the configuration: each key is asked for once, with its type, and whatever was never asked
//! for is unknown. Errors are collected, not thrown.

use std::time::Duration;

use super::report::{Place, Report};
use super::yaml::{Entry, Node, Value};

/// A map being read. Call [`Fields::finish`] when every known key has been asked for.
pub(super) struct Fields<'a> {
    pub(super) place: Place,
    pub(super) path: String,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn open(node: &'a Node, path: &str, report: &mut Report) -> Self {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            other => {
                report.error(&node.place, path, format!("expected a map, found {}", describe(other)), None);
                &[]
            }
        };
        Self { place: node.place.clone(), path: path.to_owned(), entries, known: Vec::new() }
    }

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key, if the key is there and not null.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.entry(key).filter(|node| !matches!(node.value, Value::Null))
    }

    /// The value of a key even if it is null, for keys whose presence is what counts.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    pub(super) fn fields(&mut self, key: &'static str, report: &mut Report) -> Option<Fields<'a>> {
        let path = self.at(key);
        self.node(key).map(|node| Fields::open(node, &path, report))
    }

    /// A map whose keys are names chosen by the user.
    pub(super) fn named(&mut self, key: &'static str, report: &mut Report) -> &'a [Entry] {
        self.fields(key, report).map_or(&[], |fields| fields.entries)
    }

    pub(super) fn text(&mut self, key: &'static str, report: &mut Report) -> Option<String> {
        let node = self.node(key)?;
        let text = scalar_text(node);
        if text.is_none() {
            self.mistyped(key, node, "text", report);
        }
        text
    }

    pub(super) fn bool(&mut self, key: &'static str, report: &mut Report) -> Option<bool> {
        let node = self.node(key)?;
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.mistyped(key, node, "true or false", report);
        None
    }

    pub(super) fn number(&mut self, key: &'static str, report: &mut Report) -> Option<u64> {
        let node = self.node(key)?;
        if let Value::Int(value) = node.value
            && let Ok(value) = u64::try_from(value)
        {
            return Some(value);
        }
        self.mistyped(key, node, "a whole number, zero or more", report);
        None
    }

    /// A number that must be at least one.
    pub(super) fn positive(&mut self, key: &'static str, report: &mut Report) -> Option<usize> {
        let node = self.node(key)?;
        if let Value::Int(value) = node.value
            && let Ok(value) = usize::try_from(value)
            && value > 0
        {
            return Some(value);
        }
        self.mistyped(key, node, "a whole number, one or more", report);
        None
    }

    pub(super) fn float(&mut self, key: &'static str, report: &mut Report) -> Option<f64> {
        let node = self.node(key)?;
        match node.value {
            Value::Float(value) => Some(value),
            Value::Int(value) => Some(value as f64),
            _ => {
                self.mistyped(key, node, "a number", report);
                None
            }
        }
    }

    pub(super) fn duration(&mut self, key: &'static str, report: &mut Report) -> Option<Duration> {
        let node = self.node(key)?;
        let duration = match &node.value {
            Value::Text(text) => parse_duration(text),
            Value::Int(0) => Some(Duration::ZERO),
            _ => None,
        };
        if duration.is_none() {
            self.mistyped(key, node, "a duration like 500ms, 5s or 1m30s", report);
        }
        duration
    }

    pub(super) fn names(&mut self, key: &'static str, report: &mut Report) -> Vec<(String, Place)> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let Value::List(list) = &node.value else {
            self.mistyped(key, node, "a list of names", report);
            return Vec::new();
        };
        let mut names = Vec::new();
        for item in list {
            match scalar_text(item) {
                Some(name) => names.push((name, item.place.clone())),
                None => self.mistyped(key, item, "a name", report),
            }
        }
        names
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        report: &mut Report,
    ) -> Option<T> {
        let node = self.node(key)?;
        let text = scalar_text(node).unwrap_or_default();
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = nearest(&text, names.iter().copied());
            report.error(
                &node.place,
                &self.at(key),
                format!("\"{text}\" is not one of {}", names.join(", ")),
                hint,
            );
        }
        found.map(|(_, value)| *value)
    }

    /// Refuses a key that is known but not supported yet.
    pub(super) fn unbuilt(&mut self, key: &'static str, instead: &str, report: &mut Report) {
        if let Some(node) = self.node(key) {
            report.error(&node.place, &self.at(key), "not built yet", Some(instead.to_owned()));
        }
    }

    pub(super) fn finish(self, report: &mut Report) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let hint = nearest(&entry.key, self.known.iter().copied());
            report.error(&entry.place, &self.at(&entry.key), "unknown key", hint);
        }
    }

    fn mistyped(&self, key: &str, node: &Node, wanted: &str, report: &mut Report) {
        let message = format!("expected {wanted}, found {}", describe(&node.value));
        report.error(&node.place, &self.at(key), message, None);
    }
}

/// "did you mean", if one of the candidates is near enough.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<String> {
    let score = |candidate: &str| strsim::jaro_winkler(word, candidate);
    candidates
        .filter(|candidate| score(candidate) > 0.75)
        .max_by(|one, other| score(one).total_cmp(&score(other)))
        .map(|candidate| format!("did you mean {candidate}?"))
}

/// A scalar as the text it was written as, near enough for names, addresses and header values.
pub(super) fn scalar_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(value) => format!("\"{value}\""),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

/// A duration as Go writes it: `1m30s`, `200ms`, `1.5h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    (!text.trim().is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_go_s() {
        assert_eq!(parse_duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "5", "s", "5x", "-1s", "1s2"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
