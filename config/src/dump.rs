//! The snapshot as JSON, for `/config_dump` and for golden tests. Keys are those of Envoy's dump where there is one.
//!
//! A dump is for people and scripts; nothing reads it back.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    format::Format,
    snapshot::{
        AccessLog, Action, Affixes, Balancer, Cluster, ClusterRef, CustomTag, Destination, Direction,
        Discovery, Forward, HashPolicy, HeaderKey, HeaderOps, LogEncoding, LogSink, Observation,
        OtlpProtocol, PathMatch, Propagation, Protocol, RetryPolicy, Route, RouteMatch, RouteTable, Snapshot,
        TagValue, Tracing, ValueMatch, VirtualHost,
    },
};

impl Snapshot {
    /// Everything, with the origin of every part.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "version": self.version.to_string(),
            "node": {
                "namespace": &*self.node.namespace,
                "name": &*self.node.name,
                "labels": texts(self.node.labels.iter()),
            },
            "listeners": self.listeners.iter().map(|listener| json!({
                "name": &*listener.name,
                "address": listener.bind.to_string(),
                "traffic_direction": match listener.direction {
                    Direction::Inbound => "INBOUND",
                    Direction::Outbound => "OUTBOUND",
                },
                "route_config_name": &*self[listener.routes].name,
                "origin": listener.origin.to_string(),
            })).collect::<Vec<_>>(),
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

    fn virtual_host(&self, host: &VirtualHost, domains: &[String]) -> Value {
        json!({
            "name": &*host.name,
            "domains": domains,
            "origin": host.origin.to_string(),
            "routes": host.routes.iter().map(|route| self.route(route)).collect::<Vec<_>>(),
        })
    }

    fn route(&self, route: &Route) -> Value {
        let mut out = object(json!({
            "name": &*route.name,
            "match": route_match(&route.when),
            "origin": route.origin.to_string(),
        }));
        match &route.action {
            Action::Forward(forward) => put(&mut out, "route", self.forward(forward)),
            Action::Direct { status } => {
                put(&mut out, "direct_response", json!({ "status": status.as_u16() }));
            }
        }
        if let Some(operation) = route.operation.as_ref().and_then(|operation| operation.to_str().ok()) {
            put(&mut out, "decorator", json!({ "operation": operation }));
        }
        put(&mut out, "request_headers", operations(&route.request_headers));
        put(&mut out, "response_headers", operations(&route.response_headers));
        Value::Object(out)
    }

    fn forward(&self, forward: &Forward) -> Value {
        let name = |cluster: &ClusterRef| match cluster {
            ClusterRef::Known(id) => self[*id].name.to_string(),
            ClusterRef::Missing(name) => format!("{name} (missing)"),
        };
        let mut out = Map::new();
        match &*forward.clusters {
            [only] => put(&mut out, "cluster", name(&only.cluster).into()),
            several => put(
                &mut out,
                "weighted_clusters",
                several
                    .iter()
                    .map(|entry| {
                        let mut out = object(json!({ "name": name(&entry.cluster), "weight": entry.weight }));
                        put(&mut out, "request_headers", operations(&entry.request_headers));
                        put(&mut out, "response_headers", operations(&entry.response_headers));
                        Value::Object(out)
                    })
                    .collect(),
            ),
        }
        let authority = forward.authority.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        put(&mut out, "host_rewrite_literal", authority.into());
        put(&mut out, "timeout", forward.timeout.map_or(Value::Null, duration));
        put(&mut out, "retry_policy", forward.retry.as_ref().map_or(Value::Null, retry));
        put(&mut out, "hash_policy", forward.hash.iter().map(hash).collect());
        Value::Object(out)
    }
}

impl Cluster {
    /// One cluster, its defaults written out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let limit = |number: u32| if number == u32::MAX { Value::Null } else { number.into() };
        let mut out = object(json!({
            "name": &*self.name,
            "type": match self.discovery {
                Discovery::Static => "STATIC",
                Discovery::OriginalDestination => "ORIGINAL_DST",
            },
            "lb_policy": balancer(&self.balancer),
            "protocol": match self.protocol {
                Protocol::Http1 => "HTTP1",
                Protocol::Http2 => "HTTP2",
                Protocol::Client => "CLIENT",
            },
            "service": {
                "host": &*self.service.host,
                "name": &*self.service.name,
                "namespace": &*self.service.namespace,
            },
            "endpoints": self.endpoints.iter().map(|endpoint| json!({
                "address": &*endpoint.key,
                "weight": endpoint.weight,
                "labels": texts(endpoint.labels.iter()),
            })).collect::<Vec<_>>(),
            "connect_timeout": duration(self.connect_timeout),
            "idle_timeout": self.idle_timeout.map(duration),
            "origin": self.origin.to_string(),
        }));
        let mut limits = Map::new();
        put(&mut limits, "max_connections", limit(self.limits.max_connections));
        put(&mut limits, "max_pending_requests", limit(self.limits.max_pending_requests));
        put(&mut limits, "max_requests", limit(self.limits.max_requests));
        put(&mut limits, "max_retries", limit(self.limits.max_retries));
        put(&mut out, "circuit_breakers", Value::Object(limits));
        put(&mut out, "max_requests_per_connection", self.max_requests_per_connection.map(u32::from).into());
        put(&mut out, "max_connection_duration", self.max_connection_duration.map_or(Value::Null, duration));
        let streams = Some(self.max_concurrent_streams).filter(|n| *n != i32::MAX.unsigned_abs());
        put(&mut out, "max_concurrent_streams", streams.into());
        if let Some(keepalive) = &self.keepalive {
            let mut inner = Map::new();
            put(&mut inner, "keepalive_probes", keepalive.probes.into());
            put(&mut inner, "keepalive_time", keepalive.time.map_or(Value::Null, duration));
            put(&mut inner, "keepalive_interval", keepalive.interval.map_or(Value::Null, duration));
            put(&mut out, "tcp_keepalive", Value::Object(inner));
        }
        if let Some(outlier) = &self.outlier {
            let mut inner = object(json!({
                "consecutive_5xx": outlier.consecutive_5xx,
                "interval": duration(outlier.interval),
                "base_ejection_time": duration(outlier.base_ejection_time),
                "max_ejection_percent": outlier.max_ejection_percent,
                "healthy_panic_threshold": self.panic_threshold,
            }));
            let gateway = Some(outlier.consecutive_gateway).filter(|n| *n > 0);
            put(&mut inner, "consecutive_gateway_failure", gateway.into());
            let local = outlier.split_local_origin.then_some(outlier.consecutive_local_origin);
            put(&mut inner, "consecutive_local_origin_failure", local.into());
            put(&mut inner, "http_error_codes", outlier.error_codes.as_deref().into());
            put(&mut out, "outlier_detection", Value::Object(inner));
        }
        Value::Object(out)
    }
}

/// Leaves out what is unset: a dump of defaults hides what was written.
fn put(out: &mut Map<String, Value>, key: &str, value: Value) {
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

fn object(value: Value) -> Map<String, Value> {
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

fn duration(duration: Duration) -> Value {
    format!("{duration:?}").into()
}

/// Of each virtual host: names, wildcards, the last resort.
fn domains(table: &RouteTable) -> Vec<Vec<String>> {
    let hosts = &table.hosts;
    let exact = hosts.exact.iter().map(|(name, at)| (0, 0, name.to_string(), *at));
    let affixes = |affixes: &Affixes, rank: u8, write: fn(&str) -> String| -> Vec<_> {
        // The longest first.
        let parts = affixes.by_text.iter();
        parts.map(|(part, at)| (rank, usize::MAX - part.len(), write(part), *at)).collect()
    };
    let mut all: Vec<(u8, usize, String, u32)> = exact.collect();
    all.extend(affixes(&hosts.suffixes, 1, |part| format!("*{part}")));
    all.extend(affixes(&hosts.prefixes, 2, |part| format!("{part}*")));
    all.extend(hosts.any.map(|at| (3, 0, "*".to_owned(), at)));
    all.sort();
    let mut domains = vec![Vec::new(); table.virtual_hosts.len()];
    for (.., domain, at) in all {
        if let Some(of_host) = domains.get_mut(at as usize) {
            of_host.push(domain);
        }
    }
    domains
}

fn route_match(when: &RouteMatch) -> Value {
    let (form, value, ignore_case) = match &when.path {
        PathMatch::Prefix { value, ignore_case } => ("prefix", &**value, *ignore_case),
        PathMatch::Exact { value, ignore_case } => ("path", &**value, *ignore_case),
        PathMatch::Regex(regex) => ("safe_regex", regex.as_str(), false),
    };
    let mut out = object(json!({ form: value }));
    put(&mut out, "case_sensitive", ignore_case.then_some(false).into());
    let headers = when.headers.iter().map(|header| {
        let name = match &header.key {
            HeaderKey::Method => ":method",
            HeaderKey::Scheme => ":scheme",
            HeaderKey::Authority => ":authority",
            HeaderKey::Path => ":path",
            HeaderKey::Name(name) => name.as_str(),
        };
        let mut out = value_match(&header.value);
        out.insert("name".to_owned(), name.into());
        put(&mut out, "invert_match", header.invert.then_some(true).into());
        Value::Object(out)
    });
    put(&mut out, "headers", headers.collect());
    let query = when.query.iter().map(|query| {
        let mut out = value_match(&query.value);
        out.insert("name".to_owned(), (*query.key).into());
        Value::Object(out)
    });
    put(&mut out, "query_parameters", query.collect());
    Value::Object(out)
}

fn value_match(value: &ValueMatch) -> Map<String, Value> {
    object(match value {
        ValueMatch::Present => json!({ "present_match": true }),
        ValueMatch::Exact(exact) => json!({ "exact": &**exact }),
        ValueMatch::Prefix(prefix) => json!({ "prefix": &**prefix }),
        ValueMatch::Regex(regex) => json!({ "safe_regex": regex.as_str() }),
    })
}

fn operations(ops: &HeaderOps) -> Value {
    let pairs = |pairs: &[(http::HeaderName, Format)]| -> Value {
        pairs.iter().map(|(name, format)| Value::from(format!("{name}: {format}"))).collect()
    };
    let mut out = Map::new();
    put(&mut out, "remove", ops.remove.iter().map(|name| Value::from(name.as_str())).collect());
    put(&mut out, "set", pairs(&ops.set));
    put(&mut out, "add", pairs(&ops.add));
    Value::Object(out)
}

fn retry(policy: &RetryPolicy) -> Value {
    let on = &policy.on;
    let words = [
        (on.server_error, "5xx"),
        (on.gateway_error, "gateway-error"),
        (on.reset, "reset"),
        (on.reset_before_request, "reset-before-request"),
        (on.connect_failure, "connect-failure"),
        (on.retriable_4xx, "retriable-4xx"),
        (on.refused_stream, "refused-stream"),
        (on.envoy_ratelimited, "envoy-ratelimited"),
        (on.cancelled, "cancelled"),
        (on.deadline_exceeded, "deadline-exceeded"),
        (on.internal, "internal"),
        (on.resource_exhausted, "resource-exhausted"),
        (on.unavailable, "unavailable"),
    ];
    let mut list = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(",");
    for status in &on.statuses {
        // Writing to a string cannot fail.
        let _ = write!(list, ",{status}");
    }
    let mut out = object(json!({
        "num_retries": policy.attempts,
        "retry_on": list.trim_start_matches(','),
        "base_interval": duration(policy.backoff),
        "avoid_previous_hosts": policy.avoid_previous_hosts,
    }));
    put(&mut out, "per_try_timeout", policy.per_try_timeout.map_or(Value::Null, duration));
    Value::Object(out)
}

fn hash(policy: &HashPolicy) -> Value {
    match policy {
        HashPolicy::Header(name) => json!({ "header": name.as_str() }),
        HashPolicy::SourceIp => json!({ "connection_properties": { "source_ip": true } }),
        HashPolicy::Query(name) => json!({ "query_parameter": &**name }),
        HashPolicy::Cookie(cookie) => {
            let mut out = object(json!({ "name": &*cookie.name }));
            put(&mut out, "path", cookie.path.as_deref().into());
            put(&mut out, "ttl", cookie.ttl.map_or(Value::Null, duration));
            json!({ "cookie": out })
        }
    }
}

fn balancer(balancer: &Balancer) -> Value {
    match balancer {
        Balancer::RoundRobin => "ROUND_ROBIN".into(),
        Balancer::LeastRequest => "LEAST_REQUEST".into(),
        Balancer::Random => "RANDOM".into(),
        Balancer::RingHash { minimum_ring_size, maximum_ring_size } => {
            json!({ "RING_HASH": { "minimum_ring_size": minimum_ring_size, "maximum_ring_size": maximum_ring_size } })
        }
        Balancer::Maglev { table_size } => json!({ "MAGLEV": { "table_size": table_size } }),
    }
}

fn observation(observation: &Observation) -> Value {
    json!({
        "tracing": tracing(&observation.tracing),
        "access_logs": observation.access_logs.iter().map(access_log).collect::<Vec<_>>(),
    })
}

fn tracing(tracing: &Tracing) -> Value {
    let propagation = match tracing.propagation {
        Propagation::Off => "OFF",
        Propagation::B3 => "B3",
        Propagation::B3AndW3c => "B3_AND_W3C",
        Propagation::W3c => "W3C",
    };
    let mut out = object(json!({
        "propagation": propagation,
        "random_sampling_percent": f64::from(tracing.sampling) / 100.0,
    }));
    if let Some(to) = &tracing.report {
        put(&mut out, "report", destination(to));
    }
    put(&mut out, "custom_tags", tracing.custom_tags.iter().map(custom_tag).collect());
    let default = Tracing::default();
    let length = Some(tracing.max_path_length).filter(|length| *length != default.max_path_length);
    put(&mut out, "max_path_tag_length", length.into());
    put(&mut out, "istio_tags", (!tracing.istio_tags).then_some(false).into());
    put(&mut out, "use_request_id_for_trace_sampling", (!tracing.by_request_id).then_some(false).into());
    put(&mut out, "parent_based", (!tracing.parent_based).then_some(false).into());
    Value::Object(out)
}

fn custom_tag(tag: &CustomTag) -> Value {
    let (kind, value) = match &tag.value {
        TagValue::Literal(text) => ("literal", json!({ "value": &**text })),
        TagValue::Environment { name, default } => ("environment", source(name, default.as_deref())),
        TagValue::Header { name, default } => ("request_header", source(name.as_str(), default.as_deref())),
        TagValue::Format(format) => ("value", format.to_string().into()),
    };
    json!({ "tag": &*tag.name, kind: value })
}

fn source(name: &str, default: Option<&str>) -> Value {
    let mut out = object(json!({ "name": name }));
    put(&mut out, "default_value", default.into());
    Value::Object(out)
}

fn access_log(log: &AccessLog) -> Value {
    let pairs = |pairs: &[(Arc<str>, Format)]| {
        let pairs = pairs.iter().map(|(key, format)| (key.to_string(), format.to_string().into()));
        Value::Object(pairs.collect())
    };
    let format = match &log.encoding {
        LogEncoding::Text(format) => format.to_string().into(),
        LogEncoding::Json(fields) => pairs(fields),
    };
    match &log.to {
        LogSink::File(path) => json!({ "path": &**path, "format": format }),
        LogSink::Otlp { to, log_name, attributes } => json!({
            "otlp": destination(to),
            "log_name": &**log_name,
            "format": format,
            "attributes": pairs(attributes),
        }),
    }
}

/// Headers are left out: they hold credentials.
fn destination(to: &Destination) -> Value {
    let protocol = match &to.protocol {
        OtlpProtocol::Grpc => "grpc".to_owned(),
        OtlpProtocol::Http { path } => format!("http {path}"),
    };
    json!({
        "name": &*to.name,
        "address": format!("{}:{}", to.host, to.port),
        "cluster": to.cluster.is_some(),
        "protocol": protocol,
        "timeout_ms": u64::try_from(to.timeout.as_millis()).unwrap_or(u64::MAX),
        "gzip": to.gzip,
    })
}
