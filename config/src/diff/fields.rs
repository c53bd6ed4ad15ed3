//! Two dumped parts, field by field.

use serde_json::{Map, Value};

/// One field that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// `circuit_breakers.max_connections`, `endpoints[10.0.0.1:80].weight`
    pub path: String,
    /// `None`: it was not there.
    pub old: Option<Value>,
    /// `None`: it is gone.
    pub new: Option<Value>,
}

/// Where something is written is no part of what it does.
const ORIGIN: &str = "origin";

/// All fields that differ, by their paths.
pub(super) fn compare(old: &Value, new: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    walk("", Some(old), Some(new), &mut fields);
    fields
}

fn walk(path: &str, old: Option<&Value>, new: Option<&Value>, out: &mut Vec<Field>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).filter(|key| *key != ORIGIN).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{key}"), old.get(key), new.get(key), out);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => match (keyed(before), keyed(after)) {
            (Some(before), Some(after)) => {
                let gone = before.iter().filter(|(key, _)| !after.iter().any(|(other, _)| other == key));
                for (key, value) in gone {
                    walk(&format!("{path}[{key}]"), Some(value), None, out);
                }
                for (key, value) in &after {
                    let was = before.iter().find(|(other, _)| other == key).map(|(_, was)| *was);
                    walk(&format!("{path}[{key}]"), was, Some(value), out);
                }
                let order = |list: &[(&str, &Value)]| list.iter().map(|(key, _)| Value::from(*key)).collect();
                let (was, is): (Value, Value) = (order(&before), order(&after));
                if same_members(&before, &after) && was != is {
                    // The order of endpoints counts for hash tables.
                    out.push(Field { path: format!("{path} (order)"), old: Some(was), new: Some(is) });
                }
            }
            _ => out.push(field(path, old, new)),
        },
        _ => out.push(field(path, old, new)),
    }
}

fn field(path: &str, old: Option<&Value>, new: Option<&Value>) -> Field {
    Field { path: path.to_owned(), old: old.cloned(), new: new.cloned() }
}

/// Members under their names or addresses, if all have one of their own.
fn keyed(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    let key = |member: &Map<String, Value>| {
        ["address", "name", "tag"].into_iter().find(|key| member.get(*key).is_some_and(Value::is_string))
    };
    let mut pairs: Vec<(&str, &Value)> = Vec::with_capacity(list.len());
    for value in list {
        let member = value.as_object()?;
        let name = member.get(key(member)?)?.as_str()?;
        if pairs.iter().any(|(taken, _)| *taken == name) {
            return None;
        }
        pairs.push((name, value));
    }
    Some(pairs)
}

fn same_members(old: &[(&str, &Value)], new: &[(&str, &Value)]) -> bool {
    old.len() == new.len() && old.iter().all(|(key, _)| new.iter().any(|(other, _)| other == key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(old: &Value, new: &Value) -> Vec<String> {
        compare(old, new)
            .into_iter()
            .map(|field| {
                format!(
                    "{}: {:?} -> {:?}",
                    field.path,
                    field.old.map(|v| v.to_string()),
                    field.new.map(|v| v.to_string())
                )
            })
            .collect()
    }

    #[test]
    fn fields_are_told_by_their_paths_and_origins_do_not_count() {
        assert_eq!(
            told(&json!({"a": {"b": 1}, "origin": "x"}), &json!({"a": {"b": 1}, "origin": "y"})),
            [""; 0]
        );
        assert_eq!(
            told(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": 3, "d": 4}})),
            [r#"a.b: Some("1") -> Some("3")"#, r#"a.c: Some("2") -> None"#, r#"a.d: None -> Some("4")"#]
        );
    }

    #[test]
    fn members_with_names_are_compared_one_by_one_and_their_order_counts() {
        let list = |names: &[(&str, u8)]| {
            Value::Array(
                names.iter().map(|(name, weight)| json!({"address": name, "weight": weight})).collect(),
            )
        };
        assert_eq!(
            told(&list(&[("a", 1), ("b", 1)]), &list(&[("a", 1), ("b", 2)])),
            [r#"[b].weight: Some("1") -> Some("2")"#]
        );
        assert_eq!(told(&list(&[("a", 1), ("b", 1)]), &list(&[("b", 1), ("a", 1)])).len(), 1);
        assert_eq!(told(&json!([1, 2]), &json!([2, 1])), [r#": Some("[1,2]") -> Some("[2,1]")"#]);
    }
}
