//! The application's metrics on the sidecar's page, so that Prometheus asks one port for both.
//!
//! The application goes last, and its format is that of the page, as with Istio's agent: an OpenMetrics text ends with a
//! line of its own. What it answers is passed on unread.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Request, StatusCode,
    header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
    uri::PathAndQuery,
};
use http_body_util::Full;
use serde_json::Value;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};

use crate::{
    net::ask,
    telemetry::{Kind, Sample},
};

/// A longer page is left out: it is held in memory.
const MAX_PAGE: usize = 16 << 20;
/// Pages of the application that are asked for at a time; further scrapers wait.
const PAGES: usize = 2;
/// How long a scraper waits that does not say so (Prometheus' default).
const PATIENCE: Duration = Duration::from_secs(10);
/// The scraper wants its answer before its own time is over.
const AHEAD: Duration = Duration::from_millis(500);
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Where the application has its metrics, and how asking went so far.
#[derive(Debug, Clone)]
pub struct Scrape {
    port: u16,
    path: PathAndQuery,
    counts: Arc<Counts>,
    /// Pages that may be held at a time.
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Counts {
    scrapes: AtomicU64,
    failures: AtomicU64,
}

/// The application's page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) text: Bytes,
    pub(crate) content_type: String,
}

impl Page {
    /// Whether it ends with `# EOF`.
    pub(crate) fn is_open_metrics(&self) -> bool {
        let kind = self.content_type.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/openmetrics-text")
    }
}

impl Scrape {
    /// Istio's `{"scrape": "true", "path": "/metrics", "port": "9090"}`, the pod's annotations `prometheus.io/*`; `None`
    /// if it says that there is nothing to scrape.
    pub(super) fn parse(json: &str, own: &[SocketAddr]) -> Result<Option<Self>, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| format!("no JSON object: {error}"))?;
        let text = |key: &str, default: &'static str| match value.get(key).and_then(Value::as_str) {
            Some("") | None => default.to_owned(),
            Some(text) => text.to_owned(),
        };
        if text("scrape", "true") == "false" {
            return Ok(None);
        }
        let (port, path) = (text("port", "80"), text("path", "/metrics"));
        let port: u16 = port.parse().map_err(|_| format!("port: `{port}` is not a number up to 65535"))?;
        if own.iter().any(|own| own.port() == port) {
            return Err(format!(
                "port: {port} is the sidecar's own, which would ask itself: name the application's"
            ));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{path}").parse().map_err(|error| format!("path: `{path}`: {error}"))?;
        Ok(Some(Self { port, path, counts: Arc::default(), places: Arc::new(Semaphore::new(PAGES)) }))
    }

    /// Asks the application; `asked` are the scraper's headers. A failure is logged and counted: the sidecar's own
    /// metrics do not depend on it.
    pub(crate) async fn page(&self, asked: &HeaderMap) -> Option<Page> {
        self.counts.scrapes.fetch_add(1, Relaxed);
        let page = match timeout(patience(asked), self.fetch(asked)).await {
            Ok(page) => page,
            Err(_) => Err("no answer in time".to_owned()),
        };
        page.inspect_err(|why| {
            self.counts.failures.fetch_add(1, Relaxed);
            tracing::warn!(port = self.port, path = %self.path, why, "the application's metrics are left out");
        })
        .ok()
    }

    async fn fetch(&self, asked: &HeaderMap) -> Result<Page, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let mut request = Request::get(self.path.as_str()).header(HOST, format!("localhost:{}", self.port));
        for name in [ACCEPT, USER_AGENT, SCRAPE_TIMEOUT] {
            for value in asked.get_all(&name) {
                request = request.header(&name, value);
            }
        }
        let request = request.header(CONNECTION, "close").body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let stream = localhost(self.port).await.map_err(|error| format!("cannot connect: {error}"))?;
        let answer = ask::over_http1(stream, request, MAX_PAGE).await.map_err(|error| error.to_string())?;
        if answer.head.status != StatusCode::OK {
            return Err(format!("status {}", answer.head.status.as_u16()));
        }
        if !answer.whole {
            return Err(format!("more than {MAX_PAGE} bytes"));
        }
        let content_type = answer.head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        Ok(Page { text: answer.body, content_type: content_type.unwrap_or_default().to_owned() })
    }

    /// Istio's counters of the agent.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let sample = |name: &'static str, help, labels, value: &AtomicU64| Sample {
            name: name.into(),
            help,
            kind: Kind::Counter,
            labels,
            #[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
            value: value.load(Relaxed) as f64,
        };
        let application = vec![("type", "application".into())];
        vec![
            sample("istio_agent_scrapes_total", "Scrapes of the application", vec![], &self.counts.scrapes),
            sample(
                "istio_agent_scrape_failures_total",
                "Scrapes of the application that failed",
                application,
                &self.counts.failures,
            ),
        ]
    }
}

/// As much of the scraper's own patience as leaves time to answer.
fn patience(asked: &HeaderMap) -> Duration {
    let seconds = asked.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok()?.parse::<f64>().ok());
    let wanted = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let wanted = wanted.unwrap_or(PATIENCE).min(PATIENCE * 6);
    wanted.saturating_sub(AHEAD).max(wanted / 2)
}

async fn localhost(port: u16) -> std::io::Result<TcpStream> {
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    TcpStream::connect(&loopback.map(|ip| SocketAddr::new(ip, port))[..]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Option<(u16, String)>, String> {
        let own = ["0.0.0.0:15020".parse().unwrap()];
        Ok(Scrape::parse(json, &own)?.map(|scrape| (scrape.port, scrape.path.to_string())))
    }

    #[test]
    fn annotations_are_read_as_injection_writes_them() {
        let full = r#"{"scrape":"true","path":"stats?x=1","port":"9090"}"#;
        assert_eq!(parse(full), Ok(Some((9090, "/stats?x=1".to_owned()))));
        assert_eq!(parse("{}"), Ok(Some((80, "/metrics".to_owned()))));
        assert_eq!(parse(r#"{"scrape":"true","path":"","port":""}"#), Ok(Some((80, "/metrics".to_owned()))));
        assert_eq!(parse(r#"{"scrape":"false","port":"9090"}"#), Ok(None));
    }

    #[test]
    fn a_scrape_of_itself_is_refused() {
        assert!(parse(r#"{"port":"15020"}"#).unwrap_err().contains("would ask itself"));
        assert_eq!(parse(r#"{"port":"http"}"#), Err("port: `http` is not a number up to 65535".to_owned()));
        assert!(parse(r#"{"path":"a b"}"#).unwrap_err().starts_with("path: `a b`: "));
    }

    #[test]
    fn the_scraper_is_answered_before_its_time_is_over() {
        let with =
            |value: &'static str| patience(&HeaderMap::from_iter([(SCRAPE_TIMEOUT, value.parse().unwrap())]));
        assert_eq!(with("3"), Duration::from_millis(2500));
        assert_eq!(with("0.4"), Duration::from_millis(200));
        assert_eq!(with("never"), Duration::from_millis(9500));
        assert_eq!(with("1e9"), Duration::from_millis(59_500));
    }
}
