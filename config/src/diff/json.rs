//! Differences for scripts.

use serde_json::{Value, json};

use super::{
    Change, Diff, Field,
    traffic::{Group, Traffic},
};
use crate::dump::{object, origin, put};

impl Diff {
    /// A list of changes.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.changes.iter().map(change).collect()
    }
}

fn change(change: &Change) -> Value {
    let mut out = object(json!({
        "kind": change.kind.as_str(),
        "part": change.part.as_str(),
        "name": change.name,
    }));
    put(&mut out, "old", change.old.as_ref().map(origin).into());
    put(&mut out, "new", change.new.as_ref().map(origin).into());
    put(&mut out, "fields", change.fields.iter().map(field).collect());
    Value::Object(out)
}

fn field(field: &Field) -> Value {
    json!({ "path": field.path, "old": field.old, "new": field.new })
}

impl Traffic {
    /// The numbers, and the largest groups.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests,
            "skipped_lines": self.skipped,
            "moved": self.moved,
            "moved_percent": self.moved_percent(),
            "touched": self.touched,
            "other_route": self.other_route,
            "groups": self.groups().iter().map(group).collect::<Vec<_>>(),
        })
    }
}

fn group((group, count): &(&Group, &super::traffic::Count)) -> Value {
    json!({
        "authority": group.authority,
        "old": group.old,
        "new": group.new,
        "requests": count.requests,
        "moved": count.moved,
    })
}
