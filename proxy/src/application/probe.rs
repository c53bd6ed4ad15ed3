//! Asks a container's probe for kubelet, by the rules of Istio's agent: from 127.0.0.6, the caller's headers passed on,
//! every answer on a connection of its own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::Scheme,
};
use http_body_util::Full;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    Application,
    probers::{Check, Prober},
};
use crate::{
    net::{
        ask::{self, Answer},
        tls::{Stream, unverified},
    },
    telemetry::wire,
};

/// As much of a probe's answer is given back (Kubernetes reads no more).
const MAX_BODY: usize = 10 << 10;
/// Redirects that are followed (as by kubelet).
const REDIRECTS: usize = 10;
/// `SERVING` of gRPC's health protocol.
const SERVING: [u8; 2] = [0x08, 1];

impl Application {
    /// Answers kubelet's request for a probe, which came to `port`: a status, and a body that says more; `None` if there
    /// is no such probe.
    pub(crate) async fn probe(&self, request: &Parts, port: u16) -> Option<(StatusCode, Bytes)> {
        let prober = self.probers.get(request.uri.path())?;
        let answer = match timeout(prober.timeout, self.check(prober, request, port)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failed::Late),
        };
        Some(answer.unwrap_or_else(|failed| {
            tracing::debug!(path = request.uri.path(), error = %failed, "a probe failed");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{failed}\n").into())
        }))
    }

    async fn check(
        &self,
        prober: &Prober,
        request: &Parts,
        asked_port: u16,
    ) -> Result<(StatusCode, Bytes), Failed> {
        match &prober.check {
            Check::Http { port, path, https, headers } => {
                let headers = forwarded(&request.headers, headers, (asked_port, *port))?;
                self.get(*port, path, *https, &headers).await
            }
            Check::Tcp { port } => {
                self.connect(*port).await?;
                Ok((StatusCode::OK, Bytes::new()))
            }
            Check::Grpc { port, service } => self.health(*port, service).await,
        }
    }

    /// Redirects within the container are followed, others are as good as a 200: kubelet takes them for success.
    async fn get(
        &self,
        port: u16,
        path: &str,
        https: bool,
        headers: &HeaderMap,
    ) -> Result<(StatusCode, Bytes), Failed> {
        let (mut port, mut path, mut https) = (port, path.to_owned(), https);
        for _ in 0..=REDIRECTS {
            let mut asked = Request::builder().method(Method::GET).uri(&path).body(Full::default())?;
            *asked.headers_mut() = headers.clone();
            asked.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            let stream = self.connect(port).await?;
            // Whoever the container says it is: kubelet does not look either.
            let stream =
                if https { unverified(stream).await.map_err(Failed::Tls)? } else { Stream::Plain(stream) };
            let answer = ask::over_http1(stream, asked, MAX_BODY).await?;
            if !answer.head.status.is_redirection() {
                return Ok((answer.head.status, answer.body));
            }
            match self.redirect(&answer, port, &path, https) {
                Some(next) => (port, path, https) = next,
                None => return Ok((StatusCode::OK, Bytes::new())),
            }
        }
        Err(Failed::Redirects)
    }

    /// Where a redirect leads, if that is this container.
    fn redirect(&self, answer: &Answer, port: u16, path: &str, https: bool) -> Option<(u16, String, bool)> {
        let location: Uri = answer.head.headers.get(LOCATION)?.to_str().ok()?.parse().ok()?;
        let next = location.path_and_query()?.as_str();
        let Some(host) = location.host() else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let next = if next.starts_with('/') { next.to_owned() } else { format!("{folder}/{next}") };
            return Some((port, next, https));
        };
        let here = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip == self.address);
        let https = location.scheme() == Some(&Scheme::HTTPS);
        let usual = if https { 443 } else { 80 };
        here.then(|| (location.port_u16().unwrap_or(usual), next.to_owned(), https))
    }

    /// `grpc.health.v1.Health/Check`.
    async fn health(&self, port: u16, service: &str) -> Result<(StatusCode, Bytes), Failed> {
        let mut message = Vec::new();
        if !service.is_empty() {
            wire::text(1, service, &mut message);
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
        let authority = SocketAddr::new(self.address, port);
        let asked = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::from(framed))?;
        let answer = ask::over_http2(self.connect(port).await?, asked, MAX_BODY).await?;
        let status = answer.trailers.get("grpc-status").or_else(|| answer.head.headers.get("grpc-status"));
        let status = status.and_then(|status| status.to_str().ok()).unwrap_or("none");
        if status != "0" {
            return Err(Failed::Grpc(status.to_owned()));
        }
        match answer.body.get(5..) {
            Some(body) if body == SERVING => Ok((StatusCode::OK, Bytes::new())),
            _ => Err(Failed::NotServing),
        }
    }

    /// From the address that capture lets pass. A pod without `::6` on its loopback takes any.
    async fn connect(&self, port: u16) -> Result<TcpStream, Failed> {
        let there = SocketAddr::new(self.address, port);
        let socket = match self.address {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        };
        let connected = async {
            let socket = socket?;
            match socket.bind(SocketAddr::new(self.source(), 0)) {
                Err(error) if self.address.is_ipv4() || error.kind() != io::ErrorKind::AddrNotAvailable => {
                    return Err(error);
                }
                _ => {}
            }
            socket.connect(there).await
        };
        connected.await.map_err(|error| Failed::Connect(there, error))
    }
}

/// Why a probe has no answer of the container.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer in time")]
    Late,
    #[error("no TLS: {0}")]
    Tls(io::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("cannot be asked: {0}")]
    Request(#[from] http::Error),
    #[error("no answer: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("more than {REDIRECTS} redirects")]
    Redirects,
    #[error("grpc-status {0}")]
    Grpc(String),
    #[error("not serving")]
    NotServing,
}

/// The caller's headers, those of the probe in their place; in Host the port that was asked becomes the container's.
fn forwarded(
    asked: &HeaderMap,
    own: &[(String, String)],
    (asked_port, port): (u16, u16),
) -> Result<HeaderMap, http::Error> {
    let mut headers = asked.clone();
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if let Some(name) = host.and_then(|host| host.strip_suffix(&format!(":{asked_port}"))) {
        headers.insert(HOST, HeaderValue::try_from(format!("{name}:{port}"))?);
    }
    for (name, _) in own {
        headers.remove(name);
    }
    for (name, value) in own {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_headers_pass_and_host_has_the_containers_port() {
        let asked = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("10.0.0.1:15020")),
            (CONNECTION, HeaderValue::from_static("close")),
            (http::header::USER_AGENT, HeaderValue::from_static("kube-probe/1.33")),
            (http::header::ACCEPT, HeaderValue::from_static("*/*")),
        ]);
        let accept = [("Accept".to_owned(), "text/plain".to_owned())];
        let headers = forwarded(&asked, &accept, (15020, 8080)).unwrap();
        assert_eq!(headers[HOST], "10.0.0.1:8080");
        assert_eq!(headers[http::header::USER_AGENT], "kube-probe/1.33");
        assert_eq!(headers[http::header::ACCEPT], "text/plain", "the probe's own wins");
        assert!(!headers.contains_key(CONNECTION));
        let host = [("Host".to_owned(), "web.example".to_owned())];
        assert_eq!(forwarded(&asked, &host, (15020, 80)).unwrap()[HOST], "web.example");
        for (asked, host) in [("[fd00::1]:15020", "[fd00::1]:80"), ("web", "web"), ("web:9", "web:9")] {
            let asked = HeaderMap::from_iter([(HOST, asked.parse().unwrap())]);
            assert_eq!(forwarded(&asked, &[], (15020, 80)).unwrap()[HOST], host);
        }
    }
}
