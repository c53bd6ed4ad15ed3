//! The client's side: TLS with an endpoint.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use outrigger_config::snapshot::{ClientTls, ServerName};
use rustls::{ClientConfig, Error, pki_types};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    Parties, Peer, Secret, Secrets, Speaks, Stream, TlsFailure, provider,
    verify::{Verifier, Who},
};

/// How connections to an endpoint are secured. Equal ones may share connections.
#[derive(Debug, Clone)]
pub(crate) struct Security {
    secret: Arc<Secret>,
    server_name: ServerName,
}

impl PartialEq for Security {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.secret, &other.secret) && self.server_name == other.server_name
    }
}

impl Security {
    pub(crate) fn new(tls: &ClientTls, secrets: &Secrets) -> Self {
        Self { secret: secrets.of(&tls.credentials), server_name: tls.server_name.clone() }
    }

    /// Which credentials they are.
    pub(crate) fn id(&self) -> u64 {
        self.secret.id()
    }

    /// The name of the hello, which may be the host that a request asks for: connections for another name are others.
    pub(crate) fn asked_for(&self, authority: &[u8]) -> Option<Arc<str>> {
        match &self.server_name {
            ServerName::Is(name) => Some(Arc::clone(name)),
            ServerName::OfRequest(service) => {
                let host =
                    std::str::from_utf8(authority).ok().map(without_port).filter(|host| !host.is_empty());
                Some(host.map_or_else(|| Arc::clone(service), Arc::from))
            }
        }
    }

    /// What a new connection begins with. `asked_for` is the host of the request, if it counts.
    ///
    /// # Errors
    /// [`TlsFailure::Unusable`] within: files are missing or broken, or there is no name to ask for.
    pub(crate) fn offer(&self, asked_for: Option<&str>, speaks: Speaks) -> io::Result<Offer> {
        let unusable = |why: Arc<str>| io::Error::other(TlsFailure::Unusable(why));
        let (config, own) = match &**self.secret.state() {
            Ok(ready) => {
                let config = ready.client(speaks).map_err(io::Error::other)?;
                (Arc::clone(config), ready.own.clone())
            }
            Err(why) => return Err(unusable(Arc::clone(why))),
        };
        let mesh = self.secret.is_of_mesh();
        let name = match &self.server_name {
            ServerName::Is(name) => name,
            ServerName::OfRequest(service) => asked_for.unwrap_or(service),
        };
        let name = pki_types::ServerName::try_from(name.to_owned())
            .map_err(|_| unusable(format!("{name:?} is no server name for TLS").into()))?;
        Ok(Offer { config, own, mesh, name, speaks })
    }
}

/// `[::1]:80` and `[::1]` are `::1`.
fn without_port(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    }
}

/// What an endpoint is offered; made before a connection, which is not even begun if there is nothing to offer.
#[derive(Debug)]
pub(crate) struct Offer {
    config: Arc<ClientConfig>,
    own: Option<Arc<Peer>>,
    /// The peer is to be a workload of the mesh.
    mesh: bool,
    name: pki_types::ServerName<'static>,
    speaks: Speaks,
}

impl Offer {
    /// Shakes hands on a new connection; says who is there.
    ///
    /// # Errors
    /// [`TlsFailure`] within, or that of the socket.
    pub(crate) async fn shake(self, stream: TcpStream) -> io::Result<(Stream, Option<Arc<Parties>>)> {
        let connecting = TlsConnector::from(self.config).connect(self.name, stream);
        let stream = connecting.await.map_err(TlsFailure::of)?;
        let (_, state) = stream.get_ref();
        let fits = match (state.alpn_protocol(), self.speaks) {
            (None | Some(b"istio"), _) | (_, Speaks::Raw) => true,
            (Some(name), Speaks::Http1) => matches!(name, b"http/1.1" | b"istio-http/1.1"),
            (Some(name), Speaks::Http2) => matches!(name, b"h2" | b"istio-h2"),
        };
        if !fits {
            let name = state.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
            return Err(io::Error::other(TlsFailure::Protocol(name.into())));
        }
        let peer = state.peer_certificates().and_then(|chain| Peer::of(chain.first()?));
        let parties =
            peer.map(|peer| Arc::new(Parties { peer: Some(peer), own: self.own, of_mesh: self.mesh }));
        Ok((Stream::Tls(Box::new(TlsStream::Client(stream))), parties))
    }
}

/// Encrypts without asking who is there, as kubelet does for a probe. For nothing that carries anybody's data.
///
/// # Errors
/// [`TlsFailure`] within, or that of the socket.
pub(crate) async fn unverified(stream: TcpStream) -> io::Result<Stream> {
    static CONFIG: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
        let verifier = Arc::new(Verifier::new(Who::Anybody));
        let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Arc::new(config))
    });
    let config = CONFIG.as_ref().map_err(|error| TlsFailure::of(io::Error::other(error.clone())))?;
    let name = pki_types::ServerName::from(stream.peer_addr()?.ip());
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
    Ok(Stream::Tls(Box::new(TlsStream::Client(shaken.map_err(TlsFailure::of)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_no_port_and_no_brackets() {
        for (authority, host) in
            [("a.b:80", "a.b"), ("a.b", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("", "")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}
