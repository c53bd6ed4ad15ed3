//! `outrigger webhook`: puts the sidecar into pods while the API server makes them.
//!
//! What is put in, and into which pods, is the business of the crate `outrigger-inject`. Here are the server and its
//! certificate: given by files, or made here and published with the API server.

mod api_server;
mod bundle;
mod certificate;
mod serve;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

pub use api_server::{ApiError, ApiServer};
pub use certificate::{CertificateError, Files};
use certificate::{Current, Made, make};
use outrigger_inject::{OnFailure, Options};
use rustls::{ServerConfig, crypto::ring::default_provider};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// What the webhook needs.
#[derive(Debug)]
pub struct Webhook {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What is put into pods.
    pub options: Options,
    /// What becomes of a pod that cannot be injected as it says.
    pub on_failure: OnFailure,
    /// Where the certificate comes from.
    pub certificate: Certificate,
    /// Between looks at the files, or at what the API server knows.
    pub interval: Duration,
}

/// Where the certificate comes from.
#[derive(Debug)]
pub enum Certificate {
    /// Whoever writes the files also tells the API server.
    Given(Files),
    /// Made here.
    Own(Own),
}

/// A certificate of our own.
#[derive(Debug)]
pub struct Own {
    /// What the API server calls us.
    pub names: Vec<String>,
    /// How long a certificate is valid.
    pub life: Duration,
    /// When the next one is made, well before the end.
    pub renew_after: Duration,
    /// Name of the `MutatingWebhookConfiguration` that is to trust it.
    pub configuration: String,
    /// Where that is.
    pub api_server: ApiServer,
}

/// Why the webhook does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// There is no certificate to show.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What answers need.
#[derive(Debug)]
struct Injector {
    options: Options,
    on_failure: OnFailure,
    /// The API server can know our certificate.
    trusted: AtomicBool,
    turns: serve::Turns,
}

/// A webhook that is bound.
#[derive(Debug)]
pub struct Bound {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    injector: Arc<Injector>,
    keeper: Keeper,
    interval: Duration,
}

/// What exchanges the certificate.
#[derive(Debug)]
struct Keeper {
    current: Arc<Current>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Given { files: Files, seen: certificate::Content },
    Own { own: Own, authority: String, made_at: Instant },
}

impl Webhook {
    /// Binds the address and gets the first certificate.
    ///
    /// # Errors
    /// There is no address or no certificate.
    pub async fn bind(self) -> Result<Bound, StartError> {
        let address = self.listen;
        let cannot = |error| StartError::Bind { address, error };
        let (certificate, source, trusted) = match self.certificate {
            Certificate::Given(files) => {
                let seen = files.content()?;
                (files.load(&seen)?, Source::Given { files, seen }, true)
            }
            Certificate::Own(own) => {
                let Made { authority, certificate } = make(&own.names, SystemTime::now(), own.life)?;
                (certificate, Source::Own { own, authority, made_at: Instant::now() }, false)
            }
        };
        let current = Arc::new(Current::new(certificate));
        let mut tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let injector = Injector {
            options: self.options,
            on_failure: self.on_failure,
            trusted: AtomicBool::new(trusted),
            turns: serve::Turns::default(),
        };
        Ok(Bound {
            address: listener.local_addr().map_err(cannot)?,
            listener,
            tls: Arc::new(tls),
            injector: Arc::new(injector),
            keeper: Keeper { current, source },
            interval: self.interval,
        })
    }
}

impl Bound {
    /// Serves until `stop` comes, and then until the open requests are answered.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let token = CancellationToken::new();
        let keep = keep(self.keeper, &self.injector, self.interval);
        let serve = serve::serve(self.listener, self.tls, Arc::clone(&self.injector), token.clone());
        let stop = async {
            stop.await;
            token.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serve => {}
            () = keep => {}
            () = stop => {}
        }
    }
}

/// Keeps the certificate fresh, forever.
async fn keep(keeper: Keeper, injector: &Injector, interval: Duration) {
    let Keeper { current, source } = keeper;
    match source {
        Source::Given { files, mut seen } => loop {
            sleep(interval).await;
            let content = match files.content() {
                Ok(content) if content != seen => content,
                // While Kubernetes swaps the folder a file may be missing.
                _ => continue,
            };
            match files.load(&content) {
                Ok(certificate) => {
                    current.exchange(certificate);
                    tracing::info!("the certificate was exchanged");
                }
                Err(error) => {
                    tracing::warn!(%error, "the certificate has changed and cannot be used: the old one stays");
                }
            }
            seen = content;
        },
        Source::Own { own, mut authority, mut made_at } => {
            let mut next: Option<Made> = None;
            loop {
                if next.is_none() && made_at.elapsed() >= own.renew_after {
                    match make(&own.names, SystemTime::now(), own.life) {
                        Ok(made) => next = Some(made),
                        Err(error) => tracing::warn!(%error, "the old certificate stays"),
                    }
                }
                let coming = next.as_ref().map(|made| &*made.authority);
                let authorities: Vec<&str> = [&*authority].into_iter().chain(coming).collect();
                let published = own.api_server.publish(&own.configuration, &authorities).await;
                match &published {
                    Ok(()) => injector.trusted.store(true, Relaxed),
                    Err(error) => {
                        tracing::warn!(%error, "the API server does not know our certificate authority");
                    }
                }
                // The API server sees the change by its own watch, well within the interval.
                sleep(interval).await;
                if let Some(made) = next.take_if(|_| published.is_ok()) {
                    current.exchange(made.certificate);
                    (authority, made_at) = (made.authority, Instant::now());
                    tracing::info!("the certificate was renewed");
                }
            }
        }
    }
}
