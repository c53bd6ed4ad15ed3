//! The environment in the configuration: `${env:X}`, `${X}`, `${env:X:-default}`, `$$`, and overrides of the
//! form `OUTRIGGER__exporters__otlp_grpc__endpoint=...`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields::nearest;
use super::report::{Place, Report};
use super::yaml::{Entry, Node, Value, scalar};

/// A copy of the environment, read once.
pub type Environment = BTreeMap<String, String>;

const OVERRIDE: &str = "OUTRIGGER__";

/// Replaces the references in every scalar of the tree. A variable that is unset and has no default is an error.
pub(super) fn expand(node: &mut Node, path: &str, environment: &Environment, report: &mut Report) {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => match expand_text(text, environment) {
            // What a variable holds is YAML again, so that numbers and booleans can come from one.
            Ok(expanded) if text.starts_with("${") => node.value = scalar(&expanded),
            Ok(expanded) => *text = expanded,
            Err((message, hint)) => report.error(&node.place, path, message, hint),
        },
        Value::List(list) => {
            for (index, item) in list.iter_mut().enumerate() {
                expand(item, &format!("{path}[{index}]"), environment, report);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                expand(&mut entry.node, &path, environment, report);
            }
        }
        _ => {}
    }
}

/// Lays the overrides of the environment over the tree. A name part matches a key also with `_` for `-` and `/`.
pub(super) fn overrides(root: &mut Node, environment: &Environment) {
    let file: Arc<str> = Arc::from("environment");
    for (name, value) in environment {
        let Some(path) = name.strip_prefix(OVERRIDE) else { continue };
        let file: Arc<str> = Arc::from(format!("{file} ({name})"));
        let place = Place::new(&file, 0);
        let mut node = &mut *root;
        for part in path.split("__").filter(|part| !part.is_empty()) {
            if !matches!(node.value, Value::Map(_)) {
                *node = Node::empty(place.clone());
            }
            let Value::Map(entries) = &mut node.value else { return };
            let plain = |key: &str| key.replace(['-', '/'], "_").to_lowercase();
            let index = match entries.iter().position(|entry| plain(&entry.key) == plain(part)) {
                Some(index) => index,
                None => {
                    let node = Node { place: place.clone(), value: Value::Null };
                    entries.push(Entry { place: place.clone(), key: part.to_lowercase(), node });
                    entries.len() - 1
                }
            };
            let Some(entry) = entries.get_mut(index) else { return };
            node = &mut entry.node;
        }
        *node = Node { place, value: scalar(value) };
    }
}

type Unset = (String, Option<String>);

fn expand_text(text: &str, environment: &Environment) -> Result<String, Unset> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('{') {
            let Some((reference, tail)) = tail.split_once('}') else {
                return Err((
                    "\"${\" without \"}\"".to_owned(),
                    Some("write $$ for a dollar sign".to_owned()),
                ));
            };
            out.push_str(&resolve(reference, environment)?);
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, environment: &Environment) -> Result<String, Unset> {
    if let Some(path) = reference.strip_prefix("file:") {
        return std::fs::read_to_string(path)
            .map(|text| text.trim_end().to_owned())
            .map_err(|error| (format!("cannot read {path}: {error}"), None));
    }
    let body = reference.strip_prefix("env:").unwrap_or(reference);
    let (name, default) = match body.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (body, None),
    };
    if name.contains(':') {
        let message = format!("unknown provider in ${{{reference}}}");
        return Err((message, Some("env: and file: are known".to_owned())));
    }
    if let Some(value) = environment.get(name).filter(|value| default.is_none() || !value.is_empty()) {
        return Ok(value.clone());
    }
    default.map(str::to_owned).ok_or_else(|| {
        let hint = nearest(name, environment.keys().map(String::as_str))
            .unwrap_or_else(|| format!("set it, or write ${{env:{name}:-default}}"));
        (format!("the variable {name} is not set"), Some(hint))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        [("HOST", "h"), ("EMPTY", "")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn references_expand() {
        let environment = environment();
        let expand = |text: &str| expand_text(text, &environment).unwrap();
        assert_eq!(expand("${env:HOST}:1"), "h:1");
        assert_eq!(expand("${HOST}"), "h");
        assert_eq!(expand("${env:NOPE:-d:x}"), "d:x");
        assert_eq!(expand("${env:EMPTY:-d}"), "d");
        assert_eq!(expand("${env:EMPTY}"), "");
        assert_eq!(expand("a$$b$c$${HOST}"), "a$b$c${HOST}");
    }

    #[test]
    fn an_unset_variable_is_an_error() {
        let (message, hint) = expand_text("${env:HOTS}", &environment()).unwrap_err();
        assert_eq!(message, "the variable HOTS is not set");
        assert_eq!(hint.unwrap(), "did you mean HOST?");
    }
}
