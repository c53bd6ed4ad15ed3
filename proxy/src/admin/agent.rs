//! The pages of Istio's agent, on port 15020: readiness, the application's probes, its metrics with ours, and the end of
//! the sidecar, which only this pod may ask for.

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use tokio::net::TcpListener;

use super::{Admin, door, json, page, pages::Reader, text};
use crate::{
    app::{Command, Ending},
    telemetry::{CLASSIC, OPEN_METRICS},
};

/// Serves the agent's pages until dropped.
pub(crate) fn serve_agent(listener: TcpListener, admin: Arc<Admin>) -> impl Future<Output = ()> + Send {
    let port = listener.local_addr().map_or(0, |address| address.port());
    door(listener).serve(move |peer, request, _| {
        let admin = Arc::clone(&admin);
        async move { admin.agent_page(peer, &request, port).await }
    })
}

impl Admin {
    async fn agent_page(&self, peer: SocketAddr, request: &Parts, port: u16) -> Response {
        match request.uri.path() {
            "/healthz/ready" => self.ready(Reader::Anybody).await,
            "/metrics" | "/stats/prometheus" => self.merged(request).await,
            "/quitquitquit" => self.by_this_pod(peer, &request.method, Command::End(Ending::Finish)),
            "/drain" => {
                let drain = Command::DrainListeners { graceful: true, close: false };
                self.by_this_pod(peer, &request.method, drain)
            }
            "/debug/ndsz" => self.name_table(peer, &request.method),
            path if path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/") => {
                match self.application.probe(request, port).await {
                    Some((status, body)) => {
                        let mut answer = text(status, String::new());
                        *answer.body_mut() = body.into();
                        answer
                    }
                    None => text(
                        StatusCode::BAD_REQUEST,
                        format!("app prober config does not exists for {path}: see ISTIO_KUBE_APP_PROBERS\n"),
                    ),
                }
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "try /healthz/ready, /stats/prometheus, /app-health/CONTAINER/readyz, or POST /drain, /quitquitquit\n",
            ),
        }
    }

    /// What is answered by DNS.
    fn name_table(&self, peer: SocketAddr, method: &Method) -> Response {
        if let Some(refusal) = from_elsewhere(peer) {
            return refusal;
        }
        match &self.dns {
            Some(dns) if *method == Method::GET => json(&dns.table()),
            Some(_) => text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"),
            None => text(StatusCode::NOT_FOUND, "DNS is not captured: see ISTIO_META_DNS_CAPTURE\n"),
        }
    }

    fn by_this_pod(&self, peer: SocketAddr, method: &Method, command: Command) -> Response {
        refusal(peer, method).unwrap_or_else(|| self.ask(command))
    }

    /// Our metrics, then the application's, in the format of the application.
    async fn merged(&self, request: &Parts) -> Response {
        let Some(scrape) = &self.application.scrape else { return self.scrape(request) };
        let Some(theirs) = scrape.page(&request.headers).await else { return self.scrape(request) };
        let open = theirs.is_open_metrics();
        let ours = if open { self.metrics.open_metrics() } else { self.metrics.classic() };
        let mut merged = without_process(&ours).into_bytes();
        merged.extend_from_slice(&theirs.text);
        if !theirs.text.ends_with(b"\n") {
            merged.push(b'\n');
        }
        let mut answer = page(StatusCode::OK, if open { OPEN_METRICS } else { CLASSIC }, String::new());
        *answer.body_mut() = merged.into();
        answer
    }
}

/// The answer to whoever is not of this pod.
fn from_elsewhere(peer: SocketAddr) -> Option<Response> {
    let from = peer.ip().to_canonical();
    // From 127.0.0.6 and ::6 comes what was captured, whoever sent it.
    let here = from.is_loopback() && from != Ipv4Addr::new(127, 0, 0, 6);
    (!here).then(|| text(StatusCode::FORBIDDEN, "Only requests from localhost are allowed\n"))
}

/// The answer to a change that does not come from loopback or not by POST.
fn refusal(peer: SocketAddr, method: &Method) -> Option<Response> {
    if let Some(refusal) = from_elsewhere(peer) {
        return Some(refusal);
    }
    if *method == Method::POST {
        return None;
    }
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    Some(answer)
}

/// Without the families `process_*`, which every client library of Prometheus has: on this page they are the
/// application's. And without the end of an OpenMetrics text, which is still to come.
fn without_process(page: &str) -> String {
    let ours = |line: &&str| {
        let sample = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        !sample.starts_with("process_") && *line != "# EOF"
    };
    page.lines().filter(ours).fold(String::with_capacity(page.len()), |mut text, line| {
        text.push_str(line);
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_asked_for_from_this_pod_only() {
        let status = |peer: &str| refusal(peer.parse().unwrap(), &Method::POST).map(|answer| answer.status());
        for here in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(status(here), None, "{here}");
        }
        for elsewhere in
            ["127.0.0.6:9", "[::6]:9", "10.0.0.1:9", "[fe80::1]:9", "[::ffff:10.0.0.1]:9", "0.0.0.0:9"]
        {
            assert_eq!(status(elsewhere), Some(StatusCode::FORBIDDEN), "{elsewhere}");
        }
    }

    #[test]
    fn a_merged_page_has_no_process_metrics_of_ours_and_one_end() {
        let page = "# HELP process_open_fds Files.\n# TYPE process_open_fds gauge\nprocess_open_fds 3\n# UNIT x s\n\
                    # TYPE x gauge\nx{process_=\"1\"} 1\n# EOF\n";
        assert_eq!(without_process(page), "# UNIT x s\n# TYPE x gauge\nx{process_=\"1\"} 1\n");
    }
}
