//! `ConnectionPoolSettings`: limits and times of upstream connections.

use std::{num::NonZeroU32, time::Duration};

use super::{at_least_1ms, count};
use crate::{
    fields::{Message, Object, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::{Http2Keepalive, Keepalive, Limits},
};

/// `connectionPool`, defaults not yet applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionPool {
    pub(crate) limits: Limits,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) http2_keepalive: Option<Http2Keepalive>,
    /// Of HTTP connections. Zero: never.
    pub(crate) idle_timeout: Option<Duration>,
    /// Of raw connections. Zero: never.
    pub(crate) tcp_idle_timeout: Option<Duration>,
    pub(crate) max_requests_per_connection: Option<NonZeroU32>,
    pub(crate) max_connection_duration: Option<Duration>,
    pub(crate) max_concurrent_streams: Option<u32>,
    /// `None`: what the mesh says.
    pub(crate) upgrade: Option<bool>,
    pub(crate) client_protocol: bool,
}

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
        yes("http2KeepAlive", Type::Object(&HTTP2_KEEPALIVE), "every_connection_pool_field_is_compiled"),
    ],
};

static HTTP2_KEEPALIVE: Message = Message {
    name: "HTTP2KeepAlive",
    fields: &[
        yes("interval", Type::Duration, "every_connection_pool_field_is_compiled"),
        yes("timeout", Type::Duration, "every_connection_pool_field_is_compiled"),
    ],
};

pub(crate) fn connection_pool(block: &Object<'_>, sink: &mut Sink) -> ConnectionPool {
    let (tcp, http) = (block.object("tcp"), block.object("http"));
    if tcp.is_none() && http.is_none() {
        sink.report(Code::MissingField, block.span(), "connectionPool needs tcp or http");
    }
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = tcp {
        pool.limits.max_connections = limit(&tcp, "maxConnections", sink);
        pool.connect_timeout = at_least_1ms(tcp.duration("connectTimeout"), sink);
        pool.max_connection_duration = at_least_1ms(tcp.duration("maxConnectionDuration"), sink);
        pool.tcp_idle_timeout = tcp.duration("idleTimeout").map(|timeout| timeout.value);
        pool.idle_timeout = pool.tcp_idle_timeout;
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
        pool.http2_keepalive = http.object("http2KeepAlive").and_then(|block| http2_keepalive(&block, sink));
        pool.upgrade = http.text("h2UpgradePolicy").and_then(|policy| match policy.value {
            "UPGRADE" => Some(true),
            "DO_NOT_UPGRADE" => Some(false),
            _ => None,
        });
        pool.client_protocol = http.bool("useClientProtocol").unwrap_or_default();
        if pool.upgrade == Some(true) && pool.client_protocol {
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

fn http2_keepalive(block: &Object<'_>, sink: &mut Sink) -> Option<Http2Keepalive> {
    let mut required = |field: &str| {
        if !block.has(field) {
            sink.report(Code::MissingField, block.span(), format!("http2KeepAlive needs `{field}`"));
        }
        at_least_1ms(block.duration(field), sink)
    };
    let (interval, timeout) = (required("interval"), required("timeout"));
    Some(Http2Keepalive { interval: interval?, timeout: timeout? })
}

/// Zero is unset, as in Istio; unset is no limit.
fn limit(block: &Object<'_>, field: &str, sink: &mut Sink) -> u32 {
    count(block, field, sink).filter(|number| *number != 0).unwrap_or(u32::MAX)
}
