//! What a user says of our containers, merged over them: a container of the same name in the pod, and the annotation
//! `proxy.istio.io/overrides`. Kubernetes' strategic merge, as far as containers have it.

use crate::value::{Map, Value};

/// An image of this name means ours (Istio).
const AUTO: &str = "auto";

/// Mappings are merged, lists with a key by their items; null takes a field out, everything else replaces it.
pub(crate) fn merge_container(container: &mut Value, over: &Value) {
    let (Value::Map(container), Value::Map(over)) = (container, over) else { return };
    for (key, value) in over {
        let is_auto = key == "image" && value.text() == Some(AUTO);
        if !is_auto {
            merge_field(container, key, value);
        }
    }
}

fn merge_field(into: &mut Map, key: &str, over: &Value) {
    match (into.get_mut(key), over) {
        (_, Value::Null) => {
            into.shift_remove(key);
        }
        (Some(Value::Map(inner)), Value::Map(over)) => {
            for (key, value) in over {
                merge_field(inner, key, value);
            }
        }
        (Some(Value::List(items)), Value::List(over)) if merge_key(key).is_some() => {
            let by = merge_key(key).unwrap_or_default();
            for item in over {
                match items.iter_mut().find(|known| known.get(by).is_some() && known.get(by) == item.get(by))
                {
                    // A variable has a value or a source: the whole item is the user's.
                    Some(known) => known.clone_from(item),
                    None => items.push(item.clone()),
                }
            }
        }
        _ => {
            into.insert(key.to_owned(), over.clone());
        }
    }
}

fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "env" => Some("name"),
        "ports" => Some("containerPort"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_merged_field_by_field() {
        let mut ours: Value = serde_json::from_str(
            r#"{"image":"ours","args":["a","b"],"env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{}}],
                "resources":{"limits":{"cpu":"2"},"requests":{"cpu":"1"}},"lifecycle":{"preStop":{}}}"#,
        )
        .unwrap();
        let over: Value = serde_json::from_str(
            r#"{"image":"auto","args":["c"],"env":[{"name":"B","value":"2"},{"name":"C","value":"3"}],
                "resources":{"limits":{"cpu":"4"}},"lifecycle":null}"#,
        )
        .unwrap();
        merge_container(&mut ours, &over);
        assert_eq!(
            ours.to_json(),
            r#"{"image":"ours","args":["c"],"env":[{"name":"A","value":"1"},{"name":"B","value":"2"},{"name":"C","value":"3"}],"resources":{"limits":{"cpu":"4"},"requests":{"cpu":"1"}}}"#
        );
    }
}
