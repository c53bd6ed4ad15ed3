//! `/clusters` as Envoy has it, and the same numbers as metrics.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, sync::Arc, time::SystemTime};

use outrigger_config::snapshot::Locality;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::server::whole;
use crate::{
    telemetry::{Kind, Sample},
    upstream::{ClusterState, Ejection, Host, Upstreams, stats},
};

/// Every statistic of every cluster, `envoy_cluster_*` with Istio's label `cluster_name`.
pub(crate) fn cluster_samples(upstreams: Arc<Upstreams>) -> impl Fn() -> Vec<Sample> + Send + Sync + 'static {
    move || {
        let mut families = BTreeMap::<&'static str, Vec<Sample>>::new();
        for cluster in upstreams.clusters() {
            cluster.each_stat(|stat, kind, value| {
                let (stat, class) = response_class(stat);
                let mut labels = vec![("cluster_name", Arc::clone(&cluster.name))];
                labels.extend(class.map(|class| ("response_code_class", class.into())));
                families.entry(stat).or_default().push(Sample {
                    name: Cow::Owned(format!("envoy_cluster_{stat}")),
                    help: "Envoy's statistic of this name",
                    kind: kind.into(),
                    labels,
                    value: whole(value),
                });
            });
        }
        families.into_values().flatten().collect()
    }
}

impl From<stats::Kind> for Kind {
    fn from(kind: stats::Kind) -> Self {
        match kind {
            stats::Kind::Counter => Self::Counter,
            stats::Kind::Gauge => Self::Gauge,
        }
    }
}

/// Istio's bootstrap turns `upstream_rq_5xx` into `upstream_rq` with the label `response_code_class`.
fn response_class(stat: &'static str) -> (&'static str, Option<&'static str>) {
    match stat.strip_prefix("upstream_rq_") {
        Some(class @ ("1xx" | "2xx" | "3xx" | "4xx" | "5xx")) => ("upstream_rq", Some(class)),
        _ => (stat, None),
    }
}

/// Envoy's text: one line a value.
pub(super) fn text(clusters: &[Arc<ClusterState>]) -> String {
    let mut page = String::new();
    for cluster in clusters {
        let written = cluster_lines(cluster, &mut page);
        debug_assert!(written.is_ok(), "a string takes every write");
    }
    page
}

fn cluster_lines(cluster: &ClusterState, page: &mut String) -> std::fmt::Result {
    let name = &cluster.name;
    writeln!(page, "{name}::observability_name::{name}")?;
    if cluster.config().outlier.is_some() {
        for statistic in [
            "success_rate_average",
            "success_rate_ejection_threshold",
            "local_origin_success_rate_average",
            "local_origin_success_rate_ejection_threshold",
        ] {
            writeln!(page, "{name}::outlier::{statistic}::-1")?;
        }
    }
    for (limit, value) in limits(cluster) {
        writeln!(page, "{name}::default_priority::{limit}::{value}")?;
    }
    writeln!(page, "{name}::added_via_api::false")?;
    for host in cluster.hosts().all.iter() {
        let address = &host.endpoint.key;
        let mut lines = Ok(());
        host.stats().each(|stat, _, value| {
            if lines.is_ok() {
                lines = writeln!(page, "{name}::{address}::{stat}::{value}");
            }
        });
        lines?;
        for (key, value) in [
            ("hostname", &*host.endpoint.hostname),
            ("health_flags", if host.is_ejected() { "/failed_outlier_check" } else { "healthy" }),
            ("weight", itoa::Buffer::new().format(host.endpoint.weight)),
            ("region", &*host.endpoint.locality.region),
            ("zone", &*host.endpoint.locality.zone),
            ("sub_zone", &*host.endpoint.locality.sub_zone),
            ("canary", "false"),
            ("priority", itoa::Buffer::new().format(host.endpoint.priority)),
            ("success_rate", "-1"),
            ("local_origin_success_rate", "-1"),
        ] {
            writeln!(page, "{name}::{address}::{key}::{value}")?;
        }
        let report = host.ejection();
        writeln!(page, "{name}::{address}::ejections::{}", report.times)?;
        if let Some(ejection) = report.now {
            writeln!(page, "{name}::{address}::ejection_reason::{}", ejection.reason.as_str())?;
            writeln!(page, "{name}::{address}::ejected_until::{}", until(&ejection))?;
        }
    }
    Ok(())
}

/// Envoy's `?format=json`; an ejected host also has `ejection`.
pub(super) fn as_json(clusters: &[Arc<ClusterState>]) -> Value {
    let statuses: Vec<_> = clusters
        .iter()
        .map(|cluster| {
            let thresholds: Map<String, Value> =
                limits(cluster).into_iter().map(|(limit, value)| (limit.to_owned(), value.into())).collect();
            json!({
                "name": *cluster.name,
                "observability_name": *cluster.name,
                "host_statuses": cluster.hosts().all.iter().map(|host| host_json(host)).collect::<Vec<_>>(),
                "circuit_breakers": {"thresholds": [thresholds]},
            })
        })
        .collect();
    json!({ "cluster_statuses": statuses })
}

fn host_json(host: &Host) -> Value {
    let mut stats = Vec::new();
    host.stats().each(|name, kind, value| {
        if value > 0 {
            let mut stat = Map::new();
            stat.insert("name".to_owned(), name.into());
            stat.insert("value".to_owned(), value.to_string().into());
            if kind == stats::Kind::Gauge {
                stat.insert("type".to_owned(), "GAUGE".into());
            }
            stats.push(stat);
        }
    });
    let report = host.ejection();
    let mut status = Map::new();
    status.insert(
        "address".to_owned(),
        json!({"socket_address": {
            "address": host.address().ip().to_string(),
            "port_value": host.address().port(),
        }}),
    );
    status.insert("stats".to_owned(), json!(stats));
    if !host.endpoint.hostname.is_empty() {
        status.insert("hostname".to_owned(), (*host.endpoint.hostname).into());
    }
    status.insert("weight".to_owned(), host.endpoint.weight.into());
    status.insert("locality".to_owned(), locality(&host.endpoint.locality));
    if host.endpoint.priority > 0 {
        status.insert("priority".to_owned(), host.endpoint.priority.into());
    }
    status.insert("ejections".to_owned(), report.times.into());
    let health = match report.now {
        Some(ejection) => {
            let why = json!({"reason": ejection.reason.as_str(), "until": until(&ejection)});
            status.insert("ejection".to_owned(), why);
            json!({"failed_outlier_check": true, "eds_health_status": "HEALTHY"})
        }
        None => json!({"eds_health_status": "HEALTHY"}),
    };
    status.insert("health_status".to_owned(), health);
    Value::Object(status)
}

/// Without what is empty, as protobuf writes it.
pub(super) fn locality(locality: &Locality) -> Value {
    let Locality { region, zone, sub_zone } = locality;
    let parts = [("region", region), ("zone", zone), ("sub_zone", sub_zone)];
    let known = parts.into_iter().filter(|(_, part)| !part.is_empty());
    Value::Object(known.map(|(name, part)| (name.to_owned(), (&**part).into())).collect())
}

fn limits(cluster: &ClusterState) -> [(&'static str, u32); 4] {
    let breaker = &cluster.breaker;
    [
        ("max_connections", breaker.connections.limit()),
        ("max_pending_requests", breaker.pending.limit()),
        ("max_requests", breaker.requests.limit()),
        ("max_retries", cluster.max_retries()),
    ]
}

/// On the wall clock, to the millisecond.
fn until(ejection: &Ejection) -> String {
    let left = ejection.until.saturating_duration_since(Instant::now());
    match jiff::Timestamp::try_from(SystemTime::now() + left) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_is_written_without_what_is_empty() {
        assert_eq!(locality(&Locality::default()), json!({}));
        let whole = json!({ "region": "r", "zone": "z", "sub_zone": "s" });
        assert_eq!(locality(&Locality::parse("r/z/s")), whole);
        assert_eq!(locality(&Locality::parse("r")), json!({ "region": "r" }));
    }
}
