//! What Istio's validation rejects or warns of in a `ServiceEntry` beyond what reading it needs.

use super::{check_protocol, is_label};
use crate::{fields::Object, report::Code, sink::Sink};

/// Checks the spec as it is written.
pub(super) fn check(spec: &Object<'_>, sink: &mut Sink) {
    let resolution = spec.text("resolution").map_or("NONE", |text| text.value);
    ports(spec, resolution, sink);
    endpoints(spec, resolution, sink);
    hosts(spec, resolution, sink);
    if resolution != "STATIC" && spec.has("workloadSelector") {
        let message = format!("workloadSelector has no place beside resolution {resolution}");
        let found = sink.report(Code::SchemaWarning, spec.key_span("workloadSelector"), message);
        found.help("write `resolution: STATIC`");
    }
    for address in spec.texts("addresses") {
        if address.value.contains('/') && !matches!(resolution, "NONE" | "STATIC") {
            let message = "a range of addresses is for resolution NONE or STATIC";
            sink.report(Code::InvalidValue, address.span, message);
        }
    }
}

fn ports(spec: &Object<'_>, resolution: &str, sink: &mut Sink) {
    for port in spec.objects("ports") {
        match port.text("name") {
            None => {
                sink.report(Code::MissingField, port.span(), "the port has no name");
            }
            Some(name) if !is_label(name.value) => {
                sink.report(Code::InvalidValue, name.span, format!("`{}` is not a port's name", name.value));
            }
            Some(_) => {}
        }
        check_protocol(&port, sink);
        if resolution == "NONE" && port.int("targetPort").is_some_and(|target| target.value != 0) {
            let message = "targetPort has no effect with resolution NONE";
            sink.report(Code::SchemaWarning, port.key_span("targetPort"), message);
        }
    }
}

fn endpoints(spec: &Object<'_>, resolution: &str, sink: &mut Sink) {
    let ports = spec.objects("ports");
    let names: Vec<_> = ports.iter().filter_map(|port| port.text("name")).map(|name| name.value).collect();
    let endpoints = spec.objects("endpoints");
    for pair in endpoints.iter().flat_map(|endpoint| endpoint.entries("ports")) {
        if !names.contains(&&*pair.key) {
            let message = format!("the service has no port `{}`", pair.key);
            let found = sink.report(Code::InvalidEndpoint, pair.key_span, message);
            found.help(format!("its ports are {}", names.join(", ")));
        }
    }
    if resolution == "DNS_ROUND_ROBIN" && endpoints.len() > 1 {
        let message = "DNS_ROUND_ROBIN has one endpoint at most";
        sink.report(Code::InvalidEndpoint, spec.key_span("endpoints"), message);
    }
}

fn hosts(spec: &Object<'_>, resolution: &str, sink: &mut Sink) {
    let hosts = spec.texts("hosts");
    let resolved = matches!(resolution, "DNS" | "DNS_ROUND_ROBIN") && spec.objects("endpoints").is_empty();
    for host in hosts.iter().filter(|host| host.value.contains('*') && host.value != "*") {
        if resolved {
            let message = format!("`{}` cannot be looked up, and there are no endpoints", host.value);
            sink.report(Code::InvalidHost, host.span, message);
        }
        if !host.value.starts_with("*.") {
            let message = format!("the wildcard of `{}` is not the whole first label", host.value);
            sink.report(Code::SchemaWarning, host.span, message);
        }
    }
    let told_apart = |port: &Object<'_>| {
        let protocol = port.text("protocol").map_or("", |text| text.value).to_ascii_lowercase();
        matches!(&*protocol, "http" | "http2" | "grpc" | "grpc-web" | "https" | "tls")
    };
    if hosts.len() > 1
        && resolution != "NONE"
        && let Some(port) = spec.objects("ports").iter().find(|port| !told_apart(port))
    {
        let message = "several hosts can be told apart on ports with an HTTP or TLS protocol only";
        let found = sink.report(Code::ExclusiveFields, port.span(), message);
        found.help("set the `protocol` of the port, or write a ServiceEntry for each host");
    }
}
