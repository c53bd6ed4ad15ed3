//! Running without a file: the tree that the OpenTelemetry variables stand for.

use std::sync::Arc;

use super::expand::Environment;
use super::report::{Place, Report};
use super::yaml::{Entry, Node, Value};
use crate::signal::Signal;

/// A copy of the environment of this process.
pub fn process_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// OTLP in on both ports; out to `OTEL_EXPORTER_OTLP_ENDPOINT`, or to the log with a warning.
pub(super) fn default_tree(environment: &Environment, report: &mut Report) -> Node {
    let place = Place::new(&Arc::from("environment"), 0);
    let tree = Tree { place: place.clone() };
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
    let per_signal: Vec<(Signal, &String)> = Signal::ALL
        .into_iter()
        .filter_map(|signal| {
            let name = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name().to_uppercase());
            variable(&name).map(|endpoint| (signal, endpoint))
        })
        .collect();
    let protocol = variable("OTEL_EXPORTER_OTLP_PROTOCOL").map_or("grpc", String::as_str);
    let mut settings = Vec::new();
    let name = match protocol {
        _ if endpoint.is_none() && per_signal.is_empty() => {
            report.warn(
                &place,
                "",
                "OTEL_EXPORTER_OTLP_ENDPOINT is not set: what arrives goes to the log and is gone",
            );
            "debug"
        }
        "grpc" => "otlp_grpc",
        "http/protobuf" | "http/json" => "otlp_http",
        other => {
            let hint = "grpc, http/protobuf and http/json are known".to_owned();
            report.error(
                &place,
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                format!("unknown protocol \"{other}\""),
                Some(hint),
            );
            "otlp_grpc"
        }
    };
    if name != "debug" {
        settings.extend(endpoint.map(|endpoint| tree.entry("endpoint", tree.text(endpoint))));
        for (signal, endpoint) in per_signal {
            if name == "otlp_http" {
                // Used as it is: without a path it means `/`.
                settings.push(tree.entry(&format!("{}_endpoint", signal.name()), tree.text(endpoint)));
            } else {
                let variable = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name().to_uppercase());
                report.warn(&place, &variable, "ignored: one gRPC endpoint serves every signal");
            }
        }
        if protocol == "http/json" {
            settings.push(tree.entry("encoding", tree.text("json")));
        }
        if let Some(compression) = variable("OTEL_EXPORTER_OTLP_COMPRESSION") {
            settings.push(tree.entry("compression", tree.text(compression)));
        }
        if let Some(timeout) = variable("OTEL_EXPORTER_OTLP_TIMEOUT") {
            settings.push(tree.entry("timeout", tree.text(&format!("{timeout}ms"))));
        }
        if let Some(headers) = variable("OTEL_EXPORTER_OTLP_HEADERS") {
            settings.push(tree.entry("headers", tree.map(tree.headers(headers))));
        }
    }
    let pipelines = Signal::ALL.map(|signal| {
        let list = |name: &str| Node { place: place.clone(), value: Value::List(vec![tree.text(name)]) };
        let ends = vec![tree.entry("receivers", list("otlp")), tree.entry("exporters", list(name))];
        tree.entry(signal.name(), tree.map(ends))
    });
    let protocols = vec![tree.entry("grpc", tree.map(Vec::new())), tree.entry("http", tree.map(Vec::new()))];
    let otlp = tree.map(vec![tree.entry("protocols", tree.map(protocols))]);
    tree.map(vec![
        tree.entry("receivers", tree.map(vec![tree.entry("otlp", otlp)])),
        tree.entry("exporters", tree.map(vec![tree.entry(name, tree.map(settings))])),
        tree.entry("service", tree.map(vec![tree.entry("pipelines", tree.map(pipelines.into()))])),
    ])
}

struct Tree {
    place: Place,
}

impl Tree {
    fn map(&self, entries: Vec<Entry>) -> Node {
        Node { place: self.place.clone(), value: Value::Map(entries) }
    }

    fn text(&self, text: &str) -> Node {
        Node { place: self.place.clone(), value: Value::Text(text.to_owned()) }
    }

    fn entry(&self, key: &str, node: Node) -> Entry {
        Entry { place: self.place.clone(), key: key.to_owned(), node }
    }

    /// `name=value,other=value`, percent-encoded as in W3C Baggage.
    fn headers(&self, text: &str) -> Vec<Entry> {
        text.split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| self.entry(name.trim(), self.text(&percent_decode(value.trim()))))
            .collect()
    }
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes = match (*first, rest) {
            (b'%', [high, low, rest @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                let value = digit(high).unwrap_or(0) << 4 | digit(low).unwrap_or(0);
                out.push(value as u8);
                rest
            }
            _ => {
                out.push(*first);
                rest
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}
