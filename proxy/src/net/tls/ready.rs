//! One set of credentials as it was read: what either side says in a handshake with them. Which files they are, and when
//! they are read, is not decided here.

use std::{path::PathBuf, sync::Arc};

use outrigger_config::snapshot::{Credentials, ServerTls, Trust};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::CertificateDer,
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{
    Peer, Speaks, TlsFailure,
    files::Content,
    protocols, provider,
    serving::{self, Inside, Servers},
    verify::{Verifier, Vouched, Who},
};

/// What is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// For connections to endpoints; those of the mesh for its clients, too.
    Credentials(Credentials),
    /// For the clients of a port that has TLS of its own.
    Server(ServerTls),
}

impl Wanted {
    pub(super) fn credentials(&self) -> &Credentials {
        match self {
            Self::Credentials(credentials) => credentials,
            Self::Server(tls) => &tls.credentials,
        }
    }
}

/// Credentials that work.
#[derive(Debug)]
pub(super) struct Ready {
    /// By what is spoken; none for [`Wanted::Server`].
    client: Option<[Arc<ClientConfig>; 3]>,
    /// Of the mesh, and for [`Wanted::Server`].
    server: Option<Servers>,
    pub(super) own: Option<Arc<Peer>>,
    pub(super) shown: Vec<CertificateFile>,
}

/// A file with certificates that is in use.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFile {
    pub(crate) path: PathBuf,
    /// Roots, rather than our own.
    pub(crate) authority: bool,
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
}

impl Ready {
    /// Of what stands in the files. The error names the one that cannot be used.
    pub(super) fn new(wanted: &Wanted, content: &Content) -> Result<Self, Arc<str>> {
        let Credentials { trust, names, .. } = wanted.credentials();
        let key_pair = content.key_pair()?.map(Arc::new);
        let workloads = match trust {
            Trust::Mesh(domains) => Some(domains.clone()),
            Trust::File(_) | Trust::System | Trust::Nobody => None,
        };
        let who = match trust {
            Trust::Nobody => Who::Anybody,
            Trust::Mesh(_) | Trust::File(_) | Trust::System => Who::Vouched(Vouched {
                roots: content.roots()?,
                revoked: content.revoked()?,
                workloads,
                names: names.clone(),
            }),
        };
        let verifier = Verifier::new(who);
        let own = key_pair.as_ref().and_then(|pair| Peer::of(pair.cert.first()?)).map(Arc::new);
        let shown = content.shown().into_iter().zip([false, true]).filter_map(|(file, authority)| {
            let (path, certificates) = file?;
            Some(CertificateFile { path: path.to_owned(), authority, certificates: certificates.into() })
        });
        let shown = shown.collect();
        let (client, server) = match wanted {
            Wanted::Server(tls) => {
                (None, key_pair.as_ref().map(|pair| serving::own(tls, verifier, pair)).transpose()?)
            }
            Wanted::Credentials(_) => {
                let (verifier, mesh) = (Arc::new(verifier), matches!(trust, Trust::Mesh(_)));
                let pair = key_pair.as_ref().filter(|_| mesh);
                let server = pair.map(|pair| serving::mesh(&verifier, pair)).transpose()?;
                (Some(client(&verifier, key_pair.as_ref(), mesh)?), server)
            }
        };
        Ok(Self { client, server, own, shown })
    }

    pub(super) fn client(&self, speaks: Speaks) -> Result<&Arc<ClientConfig>, TlsFailure> {
        match (&self.client, speaks) {
            (Some([http1, ..]), Speaks::Http1) => Ok(http1),
            (Some([_, http2, _]), Speaks::Http2) => Ok(http2),
            (Some([.., raw]), Speaks::Raw) => Ok(raw),
            (None, _) => Err(TlsFailure::Unusable("these are for clients".into())),
        }
    }

    pub(super) fn server(&self, inside: Inside) -> Result<&Arc<ServerConfig>, TlsFailure> {
        let none = || TlsFailure::Unusable("there is no certificate to show".into());
        Ok(self.server.as_ref().ok_or_else(none)?.of(inside))
    }
}

/// Istio's names and the standard one, by what is spoken; outside of the mesh the standard one alone.
fn client(
    verifier: &Arc<Verifier>,
    key_pair: Option<&Arc<CertifiedKey>>,
    mesh: bool,
) -> Result<[Arc<ClientConfig>; 3], Arc<str>> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Arc::from(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<_>);
    let mut config = match key_pair {
        Some(pair) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair)))),
        None => config.with_no_client_auth(),
    };
    if key_pair.is_some() {
        // A session that is resumed verifies nobody again.
        config.resumption = Resumption::disabled();
    }
    let names: [&[&str]; 3] = if mesh {
        // Without `istio-peer-exchange`: the bytes of raw connections begin with the client's own.
        [&["istio-http/1.1", "istio", "http/1.1"], &["istio-h2", "istio", "h2"], &["istio"]]
    } else {
        [&["http/1.1"], &["h2"], &[]]
    };
    Ok(names.map(|names| {
        let mut config = config.clone();
        config.alpn_protocols = protocols(names);
        Arc::new(config)
    }))
}
