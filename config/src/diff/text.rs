//! Differences for people: a sign, what it is, where it is written, and which fields changed.

use std::fmt;

use serde_json::Value;

use super::{Change, Diff, Kind};

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            change.fmt(f)?;
        }
        if self.changes.is_empty() {
            return writeln!(f, "no difference");
        }
        let count = |kind| self.changes.iter().filter(|change| change.kind == kind).count();
        let counts = [Kind::Added, Kind::Removed, Kind::Changed, Kind::Moved]
            .map(|kind| format!("{} {}", count(kind), kind.as_str()));
        writeln!(f, "{}", counts.join(", "))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.kind {
            Kind::Added => '+',
            Kind::Removed => '-',
            Kind::Changed => '~',
            Kind::Moved => '>',
        };
        let moved = if self.kind == Kind::Moved { ", moved among its neighbours" } else { "" };
        writeln!(f, "{sign} {} {}{moved}", self.part, self.name)?;
        for (label, origin) in [("old", &self.old), ("new", &self.new)] {
            if let Some(origin) = origin {
                writeln!(f, "    {label} {origin}")?;
            }
        }
        for field in &self.fields {
            writeln!(f, "    {}: {} -> {}", field.path, shown(&field.old), shown(&field.new))?;
        }
        Ok(())
    }
}

fn shown(value: &Option<Value>) -> String {
    value.as_ref().map_or_else(|| "unset".to_owned(), Value::to_string)
}
