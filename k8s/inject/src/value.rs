//! A document as Kubernetes sees it: JSON's values, with the order of keys kept so that a changed document still looks
//! like the one that was written.
//!
//! Plain scalars mean what `kubectl` makes of them (YAML 1.1: `yes` is true, `0644` is octal), since it reads our output
//! in place of the original. A lone `y` or `n`, on which its versions differ, is a text.

use indexmap::IndexMap;
use outrigger_config::tree::{self, Node};
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// A mapping in the order of its source.
pub type Map = IndexMap<String, Value>;

/// Any value of a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer or a float.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A mapping.
    Map(Map),
}

impl Value {
    /// What a YAML tree says.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        match &node.value {
            tree::Value::Null => Self::Null,
            tree::Value::Scalar { text, plain: false } => Self::Text(text.to_string()),
            tree::Value::Scalar { text, plain: true } => plain(text),
            tree::Value::Seq(items) => Self::List(items.iter().map(Self::of).collect()),
            tree::Value::Map(entries) => Self::Map(
                entries.iter().map(|entry| (entry.key.to_string(), Self::of(&entry.value))).collect(),
            ),
        }
    }

    /// The value of a key, null counting as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.map()?.get(key).filter(|value| !matches!(value, Self::Null))
    }

    /// The text, if it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    pub fn map_mut(&mut self) -> Option<&mut Map> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The items, if it is a list.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn list_mut(&mut self) -> Option<&mut Vec<Self>> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// For messages: `a list`, `a string`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }

    /// In one line, for annotations and variables.
    pub(crate) fn to_json(&self) -> String {
        // Keys are strings and numbers are finite: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl<V: Into<Self>> From<Vec<V>> for Value {
    fn from(items: Vec<V>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

/// A mapping of our own.
pub(crate) fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// The container, volume or variable of this name.
pub(crate) fn named<'v>(items: &'v [Value], name: &str) -> Option<&'v Value> {
    items.iter().find(|item| name_of(item) == Some(name))
}

pub(crate) fn name_of(item: &Value) -> Option<&str> {
    item.get("name")?.text()
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return true.into();
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return false.into();
        }
        _ => {}
    }
    number(text).map_or_else(|| text.into(), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let digits = text.replace('_', "");
    if let Some(integer) = integer(&digits) {
        return Some(integer);
    }
    // Rust reads words as floats too, which have no JSON.
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    is_decimal.then(|| text.parse().ok().and_then(Number::from_f64)).flatten()
}

/// With the prefixes of Go's integers, `0644` being octal.
fn integer(digits: &str) -> Option<Number> {
    let (negative, magnitude) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let prefixed = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| magnitude.strip_prefix(prefix));
    let (radix, number) = if let Some(rest) = prefixed(["0x", "0X"]) {
        (16, rest)
    } else if let Some(rest) = prefixed(["0b", "0B"]) {
        (2, rest)
    } else if let Some(rest) = prefixed(["0o", "0O"]) {
        (8, rest)
    } else if let Some(rest) = magnitude.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        (8, rest)
    } else {
        (10, magnitude)
    };
    if !number.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(number, radix).ok()?;
    if negative { Some(0_i64.checked_sub_unsigned(value)?.into()) } else { Some(value.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_kubectl_makes_of_them() {
        let json = |text: &str| plain(text).to_json();
        for (text, expected) in [
            ("yes", "true"),
            ("off", "false"),
            ("y", "\"y\""),
            ("0644", "420"),
            ("0o17", "15"),
            ("0x1F", "31"),
            ("1_000", "1000"),
            ("-12", "-12"),
            ("1.50", "1.5"),
            ("1e3", "1000.0"),
            ("089", "89.0"),
            ("18446744073709551615", "18446744073709551615"),
            ("v1", "\"v1\""),
            ("100m", "\"100m\""),
            ("1.2.3", "\"1.2.3\""),
            ("-", "\"-\""),
            (".inf", "\".inf\""),
            ("2001-01-01", "\"2001-01-01\""),
            ("10.0.0.0/8", "\"10.0.0.0/8\""),
        ] {
            assert_eq!(json(text), expected, "{text}");
        }
    }
}
