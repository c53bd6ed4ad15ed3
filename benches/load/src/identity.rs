//! Who is who under mutual TLS: an authority that lives for one run, and an identity for the client, the proxy and the
//! origin. Each side of the bench's own believes the one certificate that it expects at the other end and nobody else,
//! so that an answer proves who encrypted it. How the proxies judge is their own affair.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as Subject, Error,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{Outcome, serve::Protocol};

/// The certificate of a workload, its key, and the roots of the mesh: the names that Istio's agent gives them.
pub(crate) const FILES: [&str; 3] = ["cert-chain.pem", "key.pem", "root-cert.pem"];
/// Whose word counts in the mesh.
pub(crate) const TRUST_DOMAIN: &str = "cluster.local";

/// Somebody with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    Client,
    Proxy,
    Origin,
}

impl Party {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Origin => "origin",
        }
    }

    /// What its certificate says of it.
    pub(crate) fn id(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/default/sa/{}", self.name())
    }
}

/// A folder that has one for each party.
#[derive(Debug, Clone)]
pub(crate) struct Identities(PathBuf);

impl Identities {
    /// Issues all of them, with keys as Istio has them in their cheapest form: ECDSA, P-256.
    pub(crate) fn issue(folder: &Path) -> Outcome<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        for party in [Party::Client, Party::Proxy, Party::Origin] {
            let mut params = CertificateParams::new(Vec::new())?;
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = vec![SanType::URI(party.id().try_into()?)];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &issuer)?.pem();
            let own = folder.join(party.name());
            fs::create_dir_all(&own)?;
            for (name, text) in FILES.into_iter().zip([certificate, key.serialize_pem(), root.clone()]) {
                fs::write(own.join(name), text)?;
            }
        }
        Ok(Self::in_folder(folder))
    }

    /// Those that another process issued.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The folder of one party.
    pub(crate) fn of(&self, party: Party) -> PathBuf {
        self.0.join(party.name())
    }

    /// How `own` speaks to `peer`.
    pub(crate) fn client(&self, own: Party, peer: Party, protocol: Protocol) -> Outcome<Arc<ClientConfig>> {
        let (chain, key) = self.shown(own)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.only(peer)?)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = offered(protocol).map(|name| name.as_bytes().to_vec()).into();
        // A handshake is a full one, whatever a server hands out.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// How `own` takes `peer`.
    pub(crate) fn server(&self, own: Party, peer: Party, protocol: Protocol) -> Outcome<Arc<ServerConfig>> {
        let (chain, key) = self.shown(own)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(self.only(peer)?)
            .with_single_cert(chain, key)?;
        let [.., standard] = offered(protocol);
        config.alpn_protocols = vec![standard.as_bytes().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn shown(&self, own: Party) -> Outcome<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let [chain, key, _] = FILES.map(|name| self.of(own).join(name));
        Ok((vec![CertificateDer::from_pem_file(chain)?], PrivateKeyDer::from_pem_file(key)?))
    }

    fn only(&self, peer: Party) -> Outcome<Arc<Only>> {
        let [chain, _, roots] = FILES.map(|name| self.of(peer).join(name));
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_file(roots)?)?;
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider()).build()?;
        Ok(Arc::new(Only { expected: CertificateDer::from_pem_file(chain)?, chains }))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Names of a protocol, as Istio's sidecars offer them: its own, and last the standard one.
pub(crate) fn offered(protocol: Protocol) -> [&'static str; 3] {
    match protocol {
        Protocol::H1 => ["istio-http/1.1", "istio", "http/1.1"],
        Protocol::H2 => ["istio-h2", "istio", "h2"],
    }
}

/// Whether a protocol's names hold what was agreed on.
pub(crate) fn agreed(protocol: Protocol, name: Option<&[u8]>) -> bool {
    name.is_some_and(|name| offered(protocol).iter().any(|offered| offered.as_bytes() == name))
}

/// Believes one certificate. A workload's is for clients and servers alike, so one rule for chains does for both.
#[derive(Debug)]
struct Only {
    expected: CertificateDer<'static>,
    chains: Arc<dyn ClientCertVerifier>,
}

impl Only {
    fn judge(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *shown != self.expected {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.chains.verify_client_cert(shown, others, now)
    }
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(shown, others, now).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[Subject] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(shown, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
