//! Tables of parts that are not built yet. They are known, so that a misspelt field in them is found today, and the
//! page on compatibility is complete.

use super::locality::FAILOVER;
use crate::fields::{Message, Type, later};

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
