//! Routes of raw connections, each with what it asks for.

use serde_json::{Value, json};

use super::{duration, object, put, route::domains_of};
use crate::snapshot::{Snapshot, TcpCluster, TcpRoute, TcpRoutes};

impl Snapshot {
    pub(crate) fn tcp_routes(&self, routes: &TcpRoutes) -> Value {
        let routes = (0_u32..).zip(&routes.routes).map(|(index, route)| self.tcp_route(routes, index, route));
        routes.collect()
    }

    pub(crate) fn tcp_route(&self, routes: &TcpRoutes, index: u32, route: &TcpRoute) -> Value {
        let mut out = object(json!({ "origin": route.origin.to_string() }));
        let matches = routes.destinations.iter().filter_map(|range| {
            let names = domains_of(&range.names, index);
            let mut when = object(json!({}));
            put(&mut when, "prefix_range", range.subnet.map(|subnet| subnet.to_string()).into());
            put(&mut when, "server_names", names.iter().filter(|name| **name != "*").cloned().collect());
            (!names.is_empty()).then_some(Value::Object(when))
        });
        put(&mut out, "match", matches.collect());
        put(&mut out, "last_resort", (index == routes.last_resort).then_some(true).into());
        match &*route.clusters {
            [only] => put(&mut out, "cluster", self.name_of(&only.cluster).into()),
            several => {
                let entry = |entry: &TcpCluster| json!({ "name": self.name_of(&entry.cluster), "weight": entry.weight });
                put(&mut out, "weighted_clusters", several.iter().map(entry).collect());
            }
        }
        out.insert("idle_timeout".to_owned(), route.idle_timeout.map(duration).into());
        put(&mut out, "hash_policy", route.hash_source_ip.then(|| json!({ "source_ip": {} })).into());
        Value::Object(out)
    }
}

/// In words, what a route takes; no two routes of a listener take the same.
pub(crate) fn takes(routes: &TcpRoutes, index: u32) -> String {
    if index == routes.last_resort {
        return "what no other route takes".to_owned();
    }
    let parts = routes.destinations.iter().filter_map(|range| {
        let names = domains_of(&range.names, index);
        let named: Vec<_> =
            names.iter().filter(|name| **name != "*").map(|name| format!("`{name}`")).collect();
        let what = match &*named {
            [] if names.is_empty() => return None,
            [] => "every connection".to_owned(),
            named => format!("the server name {}", named.join(" or ")),
        };
        let to = range.subnet.map(|subnet| format!(" to {subnet}")).unwrap_or_default();
        Some(format!("{what}{to}"))
    });
    parts.collect::<Vec<_>>().join(", ")
}
