//! YAML text to a tree in which every key and value knows its line. The only file that names the YAML crate.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::report::{Place, Problem};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) key: String,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn empty(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()) }
    }

    /// Lays `over` on top: maps merge key by key, anything else is replaced.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(entries), Value::Map(overs)) => {
                for over in overs {
                    match entries.iter_mut().find(|entry| entry.key == over.key) {
                        Some(entry) => entry.node.merge(over.node),
                        None => entries.push(over),
                    }
                }
            }
            // `otlp:` with nothing behind it does not erase what another file says of it.
            (Value::Map(_), Value::Null) => {}
            (value, over_value) => {
                *value = over_value;
                self.place = over.place;
            }
        }
    }
}

/// Reads one document.
pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Node, Problem> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node::empty(Place::new(file, 1)));
    }
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(raw) => Ok(node(file, raw)),
        Err(error) => {
            let line = error.location().map_or(1, |location| location.line());
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            // The library says "error: line 7 column 35: ..."; the place is said already.
            let message = match first.split_once(" column ").and_then(|(_, rest)| rest.split_once(": ")) {
                Some((_, message)) => message.to_owned(),
                None => first.to_owned(),
            };
            let hint = text.contains("flow mapping").then(|| "in braces, quote \"${...}\"".to_owned());
            Err(Problem { place: Place::new(file, line), path: String::new(), message, hint })
        }
    }
}

/// Reads a scalar as YAML would: `true`, `3`, text.
pub(super) fn scalar(text: &str) -> Value {
    match serde_saphyr::from_str::<Raw>(text) {
        Ok(Raw::Null) => Value::Null,
        Ok(Raw::Bool(value)) => Value::Bool(value),
        Ok(Raw::Int(value)) => Value::Int(value),
        Ok(Raw::Float(value)) => Value::Float(value),
        _ => Value::Text(text.to_owned()),
    }
}

fn node(file: &Arc<str>, raw: Spanned<Raw>) -> Node {
    let place = Place::new(file, raw.referenced.line());
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Int(value) => Value::Int(value),
        Raw::Float(value) => Value::Float(value),
        Raw::Text(value) => Value::Text(value),
        Raw::List(list) => Value::List(list.into_iter().map(|raw| node(file, raw)).collect()),
        Raw::Map(map) => Value::Map(
            map.into_iter()
                .map(|(key, raw)| Entry {
                    place: Place::new(file, key.referenced.line()),
                    key: key.value,
                    node: node(file, raw),
                })
                .collect(),
        ),
    };
    Node { place, value }
}

enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(i64::try_from(value).map_or(Raw::Float(value as f64), Raw::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
