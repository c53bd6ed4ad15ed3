//! Tables of parts that are not built yet. They are known, so that a misspelt field in them is found today, and the
//! page on compatibility is complete.

use super::locality::FAILOVER;
use crate::fields::{Message, Type, later};

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
