//! The snapshot as JSON, for `/config_dump` and for golden tests. Keys are those of Envoy's dump where there is one.
//!
//! A dump is for people and scripts; nothing reads it back.

pub(crate) mod action;
pub(crate) mod capture;
mod cluster;
pub(crate) mod observation;
pub(crate) mod route;
pub(crate) mod tcp;
pub(crate) mod tls;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::snapshot::{Carried, Direction, Interception, Listener, Origin, PathNormalization, Snapshot};
use observation::{destination, observation};
use route::domains;

impl Snapshot {
    /// Everything, with the origin of every part.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let interception = Some(self.node.interception).filter(|mode| mode.is_on());
        let mut node = object(json!({
            "namespace": &*self.node.namespace,
            "name": &*self.node.name,
            "labels": texts(self.node.labels.iter()),
            "locality": self.node.locality.to_string(),
            "domain": self.node.domain.to_string(),
        }));
        put(&mut node, "interception_mode", interception.map(Interception::as_str).into());
        json!({
            "version": self.version.to_string(),
            "node": node,
            "path_normalization": match self.paths {
                PathNormalization::None => "NONE",
                PathNormalization::Base => "BASE",
                PathNormalization::MergeSlashes => "MERGE_SLASHES",
                PathNormalization::DecodeAndMergeSlashes => "DECODE_AND_MERGE_SLASHES",
            },
            "listeners": self.listeners.iter().map(|listener| self.listener(listener)).collect::<Vec<_>>(),
            "routes": self.route_tables.iter().map(|table| json!({
                "name": &*table.name,
                "virtual_hosts": table.virtual_hosts.iter().zip(domains(table)).map(|(host, domains)| {
                    self.virtual_host(host, &domains)
                }).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "clusters": self.clusters.iter().map(|cluster| cluster.to_json()).collect::<Vec<_>>(),
            "outbound": observation(&self.outbound),
            "inbound": observation(&self.inbound),
            "metrics": self.metrics.as_deref().map(destination),
        })
    }

    pub(crate) fn listener(&self, listener: &Listener) -> Value {
        let mut out = object(json!({
            "name": &*listener.name,
            "address": listener.bind.to_string(),
            "traffic_direction": match listener.direction {
                Direction::Inbound => "INBOUND",
                Direction::Outbound => "OUTBOUND",
            },
            "origin": listener.origin.to_string(),
        }));
        put(&mut out, "tls", tls::inbound_tls(&listener.tls));
        match &listener.carried {
            Carried::Http(table) => put(&mut out, "route_config_name", (*self[*table].name).into()),
            Carried::Tcp(routes) => put(&mut out, "tcp_routes", self.tcp_routes(routes)),
            Carried::Captured(captured) => {
                put(&mut out, "protocol_detection_timeout", captured.detection.map(duration).into());
                put(&mut out, "filter_chains", self.chains(captured));
                let apart = captured.tls.iter().map(|(port, tls)| (port.to_string(), tls::inbound_tls(tls)));
                put(&mut out, "tls_of_ports", apart.collect::<Map<_, _>>().into());
            }
        }
        Value::Object(out)
    }
}

/// Leaves out what is unset: a dump of defaults hides what was written.
pub(crate) fn put(out: &mut Map<String, Value>, key: &str, value: Value) {
    let empty = match &value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    if !empty {
        out.insert(key.to_owned(), value);
    }
}

pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn texts<'a>(
    pairs: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a std::sync::Arc<str>)>,
) -> Map<String, Value> {
    pairs.map(|(key, value)| (key.to_string(), (**value).into())).collect()
}

pub(crate) fn duration(duration: Duration) -> Value {
    format!("{duration:?}").into()
}

/// Where something is written, for scripts.
pub(crate) fn origin(origin: &Origin) -> Value {
    json!({ "resource": &*origin.resource, "file": &*origin.file, "line": origin.line })
}
