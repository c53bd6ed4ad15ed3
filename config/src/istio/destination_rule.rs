//! `DestinationRule`: policies and subsets as blocks, before they are layered for a cluster.

use std::{num::NonZeroU32, time::Duration};

use super::{
    Exports, Meta, SELECTOR, at_least_1ms, check_host, full_host, header_name, is_label, later, port,
    virtual_service::PORT_SELECTOR,
};
use crate::{
    fields::{Labels, Message, Object, Spanned, Type, warned, yes},
    report::{Code, Sink, Span},
    snapshot::{Balancer, HashCookie, HashPolicy, Keepalive, Limits, Outlier},
};

/// One resource; the host is a full name.
#[derive(Debug, Clone)]
pub(crate) struct DestinationRule {
    pub(crate) meta: Meta,
    pub(crate) host: Spanned<Box<str>>,
    pub(crate) policy: Option<Policy>,
    pub(crate) subsets: Vec<Subset>,
    pub(crate) exports: Exports,
    pub(crate) selector: Option<Labels>,
}

/// One entry of `subsets`.
#[derive(Debug, Clone)]
pub(crate) struct Subset {
    pub(crate) name: Box<str>,
    pub(crate) meta: Meta,
    pub(crate) span: Span,
    pub(crate) labels: Labels,
    pub(crate) policy: Option<Policy>,
}

/// `trafficPolicy`.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) blocks: Blocks,
    /// `portLevelSettings`
    pub(crate) ports: Vec<(u16, Blocks)>,
}

/// What a layer may override; a whole block at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) pool: Option<ConnectionPool>,
    pub(crate) outlier: Option<OutlierDetection>,
}

/// `loadBalancer`: the table of the cluster and the hash of the route are two halves of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadBalancer {
    pub(crate) balancer: Balancer,
    pub(crate) hash: Option<HashPolicy>,
}

/// `connectionPool`, defaults not yet applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionPool {
    pub(crate) limits: Limits,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Keepalive>,
    /// Zero: never.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_requests_per_connection: Option<NonZeroU32>,
    pub(crate) max_connection_duration: Option<Duration>,
    pub(crate) max_concurrent_streams: Option<u32>,
    pub(crate) upgrade: bool,
    pub(crate) client_protocol: bool,
}

/// `outlierDetection` with Envoy's panic threshold.
#[derive(Debug, Clone)]
pub(crate) struct OutlierDetection {
    pub(crate) outlier: Outlier,
    pub(crate) panic_threshold: u8,
    pub(crate) span: Span,
}

const LATER: &str = "balancing by locality is not built yet";
const TLS_LATER: &str = "connections to endpoints are plain text";

pub(crate) static DESTINATION_RULE: Message = Message {
    name: "DestinationRule",
    fields: &[
        yes("host", Type::Text, "short_names_take_the_namespace_of_the_rule"),
        yes("trafficPolicy", Type::Object(&TRAFFIC_POLICY), "policies_are_layered_block_by_block"),
        yes("subsets", Type::List(&Type::Object(&SUBSET)), "the_seed_compiles"),
        yes("exportTo", Type::List(&Type::Text), "exports_limit_who_sees_a_resource"),
        yes("workloadSelector", Type::Object(&SELECTOR), "a_rule_with_a_selector_wins"),
    ],
};

static SUBSET: Message = Message {
    name: "Subset",
    fields: &[
        yes("name", Type::Text, "the_seed_compiles"),
        yes("labels", Type::Map(&Type::Text), "the_seed_compiles"),
        yes("trafficPolicy", Type::Object(&TRAFFIC_POLICY), "policies_are_layered_block_by_block"),
    ],
};

pub(crate) static TRAFFIC_POLICY: Message = Message {
    name: "TrafficPolicy",
    fields: &[
        yes("loadBalancer", Type::Object(&LOAD_BALANCER), "policies_are_layered_block_by_block"),
        yes("connectionPool", Type::Object(&CONNECTION_POOL), "policies_are_layered_block_by_block"),
        yes("outlierDetection", Type::Object(&OUTLIER), "policies_are_layered_block_by_block"),
        warned("tls", Type::Object(&later::CLIENT_TLS), TLS_LATER),
        yes(
            "portLevelSettings",
            Type::List(&Type::Object(&PORT_POLICY)),
            "policies_are_layered_block_by_block",
        ),
        warned("tunnel", Type::Object(&later::TUNNEL), "tunnels are not built yet"),
        warned("proxyProtocol", Type::Object(&later::PROXY_PROTOCOL), "the PROXY protocol is not built yet"),
        warned("retryBudget", Type::Object(&later::RETRY_BUDGET), "retries are limited by `maxRetries`"),
    ],
};

static PORT_POLICY: Message = Message {
    name: "PortTrafficPolicy",
    fields: &[
        yes("port", Type::Object(&PORT_SELECTOR), "policies_are_layered_block_by_block"),
        yes("loadBalancer", Type::Object(&LOAD_BALANCER), "policies_are_layered_block_by_block"),
        yes("connectionPool", Type::Object(&CONNECTION_POOL), "policies_are_layered_block_by_block"),
        yes("outlierDetection", Type::Object(&OUTLIER), "policies_are_layered_block_by_block"),
        warned("tls", Type::Object(&later::CLIENT_TLS), TLS_LATER),
    ],
};

static LOAD_BALANCER: Message = Message {
    name: "LoadBalancerSettings",
    fields: &[
        yes(
            "simple",
            Type::Enum(&[
                "UNSPECIFIED",
                "LEAST_REQUEST",
                "LEAST_CONN",
                "ROUND_ROBIN",
                "RANDOM",
                "PASSTHROUGH",
            ]),
            "every_load_balancer_is_compiled",
        ),
        yes("consistentHash", Type::Object(&CONSISTENT_HASH), "every_load_balancer_is_compiled"),
        warned("localityLbSetting", Type::Object(&later::LOCALITY), LATER),
        warned("zoneAwareLbSetting", Type::Object(&later::ZONE_AWARE), LATER),
        warned("warmup", Type::Object(&later::WARMUP), "new endpoints take their full share at once"),
        warned("warmupDurationSecs", Type::Duration, "new endpoints take their full share at once"),
    ],
};

static CONSISTENT_HASH: Message = Message {
    name: "ConsistentHashLB",
    fields: &[
        yes("httpHeaderName", Type::Text, "every_load_balancer_is_compiled"),
        yes("httpCookie", Type::Object(&COOKIE), "every_load_balancer_is_compiled"),
        yes("useSourceIp", Type::Bool, "every_load_balancer_is_compiled"),
        yes("httpQueryParameterName", Type::Text, "every_load_balancer_is_compiled"),
        yes("ringHash", Type::Object(&RING_HASH), "every_load_balancer_is_compiled"),
        yes("maglev", Type::Object(&MAGLEV), "every_load_balancer_is_compiled"),
        yes("minimumRingSize", Type::Int, "deprecated_fields_warn_and_still_count"),
    ],
};

static COOKIE: Message = Message {
    name: "HTTPCookie",
    fields: &[
        yes("name", Type::Text, "every_load_balancer_is_compiled"),
        yes("path", Type::Text, "every_load_balancer_is_compiled"),
        yes("ttl", Type::Duration, "every_load_balancer_is_compiled"),
        warned(
            "attributes",
            Type::List(&Type::Object(&later::COOKIE_ATTRIBUTE)),
            "a generated cookie has Max-Age, Path and HttpOnly",
        ),
    ],
};

static RING_HASH: Message = Message {
    name: "RingHash",
    fields: &[yes("minimumRingSize", Type::Int, "every_load_balancer_is_compiled")],
};

static MAGLEV: Message =
    Message { name: "MagLev", fields: &[yes("tableSize", Type::Int, "every_load_balancer_is_compiled")] };

pub(crate) static CONNECTION_POOL: Message = Message {
    name: "ConnectionPoolSettings",
    fields: &[
        yes("tcp", Type::Object(&TCP_POOL), "every_connection_pool_field_is_compiled"),
        yes("http", Type::Object(&HTTP_POOL), "every_connection_pool_field_is_compiled"),
    ],
};

static TCP_POOL: Message = Message {
    name: "TCPSettings",
    fields: &[
        yes("maxConnections", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("connectTimeout", Type::Duration, "every_connection_pool_field_is_compiled"),
        yes("tcpKeepalive", Type::Object(&KEEPALIVE), "every_connection_pool_field_is_compiled"),
        yes("maxConnectionDuration", Type::Duration, "every_connection_pool_field_is_compiled"),
        yes("idleTimeout", Type::Duration, "every_connection_pool_field_is_compiled"),
    ],
};

pub(crate) static KEEPALIVE: Message = Message {
    name: "TcpKeepalive",
    fields: &[
        yes("probes", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("time", Type::Duration, "every_connection_pool_field_is_compiled"),
        yes("interval", Type::Duration, "every_connection_pool_field_is_compiled"),
    ],
};

static HTTP_POOL: Message = Message {
    name: "HTTPSettings",
    fields: &[
        yes("http1MaxPendingRequests", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("http2MaxRequests", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("maxRequestsPerConnection", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("maxRetries", Type::Int, "every_connection_pool_field_is_compiled"),
        yes("idleTimeout", Type::Duration, "every_connection_pool_field_is_compiled"),
        yes(
            "h2UpgradePolicy",
            Type::Enum(&["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"]),
            "the_protocol_follows_the_port",
        ),
        yes("useClientProtocol", Type::Bool, "the_protocol_follows_the_port"),
        yes("maxConcurrentStreams", Type::Int, "every_connection_pool_field_is_compiled"),
        warned(
            "http2KeepAlive",
            Type::Object(&later::HTTP2_KEEPALIVE),
            "idle HTTP/2 connections are not pinged",
        ),
    ],
};

static OUTLIER: Message = Message {
    name: "OutlierDetection",
    fields: &[
        yes("consecutiveErrors", Type::Int, "deprecated_fields_warn_and_still_count"),
        yes("consecutive5xxErrors", Type::Int, "outlier_detection_is_compiled"),
        yes("consecutiveGatewayErrors", Type::Int, "outlier_detection_is_compiled"),
        yes("splitExternalLocalOriginErrors", Type::Bool, "outlier_detection_is_compiled"),
        yes("consecutiveLocalOriginFailures", Type::Int, "outlier_detection_is_compiled"),
        yes("interval", Type::Duration, "outlier_detection_is_compiled"),
        yes("baseEjectionTime", Type::Duration, "outlier_detection_is_compiled"),
        yes("maxEjectionPercent", Type::Int, "outlier_detection_is_compiled"),
        yes("minHealthPercent", Type::Int, "outlier_detection_is_compiled"),
        yes("outlierDetectionHttpErrorCodes", Type::List(&Type::Int), "outlier_detection_is_compiled"),
    ],
};

/// Reads the spec; `None` without a host.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> Option<DestinationRule> {
    let Some(host) = spec.text("host") else {
        sink.report(Code::MissingField, spec.span(), "a DestinationRule needs a host");
        return None;
    };
    if !check_host(&host, sink) {
        return None;
    }
    let mut subsets: Vec<Subset> = Vec::new();
    for entry in spec.objects("subsets") {
        if let Some(subset) = subset(&entry, &meta, sink) {
            if subsets.iter().any(|other| other.name == subset.name) {
                let message = format!("the subset `{}` is defined twice", subset.name);
                sink.report(Code::DuplicateName, entry.span(), message);
            }
            subsets.push(subset);
        }
    }
    let exports = Exports::read(spec, &meta, sink);
    let selector = spec.object("workloadSelector").map(|selector| selector.labels("matchLabels"));
    if selector.is_some() && spec.has("exportTo") && !exports.private_to(&meta.namespace) {
        let message = "a rule with a workloadSelector is exported to its own namespace only";
        sink.report(Code::ExclusiveFields, spec.key_span("exportTo"), message)
            .help("write `exportTo: [\".\"]`");
    }
    Some(DestinationRule {
        host: Spanned { value: full_host(host.value, &meta.namespace), span: host.span },
        policy: spec.object("trafficPolicy").map(|policy| traffic_policy(&policy, sink)),
        subsets,
        exports,
        selector,
        meta,
    })
}

fn subset(entry: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Option<Subset> {
    let Some(name) = entry.text("name") else {
        sink.report(Code::MissingField, entry.span(), "the subset has no name");
        return None;
    };
    if !is_label(name.value) {
        let found =
            sink.report(Code::InvalidValue, name.span, format!("`{}` is not a subset's name", name.value));
        found.help("lower-case letters, digits and inner hyphens, 63 characters at most");
    }
    Some(Subset {
        name: name.value.into(),
        meta: meta.clone(),
        span: entry.span(),
        labels: entry.labels("labels"),
        policy: entry.object("trafficPolicy").map(|policy| traffic_policy(&policy, sink)),
    })
}

fn traffic_policy(policy: &Object<'_>, sink: &mut Sink) -> Policy {
    if policy.node.entries().is_empty() {
        sink.report(Code::MissingField, policy.span(), "the trafficPolicy is empty");
    }
    if policy.has("tunnel") && policy.has("proxyProtocol") {
        let message = "tunnel and proxyProtocol exclude each other";
        sink.report(Code::ExclusiveFields, policy.key_span("proxyProtocol"), message);
    }
    let mut ports = Vec::new();
    for entry in policy.objects("portLevelSettings") {
        let number = entry.object("port").and_then(|port| port.int("number"));
        match number {
            None => {
                sink.report(Code::MissingField, entry.span(), "the entry has no port");
            }
            Some(number) => ports.extend(port(number, sink).map(|port| (port, blocks(&entry, sink)))),
        }
    }
    Policy { blocks: blocks(policy, sink), ports }
}

fn blocks(policy: &Object<'_>, sink: &mut Sink) -> Blocks {
    Blocks {
        load_balancer: policy.object("loadBalancer").and_then(|block| load_balancer(&block, sink)),
        pool: policy.object("connectionPool").map(|block| connection_pool(&block, sink)),
        outlier: policy.object("outlierDetection").map(|block| outlier(&block, sink)),
    }
}

/// Envoy's largest ring.
const MAX_RING: u64 = 8_388_608;
/// Envoy's largest Maglev table.
const MAX_MAGLEV: i64 = 5_000_011;

fn load_balancer(block: &Object<'_>, sink: &mut Sink) -> Option<LoadBalancer> {
    if let Some(hash) = block.object("consistentHash") {
        if block.has("simple") {
            let message = "simple and consistentHash exclude each other";
            sink.report(Code::ExclusiveFields, block.key_span("consistentHash"), message);
        }
        let key = hash_policy(&hash, sink);
        return Some(LoadBalancer { balancer: table(&hash, sink), hash: key });
    }
    let simple = block.text("simple");
    let balancer = match simple.map_or("", |simple| simple.value) {
        "ROUND_ROBIN" => Balancer::RoundRobin,
        "RANDOM" => Balancer::Random,
        "PASSTHROUGH" => {
            let span = simple.map_or(block.span(), |simple| simple.span);
            let found = sink.report(Code::NotExecutable, span, "`PASSTHROUGH` cannot be executed yet");
            found.note("an explicit listener does not know where its client was going");
            return None;
        }
        _ => Balancer::LeastRequest,
    };
    Some(LoadBalancer { balancer, hash: None })
}

fn hash_policy(hash: &Object<'_>, sink: &mut Sink) -> Option<HashPolicy> {
    let keys = ["httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"];
    let mut given = keys.into_iter().filter(|key| hash.has(key));
    let Some(first) = given.next() else {
        let found = sink.report(Code::MissingField, hash.span(), "consistentHash has no key");
        found.help("give one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
        return None;
    };
    if let Some(second) = given.next() {
        let message = format!("{first} and {second} exclude each other");
        sink.report(Code::ExclusiveFields, hash.key_span(second), message);
    }
    match first {
        "httpHeaderName" => header_name(&hash.text(first)?, sink).map(HashPolicy::Header),
        "httpCookie" => cookie(&hash.object(first)?, sink),
        "useSourceIp" => hash.bool(first)?.then_some(HashPolicy::SourceIp),
        _ => Some(HashPolicy::Query(hash.text(first)?.value.into())),
    }
}

fn cookie(cookie: &Object<'_>, sink: &mut Sink) -> Option<HashPolicy> {
    let name = cookie.text("name").filter(|name| !name.value.is_empty());
    let Some(name) = name else {
        sink.report(Code::MissingField, cookie.span(), "the cookie has no name");
        return None;
    };
    let path = cookie.text("path");
    let unusable =
        |text: &str| !text.bytes().all(|b| (0x21..0x7f).contains(&b)) || text.contains([';', '"', ',']);
    for text in [Some(name), path].into_iter().flatten() {
        if unusable(text.value) || (text == name && text.value.contains('=')) {
            sink.report(Code::InvalidHeader, text.span, format!("`{}` cannot stand in a cookie", text.value));
            return None;
        }
    }
    Some(HashPolicy::Cookie(Box::new(HashCookie {
        name: name.value.into(),
        path: path.map(|path| path.value.into()),
        ttl: cookie.duration("ttl").map(|ttl| ttl.value),
    })))
}

fn table(hash: &Object<'_>, sink: &mut Sink) -> Balancer {
    let deprecated = hash.int("minimumRingSize");
    if let Some(size) = deprecated {
        let found = sink.report(Code::Deprecated, size.span, "`minimumRingSize` here is deprecated");
        found.help("write `ringHash: { minimumRingSize: N }`");
        if hash.has("ringHash") || hash.has("maglev") {
            let message = "`minimumRingSize` stands beside `ringHash` or `maglev`";
            sink.report(Code::ExclusiveFields, hash.key_span("minimumRingSize"), message);
        }
    }
    if hash.has("ringHash") && hash.has("maglev") {
        let message = "ringHash and maglev exclude each other";
        sink.report(Code::ExclusiveFields, hash.key_span("maglev"), message);
    }
    if let Some(maglev) = hash.object("maglev") {
        let size = maglev.int("tableSize").unwrap_or(Spanned { value: 0, span: maglev.span() });
        if size.value <= 0 || size.value >= MAX_MAGLEV || !is_prime(size.value) {
            let message = "maglev.tableSize must be a prime number below 5000011";
            sink.report(Code::InvalidValue, size.span, message).help("65537 is Envoy's own default");
        }
        return Balancer::Maglev { table_size: size.value.unsigned_abs() };
    }
    let size = hash.object("ringHash").and_then(|ring| ring.int("minimumRingSize")).or(deprecated);
    let minimum = size.map_or(1024, |size| match u64::try_from(size.value) {
        // Zero is unset.
        Ok(0) => 1024,
        Ok(value) if value <= MAX_RING => value,
        _ => {
            sink.report(Code::InvalidValue, size.span, "minimumRingSize is 1 to 8388608");
            1024
        }
    });
    Balancer::RingHash { minimum_ring_size: minimum, maximum_ring_size: MAX_RING }
}

fn is_prime(number: i64) -> bool {
    number >= 2 && (2..).take_while(|n| n * n <= number).all(|n| number % n != 0)
}

fn connection_pool(block: &Object<'_>, sink: &mut Sink) -> ConnectionPool {
    let (tcp, http) = (block.object("tcp"), block.object("http"));
    if tcp.is_none() && http.is_none() {
        sink.report(Code::MissingField, block.span(), "connectionPool needs tcp or http");
    }
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = tcp {
        pool.limits.max_connections = limit(&tcp, "maxConnections", sink);
        pool.connect_timeout = at_least_1ms(tcp.duration("connectTimeout"), sink);
        pool.max_connection_duration = at_least_1ms(tcp.duration("maxConnectionDuration"), sink);
        pool.idle_timeout = tcp.duration("idleTimeout").map(|timeout| timeout.value);
        pool.keepalive = tcp.object("tcpKeepalive").map(|block| keepalive(&block, sink));
    }
    if let Some(http) = http {
        pool.limits.max_pending_requests = limit(&http, "http1MaxPendingRequests", sink);
        pool.limits.max_requests = limit(&http, "http2MaxRequests", sink);
        pool.limits.max_retries = limit(&http, "maxRetries", sink);
        let requests = limit(&http, "maxRequestsPerConnection", sink);
        pool.max_requests_per_connection = NonZeroU32::new(requests).filter(|n| n.get() != u32::MAX);
        let streams = limit(&http, "maxConcurrentStreams", sink);
        pool.max_concurrent_streams = Some(streams).filter(|n| *n != u32::MAX);
        pool.idle_timeout = http.duration("idleTimeout").map(|timeout| timeout.value).or(pool.idle_timeout);
        pool.upgrade = http.text("h2UpgradePolicy").is_some_and(|policy| policy.value == "UPGRADE");
        pool.client_protocol = http.bool("useClientProtocol").unwrap_or_default();
        if pool.upgrade && pool.client_protocol {
            let message = "useClientProtocol and h2UpgradePolicy UPGRADE exclude each other";
            sink.report(Code::ExclusiveFields, http.key_span("useClientProtocol"), message);
        }
    }
    pool
}

pub(crate) fn keepalive(block: &Object<'_>, sink: &mut Sink) -> Keepalive {
    Keepalive {
        probes: Some(limit(block, "probes", sink)).filter(|probes| *probes != u32::MAX),
        time: at_least_1ms(block.duration("time"), sink),
        interval: at_least_1ms(block.duration("interval"), sink),
    }
}

/// Zero is unset, as in Istio; unset is no limit.
fn limit(block: &Object<'_>, field: &str, sink: &mut Sink) -> u32 {
    let Some(number) = block.int(field).filter(|number| number.value != 0) else { return u32::MAX };
    u32::try_from(number.value).unwrap_or_else(|_| {
        sink.report(Code::InvalidValue, number.span, format!("`{field}` is negative or too large"));
        u32::MAX
    })
}

fn outlier(block: &Object<'_>, sink: &mut Sink) -> OutlierDetection {
    let newer = block.has("consecutive5xxErrors") || block.has("consecutiveGatewayErrors");
    let deprecated = block.int("consecutiveErrors");
    if let Some(errors) = deprecated {
        let found = sink.report(
            Code::Deprecated,
            block.key_span("consecutiveErrors"),
            "`consecutiveErrors` is deprecated, and Istio ignores it",
        );
        found.label(if newer {
            "has no effect beside the newer fields".to_owned()
        } else {
            format!("counts here as `consecutive5xxErrors: {}`", errors.value)
        });
        found.help("write `consecutive5xxErrors`, which both honour");
    }
    let mut count = |field: &str, default: u32| match block.int(field) {
        None => default,
        Some(number) => u32::try_from(number.value).unwrap_or_else(|_| {
            sink.report(Code::InvalidValue, number.span, format!("`{field}` is negative or too large"));
            default
        }),
    };
    let consecutive_5xx = match (newer, deprecated) {
        (false, Some(_)) => count("consecutiveErrors", 5),
        _ => count("consecutive5xxErrors", 5),
    };
    let consecutive_gateway = count("consecutiveGatewayErrors", 0);
    let consecutive_local_origin = count("consecutiveLocalOriginFailures", 5);
    let split_local_origin = block.bool("splitExternalLocalOriginErrors").unwrap_or_default();
    if block.has("consecutiveLocalOriginFailures") && !split_local_origin {
        let span = block.key_span("consecutiveLocalOriginFailures");
        let found = sink.report(Code::ExclusiveFields, span, "local failures are not counted apart");
        found.help("set `splitExternalLocalOriginErrors: true`");
    }
    let codes = block.get("outlierDetectionHttpErrorCodes").map(|node| {
        let codes = node.items().iter().filter_map(|item| {
            let code = item.text()?.parse().ok().filter(|code| (100..=599).contains(code));
            if code.is_none() {
                sink.report(Code::InvalidValue, item.span, "a status code is 100 to 599");
            }
            code
        });
        codes.collect::<Box<[u16]>>()
    });
    let outlier = Outlier {
        consecutive_5xx,
        consecutive_gateway,
        split_local_origin,
        consecutive_local_origin,
        interval: at_least_1ms(block.duration("interval"), sink).unwrap_or(Duration::from_secs(10)),
        base_ejection_time: at_least_1ms(block.duration("baseEjectionTime"), sink)
            .unwrap_or(Duration::from_secs(30)),
        max_ejection_percent: percent(block, "maxEjectionPercent", 10, sink),
        error_codes: codes.filter(|codes| !codes.is_empty()),
    };
    let panic_threshold = percent(block, "minHealthPercent", 0, sink);
    OutlierDetection { outlier, panic_threshold, span: block.span() }
}

fn percent(block: &Object<'_>, field: &str, default: u8, sink: &mut Sink) -> u8 {
    let Some(number) = block.int(field) else { return default };
    u8::try_from(number.value).ok().filter(|percent| *percent <= 100).unwrap_or_else(|| {
        sink.report(Code::InvalidValue, number.span, format!("`{field}` is 0 to 100"));
        100
    })
}
