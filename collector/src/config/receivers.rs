//! The `receivers` section.

use super::fields::Fields;
use super::model::{Connection, Grpc, Http, Receiver};
use super::report::Report;
use super::yaml::Entry;
use crate::signal::Signal;

const MEBIBYTE: usize = 1 << 20;
const DEFAULT_MAX_REQUEST: usize = 64 * MEBIBYTE;
const MESH: &str = "let the sidecar do it";

pub(super) fn read(entry: &Entry, report: &mut Report) -> Receiver {
    let path = format!("receivers.{}", entry.key);
    let mut fields = Fields::open(&entry.node, &path, report);
    let mut receiver = Receiver { name: entry.key.clone(), grpc: None, http: None };
    match fields.fields("protocols", report) {
        Some(mut protocols) => {
            // `grpc:` with nothing behind it means the defaults.
            let path = protocols.at("grpc");
            receiver.grpc =
                protocols.entry("grpc").map(|node| grpc(Fields::open(node, &path, report), report));
            let path = protocols.at("http");
            receiver.http =
                protocols.entry("http").map(|node| http(Fields::open(node, &path, report), report));
            protocols.finish(report);
        }
        None => {
            report.error(
                &entry.place,
                &path,
                "no protocols",
                Some("write protocols: {grpc: {}, http: {}}".into()),
            );
        }
    }
    fields.finish(report);
    receiver
}

fn grpc(mut fields: Fields<'_>, report: &mut Report) -> Grpc {
    let mut connection = Connection::default();
    let endpoint = endpoint(&mut fields, "0.0.0.0:4317", report);
    let max_request = fields
        .positive("max_recv_msg_size_mib", report)
        .map_or(DEFAULT_MAX_REQUEST, |mib| mib.saturating_mul(MEBIBYTE));
    if let Some(streams) = fields.positive("max_concurrent_streams", report) {
        connection.max_streams = u32::try_from(streams).unwrap_or(u32::MAX);
    }
    fields.choice("transport", &[("tcp", ())], report);
    if let Some(mut keepalive) = fields.fields("keepalive", report) {
        if let Some(mut server) = keepalive.fields("server_parameters", report) {
            connection.max_age = server.duration("max_connection_age", report).filter(|age| !age.is_zero());
            set(&mut connection.max_age_grace, server.duration("max_connection_age_grace", report));
            set(&mut connection.ping_interval, server.duration("time", report));
            set(&mut connection.ping_timeout, server.duration("timeout", report));
            server.finish(report);
        }
        keepalive.finish(report);
    }
    set(&mut connection.max_connections, fields.positive("max_connections", report));
    set(&mut connection.read_timeout, fields.duration("read_timeout", report));
    fields.unbuilt("tls", MESH, report);
    fields.unbuilt("auth", MESH, report);
    fields.finish(report);
    Grpc { endpoint, max_request, connection }
}

fn http(mut fields: Fields<'_>, report: &mut Report) -> Http {
    let mut connection = Connection::default();
    let endpoint = endpoint(&mut fields, "0.0.0.0:4318", report);
    let max_request = fields.positive("max_request_body_size", report).unwrap_or(DEFAULT_MAX_REQUEST);
    let mut path = |signal: Signal, key| match fields.text(key, report) {
        Some(path) if path.starts_with('/') => path,
        Some(path) => format!("/{path}"),
        None => signal.http_path().to_owned(),
    };
    let paths = [
        path(Signal::Traces, "traces_url_path"),
        path(Signal::Metrics, "metrics_url_path"),
        path(Signal::Logs, "logs_url_path"),
    ];
    set(&mut connection.header_timeout, fields.duration("read_header_timeout", report));
    set(&mut connection.read_timeout, fields.duration("read_timeout", report));
    set(&mut connection.max_connections, fields.positive("max_connections", report));
    fields.unbuilt("tls", MESH, report);
    fields.unbuilt("auth", MESH, report);
    fields.unbuilt("cors", "let the gateway do it", report);
    fields.finish(report);
    Http { endpoint, max_request, paths, connection }
}

/// An address to bind: `host:port`.
pub(super) fn endpoint(fields: &mut Fields<'_>, default: &str, report: &mut Report) -> String {
    let Some(endpoint) = fields.text("endpoint", report) else { return default.to_owned() };
    let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        let message = format!("\"{endpoint}\" is not host:port");
        report.error(&fields.place, &fields.at("endpoint"), message, Some(format!("for example {default}")));
    }
    endpoint
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}
