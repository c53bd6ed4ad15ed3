//! An explanation as JSON, for scripts. Policies have the keys of the configuration dump.

use serde_json::{Map, Value, json};

use super::{
    ActionTrace, Bucket, Check, Explanation, ForwardTrace, HashTrace, MirrorTrace, Pick, Picked, Place,
    RouteTrace, Taken, Verdict,
};
use crate::{
    decide::Domain,
    dump::{
        action::{cors, fault, hash, operations, percent, redirect, retry, rewrite},
        duration, object, origin, put,
        tls::inbound_tls,
    },
    snapshot::{Discovery, InboundTls, Listener},
};

impl Explanation<'_> {
    /// Everything.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut out = object(json!({
            "request": {
                "method": self.asked.method,
                "scheme": self.asked.scheme,
                "authority": self.asked.authority,
                "path": self.asked.path,
            },
            "outcome": verdict(&self.verdict()),
            "listener": listener(self.listener, self.tls),
        }));
        let host = self.host.map(|host| {
            let (by, domain) = match host.domain {
                Domain::Exact(name) => ("exact", name.to_owned()),
                Domain::Suffix(suffix) => ("suffix", format!("*{suffix}")),
                Domain::Prefix(prefix) => ("prefix", format!("{prefix}*")),
                Domain::Any => ("any", "*".to_owned()),
            };
            json!({
                "name": &*host.virtual_host.name,
                "by": by,
                "domain": domain,
                "origin": origin(&host.virtual_host.origin),
            })
        });
        put(&mut out, "virtual_host", host.into());
        put(&mut out, "hints", self.hints.clone().into());
        put(&mut out, "passed_over", self.passed.iter().map(route).map(Value::Object).collect());
        put(&mut out, "route", self.taken.as_ref().map(taken).into());
        Value::Object(out)
    }
}

pub(super) fn listener(listener: &Listener, tls: &InboundTls) -> Value {
    let mut out = object(json!({ "name": &*listener.name, "origin": origin(&listener.origin) }));
    put(&mut out, "tls", inbound_tls(tls));
    Value::Object(out)
}

fn verdict(verdict: &Verdict<'_>) -> Value {
    let mut out = object(json!({ "text": verdict.to_string() }));
    let (status, flag) = match verdict {
        Verdict::NoRoute => (Some(404), Some("NR")),
        Verdict::NoCluster(_) => (Some(503), Some("NC")),
        Verdict::NoEndpoint(_) => (Some(503), Some("UH")),
        Verdict::Aborted(crate::snapshot::AbortStatus::Http(status)) => (Some(status.as_u16()), Some("FI")),
        Verdict::Aborted(crate::snapshot::AbortStatus::Grpc(_)) => (None, Some("FI")),
        Verdict::Preflight => (Some(200), None),
        Verdict::Answer(status) | Verdict::Redirect(status) => (Some(status.as_u16()), None),
        Verdict::Forward { .. } | Verdict::Split => (None, None),
    };
    put(&mut out, "status", status.into());
    put(&mut out, "flag", flag.into());
    if let Verdict::Forward { cluster, endpoint } = verdict {
        put(&mut out, "cluster", (*cluster).into());
        put(&mut out, "endpoint", (*endpoint).into());
    }
    Value::Object(out)
}

fn route(trace: &RouteTrace<'_>) -> Map<String, Value> {
    object(json!({
        "name": &*trace.route.name,
        "origin": origin(&trace.route.origin),
        "conditions": trace.checks.iter().map(check).collect::<Vec<_>>(),
    }))
}

fn check(check: &Check) -> Value {
    json!({
        "subject": check.subject,
        "expected": check.expected,
        "found": check.found,
        "holds": check.holds,
    })
}

fn taken(taken: &Taken<'_>) -> Value {
    let mut out = route(&taken.trace);
    let this = taken.trace.route;
    if let Some(policy) = this.fault.as_deref() {
        let mut inner = object(fault(policy));
        let drawn = |hit: Option<Option<bool>>| Value::from(hit.flatten());
        put(&mut inner, "delay_drawn", drawn(taken.fault.delay.map(|(_, hit)| hit)));
        put(&mut inner, "abort_drawn", drawn(taken.fault.abort.map(|(_, hit)| hit)));
        put(&mut out, "fault", inner.into());
    }
    if let Some(trace) = &taken.cors {
        let mut inner = object(cors(trace.cors));
        put(&mut inner, "origin", trace.origin.clone().into());
        put(&mut inner, "origin_allowed", trace.allowed.into());
        put(&mut inner, "preflight", trace.preflight.into());
        put(&mut out, "cors", inner.into());
    }
    put(&mut out, "request_headers", operations(&this.request_headers));
    put(&mut out, "response_headers", operations(&this.response_headers));
    match &taken.action {
        ActionTrace::Direct(response) => {
            put(&mut out, "direct_response", json!({ "status": response.status.as_u16() }));
        }
        ActionTrace::Redirect { redirect: to, location } => {
            let mut inner = object(redirect(to));
            put(&mut inner, "location", location.as_str().into());
            put(&mut out, "redirect", inner.into());
        }
        ActionTrace::Forward(forward) => put(&mut out, "forward", forwarded(forward)),
    }
    Value::Object(out)
}

fn forwarded(trace: &ForwardTrace<'_>) -> Value {
    let policy = trace.forward;
    let mut out = object(json!({ "total_weight": policy.total_weight }));
    put(&mut out, "drawn", trace.split.drawn.into());
    let destinations = policy.clusters.iter().zip(&trace.split.buckets).map(|(entry, of_split)| {
        let mut out = bucket(of_split);
        put(&mut out, "request_headers", operations(&entry.request_headers));
        put(&mut out, "response_headers", operations(&entry.response_headers));
        Value::Object(out)
    });
    put(&mut out, "destinations", destinations.collect());
    put(&mut out, "hash", trace.hash.iter().map(hashed).collect());
    // A JSON number may lose digits of it.
    put(&mut out, "hash_key", trace.key.map(|key| key.to_string()).into());
    put(&mut out, "timeout", trace.timeout.map(duration).into());
    put(&mut out, "per_try_timeout", trace.per_try_timeout.map(duration).into());
    put(&mut out, "retry_policy", policy.retry.as_ref().map(retry).into());
    let authority = policy.authority.as_ref().map(super::words::readable);
    put(&mut out, "host_rewrite_literal", authority.into());
    put(&mut out, "path_rewrite", policy.rewrite.as_ref().map(rewrite).into());
    put(&mut out, "new_path", trace.new_path.as_deref().into());
    put(&mut out, "mirrors", trace.mirrors.iter().map(mirror).collect());
    Value::Object(out)
}

pub(super) fn place(place: &Place<'_>, out: &mut Map<String, Value>) {
    out.insert("cluster".to_owned(), place.name().into());
    match place {
        Place::Known(cluster) => {
            put(out, "origin", origin(&cluster.origin));
            put(out, "tls", cluster.tls_mode());
            if let Discovery::Dns(dns) = &cluster.discovery {
                put(out, "looked_up", dns.names().map(|name| &**name).collect());
            }
        }
        Place::Missing { why, .. } => put(out, "missing", why.as_str().into()),
    }
}

pub(super) fn bucket(bucket: &Bucket<'_>) -> Map<String, Value> {
    let mut out = object(json!({
        "weight": bucket.weight,
        "draws": [bucket.from, bucket.from + u64::from(bucket.weight)],
        "taken": bucket.taken,
    }));
    place(&bucket.place, &mut out);
    put(&mut out, "balancing", bucket.pick.as_ref().map(picked).into());
    out
}

fn picked(pick: &Pick) -> Value {
    let endpoints = pick.endpoints.iter().map(|standing| {
        let mut out = object(json!({
            "address": &*standing.address,
            "weight": standing.weight,
            "active_requests": standing.active,
        }));
        put(&mut out, "ejected", standing.ejected.clone().into());
        Value::Object(out)
    });
    let endpoint = match &pick.picked {
        Picked::One(address) => Some(&**address),
        Picked::Open | Picked::Nobody => None,
    };
    json!({
        "policy": pick.how,
        "endpoint": endpoint,
        "settled": pick.picked != Picked::Open,
        "panic": pick.panic,
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn hashed(trace: &HashTrace<'_>) -> Value {
    let mut out = object(json!({ "policy": hash(trace.policy) }));
    put(&mut out, "value", trace.value.clone().into());
    put(&mut out, "hash", trace.hash.map(|hash| hash.to_string()).into());
    put(&mut out, "set_cookie", trace.set_cookie.clone().into());
    Value::Object(out)
}

fn mirror(trace: &MirrorTrace<'_>) -> Value {
    let mut out = object(json!({ "percent": percent(trace.mirror.share) }));
    place(&trace.place, &mut out);
    put(&mut out, "drawn", trace.hit.into());
    Value::Object(out)
}
