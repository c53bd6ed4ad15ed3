//! What a certificate says of its owner: SPIFFE identity, names, subject.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The tag of a URI among the names of a certificate (RFC 5280 4.2.1.6).
const URI: u32 = 6;
/// SPIFFE-ID 2.3.
const LONGEST_ID: usize = 2048;

/// Who is at the other end of a connection, as far as its certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The first URI: `spiffe://cluster.local/ns/default/sa/default`.
    pub(crate) uri: Option<Arc<str>>,
    /// DNS names.
    pub(crate) dns: Box<[Box<str>]>,
    /// As RFC 4514 writes it; may be empty.
    pub(crate) subject: Box<str>,
    /// SHA-256 of the certificate, in hexadecimal.
    pub(crate) hash: Box<str>,
}

impl Peer {
    /// Of the first certificate of a chain; `None` if it cannot be read, which no verified one is.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = Names::of(&parsed).ok()?;
        Some(Self {
            uri: names.uris.first().and_then(|uri| *uri).map(Arc::from),
            dns: names.dns.into_iter().map(Into::into).collect(),
            subject: subject(&parsed).into(),
            hash: hexadecimal(digest(&SHA256, certificate).as_ref()).into(),
        })
    }
}

/// Both ends of a secured connection.
#[derive(Debug)]
pub(crate) struct Parties {
    /// `None` if it has shown nothing.
    pub(crate) peer: Option<Peer>,
    /// What we have shown, if anything.
    pub(crate) own: Option<Arc<Peer>>,
    /// The mesh vouches for the peer.
    pub(super) of_mesh: bool,
}

impl Parties {
    /// Who the peer is in the mesh; whoever is not of it may write into a certificate what it likes.
    pub(crate) fn peer_principal(&self) -> Option<&Arc<str>> {
        self.peer.as_ref().filter(|_| self.of_mesh)?.uri.as_ref()
    }

    /// Whether the mesh vouches for the peer.
    pub(crate) fn of_mesh(&self) -> bool {
        self.of_mesh
    }

    /// Who we are to it.
    pub(crate) fn own_principal(&self) -> Option<&Arc<str>> {
        self.own.as_ref()?.uri.as_ref()
    }

    /// What `x-forwarded-client-cert` says of the peer, in Envoy's order and with Istio's parts: who was reached, the
    /// hash of the certificate, and the names in it. Nothing is said of a peer that has shown none.
    pub(super) fn forwarded(&self) -> Option<String> {
        let Peer { uri, dns, subject, hash } = self.peer.as_ref()?;
        let by = self.own_principal().map(|uri| format!("By={uri};")).unwrap_or_default();
        let uri = uri.as_deref().unwrap_or_default();
        let names: String = dns.iter().map(|name| format!(";DNS={name}")).collect();
        Some(format!("{by}Hash={hash};Subject=\"{subject}\";URI={uri}{names}"))
    }
}

/// The namespace within a SPIFFE identity of Istio's form.
pub(crate) fn namespace(uri: &str) -> Option<&str> {
    let (_, path) = uri.strip_prefix("spiffe://")?.split_once("/ns/")?;
    path.split('/').next().filter(|name| !name.is_empty())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 2253, the last part first, as Envoy writes it: `CN=a,O=b`.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let parts = certificate.subject().iter_rdn().map(|part| {
        let attributes = part.iter().map(|attribute| {
            let kind = attribute.attr_type();
            let name = match x509_parser::objects::oid2abbrev(kind, x509_parser::objects::oid_registry()) {
                Ok(name) => name.to_owned(),
                Err(_) => kind.to_id_string(),
            };
            format!("{name}={}", escaped(attribute.as_str().unwrap_or_default()))
        });
        attributes.collect::<Vec<_>>().join("+")
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, character) in value.chars().enumerate() {
        if ",+\"\\<>;".contains(character) || at == 0 && " #".contains(character) {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// The names of a certificate.
#[derive(Debug)]
pub(super) struct Names<'c> {
    /// One that is no text is `None`: it counts all the same.
    pub(super) uris: Vec<Option<&'c str>>,
    pub(super) dns: Vec<&'c str>,
}

impl<'c> Names<'c> {
    pub(super) fn of(certificate: &'c X509Certificate<'_>) -> Result<Self, Refusal> {
        let mut names = Self { uris: Vec::new(), dns: Vec::new() };
        let extension = certificate.subject_alternative_name().map_err(|_| Refusal::Unreadable)?;
        let Some(extension) = extension else { return Ok(names) };
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push(Some(uri)),
                GeneralName::Invalid(tag, _) if tag.0 == URI => names.uris.push(None),
                GeneralName::DNSName(name) => names.dns.push(name),
                _ => {}
            }
        }
        Ok(names)
    }
}

/// The identity of a workload: one URI, which is a SPIFFE id (X.509-SVID 2 and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkloadId<'c> {
    pub(super) uri: &'c str,
    pub(super) trust_domain: &'c str,
}

impl<'c> WorkloadId<'c> {
    pub(super) fn of(names: &Names<'c>, certificate: &X509Certificate<'_>) -> Result<Self, Refusal> {
        let uri = match *names.uris {
            [Some(uri)] => uri,
            [None] => return Err(Refusal::NoWorkload),
            [] => return Err(Refusal::NoUri),
            _ => return Err(Refusal::SeveralUris(names.uris.len())),
        };
        let id = Self::parse(uri).ok_or(Refusal::NoWorkload)?;
        match certificate.key_usage() {
            Ok(Some(usage)) if usage.value.key_cert_sign() || usage.value.crl_sign() => Err(Refusal::Signer),
            Ok(Some(usage)) if !usage.value.digital_signature() => Err(Refusal::NoSignature),
            Ok(_) => Ok(id),
            Err(_) => Err(Refusal::Unreadable),
        }
    }

    /// SPIFFE-ID 2: `spiffe://` in lower case, a trust domain of few characters, a path without empty or dotted parts.
    fn parse(uri: &'c str) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://").filter(|_| uri.len() <= LONGEST_ID)?;
        let (trust_domain, path) = rest.split_once('/')?;
        let in_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
        let fits =
            !trust_domain.is_empty() && trust_domain.bytes().all(in_domain) && path.split('/').all(part);
        fits.then_some(Self { uri, trust_domain })
    }
}

/// Why a certificate that somebody vouches for is refused all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Unreadable,
    NoUri,
    SeveralUris(usize),
    NoWorkload,
    Signer,
    NoSignature,
    TrustDomain(Box<str>),
    /// It is none of those that may be there.
    Name(Box<str>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("its extensions cannot be read"),
            Self::NoUri => f.write_str("it names no workload: there is no URI among its names"),
            Self::SeveralUris(count) => write!(f, "it has {count} URIs, and a workload has one name"),
            Self::NoWorkload => f.write_str("its URI is no SPIFFE identity"),
            Self::Signer => f.write_str("its key signs certificates or revocations, which no workload does"),
            Self::NoSignature => f.write_str("its key usage allows no signature"),
            Self::TrustDomain(domain) => write!(f, "the trust domain {domain:?} is not believed"),
            Self::Name(uri) => write!(f, "{uri:?} is not among the subjectAltNames that are expected"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_spiffe_identities_are_workloads() {
        for (uri, domain) in [
            ("spiffe://cluster.local/ns/default/sa/default", Some("cluster.local")),
            ("spiffe://a/b", Some("a")),
            ("spiffe://a-b_c.1/X.y-z_", Some("a-b_c.1")),
            ("spiffe://cluster.local", None),
            ("spiffe://cluster.local/", None),
            ("spiffe://cluster.local/ns//sa", None),
            ("spiffe://cluster.local/ns/../sa", None),
            ("spiffe://cluster.local/ns/./sa", None),
            ("spiffe://cluster.local/ns/sa/", None),
            ("spiffe:///ns/sa", None),
            ("SPIFFE://cluster.local/ns/sa", None),
            ("spiffe://Cluster.local/ns/sa", None),
            ("spiffe://user@cluster.local/ns/sa", None),
            ("spiffe://cluster.local:1/ns/sa", None),
            ("spiffe://cluster.local/ns?x", None),
            ("spiffe://cluster.local/ns#x", None),
            ("spiffe://cluster.local/%6es/x", None),
            ("spiffe://cluster.local/ns\0/x", None),
            ("spiffe://*/ns/x", None),
            ("https://cluster.local/ns/x", None),
            ("", None),
        ] {
            assert_eq!(WorkloadId::parse(uri).map(|id| id.trust_domain), domain, "{uri:?}");
        }
        let longest = format!("spiffe://a/{}", "x".repeat(LONGEST_ID - 11));
        assert!(WorkloadId::parse(&longest).is_some() && WorkloadId::parse(&(longest + "x")).is_none());
    }

    #[test]
    fn the_namespace_is_read_from_istio_s_form() {
        assert_eq!(namespace("spiffe://td/ns/web/sa/front"), Some("web"));
        assert_eq!(namespace("spiffe://td/workload"), None);
        assert_eq!(namespace("https://td/ns/web"), None);
    }
}
