//! `/config_dump`: what is in force, in Envoy's sections, each thing with the file and line that it came from; and what
//! the last refused configuration was refused for.

use outrigger_config::snapshot::Snapshot;
use serde_json::{Map, Value, json};

use super::clusters::locality;
use crate::app::ConfigStatus;

pub(super) fn dump(snapshot: &Snapshot, status: &ConfigStatus) -> Value {
    let version = snapshot.version.to_string();
    let mut all = snapshot.to_json();
    let mut section = |key: &str| match all.get_mut(key).map(Value::take) {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let dynamic = |key: &'static str, entries: Vec<Value>| -> Vec<Value> {
        entries.into_iter().map(|entry| json!({"version_info": version, key: entry})).collect()
    };
    let clusters = dynamic("cluster", section("clusters"));
    let listeners = dynamic("listener", section("listeners"));
    let routes = dynamic("route_config", section("routes"));
    let telemetry = ["outbound", "inbound", "metrics"].map(|part| (part, all.get_mut(part).map(Value::take)));
    let telemetry: Map<String, Value> =
        telemetry.into_iter().filter_map(|(part, value)| Some((part.to_owned(), value?))).collect();
    json!({
        "configs": [
            {"@type": type_url("BootstrapConfigDump"), "bootstrap": {"node": node(snapshot)}},
            {"@type": type_url("ClustersConfigDump"), "version_info": version, "dynamic_active_clusters": clusters},
            {
                "@type": type_url("ListenersConfigDump"),
                "version_info": version,
                "dynamic_listeners": listeners.iter().map(active).collect::<Vec<_>>(),
            },
            {"@type": type_url("RoutesConfigDump"), "dynamic_route_configs": routes},
        ],
        "outrigger": {
            "version": version,
            "config_applied": status.applied(),
            "config_rejected": status.rejected(),
            "last_rejection": status.last_rejection(),
            "telemetry": telemetry,
        },
    })
}

/// Envoy wraps a listener in its state.
fn active(state: &Value) -> Value {
    let name = state.pointer("/listener/name").cloned();
    json!({"name": name, "active_state": state})
}

fn type_url(section: &str) -> String {
    format!("type.googleapis.com/envoy.admin.v3.{section}")
}

fn node(snapshot: &Snapshot) -> Value {
    let node = &snapshot.node;
    let labels: Map<String, Value> =
        node.labels.iter().map(|(key, value)| (key.to_string(), json!(**value))).collect();
    json!({
        "id": node.id(),
        "cluster": format!("{}.{}", node.workload, node.namespace),
        "locality": locality(&node.locality),
        "metadata": {
            "NAME": *node.name,
            "NAMESPACE": *node.namespace,
            "WORKLOAD_NAME": *node.workload,
            "CLUSTER_ID": *node.cluster,
            "MESH_ID": *node.mesh,
            "LABELS": labels,
        },
    })
}
