//! Tables of parts that are not built yet. They are known, so that a misspelt field in them is found today, and the
//! page on compatibility is complete.

use super::{STRING_MATCH, destination::DESTINATION, locality::FAILOVER};
use crate::fields::{Message, Type, later};

pub(super) static REDIRECT: Message = Message {
    name: "HTTPRedirect",
    fields: &[
        later("uri", Type::Text),
        later("authority", Type::Text),
        later("port", Type::Int),
        later("derivePort", Type::Enum(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"])),
        later("scheme", Type::Text),
        later("redirectCode", Type::Int),
        later("prefixRewrite", Type::Text),
    ],
};

pub(super) static DIRECT_RESPONSE: Message = Message {
    name: "HTTPDirectResponse",
    fields: &[later("status", Type::Int), later("body", Type::Object(&BODY))],
};

static BODY: Message =
    Message { name: "HTTPBody", fields: &[later("string", Type::Text), later("bytes", Type::Text)] };

pub(super) static DELEGATE: Message =
    Message { name: "Delegate", fields: &[later("name", Type::Text), later("namespace", Type::Text)] };

pub(super) static REWRITE: Message = Message {
    name: "HTTPRewrite",
    fields: &[
        later("uri", Type::Text),
        later("authority", Type::Text),
        later("uriRegexRewrite", Type::Object(&REGEX_REWRITE)),
    ],
};

static REGEX_REWRITE: Message =
    Message { name: "RegexRewrite", fields: &[later("match", Type::Text), later("rewrite", Type::Text)] };

pub(super) static FAULT: Message = Message {
    name: "HTTPFaultInjection",
    fields: &[later("delay", Type::Object(&DELAY)), later("abort", Type::Object(&ABORT))],
};

static DELAY: Message = Message {
    name: "Delay",
    fields: &[
        later("percent", Type::Int),
        later("percentage", Type::Object(&PERCENT)),
        later("fixedDelay", Type::Duration),
        later("exponentialDelay", Type::Duration),
    ],
};

static ABORT: Message = Message {
    name: "Abort",
    fields: &[
        later("percentage", Type::Object(&PERCENT)),
        later("httpStatus", Type::Int),
        later("grpcStatus", Type::Text),
        later("http2Error", Type::Text),
    ],
};

pub(super) static PERCENT: Message = Message { name: "Percent", fields: &[later("value", Type::Float)] };

pub(super) static MIRROR_POLICY: Message = Message {
    name: "HTTPMirrorPolicy",
    fields: &[later("destination", Type::Object(&DESTINATION)), later("percentage", Type::Object(&PERCENT))],
};

pub(super) static CORS: Message = Message {
    name: "CorsPolicy",
    fields: &[
        later("allowOrigin", Type::List(&Type::Text)),
        later("allowOrigins", Type::List(&Type::Object(&STRING_MATCH))),
        later("allowMethods", Type::List(&Type::Text)),
        later("allowHeaders", Type::List(&Type::Text)),
        later("exposeHeaders", Type::List(&Type::Text)),
        later("maxAge", Type::Duration),
        later("allowCredentials", Type::Bool),
        later("unmatchedPreflights", Type::Enum(&["UNSPECIFIED", "FORWARD", "IGNORE"])),
    ],
};

pub(super) static TLS_ROUTE: Message = Message {
    name: "TLSRoute",
    fields: &[
        later("match", Type::List(&Type::Object(&TLS_MATCH))),
        later("route", Type::List(&Type::Object(&ROUTE_DESTINATION))),
    ],
};

static TLS_MATCH: Message = Message {
    name: "TLSMatchAttributes",
    fields: &[
        later("sniHosts", Type::List(&Type::Text)),
        later("destinationSubnets", Type::List(&Type::Text)),
        later("port", Type::Int),
        later("sourceLabels", Type::Map(&Type::Text)),
        later("gateways", Type::List(&Type::Text)),
        later("sourceNamespace", Type::Text),
    ],
};

pub(super) static TCP_ROUTE: Message = Message {
    name: "TCPRoute",
    fields: &[
        later("match", Type::List(&Type::Object(&L4_MATCH))),
        later("route", Type::List(&Type::Object(&ROUTE_DESTINATION))),
    ],
};

static L4_MATCH: Message = Message {
    name: "L4MatchAttributes",
    fields: &[
        later("destinationSubnets", Type::List(&Type::Text)),
        later("port", Type::Int),
        later("sourceSubnet", Type::Text),
        later("sourceLabels", Type::Map(&Type::Text)),
        later("gateways", Type::List(&Type::Text)),
        later("sourceNamespace", Type::Text),
    ],
};

static ROUTE_DESTINATION: Message = Message {
    name: "RouteDestination",
    fields: &[later("destination", Type::Object(&DESTINATION)), later("weight", Type::Int)],
};

pub(super) static CLIENT_TLS: Message = Message {
    name: "ClientTLSSettings",
    fields: &[
        later("mode", Type::Enum(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"])),
        later("clientCertificate", Type::Text),
        later("privateKey", Type::Text),
        later("caCertificates", Type::Text),
        later("credentialName", Type::Text),
        later("subjectAltNames", Type::List(&Type::Text)),
        later("sni", Type::Text),
        later("insecureSkipVerify", Type::Bool),
        later("caCrl", Type::Text),
    ],
};

pub(super) static SERVER_TLS: Message = Message {
    name: "ServerTLSSettings",
    fields: &[
        later("httpsRedirect", Type::Bool),
        later("mode", Type::Text),
        later("serverCertificate", Type::Text),
        later("privateKey", Type::Text),
        later("caCertificates", Type::Text),
        later("caCrl", Type::Text),
        later("credentialName", Type::Text),
        later("credentialNames", Type::List(&Type::Text)),
        later("caCertCredentialName", Type::Text),
        later("tlsCertificates", Type::Any),
        later("subjectAltNames", Type::List(&Type::Text)),
        later("verifyCertificateSpki", Type::List(&Type::Text)),
        later("verifyCertificateHash", Type::List(&Type::Text)),
        later("minProtocolVersion", Type::Text),
        later("maxProtocolVersion", Type::Text),
        later("cipherSuites", Type::List(&Type::Text)),
    ],
};

pub(super) static ZONE_AWARE: Message = Message {
    name: "ZoneAwareLoadBalancerSetting",
    fields: &[
        later("enabled", Type::Bool),
        later("failover", Type::List(&Type::Object(&FAILOVER))),
        later("failoverPriority", Type::List(&Type::Text)),
        later("minClusterSize", Type::Int),
    ],
};

pub(super) static TUNNEL: Message = Message {
    name: "TunnelSettings",
    fields: &[later("protocol", Type::Text), later("targetHost", Type::Text), later("targetPort", Type::Int)],
};

pub(super) static PROXY_PROTOCOL: Message =
    Message { name: "ProxyProtocol", fields: &[later("version", Type::Enum(&["V1", "V2"]))] };
