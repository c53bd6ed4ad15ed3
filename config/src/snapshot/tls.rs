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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// How connections are taken at a listener or port (Istio `PeerAuthentication`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum InboundTls {
    /// Bytes as they come (DISABLE); every outbound listener.
    #[default]
    Off,
    /// Mutual TLS or plain text, as the client begins (PERMISSIVE); plain text alone if the proxy has no identity.
    Permissive(TrustDomains),
    /// Mutual TLS alone (STRICT); nobody is served if the proxy has no identity.
    Strict(TrustDomains),
}
