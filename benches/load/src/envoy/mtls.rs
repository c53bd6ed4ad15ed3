//! Mutual TLS as Istio writes it for its proxy, from files in place of its agent's secrets: the inbound listener of a
//! sidecar under STRICT, and the socket of a cluster under ISTIO_MUTUAL. Istio's own filters that choose the names of
//! ALPN are not in stock Envoy; the names are those that they would choose.

use serde_json::{Value, json};

use super::{HCM_FILTER, bound, filter, listening, manager, plain_cluster, router};
use crate::{
    identity::{FILES, Identities, Party, TRUST_DOMAIN, offered},
    intent::{HOST, Intent, Mtls},
    serve::Protocol,
};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
/// Istio's list for sidecars; TLS 1.3 has its own.
const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// The listener that takes mutual TLS.
pub(super) fn listener(intent: &Intent, mtls: &Mtls, protocol: Protocol) -> Value {
    let (port, workload) = ports(intent, mtls, protocol);
    let route = json!({
        "name": "default",
        "match": {"prefix": "/"},
        "route": {"cluster": name(port), "timeout": "0s", "max_stream_duration": {
            "max_stream_duration": "0s", "grpc_timeout_header_max": "0s",
        }},
        "decorator": {"operation": format!("{HOST}:{workload}/*")},
    });
    let routes = json!({
        "name": name(port),
        "validate_clusters": false,
        "virtual_hosts": [{"name": format!("inbound|http|{port}"), "domains": ["*"], "routes": [route]}],
    });
    let mut http = manager(intent, &format!("inbound_127.0.0.1_{port}"), &[router()], &routes);
    if let Some(http) = http.as_object_mut() {
        http.insert("server_name".into(), json!("istio-envoy"));
        http.insert("forward_client_cert_details".into(), json!("APPEND_FORWARD"));
        let details = json!({"subject": true, "dns": true, "uri": true});
        http.insert("set_current_client_cert_details".into(), details);
    }
    let accepted = json!({"prefix": format!("spiffe://{TRUST_DOMAIN}/")});
    let mut common = common(&mtls.identities, &accepted, &["h2", "http/1.1"]);
    if let Some(common) = common.as_object_mut() {
        let versions = ("TLSv1_2", "TLSv1_3");
        common.insert(
            "tls_params".into(),
            json!({
                "tls_minimum_protocol_version": versions.0,
                "tls_maximum_protocol_version": versions.1,
                "cipher_suites": CIPHERS,
            }),
        );
    }
    let chain = json!({
        "filter_chain_match": {"transport_protocol": "tls"},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("{TLS}.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": common,
        }},
        "filters": [{"name": HCM_FILTER, "typed_config": http}],
    });
    let mut made = bound(port, &chain);
    if let Some(made) = made.as_object_mut() {
        let inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
        let inspector = filter("envoy.filters.listener.tls_inspector", inspector);
        made.insert("listener_filters".into(), json!([inspector]));
    }
    made
}

/// The workload of that listener: the outbound one.
pub(super) fn workload(intent: &Intent, mtls: &Mtls, protocol: Protocol) -> Value {
    let (port, workload) = ports(intent, mtls, protocol);
    plain_cluster(&name(port), &[format!("127.0.0.1:{workload}")], protocol)
}

/// How a cluster reaches its endpoints.
pub(super) fn socket(intent: &Intent, mtls: &Mtls, protocol: Protocol, subset: &str) -> Value {
    let (port, _) = listening(intent, protocol);
    let expected = json!({"exact": Party::Origin.id()});
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": format!("{TLS}.UpstreamTlsContext"),
        "sni": format!("outbound_.{port}_.{subset}_.{HOST}"),
        "common_tls_context": common(&mtls.identities, &expected, &offered(protocol)),
    }})
}

fn ports(intent: &Intent, mtls: &Mtls, protocol: Protocol) -> (u16, u16) {
    let (workload, _) = listening(intent, protocol);
    match protocol {
        Protocol::H1 => (mtls.h1_port, workload),
        Protocol::H2 => (mtls.h2_port, workload),
    }
}

fn name(port: u16) -> String {
    format!("inbound|{port}||")
}

/// What both sides have: the proxy's own certificate, whom it believes, what it speaks.
fn common(identities: &Identities, names: &Value, alpn: &[&str]) -> Value {
    let [chain, key, roots] = FILES.map(|name| json!({"filename": identities.of(Party::Proxy).join(name)}));
    json!({
        "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
        "validation_context": {
            "trusted_ca": roots,
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": names}],
        },
        "alpn_protocols": alpn,
    })
}
