//! The certificate that the webhook shows: read from files or made here, and exchanged while it serves.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::net::tls::pem_problem;

/// What is shown to the next client.
#[derive(Debug)]
pub(super) struct Current(ArcSwap<CertifiedKey>);

impl Current {
    pub(super) fn new(certificate: CertifiedKey) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    pub(super) fn exchange(&self, certificate: CertifiedKey) {
        self.0.store(Arc::new(certificate));
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A certificate chain and its key, PEM.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, the webhook's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file that cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file that holds something else.
    #[error("{} is not what it should be: {problem} (PEM is expected)", path.display())]
    Pem {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The two do not belong together, or the key is of a kind that is not known.
    #[error("certificate and key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
    /// None can be made.
    #[error("cannot make a certificate: {0}")]
    Made(#[from] rcgen::Error),
}

/// The bytes of both files, by which a change is seen.
#[derive(PartialEq, Eq)]
pub(super) struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Content {
    /// No key is shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").finish_non_exhaustive()
    }
}

impl Files {
    pub(super) fn content(&self) -> Result<Content, CertificateError> {
        let read = |path: &Path| {
            let unreadable = |error| CertificateError::Unreadable { path: path.to_owned(), error };
            std::fs::read(path).map_err(unreadable)
        };
        Ok(Content { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// A pair that does not fit together, half of a rotation say, is an error.
    pub(super) fn load(&self, content: &Content) -> Result<CertifiedKey, CertificateError> {
        let pem = |path: &Path| {
            let path = path.to_owned();
            move |error| CertificateError::Pem { path, problem: pem_problem(&error) }
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.certificate).collect();
        let chain = chain.map_err(pem(&self.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(pem(&self.key))?;
        Ok(CertifiedKey::from_der(chain, key, &default_provider())?)
    }
}

/// A certificate made here, by an authority that is made with it and whose key is forgotten.
#[derive(Debug)]
pub(super) struct Made {
    /// PEM, for the API server.
    pub(super) authority: String,
    pub(super) certificate: CertifiedKey,
}

/// Clocks of other machines may be behind.
const SKEW: Duration = Duration::from_secs(3600);

/// Makes a certificate for the names.
pub(super) fn make(names: &[String], now: SystemTime, life: Duration) -> Result<Made, CertificateError> {
    let valid = |mut params: CertificateParams, name: &str| {
        params.not_before = (now - SKEW).into();
        params.not_after = (now + life).into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = valid(CertificateParams::default(), "outrigger-webhook-ca");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = valid(CertificateParams::new(names)?, "outrigger-webhook");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let chain = vec![leaf.signed_by(&key, &issuer)?.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Made {
        authority: authority_pem,
        certificate: CertifiedKey::from_der(chain, key, &default_provider())?,
    })
}
