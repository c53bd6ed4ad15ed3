//! What differs between two configurations: listeners, virtual hosts, routes and their order, clusters, telemetry.
//!
//! Parts are compared as the configuration dump shows them, by their names, so that a field that is dumped is compared,
//! and where they are written does not count. What a difference does to requests is in [`traffic`].

mod fields;
mod json;
mod routes;
mod text;
pub mod traffic;

use std::{fmt, sync::Arc};

use serde_json::{Value, json};

pub use fields::Field;

use crate::{
    dump::observation::{destination, observation},
    snapshot::{Cluster, Listener, Origin, Snapshot},
};

/// Every difference, in order of the parts.
#[derive(Debug, Default)]
pub struct Diff {
    /// Empty: both do the same.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Debug)]
pub struct Change {
    /// What became of it.
    pub kind: Kind,
    /// What it is.
    pub part: Part,
    /// Its name.
    pub name: String,
    /// Where it was written.
    pub old: Option<Origin>,
    /// Where it is written now.
    pub new: Option<Origin>,
    /// What is different about it.
    pub fields: Vec<Field>,
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Some of its fields differ.
    Changed,
    /// A route has another place among its neighbours: the first match wins.
    Moved,
}

/// Parts of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// An address to listen on.
    Listener,
    /// A host of a listener.
    VirtualHost,
    /// A rule of a host.
    Route,
    /// A group of endpoints and its policies.
    Cluster,
    /// Traces, logs and metrics.
    Telemetry,
}

impl Part {
    /// `virtual host`
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::VirtualHost => "virtual host",
            Self::Route => "route",
            Self::Cluster => "cluster",
            Self::Telemetry => "telemetry",
        }
    }
}

impl Kind {
    /// `added`
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
            Self::Moved => "moved",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Compares.
#[must_use]
pub fn diff(old: &Snapshot, new: &Snapshot) -> Diff {
    let mut diff = Diff::default();
    diff.compare(Part::Listener, &listeners(old), &listeners(new));
    for listener in new.listeners.iter() {
        let Some(before) = old.listeners.iter().find(|other| other.name == listener.name) else { continue };
        routes::compare(&mut diff, (old, before), (new, listener));
    }
    diff.compare(Part::Cluster, &clusters(old), &clusters(new));
    diff.compare(Part::Telemetry, &telemetry(old), &telemetry(new));
    diff
}

/// A part under its name.
struct Item {
    name: String,
    value: Value,
    origin: Option<Origin>,
}

impl Diff {
    /// Parts with unique names.
    fn compare(&mut self, part: Part, old: &[Item], new: &[Item]) {
        for item in new {
            match old.iter().find(|other| other.name == item.name) {
                None => self.push(Kind::Added, part, None, Some(item)),
                Some(before) => self.pair(part, before, item),
            }
        }
        for item in old.iter().filter(|item| !new.iter().any(|other| other.name == item.name)) {
            self.push(Kind::Removed, part, Some(item), None);
        }
    }

    /// The same part in both.
    fn pair(&mut self, part: Part, old: &Item, new: &Item) {
        let fields = fields::compare(&old.value, &new.value);
        if !fields.is_empty() {
            self.push(Kind::Changed, part, Some(old), Some(new));
            if let Some(change) = self.changes.last_mut() {
                change.fields = fields;
            }
        }
    }

    fn push(&mut self, kind: Kind, part: Part, old: Option<&Item>, new: Option<&Item>) {
        let origin = |item: Option<&Item>| item.and_then(|item| item.origin.clone());
        let name = new.or(old).map(|item| item.name.clone()).unwrap_or_default();
        let (old, new) = (origin(old), origin(new));
        self.changes.push(Change { kind, part, name, old, new, fields: Vec::new() });
    }
}

fn listeners(snapshot: &Snapshot) -> Vec<Item> {
    let item = |listener: &Listener| Item {
        name: listener.name.to_string(),
        value: routes::without_routes(snapshot.listener(listener)),
        origin: Some(listener.origin.clone()),
    };
    snapshot.listeners.iter().map(item).collect()
}

fn clusters(snapshot: &Snapshot) -> Vec<Item> {
    let item = |cluster: &Arc<Cluster>| Item {
        name: cluster.name.to_string(),
        value: cluster.to_json(),
        origin: Some(cluster.origin.clone()),
    };
    snapshot.clusters.iter().map(item).collect()
}

fn telemetry(snapshot: &Snapshot) -> Vec<Item> {
    let item = |(name, value): (&str, Value)| Item {
        name: name.to_owned(),
        value: json!({ "telemetry": value }),
        origin: None,
    };
    [
        ("outbound", observation(&snapshot.outbound)),
        ("inbound", observation(&snapshot.inbound)),
        ("metrics", snapshot.metrics.as_deref().map_or(Value::Null, destination)),
    ]
    .map(item)
    .into()
}
