//! What routes do: clusters by weight, answers, rewrites, faults and the rest of their policies.

use std::fmt::Write as _;

use http::HeaderValue;
use serde_json::{Map, Value, json};

use super::{duration, object, put, route::value_match};
use crate::{
    format::Format,
    snapshot::{
        AbortStatus, Action, ClusterRef, Cors, Fault, Forward, HashPolicy, HeaderOps, PathRewrite, Redirect,
        RedirectScheme, RetryOn, RetryPolicy, Share, Snapshot,
    },
};

impl Snapshot {
    pub(super) fn action(&self, action: &Action, out: &mut Map<String, Value>) {
        match action {
            Action::Forward(forward) => put(out, "route", self.forward(forward)),
            Action::Direct(response) => {
                let mut inner = object(json!({ "status": response.status.as_u16() }));
                let body = Some(&response.body).filter(|body| !body.is_empty());
                put(&mut inner, "body", body.map(|body| String::from_utf8_lossy(body)).into());
                put(out, "direct_response", Value::Object(inner));
            }
            Action::Redirect(to) => put(out, "redirect", redirect(to)),
        }
    }

    fn forward(&self, forward: &Forward) -> Value {
        let mut out = Map::new();
        match &*forward.clusters {
            [only] => put(&mut out, "cluster", self.name_of(&only.cluster).into()),
            several => put(
                &mut out,
                "weighted_clusters",
                several
                    .iter()
                    .map(|entry| {
                        let mut out =
                            object(json!({ "name": self.name_of(&entry.cluster), "weight": entry.weight }));
                        put(&mut out, "host_rewrite_literal", literal(entry.authority.as_ref()));
                        put(&mut out, "request_headers", operations(&entry.request_headers));
                        put(&mut out, "response_headers", operations(&entry.response_headers));
                        Value::Object(out)
                    })
                    .collect(),
            ),
        }
        put(&mut out, "host_rewrite_literal", literal(forward.authority.as_ref()));
        put(&mut out, "path_rewrite", forward.rewrite.as_ref().map_or(Value::Null, rewrite));
        put(&mut out, "timeout", forward.timeout.map_or(Value::Null, duration));
        put(&mut out, "retry_policy", forward.retry.as_ref().map_or(Value::Null, retry));
        put(&mut out, "hash_policy", forward.hash.iter().map(hash).collect());
        let mirrors = forward.mirrors.iter().map(
            |mirror| json!({ "cluster": self.name_of(&mirror.cluster), "percent": percent(mirror.share) }),
        );
        put(&mut out, "request_mirror_policies", mirrors.collect());
        Value::Object(out)
    }

    pub(crate) fn name_of(&self, cluster: &ClusterRef) -> String {
        match cluster {
            ClusterRef::Known(id) => self[*id].name.to_string(),
            ClusterRef::Missing(name) => format!("{name} (missing)"),
        }
    }
}

fn literal(value: Option<&HeaderValue>) -> Value {
    value.map(|value| String::from_utf8_lossy(value.as_bytes())).into()
}

pub(crate) fn redirect(to: &Redirect) -> Value {
    let mut out = object(json!({ "response_code": to.status.as_u16() }));
    let scheme = to.scheme.map(|scheme| match scheme {
        RedirectScheme::Http => "http",
        RedirectScheme::Https => "https",
    });
    put(&mut out, "scheme_redirect", scheme.into());
    put(&mut out, "host_redirect", to.authority.as_deref().into());
    put(&mut out, "port_redirect", to.port.map(u16::from).into());
    put(&mut out, "path_rewrite", to.path.as_ref().map_or(Value::Null, rewrite));
    Value::Object(out)
}

pub(crate) fn rewrite(rewrite: &PathRewrite) -> Value {
    match rewrite {
        PathRewrite::Prefix { matched, value } => json!({ "prefix": &**value, "matched_bytes": matched }),
        PathRewrite::Full(value) => json!({ "path": &**value }),
        PathRewrite::Regex { pattern, substitution } => {
            json!({ "regex": pattern.as_str(), "substitution": &**substitution })
        }
    }
}

pub(crate) fn fault(fault: &Fault) -> Value {
    let mut out = Map::new();
    if let Some(delay) = fault.delay {
        let delay = json!({ "percent": percent(delay.share), "fixed_delay": duration(delay.duration) });
        put(&mut out, "delay", delay);
    }
    if let Some(abort) = fault.abort {
        let (kind, status) = match abort.status {
            AbortStatus::Http(status) => ("http_status", u32::from(status.as_u16())),
            AbortStatus::Grpc(status) => ("grpc_status", status),
        };
        put(&mut out, "abort", json!({ "percent": percent(abort.share), kind: status }));
    }
    Value::Object(out)
}

pub(crate) fn cors(cors: &Cors) -> Value {
    let mut out = object(json!({ "forward_not_matching_preflights": cors.forward_unmatched_preflights }));
    let origins = cors.allow_origins.iter().map(|origin| Value::Object(value_match(origin)));
    put(&mut out, "allow_origin_string_match", origins.collect());
    put(&mut out, "allow_methods", literal(cors.allow_methods.as_ref()));
    put(&mut out, "allow_headers", literal(cors.allow_headers.as_ref()));
    put(&mut out, "expose_headers", literal(cors.expose_headers.as_ref()));
    put(&mut out, "max_age", literal(cors.max_age.as_ref()));
    put(&mut out, "allow_credentials", cors.allow_credentials.then_some(true).into());
    Value::Object(out)
}

pub(crate) fn percent(share: Share) -> f64 {
    f64::from(share.millionths()) / 10_000.0
}

pub(crate) fn operations(ops: &HeaderOps) -> Value {
    let pairs = |pairs: &[(http::HeaderName, Format)]| -> Value {
        pairs.iter().map(|(name, format)| Value::from(format!("{name}: {format}"))).collect()
    };
    let mut out = Map::new();
    put(&mut out, "remove", ops.remove.iter().map(|name| Value::from(name.as_str())).collect());
    put(&mut out, "set", pairs(&ops.set));
    put(&mut out, "add", pairs(&ops.add));
    Value::Object(out)
}

/// Envoy's words with commas between them.
pub(crate) fn retry_on(on: &RetryOn) -> String {
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
    list.trim_start_matches(',').to_owned()
}

pub(crate) fn retry(policy: &RetryPolicy) -> Value {
    let mut out = object(json!({
        "num_retries": policy.attempts,
        "retry_on": retry_on(&policy.on),
        "base_interval": duration(policy.backoff),
        "avoid_previous_hosts": policy.avoid_previous_hosts,
    }));
    put(&mut out, "per_try_timeout", policy.per_try_timeout.map_or(Value::Null, duration));
    Value::Object(out)
}

pub(crate) fn hash(policy: &HashPolicy) -> Value {
    match policy {
        HashPolicy::Header(name) => json!({ "header": name.as_str() }),
        HashPolicy::SourceIp => json!({ "connection_properties": { "source_ip": true } }),
        HashPolicy::Query(name) => json!({ "query_parameter": &**name }),
        HashPolicy::Cookie(cookie) => {
            let mut out = object(json!({ "name": &*cookie.name }));
            put(&mut out, "path", cookie.path.as_deref().into());
            put(&mut out, "ttl", cookie.ttl.map_or(Value::Null, duration));
            let attributes = cookie.attributes.iter();
            let attributes: Vec<_> =
                attributes.map(|one| json!({ "name": &*one.name, "value": &*one.value })).collect();
            put(&mut out, "attributes", Some(attributes).filter(|all| !all.is_empty()).into());
            json!({ "cookie": out })
        }
    }
}
