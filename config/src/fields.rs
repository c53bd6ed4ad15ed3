//! The decoder: every field of every resource stands in a table that says what it holds and whether it is honoured.
//!
//! [`check`] walks a document by its table and collects every error: unknown fields, wrong types, fields that are not
//! honoured. After it the typed readers of [`Object`] need not complain again. The same tables generate
//! `docs/compatibility.md`.

use std::time::Duration;

use crate::{
    report::Code,
    sink::{Sink, Span},
    yaml::{Entry, Node, Value},
};

/// A group of fields: a kind's `spec`, or a part of it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) holds: Type,
    pub(crate) status: Status,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Bool,
    Int,
    Float,
    Text,
    Duration,
    Enum(&'static [&'static str]),
    Object(&'static Message),
    List(&'static Type),
    /// From free names to values.
    Map(&'static Type),
    /// Not looked into.
    Any,
}

/// Whether a field does what it says.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Status {
    /// The test that shows it.
    Honoured(&'static str),
    /// No business of a sidecar: accepted and not looked into.
    Moot(&'static str),
    /// Part of something that is not built yet, which its parent says.
    Later,
    /// A warning: the rest of the resource works without it.
    Warned(&'static str),
    /// An error: without it the resource would do something else.
    Refused(&'static str),
}

pub(crate) const fn yes(name: &'static str, holds: Type, test: &'static str) -> Field {
    Field { name, holds, status: Status::Honoured(test) }
}

pub(crate) const fn moot(name: &'static str, why: &'static str) -> Field {
    Field { name, holds: Type::Any, status: Status::Moot(why) }
}

pub(crate) const fn later(name: &'static str, holds: Type) -> Field {
    Field { name, holds, status: Status::Later }
}

pub(crate) const fn warned(name: &'static str, holds: Type, why: &'static str) -> Field {
    Field { name, holds, status: Status::Warned(why) }
}

pub(crate) const fn refused(name: &'static str, holds: Type, why: &'static str) -> Field {
    Field { name, holds, status: Status::Refused(why) }
}

/// Reports everything in the node that the table does not allow.
pub(crate) fn check(node: &Node, message: &'static Message, sink: &mut Sink) {
    check_object(node, message, sink, true);
}

fn check_object(node: &Node, message: &'static Message, sink: &mut Sink, loud: bool) {
    if node.is_null() {
        return;
    }
    let Value::Map(entries) = &node.value else {
        return wrong_type(node, "a mapping", sink);
    };
    for entry in entries {
        let Some(field) = message.fields.iter().find(|field| field.name == &*entry.key) else {
            unknown_field(entry, message, sink);
            continue;
        };
        match field.status {
            Status::Honoured(_) | Status::Later => check_value(&entry.value, &field.holds, sink, loud),
            Status::Moot(_) => {}
            Status::Warned(why) => {
                if loud && !entry.value.is_null() {
                    let text = format!("`{}.{}` is not honoured yet", message.name, field.name);
                    sink.report(Code::NotHonoured, entry.key_span, text).label("has no effect").note(why);
                }
                check_value(&entry.value, &field.holds, sink, false);
            }
            Status::Refused(why) => {
                check_value(&entry.value, &field.holds, sink, false);
                if !loud || entry.value.is_null() {
                    continue;
                }
                let text = format!("`{}.{}` cannot be executed yet", message.name, field.name);
                let found = sink.report(Code::NotExecutable, entry.key_span, text);
                found.label("the rule would do something else without it").note(why);
            }
        }
    }
}

fn check_value(node: &Node, holds: &'static Type, sink: &mut Sink, loud: bool) {
    if node.is_null() {
        return;
    }
    match holds {
        Type::Any => {}
        Type::Object(message) => check_object(node, message, sink, loud),
        Type::List(item) => match &node.value {
            Value::Seq(items) => {
                for node in items {
                    if node.is_null() {
                        sink.report(Code::WrongType, node.span, "a list entry is null");
                    }
                    check_value(node, item, sink, loud);
                }
            }
            _ => wrong_type(node, "a list", sink),
        },
        Type::Map(item) => match &node.value {
            Value::Map(entries) => {
                entries.iter().for_each(|entry| check_value(&entry.value, item, sink, loud));
            }
            _ => wrong_type(node, "a mapping", sink),
        },
        Type::Bool if boolean(node).is_none() => wrong_type(node, "a boolean (`true` or `false`)", sink),
        Type::Int if integer(node).is_none() => wrong_type(node, "an integer", sink),
        Type::Float if float(node).is_none() => wrong_type(node, "a number", sink),
        Type::Text | Type::Enum(_) | Type::Duration if node.text().is_none() => {
            wrong_type(node, "a string", sink);
        }
        Type::Enum(words) => {
            let text = node.text().unwrap_or_default();
            if !words.contains(&text) {
                let found =
                    sink.report(Code::InvalidValue, node.span, format!("`{text}` is not a choice here"));
                found.help(format!("{}one of {}", did_you_mean(text, words.iter().copied()), list(words)));
            }
        }
        Type::Duration => {
            let text = node.text().unwrap_or_default();
            if parse_duration(text).is_none() {
                let found = sink.report(Code::InvalidValue, node.span, format!("`{text}` is not a duration"));
                found.help("write it like `1.5s`, `250ms` or `1h30m`");
            }
        }
        Type::Bool | Type::Int | Type::Float | Type::Text => {}
    }
}

fn unknown_field(entry: &Entry, message: &'static Message, sink: &mut Sink) {
    let names = message.fields.iter().map(|field| field.name);
    let guess = did_you_mean(&entry.key, names.clone());
    let text = format!("`{}` has no field `{}`", message.name, entry.key);
    let found = sink.report(Code::UnknownField, entry.key_span, text).label("unknown field");
    found.help(format!("{guess}fields are {}", list(&names.collect::<Vec<_>>())));
}

fn wrong_type(node: &Node, expected: &str, sink: &mut Sink) {
    sink.report(Code::WrongType, node.span, format!("expected {expected}, found {}", node.kind()));
}

/// `did you mean "x"? `, or nothing.
pub(crate) fn did_you_mean<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> String {
    let likeness = |other: &str| strsim::jaro_winkler(&word.to_lowercase(), &other.to_lowercase());
    let best = known.map(|other| (likeness(other), other)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, other)) if likeness > 0.8 => format!("did you mean `{other}`? "),
        _ => String::new(),
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A value and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// Typed reading of a checked node. What has the wrong type was reported, and counts as absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object<'n> {
    pub(crate) node: &'n Node,
    message: &'static Message,
}

impl<'n> Object<'n> {
    pub(crate) fn new(node: &'n Node, message: &'static Message) -> Self {
        Self { node, message }
    }

    pub(crate) fn span(&self) -> Span {
        self.node.span
    }

    /// Whether the table has the field: some readers serve several messages.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.field(name).is_some()
    }

    /// True if a value is given that is not null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn key_span(&self, name: &str) -> Span {
        self.node.entry(name).map_or(self.node.span, |entry| entry.key_span)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        debug_assert!(self.field(name).is_some(), "{}.{name} is not in the table", self.message.name);
        self.node.get(name)
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        self.message.fields.iter().find(|field| field.name == name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<Spanned<&'n str>> {
        self.get(name).and_then(text)
    }

    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(boolean)
    }

    pub(crate) fn int(&self, name: &str) -> Option<Spanned<i64>> {
        let node = self.get(name)?;
        Some(Spanned { value: integer(node)?, span: node.span })
    }

    pub(crate) fn float(&self, name: &str) -> Option<Spanned<f64>> {
        let node = self.get(name)?;
        Some(Spanned { value: float(node)?, span: node.span })
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Spanned<Duration>> {
        let node = self.get(name)?;
        Some(Spanned { value: parse_duration(node.text()?)?, span: node.span })
    }

    pub(crate) fn object(&self, name: &str) -> Option<Self> {
        let node = self.get(name)?;
        match (&node.value, self.field(name)?.holds) {
            (Value::Map(_), Type::Object(message)) => Some(Self::new(node, message)),
            _ => None,
        }
    }

    pub(crate) fn objects(&self, name: &str) -> Vec<Self> {
        match self.field(name).map(|field| field.holds) {
            Some(Type::List(Type::Object(message))) => {
                let items = self.get(name).map(Node::items).unwrap_or_default();
                let maps = items.iter().filter(|item| matches!(item.value, Value::Map(_)));
                maps.map(|item| Self::new(item, message)).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<Spanned<&'n str>> {
        self.get(name).map(Node::items).unwrap_or_default().iter().filter_map(text).collect()
    }

    pub(crate) fn entries(&self, name: &str) -> &'n [Entry] {
        self.get(name).map(Node::entries).unwrap_or_default()
    }

    /// A map from names to texts.
    pub(crate) fn labels(&self, name: &str) -> Labels {
        let pairs = self.entries(name).iter();
        pairs.filter_map(|entry| Some((entry.key.as_ref().into(), entry.value.text()?.into()))).collect()
    }
}

/// Labels as the snapshot keeps them.
pub(crate) type Labels = std::collections::BTreeMap<std::sync::Arc<str>, std::sync::Arc<str>>;

fn text(node: &Node) -> Option<Spanned<&str>> {
    Some(Spanned { value: node.text()?, span: node.span })
}

fn boolean(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, plain: true } => match &**text {
            "true" | "True" | "TRUE" | "yes" | "on" => Some(true),
            "false" | "False" | "FALSE" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// JSON's protobuf mapping takes `"5"` for 5.
fn integer(node: &Node) -> Option<i64> {
    node.text()?.parse().ok()
}

fn float(node: &Node) -> Option<f64> {
    node.text()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Go's notation: `1.5s`, `1h30m`, `250ms`; never negative.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let nanos = match unit {
            "ns" => 1_u64,
            "us" | "\u{b5}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, nanos)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// `1.5` of a unit, without the rounding of floating point.
fn scaled(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut part = 0_u64;
    let mut unit = nanos;
    for digit in fraction.chars() {
        unit /= 10;
        part += u64::from(digit.to_digit(10)?) * unit;
    }
    Some(Duration::from_nanos(whole.checked_mul(nanos)?.checked_add(part)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        for (text, nanos) in [
            ("1.5s", 1_500_000_000),
            ("250ms", 250_000_000),
            ("1h30m", 5_400_000_000_000),
            ("0s", 0),
            ("0", 0),
            (".5s", 500_000_000),
            ("0.1s", 100_000_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "5", "-1s", "s", "1x", "1.2.3s", "99999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
