//! The one thing that the webhook asks of the API server: to read the webhook's configuration, and to write the
//! certificate authority into it.
//!
//! No client library: two requests of one resource, seldom.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::bundle;

/// For one request, from the connection to the last byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// A webhook configuration is some kilobytes.
const MAX_ANSWER: usize = 4 << 20;
/// Another replica may write at the same time.
const TRIES: usize = 5;
/// Where Kubernetes puts a pod's token and the server's authority.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the API server is, and who we are to it.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// Name or address.
    pub host: String,
    /// 443 mostly.
    pub port: u16,
    /// Folder with `token` and `ca.crt`, which are read for each request since Kubernetes rotates them.
    pub service_account: PathBuf,
}

/// Why the authority is not with the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The service account's files.
    #[error("cannot read {}: {error}", path.display())]
    Account {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// The host is no name for TLS.
    #[error("the API server's name cannot be verified: {0}")]
    Name(#[from] InvalidDnsNameError),
    /// TCP or TLS.
    #[error("cannot speak with the API server: {0}")]
    Io(#[from] io::Error),
    /// TLS cannot be set up.
    #[error("cannot verify the API server: {0}")]
    Tls(#[from] rustls::Error),
    /// HTTP.
    #[error("the API server does not speak HTTP as it should: {0}")]
    Http(#[from] hyper::Error),
    /// It takes too long.
    #[error("no answer of the API server within {} s", PATIENCE.as_secs())]
    Late,
    /// It says no, or something else.
    #[error("the API server answers {status}: {message}")]
    Refused {
        /// 403 where the role is missing, 404 where the configuration is.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// Another writer came first every time.
    #[error("another writer came first {TRIES} times")]
    Contended,
}

impl ApiServer {
    /// Within a pod; `None` elsewhere.
    #[must_use]
    pub fn in_cluster(environment: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let port = environment("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
        let host = environment("KUBERNETES_SERVICE_HOST")?;
        Some(Self { host, port, service_account: SERVICE_ACCOUNT.into() })
    }

    /// Sees to it that each webhook of the configuration trusts the authorities (PEM), and keeps those of others.
    ///
    /// # Errors
    /// The API server cannot be asked, or does not allow it.
    pub(super) async fn publish(&self, configuration: &str, authorities: &[&str]) -> Result<(), ApiError> {
        let path =
            format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{configuration}");
        for _ in 0..TRIES {
            let (status, found) = self.ask(Method::GET, &path, None).await?;
            if status != StatusCode::OK {
                return Err(refused(status, &found));
            }
            let Some(patch) = patch(&found, authorities) else { return Ok(()) };
            let (status, answer) = self.ask(Method::PATCH, &path, Some(patch)).await?;
            match status {
                StatusCode::OK => return Ok(()),
                // The version has changed: the test at the head of the patch failed.
                StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {}
                _ => return Err(refused(status, &answer)),
            }
        }
        Err(ApiError::Contended)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        patch: Option<Value>,
    ) -> Result<(StatusCode, Value), ApiError> {
        timeout(PATIENCE, self.converse(method, path, patch)).await.map_err(|_| ApiError::Late)?
    }

    async fn converse(
        &self,
        method: Method,
        path: &str,
        patch: Option<Value>,
    ) -> Result<(StatusCode, Value), ApiError> {
        let name = ServerName::try_from(self.host.clone())?;
        let token_at = self.service_account.join("token");
        let unreadable =
            |error: io::Error| ApiError::Account { path: token_at.clone(), error: error.to_string() };
        let token = fs::read_to_string(&token_at).map_err(unreadable)?;
        let tcp = TcpStream::connect((&*self.host, self.port)).await?;
        let tls = TlsConnector::from(Arc::new(self.client()?)).connect(name, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let body = patch.map(|patch| patch.to_string()).unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        // The path is of our own making and the host was a name for TLS already.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let mut set = |name, value: &str| headers.extend(value.parse().ok().map(|value| (Some(name), value)));
        set(header::HOST, &self.host);
        set(header::AUTHORIZATION, &format!("Bearer {}", token.trim()));
        set(header::ACCEPT, "application/json");
        set(header::CONTENT_TYPE, "application/json-patch+json");
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER);
        #[expect(clippy::disallowed_methods, reason = "limited")]
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let value = serde_json::from_slice(&body);
        Ok((status, value.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into())))
    }

    fn client(&self) -> Result<ClientConfig, ApiError> {
        let path = self.service_account.join("ca.crt");
        let wrong = |error: &dyn ToString| ApiError::Account { path: path.clone(), error: error.to_string() };
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(&path).map_err(|error| wrong(&error))? {
            roots.add(authority.map_err(|error| wrong(&error))?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
    }
}

/// RFC 6902; `None` if nothing is to be done. It applies to the version that was read and to no other.
fn patch(configuration: &Value, authorities: &[&str]) -> Option<Value> {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array)?;
    let changes = webhooks.iter().enumerate().filter_map(|(index, webhook)| {
        let bundle = webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str).unwrap_or_default();
        let value = bundle::with(bundle, authorities)?;
        let path = format!("/webhooks/{index}/clientConfig/caBundle");
        Some(json!({"op": "add", "path": path, "value": value}))
    });
    let changes: Vec<_> = changes.collect();
    let version = configuration.pointer("/metadata/resourceVersion");
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    (!changes.is_empty()).then(|| [vec![test], changes].concat().into())
}

fn refused(status: StatusCode, answer: &Value) -> ApiError {
    let words = answer.get("message").or(Some(answer)).and_then(Value::as_str);
    ApiError::Refused { status, message: words.unwrap_or_default().to_owned() }
}
