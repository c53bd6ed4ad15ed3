//! Clusters and their endpoints.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{duration, object, put, texts, tls::client_tls};
use crate::snapshot::{
    Balancer, Cluster, Discovery, Endpoint, Locality, Protocol, Source, Target, UpstreamTls,
};

impl Cluster {
    /// One cluster, its defaults written out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let limit = |number: u32| if number == u32::MAX { Value::Null } else { number.into() };
        let mut out = object(json!({
            "name": &*self.name,
            "type": match &self.discovery {
                Discovery::Static => "STATIC",
                Discovery::Dns(dns) if dns.first_only => "LOGICAL_DNS",
                Discovery::Dns(_) => "STRICT_DNS",
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
            "endpoints": match &self.discovery {
                Discovery::Dns(dns) => dns.targets.iter().map(target).collect::<Vec<_>>(),
                _ => self.endpoints.iter().map(|endpoint| written(endpoint)).collect(),
            },
            "connect_timeout": duration(self.connect_timeout),
            "idle_timeout": self.idle_timeout.map(duration),
            "origin": self.origin.to_string(),
        }));
        put(&mut out, "tls", self.tls_mode());
        if let Discovery::Dns(dns) = &self.discovery {
            put(&mut out, "dns_failure_refresh_rate", duration(dns.refresh));
        }
        let source = match self.source {
            Source::System => None,
            Source::Inbound => Some("127.0.0.6"),
            Source::Client => Some("the client's"),
        };
        put(&mut out, "source_address", source.into());
        let weights = self.localities.as_deref().map(|weights| {
            weights
                .iter()
                .map(|one| {
                    json!({
                        "priority": one.priority,
                        "locality": one.locality.to_string(),
                        "weight": one.weight,
                    })
                })
                .collect::<Vec<_>>()
        });
        put(&mut out, "locality_weights", weights.into());
        let warmup = self.warmup.map(|warmup| {
            json!({
                "slow_start_window": duration(warmup.window),
                "min_weight_percent": warmup.least * 100.0,
                "aggression": warmup.aggression,
            })
        });
        put(&mut out, "slow_start_config", warmup.into());
        let mut limits = Map::new();
        put(&mut limits, "max_connections", limit(self.limits.max_connections));
        put(&mut limits, "max_pending_requests", limit(self.limits.max_pending_requests));
        put(&mut limits, "max_requests", limit(self.limits.max_requests));
        put(&mut limits, "max_retries", limit(self.limits.max_retries));
        let budget = self.retry_budget.map(|budget| {
            json!({ "budget_percent": budget.percent, "min_retry_concurrency": budget.min_concurrency })
        });
        put(&mut limits, "retry_budget", budget.into());
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
        let pings = self
            .http2_keepalive
            .map(|pings| json!({ "interval": duration(pings.interval), "timeout": duration(pings.timeout) }));
        put(&mut out, "connection_keepalive", pings.into());
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

    /// Whether it is automatic is told where that makes a difference.
    pub(crate) fn tls_mode(&self) -> Value {
        let any = self.takes_mutual();
        match &self.tls {
            UpstreamTls::On(tls) => client_tls(tls),
            UpstreamTls::Auto(_) if any => "AUTO".into(),
            UpstreamTls::Off if any => "DISABLE".into(),
            UpstreamTls::Auto(_) | UpstreamTls::Off => Value::Null,
        }
    }
}

fn written(endpoint: &Endpoint) -> Value {
    let Endpoint { key, weight, labels, locality, priority, mutual, .. } = endpoint;
    one(key, *weight, labels, locality, *priority, *mutual)
}

/// A name stands where an address would.
fn target(target: &Target) -> Value {
    match target {
        Target::Address(endpoint) => written(endpoint),
        Target::Name(named) => {
            let address = format!("{}:{}", named.name, named.port);
            one(&address, named.weight, &named.labels, &named.locality, named.priority, named.mutual)
        }
    }
}

fn one(
    address: &str,
    weight: u32,
    labels: &BTreeMap<Arc<str>, Arc<str>>,
    locality: &Locality,
    priority: u32,
    mutual: bool,
) -> Value {
    let mut out = object(json!({ "address": address, "weight": weight, "labels": texts(labels.iter()) }));
    put(&mut out, "locality", Some(locality.to_string()).filter(|_| !locality.is_empty()).into());
    put(&mut out, "mutual_tls", mutual.then_some(true).into());
    put(&mut out, "priority", Some(priority).filter(|priority| *priority > 0).into());
    Value::Object(out)
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
