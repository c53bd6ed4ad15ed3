//! What the server's side says in a handshake: to workloads of the mesh, and to the clients of a port that has TLS of its
//! own. Nothing is resumed, as no session would be verified again.

use std::sync::Arc;

use outrigger_config::snapshot::{CipherSuite, ClientCertificates, ServerTls, TlsVersion};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::{protocols, provider, verify::Verifier};

/// By what is inside.
#[derive(Debug)]
pub(super) struct Servers([Arc<ServerConfig>; 3]);

/// What is inside of TLS, by which ALPN names are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    Requests,
    Bytes,
    /// The same of a client that names no version of HTTP: to a port that is not of the mesh it may speak what it likes.
    OtherBytes,
}

impl Servers {
    pub(super) fn of(&self, inside: Inside) -> &Arc<ServerConfig> {
        let Self([requests, bytes, other]) = self;
        match inside {
            Inside::Requests => requests,
            Inside::Bytes => bytes,
            Inside::OtherBytes => other,
        }
    }
}

/// Istio's names, and the standard ones of requests.
pub(super) fn mesh(verifier: &Arc<Verifier>, pair: &Arc<CertifiedKey>) -> Result<Servers, Arc<str>> {
    let clients = Arc::clone(verifier) as Arc<_>;
    let names: [&[&str]; 3] = [
        &["h2", "http/1.1", "istio-h2", "istio-http/1.1", "istio-http/1.0", "istio"],
        &["istio"],
        &["istio"],
    ];
    servers(Arc::clone(provider()), &[&TLS13, &TLS12], clients, pair, names)
}

/// The standard names, which gRPC insists on also where bytes are all that is seen of it (Istio `ALPNHttp`).
pub(super) fn own(
    tls: &ServerTls,
    verifier: Verifier,
    pair: &Arc<CertifiedKey>,
) -> Result<Servers, Arc<str>> {
    let clients: Arc<dyn ClientCertVerifier> = match tls.clients {
        ClientCertificates::Ignored => WebPkiClientVerifier::no_client_auth(),
        ClientCertificates::Verified => Arc::new(verifier.optional()),
        ClientCertificates::Required => Arc::new(verifier),
    };
    let versions: Vec<_> = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)]
        .into_iter()
        .filter(|(version, _)| (tls.oldest..=tls.newest).contains(version))
        .map(|(_, version)| version)
        .collect();
    servers(with(&tls.suites), &versions, clients, pair, [&HTTP, &HTTP, &[]])
}

const HTTP: [&str; 2] = ["h2", "http/1.1"];

/// The provider with these suites of TLS 1.2 alone.
fn with(suites: &[CipherSuite]) -> Arc<CryptoProvider> {
    if suites.is_empty() {
        return Arc::clone(provider());
    }
    let mut provider = CryptoProvider::clone(provider());
    let chosen: Vec<_> = suites.iter().copied().map(number).collect();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some() || chosen.contains(&suite.suite()));
    Arc::new(provider)
}

fn number(suite: CipherSuite) -> rustls::CipherSuite {
    use rustls::CipherSuite as Number;
    match suite {
        CipherSuite::EcdsaAes128 => Number::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaAes128 => Number::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaAes256 => Number::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaAes256 => Number::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaChacha20 => Number::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaChacha20 => Number::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn servers(
    provider: Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    clients: Arc<dyn ClientCertVerifier>,
    pair: &Arc<CertifiedKey>,
    names: [&[&str]; 3],
) -> Result<Servers, Arc<str>> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| Arc::from(error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Servers(names.map(|names| {
        let mut config = config.clone();
        config.alpn_protocols = protocols(names);
        Arc::new(config)
    })))
}
