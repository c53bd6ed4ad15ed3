//! The intent in Envoy's language, as Istio would generate it for its proxy, but for the filters of Istio's own that
//! stock Envoy does not have (metadata exchange and statistics): a real istio-proxy costs more.

mod mtls;

use serde_json::{Value, json};

use crate::{
    intent::{
        FILLER_ENDPOINTS, HOST, Intent, MAX_CONNECTIONS, MAX_PENDING, MAX_REQUESTS, SESSION, filler_address,
        filler_host, version,
    },
    serve::Protocol,
};

const HCM_FILTER: &str = "envoy.filters.network.http_connection_manager";

/// Istio's default format.
const LOG: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// The whole configuration.
pub(crate) fn bootstrap(intent: &Intent) -> Value {
    let mut clusters = vec![plain_cluster("otel", &[intent.sink.to_string()], Protocol::H2)];
    let mut listeners = Vec::new();
    for protocol in [Protocol::H1, Protocol::H2] {
        for wanted in ["v1", "v2"] {
            let (_, endpoints) = listening(intent, protocol);
            let endpoints: Vec<String> = endpoints
                .iter()
                .enumerate()
                .filter(|(index, _)| version(*index) == wanted)
                .map(|(_, address)| address.to_string())
                .collect();
            let mut made = cluster(&name(intent, protocol, wanted), &endpoints, protocol, intent);
            if let (Some(mtls), Some(made)) = (&intent.mtls, made.as_object_mut()) {
                made.insert("transport_socket".into(), mtls::socket(intent, mtls, protocol, wanted));
            }
            clusters.push(made);
        }
        listeners.push(listener(intent, protocol));
        if let Some(mtls) = &intent.mtls {
            listeners.push(mtls::listener(intent, mtls, protocol));
            clusters.push(mtls::workload(intent, mtls, protocol));
        }
    }
    for number in 0..intent.filler {
        let port = intent.h1_port;
        let endpoints: Vec<String> = (0..FILLER_ENDPOINTS)
            .map(|endpoint| format!("{}:{port}", filler_address(number, endpoint)))
            .collect();
        clusters.push(cluster(&filler_cluster(intent, number), &endpoints, Protocol::H1, intent));
    }
    json!({
        "admin": {"address": address("127.0.0.1:0")},
        "node": {"id": "sidecar~127.0.0.1~bench.default~default.svc.cluster.local", "cluster": "bench.default"},
        "static_resources": {
            "listeners": listeners,
            "clusters": clusters,
        },
    })
}

fn listening(intent: &Intent, protocol: Protocol) -> (u16, &[std::net::SocketAddr]) {
    match protocol {
        Protocol::H1 => (intent.h1_port, &intent.h1),
        Protocol::H2 => (intent.h2_port, &intent.h2),
    }
}

/// A cluster's name, as Istio makes them.
fn name(intent: &Intent, protocol: Protocol, subset: &str) -> String {
    format!("outbound|{}|{subset}|{HOST}", listening(intent, protocol).0)
}

fn filler_cluster(intent: &Intent, number: usize) -> String {
    format!("outbound|{}||{}", intent.h1_port, filler_host(number))
}

fn address(text: &str) -> Value {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "0"));
    json!({"socket_address": {"address": host, "port_value": port.parse::<u16>().unwrap_or(0)}})
}

fn plain_cluster(name: &str, endpoints: &[String], protocol: Protocol) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|text| json!({"endpoint": {"address": address(text)}})).collect();
    let protocol = match protocol {
        Protocol::H1 => json!({"http_protocol_options": {}}),
        Protocol::H2 => json!({"http2_protocol_options": {}}),
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": protocol,
        }},
    })
}

fn cluster(name: &str, endpoints: &[String], protocol: Protocol, intent: &Intent) -> Value {
    let mut made = plain_cluster(name, endpoints, protocol);
    let policy = json!({
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": 1024},
        "common_lb_config": {"healthy_panic_threshold": {}},
        "circuit_breakers": {"thresholds": [{
            "max_connections": MAX_CONNECTIONS,
            "max_pending_requests": MAX_PENDING,
            "max_requests": MAX_REQUESTS,
            "max_retries": u32::MAX,
            "track_remaining": true,
        }]},
        "outlier_detection": {
            "consecutive_5xx": 5,
            "enforcing_consecutive_5xx": 100,
            "enforcing_success_rate": 0,
            "interval": "10s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
    });
    if let (Some(made), Value::Object(policy)) = (made.as_object_mut(), policy) {
        made.extend(policy);
    }
    if let (Some(limit), Some(options)) = (
        intent.max_requests_per_connection,
        made.pointer_mut(
            "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        )
        .and_then(Value::as_object_mut),
    ) {
        options.insert("common_http_protocol_options".into(), json!({"max_requests_per_connection": limit}));
    }
    made
}

fn listener(intent: &Intent, protocol: Protocol) -> Value {
    let (port, _) = listening(intent, protocol);
    let filters = [
        filter("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault"),
        filter("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
        router(),
    ];
    let routes = json!({
        "name": port.to_string(),
        "validate_clusters": false,
        "virtual_hosts": virtual_hosts(intent, protocol),
    });
    let http = manager(intent, &format!("outbound_0.0.0.0_{port}"), &filters, &routes);
    bound(port, &json!({"filters": [{"name": HCM_FILTER, "typed_config": http}]}))
}

/// A listener with one chain.
fn bound(port: u16, chain: &Value) -> Value {
    json!({
        "name": format!("127.0.0.1_{port}"),
        "address": address(&format!("127.0.0.1:{port}")),
        "filter_chains": [chain],
    })
}

fn router() -> Value {
    filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router")
}

/// A filter without settings.
fn filter(name: &str, kind: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/{kind}")}})
}

/// What the proxy does with HTTP on either side.
fn manager(intent: &Intent, prefix: &str, filters: &[Value], routes: &Value) -> Value {
    let sampling = intent.sampling;
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "use_remote_address": false,
        "forward_client_cert_details": "SANITIZE",
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "proxy_100_continue": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "generate_request_id": true,
        "tracing": {
            "client_sampling": {"value": 100.0},
            "random_sampling": {"value": f64::from(sampling)},
            "overall_sampling": {"value": 100.0},
            "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "otel"}, "timeout": "10s"},
                "service_name": "bench.default",
            }},
        },
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": intent.log,
            "log_format": {"text_format_source": {"inline_string": LOG}},
        }}],
        "http_filters": filters,
        "route_config": routes,
    })
}

fn virtual_hosts(intent: &Intent, protocol: Protocol) -> Vec<Value> {
    let (port, _) = listening(intent, protocol);
    let (v1, v2) = (name(intent, protocol, "v1"), name(intent, protocol, "v2"));
    let canary = json!({"name": "version", "string_match": {"exact": "canary"}});
    let weights = [json!({"name": v1, "weight": 90}), json!({"name": v2, "weight": 10})];
    let routes = [
        route(&json!({"prefix": "/", "headers": [canary]}), json!({"cluster": v2})),
        route(&json!({"prefix": "/"}), json!({"weighted_clusters": {"clusters": weights}})),
    ];
    let host = |host: &str, routes: &[Value]| {
        json!({
            "name": format!("{host}:{port}"),
            "domains": [host, format!("{host}:{port}")],
            "routes": routes,
            "include_request_attempt_count": true,
        })
    };
    let mut hosts = vec![host(HOST, &routes)];
    if protocol == Protocol::H1 {
        hosts.extend((0..intent.filler).map(|number| {
            let action = json!({"cluster": filler_cluster(intent, number)});
            host(&filler_host(number), &[route(&json!({"prefix": "/"}), action)])
        }));
    }
    hosts
}

/// A route with Istio's defaults for every outbound route.
fn route(matcher: &Value, mut action: Value) -> Value {
    let common = json!({
        "timeout": "0s",
        "max_grpc_timeout": "0s",
        "hash_policy": [{"header": {"header_name": SESSION}}],
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "num_retries": 2,
            "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            }}],
            "host_selection_retry_max_attempts": 5,
        },
    });
    if let (Some(action), Value::Object(common)) = (action.as_object_mut(), common) {
        action.extend(common);
    }
    json!({"name": "default", "match": matcher, "route": action, "decorator": {"operation": format!("{HOST}:*/*")}})
}
