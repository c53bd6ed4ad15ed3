//! Watches the sidecar from outside, as an operator would: `/clusters` and `/metrics`.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// A page of the sidecar may take this long and be this big.
const PATIENCE: Duration = Duration::from_secs(5);
const PAGE_LIMIT: usize = 16 << 20;

/// The sidecar's pages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sidecar {
    /// Admin listener.
    pub(crate) admin: SocketAddr,
    /// Metrics listener.
    pub(crate) metrics: SocketAddr,
}

/// An endpoint that `/clusters` shows as ejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ejection {
    /// Cluster name.
    pub(crate) cluster: String,
    /// `ip:port`.
    pub(crate) host: String,
    /// What it did.
    pub(crate) reason: String,
    /// When it may return.
    pub(crate) until: String,
}

/// What the sidecar says became of one signal of its own telemetry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OwnAccount {
    /// Made.
    pub(crate) produced: u64,
    /// Accepted by a collector.
    pub(crate) exported: u64,
    /// Waiting, or on its way.
    pub(crate) queued: u64,
    /// Lost, for whatever reason.
    pub(crate) dropped: u64,
}

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
#[error("GET http://{address}{path}: {why}")]
pub(crate) struct PageError {
    address: SocketAddr,
    path: String,
    why: String,
}

impl Sidecar {
    /// All endpoints that are ejected now.
    pub(crate) async fn ejections(&self) -> Result<Vec<Ejection>, PageError> {
        Ok(ejections(&get(self.admin, "/clusters").await?))
    }

    /// Requests so far, by `destination_version`.
    pub(crate) async fn requests_by_version(&self) -> Result<BTreeMap<String, u64>, PageError> {
        Ok(requests_by_version(&get(self.metrics, "/metrics").await?))
    }

    /// The account of a signal: `traces`, `logs` or `metrics`.
    pub(crate) async fn own_telemetry(&self, signal: &str) -> Result<OwnAccount, PageError> {
        Ok(own_telemetry(&get(self.metrics, "/metrics").await?, signal))
    }

    /// Version of the configuration in force.
    pub(crate) async fn config_version(&self) -> Result<String, PageError> {
        let dump = get(self.admin, "/config_dump").await?;
        let dump: serde_json::Value = serde_json::from_str(&dump).unwrap_or_default();
        Ok(dump
            .pointer("/outrigger/version")
            .and_then(|version| version.as_str())
            .unwrap_or_default()
            .to_owned())
    }
}

fn ejections(page: &str) -> Vec<Ejection> {
    let lines: Vec<[&str; 4]> =
        page.lines().filter_map(|line| line.splitn(4, "::").collect::<Vec<_>>().try_into().ok()).collect();
    let ejected =
        lines.iter().filter(|[_, _, key, value]| *key == "health_flags" && value.contains("outlier"));
    ejected
        .map(|[cluster, host, ..]| {
            let value = |wanted| {
                let found = lines.iter().find(|[c, h, key, _]| (c, h, *key) == (cluster, host, wanted));
                found.map_or("?", |[.., value]| value).to_owned()
            };
            Ejection {
                cluster: (*cluster).to_owned(),
                host: (*host).to_owned(),
                reason: value("ejection_reason"),
                until: value("ejected_until"),
            }
        })
        .collect()
}

fn requests_by_version(page: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("istio_requests_total{")) {
        let version = line.split_once("destination_version=\"").and_then(|(_, rest)| rest.split_once('"'));
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        if let (Some((version, _)), Some(count)) = (version, count) {
            *counts.entry(version.to_owned()).or_default() += count;
        }
    }
    counts
}

fn own_telemetry(page: &str, signal: &str) -> OwnAccount {
    let label = format!("signal=\"{signal}\"");
    let sum = |name: &str| {
        let lines = page.lines().filter(|line| line.starts_with(name) && line.contains(&label));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    OwnAccount {
        produced: sum("outrigger_otlp_produced_total{"),
        exported: sum("outrigger_otlp_exported_total{"),
        queued: sum("outrigger_otlp_queued{"),
        dropped: sum("outrigger_otlp_dropped_total{"),
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<String, PageError> {
    let failed = |why: String| PageError { address, path: path.to_owned(), why };
    match timeout(PATIENCE, fetch(address, path)).await {
        Ok(page) => page.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("no answer in time".to_owned())),
    }
}

async fn fetch(address: SocketAddr, path: &str) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    #[expect(clippy::disallowed_methods, reason = "limited")]
    let page = Limited::new(response.into_body(), PAGE_LIMIT).collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&page).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ejected_endpoint_is_read_with_its_reason() {
        let page = "a::observability_name::a\n\
                    a::127.0.0.1:1::health_flags::healthy\n\
                    a::127.0.0.1:2::health_flags::/failed_outlier_check\n\
                    a::127.0.0.1:2::ejection_reason::consecutive_5xx\n\
                    a::127.0.0.1:2::ejected_until::2026-11-22T10:00:00.000Z\n";
        let ejected = ejections(page);
        assert_eq!(ejected.len(), 1);
        assert_eq!(
            (ejected[0].host.as_str(), ejected[0].reason.as_str()),
            ("127.0.0.1:2", "consecutive_5xx")
        );
        assert_eq!(ejected[0].until, "2026-11-22T10:00:00.000Z");
    }

    #[test]
    fn an_account_is_read_by_signal_and_losses_are_summed() {
        let page = "outrigger_otlp_produced_total{signal=\"traces\"} 9\n\
                    outrigger_otlp_produced_total{signal=\"logs\"} 1\n\
                    outrigger_otlp_exported_total{signal=\"traces\"} 5\n\
                    outrigger_otlp_queued{signal=\"traces\"} 1\n\
                    outrigger_otlp_dropped_total{signal=\"traces\",reason=\"queue_full\"} 1\n\
                    outrigger_otlp_dropped_total{signal=\"traces\",reason=\"rejected\"} 2\n";
        let expected = OwnAccount { produced: 9, exported: 5, queued: 1, dropped: 3 };
        assert_eq!(own_telemetry(page, "traces"), expected);
    }

    #[test]
    fn requests_are_summed_by_destination_version() {
        let page = "istio_requests_total{reporter=\"source\",destination_version=\"v1\",response_code=\"200\"} 3\n\
                    istio_requests_total{reporter=\"source\",destination_version=\"v1\",response_code=\"503\"} 2\n\
                    istio_requests_total{reporter=\"source\",destination_version=\"v2\"} 1\n";
        let counts = requests_by_version(page);
        assert_eq!((counts["v1"], counts["v2"]), (5, 1));
    }
}
