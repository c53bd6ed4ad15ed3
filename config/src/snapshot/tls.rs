//! How connections are secured, on the way in and on the way out: modes, names, and which files hold certificates and
//! keys. The files themselves are read by the proxy, again and again while it runs.

use std::sync::Arc;

/// How connections to the endpoints of a cluster are secured (Istio `DestinationRule.trafficPolicy.tls`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum UpstreamTls {
    /// Plain text: mode DISABLE, and clusters that no service stands behind.
    #[default]
    Off,
    /// No `tls` block: Istio's mutual TLS with every endpoint that [offers it](super::Endpoint::mutual) if the proxy has
    /// an identity of its own, plain text with the others.
    Auto(Arc<ClientTls>),
    /// What the rule says, with every endpoint.
    On(Arc<ClientTls>),
}

/// TLS to the endpoints of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Who we are and whom we believe.
    pub credentials: Credentials,
    /// What is asked for in the hello.
    pub server_name: ServerName,
}

/// What a side of a connection shows of itself, and whom it believes. Equal ones are loaded once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// What the peer is shown.
    pub identity: Identity,
    /// Who vouches for the peer.
    pub trust: Trust,
    /// Who the peer may be, exactly (Istio `subjectAltNames`). Without any, it is whoever the trust allows: a workload
    /// of the mesh, else whoever has the server name.
    pub names: Box<[Arc<str>]>,
    /// A file of certificates that were revoked.
    pub revoked: Option<Arc<str>>,
}

impl Credentials {
    /// The proxy's own identity, among the workloads of these domains.
    #[must_use]
    pub fn mesh(domains: TrustDomains) -> Self {
        Self { identity: Identity::Mesh, trust: Trust::Mesh(domains), names: Box::default(), revoked: None }
    }
}

/// What is shown to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Nothing (mode SIMPLE).
    Anonymous,
    /// The proxy's own identity (ISTIO_MUTUAL).
    Mesh,
    /// A certificate of its own for this destination (MUTUAL).
    Files(KeyFiles),
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyFiles {
    /// The certificate and those between it and the root, in PEM.
    pub certificates: Arc<str>,
    /// The private key, in PEM.
    pub key: Arc<str>,
}

/// Who vouches for a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The roots of the proxy's own identity, for workloads of these domains.
    Mesh(TrustDomains),
    /// The roots in a file.
    File(Arc<str>),
    /// The roots of the system.
    System,
    /// Nobody: every certificate is taken (Istio `insecureSkipVerify`).
    Nobody,
}

/// The name in a client's hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerName {
    /// Always this one.
    Is(Arc<str>),
    /// The host of the request; of a raw connection, which has none, this service.
    OfRequest(Arc<str>),
}

/// Whose workloads are believed: SPIFFE trust domains, compared byte by byte. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustDomains(Box<[Arc<str>]>);

impl TrustDomains {
    /// The proxy's own domain and the aliases of it (Istio `trustDomainAliases`).
    #[must_use]
    pub fn new(own: Arc<str>, aliases: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self(std::iter::once(own).chain(aliases).collect())
    }

    /// Whether workloads of this domain are believed.
    #[must_use]
    pub fn contains(&self, domain: &str) -> bool {
        self.0.iter().any(|known| **known == *domain)
    }

    /// All of them, the proxy's own first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter()
    }
}

/// How connections are taken at a listener or port (Istio `PeerAuthentication`, and `Sidecar.ingress.tls`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum InboundTls {
    /// Bytes as they come (DISABLE); every outbound listener.
    #[default]
    Off,
    /// Mutual TLS or plain text, as the client begins (PERMISSIVE); plain text alone if the proxy has no identity.
    Permissive(TrustDomains),
    /// Mutual TLS alone (STRICT); nobody is served if the proxy has no identity.
    Strict(TrustDomains),
    /// TLS of the port's own, alone (Istio `Sidecar.ingress.tls`); nobody is served without its files.
    Own(Arc<ServerTls>),
}

/// TLS with clients that are not of the mesh (Istio `ServerTLSSettings`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// What clients are shown, and who vouches for them.
    pub credentials: Credentials,
    /// What becomes of their certificates.
    pub clients: ClientCertificates,
    /// Of the versions that are spoken.
    pub oldest: TlsVersion,
    /// Not before `oldest`.
    pub newest: TlsVersion,
    /// Of TLS 1.2, all if it is empty; TLS 1.3 has its own.
    pub suites: Box<[CipherSuite]>,
}

/// What becomes of the certificate of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// None is asked for (SIMPLE).
    Ignored,
    /// One that is shown has to be good (OPTIONAL_MUTUAL).
    Verified,
    /// Without a good one nobody is served (MUTUAL).
    Required,
}

impl ClientCertificates {
    /// The mode, as Istio calls it.
    #[must_use]
    pub const fn mode(self) -> &'static str {
        match self {
            Self::Ignored => "SIMPLE",
            Self::Verified => "OPTIONAL_MUTUAL",
            Self::Required => "MUTUAL",
        }
    }
}

/// The versions of TLS that are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// What encrypts TLS 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CipherSuite {
    /// For ECDSA certificates.
    EcdsaAes128,
    /// For RSA certificates.
    RsaAes128,
    /// For ECDSA certificates.
    EcdsaAes256,
    /// For RSA certificates.
    RsaAes256,
    /// For ECDSA certificates.
    EcdsaChacha20,
    /// For RSA certificates.
    RsaChacha20,
}

impl CipherSuite {
    /// All that are spoken.
    pub const ALL: [Self; 6] = [
        Self::EcdsaAes128,
        Self::RsaAes128,
        Self::EcdsaAes256,
        Self::RsaAes256,
        Self::EcdsaChacha20,
        Self::RsaChacha20,
    ];

    /// Its name in OpenSSL, Envoy and Istio.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaAes128 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::RsaAes128 => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::EcdsaAes256 => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::RsaAes256 => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::EcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::RsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }
}
