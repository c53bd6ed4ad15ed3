//! Certificates of a mesh, good and bad, and a TLS peer that shows them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

/// The root of a mesh.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named("mesh root");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Self { issuer: Issuer::new(params, key), certificate: der, pem }
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// A certificate with these particulars.
    pub(crate) fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }

    /// The list of the certificates with these serial numbers, which count no more.
    pub(crate) fn revoking(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// That of a workload.
    pub(crate) fn workload(&self, id: &str) -> Pair {
        self.issue(&workload(id))
    }

    /// The folder with a workload's identity; what was there is replaced file by file, in an order in which a reader may
    /// find a pair that does not fit.
    pub(crate) fn write(&self, folder: &Path, id: &str) {
        let pair = self.workload(id);
        let write = |name: &str, text: &str| {
            let fresh = folder.join(format!(".{name}"));
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(fresh, folder.join(name)).unwrap();
        };
        write("root-cert.pem", &self.pem);
        write("cert-chain.pem", &pair.pem);
        write("key.pem", &pair.key.serialize_pem());
    }

    /// The same in a folder of its own.
    pub(crate) fn identity(&self, id: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        self.write(folder.path(), id);
        folder
    }
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Pair {
    pub(crate) fn files(&self, folder: &Path, name: &str) -> [PathBuf; 2] {
        let [chain, key] = ["crt", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
        std::fs::write(&chain, &self.pem).unwrap();
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        [chain, key]
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.private()).unwrap();
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }
}

/// The particulars of a good workload.
pub(crate) fn workload(id: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub(crate) fn address(ip: std::net::IpAddr) -> SanType {
    SanType::IpAddress(ip)
}

pub(crate) fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}

/// Names as raw URIs, which need not be text (RFC 5280 4.2.1.6).
pub(crate) fn raw_uris(uris: &[&[u8]]) -> CustomExtension {
    let names: Vec<u8> =
        uris.iter().flat_map(|uri| [&[0x86, u8::try_from(uri.len()).unwrap()], *uri].concat()).collect();
    let length = u8::try_from(names.len()).unwrap();
    assert!(length < 128, "a short form of length");
    CustomExtension::from_oid_content(&[2, 5, 29, 17], [&[0x30, length][..], &names].concat())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client that believes everything.
pub(crate) fn client(shows: Option<&Pair>, protocols: &[&str]) -> Arc<ClientConfig> {
    client_of(shows, protocols, rustls::DEFAULT_VERSIONS)
}

/// The same that speaks these versions.
pub(crate) fn client_of(
    shows: Option<&Pair>,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match shows {
        Some(pair) => {
            config.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair.certified())))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A server that shows what it is told to, and asks for a certificate of this authority if there is one.
pub(crate) fn server(
    shows: impl ResolvesServerCert + 'static,
    asks: Option<&Authority>,
    protocols: &[&str],
) -> Arc<ServerConfig> {
    let config =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = match asks {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.root()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => config.with_no_client_auth(),
    };
    let mut config = config.with_cert_resolver(Arc::new(shows));
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Shows one certificate, which can be exchanged.
#[derive(Debug, Clone)]
pub(crate) struct Shows(Arc<std::sync::Mutex<Arc<CertifiedKey>>>);

impl Shows {
    pub(crate) fn new(pair: &Pair) -> Self {
        Self(Arc::new(std::sync::Mutex::new(pair.certified())))
    }

    pub(crate) fn show(&self, pair: &Pair) {
        *self.0.lock().unwrap() = pair.certified();
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock().unwrap()))
    }
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
