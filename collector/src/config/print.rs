//! The configuration as it applies, as YAML, with secrets hidden.

use super::yaml::{Node, Value};

const HIDDEN: &str = "\"****\"";
const SECRET_WORDS: [&str; 6] = ["password", "secret", "token", "authorization", "api_key", "apikey"];

pub(super) fn yaml(root: &Node) -> String {
    let mut out = String::new();
    write(root, 0, false, &mut out);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

fn write(node: &Node, indent: usize, secret: bool, out: &mut String) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            out.push_str(if indent > 0 { "\n" } else { "" });
            for entry in entries {
                let key = entry.key.to_lowercase();
                let hide = secret || SECRET_WORDS.iter().any(|word| key.contains(word));
                pad(indent, out);
                out.push_str(&format!("{}:", plain_or_quoted(&entry.key)));
                // Header values carry credentials more often than not.
                write(&entry.node, indent + 1, hide || key == "headers", out);
            }
        }
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                pad(indent, out);
                out.push('-');
                write(item, indent + 1, secret, out);
            }
        }
        value => {
            let text = match value {
                Value::Map(_) => "{}".to_owned(),
                Value::List(_) => "[]".to_owned(),
                Value::Null => "null".to_owned(),
                _ if secret => HIDDEN.to_owned(),
                Value::Bool(value) => value.to_string(),
                Value::Int(value) => value.to_string(),
                Value::Float(value) => value.to_string(),
                Value::Text(value) => plain_or_quoted(&without_password(value)),
            };
            out.push_str(&format!(" {text}\n"));
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", indent));
}

/// Quoted unless it is a word that YAML could not take for anything else. JSON strings are YAML.
fn plain_or_quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-/.".contains(c))
        && !matches!(text.to_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off");
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// `http://user:password@host` without what is before the `@`.
fn without_password(text: &str) -> String {
    match text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://****@{host}"),
        None => text.to_owned(),
    }
}
