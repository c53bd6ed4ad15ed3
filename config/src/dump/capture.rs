//! Filter chains of captured traffic, in the order of their addresses and ports.

use serde_json::{Map, Value, json};

use super::{object, put};
use crate::snapshot::{Captured, Chain, Silent, Snapshot};

/// The chains under what leads to each.
pub(crate) fn by_destination(captured: &Captured) -> impl Iterator<Item = (String, &Chain)> {
    let mut destinations: Vec<_> = captured.destinations.iter().collect();
    destinations.sort_by_key(|(destination, _)| **destination);
    let mut ports: Vec<_> = captured.ports.iter().collect();
    ports.sort_by_key(|(port, _)| **port);
    let destinations = destinations.into_iter().map(|(destination, chain)| (destination.to_string(), chain));
    let ports = ports.into_iter().map(|(port, chain)| (format!("port {port}"), chain));
    destinations.chain(ports).chain([("any other destination".to_owned(), &captured.last_resort)])
}

impl Snapshot {
    pub(super) fn chains(&self, captured: &Captured) -> Value {
        by_destination(captured).map(|(to, chain)| Value::Object(self.chain(&to, chain))).collect()
    }

    fn chain(&self, to: &str, chain: &Chain) -> Map<String, Value> {
        let mut out = object(json!({ "to": to }));
        put(&mut out, "route_config_name", chain.requests().map(|table| &*self[table].name).into());
        put(&mut out, "tcp_routes", chain.bytes().map(|routes| self.tcp_routes(routes)).into());
        put(&mut out, "silent_clients", silent_clients(chain).into());
        out
    }
}

/// What those who say nothing are taken for, where that has to be told.
pub(crate) fn silent_clients(chain: &Chain) -> Option<&'static str> {
    match chain {
        Chain::Sniffed { silent: Silent::Requests, .. } => Some("requests"),
        Chain::Sniffed { silent: Silent::Bytes, .. } => Some("raw connections"),
        Chain::Requests(_) | Chain::Bytes(_) => None,
    }
}
