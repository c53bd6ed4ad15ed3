//! Whether the certificate of a peer is believed: the chain by webpki, then who it names.

use std::sync::Arc;

use outrigger_config::snapshot::TrustDomains;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    peer::{Names, Refusal, WorkloadId},
    provider,
};

/// Judges the certificates of one side's peers, servers and clients alike.
#[derive(Debug)]
pub(super) struct Verifier {
    who: Who,
    algorithms: WebPkiSupportedAlgorithms,
    /// For clients: whom we believe.
    hints: Vec<DistinguishedName>,
    /// A client has to show a certificate.
    required: bool,
}

/// Who is believed.
#[derive(Debug)]
pub(super) enum Who {
    /// Everybody (Istio `insecureSkipVerify`).
    Anybody,
    /// Whom these vouch for.
    Vouched(Vouched),
}

/// A chain to one of the roots, and a name.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) roots: RootCertStore,
    pub(super) revoked: Vec<CertRevocationList<'static>>,
    /// Workloads of these domains; without, whoever has the name that was asked for.
    pub(super) workloads: Option<TrustDomains>,
    /// If there are any, one of these names must be there.
    pub(super) names: Box<[Arc<str>]>,
}

impl Verifier {
    pub(super) fn new(who: Who) -> Self {
        let hints = match &who {
            Who::Anybody => Vec::new(),
            Who::Vouched(vouched) => vouched.roots.subjects(),
        };
        Self { who, algorithms: provider().signature_verification_algorithms, hints, required: true }
    }

    /// Clients without a certificate are believed too.
    pub(super) fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        asked_for: Option<&ServerName<'_>>,
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Who::Vouched(vouched) = &self.who else { return Ok(()) };
        let end = EndEntityCert::try_from(certificate).map_err(refused)?;
        let lists: Vec<_> = vouched.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let (algorithms, roots) = (self.algorithms.all, &vouched.roots.roots);
        end.verify_for_usage(algorithms, roots, others, now, usage, revocation, None).map_err(refused)?;
        vouched.verify_name(&end, certificate, asked_for)
    }
}

impl Vouched {
    fn verify_name(
        &self,
        end: &EndEntityCert<'_>,
        certificate: &CertificateDer<'_>,
        asked_for: Option<&ServerName<'_>>,
    ) -> Result<(), Error> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| other(Refusal::Unreadable))?;
        let names = Names::of(&parsed).map_err(other)?;
        let mut shown =
            names.uris.first().copied().flatten().or(names.dns.first().copied()).unwrap_or_default();
        if let Some(domains) = &self.workloads {
            let id = WorkloadId::of(&names, &parsed).map_err(other)?;
            if !domains.contains(id.trust_domain) {
                return Err(other(Refusal::TrustDomain(id.trust_domain.into())));
            }
            shown = id.uri;
        }
        if self.names.is_empty() {
            return match (&self.workloads, asked_for) {
                (None, Some(name)) => end.verify_is_valid_for_subject_name(name).map_err(refused),
                _ => Ok(()),
            };
        }
        if self.names.iter().any(|expected| has_name(end, &names, expected)) {
            return Ok(());
        }
        Err(other(Refusal::Name(shown.into())))
    }
}

/// Byte by byte for URIs; as TLS compares names and addresses for the rest, a wildcard as Envoy does, with one. The subject's common name is none of them.
fn has_name(end: &EndEntityCert<'_>, names: &Names<'_>, expected: &str) -> bool {
    if names.uris.contains(&Some(expected)) {
        return true;
    }
    if expected.starts_with("*.") {
        return end.valid_dns_names().any(|name| name.eq_ignore_ascii_case(expected));
    }
    ServerName::try_from(expected).is_ok_and(|name| end.verify_is_valid_for_subject_name(&name).is_ok())
}

fn other(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

/// For the alert that the peer is sent, and for our own log.
fn refused(error: webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        webpki::Error::CertNotValidForName(_) => CertificateError::NotValidForName,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(certificate, others, Some(server_name), KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(certificate, others, None, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
