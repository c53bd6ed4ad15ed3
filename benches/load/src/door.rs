//! Where something listens, and how one gets in: as it is, or by mutual TLS.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::either::Either;

use crate::{
    Outcome,
    identity::{Identities, Party, agreed},
    intent::HOST,
    serve::Protocol,
};

/// A connection of the bench's own.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A way to a listener.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, Protocol)>,
}

impl Door {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// `own` wants to be known there, and to find `peer`.
    pub(crate) fn mutual(
        address: SocketAddr,
        identities: &Identities,
        (own, peer): (Party, Party),
        protocol: Protocol,
    ) -> Outcome<Self> {
        Ok(Self { address, tls: Some((identities.client(own, peer, protocol)?, protocol)) })
    }

    /// The same listener without TLS.
    pub(crate) fn without_tls(&self) -> Self {
        Self::plain(self.address)
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// A new connection.
    pub(crate) async fn open(&self) -> Outcome<Stream> {
        let connected = TcpStream::connect(self.address).await;
        let stream = connected.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_nodelay(true)?;
        let Some((config, protocol)) = &self.tls else { return Ok(Either::Left(stream)) };
        let name = ServerName::try_from(HOST)?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
        let (_, state) = stream.get_ref();
        if !agreed(*protocol, state.alpn_protocol()) {
            return Err(format!("agreed on {:?} for {protocol:?}", state.alpn_protocol()).into());
        }
        Ok(Either::Right(Box::new(TlsStream::Client(stream))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend,
        load::{
            h1::{Connection, Requests},
            h2,
        },
    };

    async fn ask(door: &Door) -> Outcome<()> {
        Connection::open(door).await?.exchange(Requests::new().of(0)).await
    }

    async fn call(door: &Door) -> Outcome<()> {
        let requests = h2::Requests::new(h2::Call::Grpc)?;
        requests.exchange(&mut h2::open(door).await?, 0).await
    }

    #[tokio::test(flavor = "local")]
    async fn the_origin_answers_the_proxy_alone_and_nothing_in_plain_text() {
        let folder = tempfile::tempdir().unwrap();
        let identities = Identities::issue(folder.path()).unwrap();
        let backend = backend::start(&identities).unwrap();
        let door = |parties, protocol| {
            let endpoints = backend.endpoints(true);
            let addresses = if protocol == Protocol::H1 { &endpoints.h1 } else { &endpoints.h2 };
            Door::mutual(addresses[0], &identities, parties, protocol).unwrap()
        };
        let (proxy, stranger) = ((Party::Proxy, Party::Origin), (Party::Client, Party::Origin));
        ask(&door(proxy, Protocol::H1)).await.unwrap();
        call(&door(proxy, Protocol::H2)).await.unwrap();
        ask(&door(stranger, Protocol::H1)).await.unwrap_err();
        call(&door(stranger, Protocol::H2)).await.unwrap_err();
        ask(&door(proxy, Protocol::H1).without_tls()).await.unwrap_err();
        call(&door(proxy, Protocol::H2).without_tls()).await.unwrap_err();
    }

    #[tokio::test(flavor = "local")]
    async fn a_client_finds_whom_it_looks_for_or_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let identities = Identities::issue(folder.path()).unwrap();
        let backend = backend::start(&identities).unwrap();
        let [secured, plain] = [true, false].map(|mtls| backend.endpoints(mtls).h1[0]);
        let open = async |address, peer, protocol| {
            Door::mutual(address, &identities, (Party::Proxy, peer), protocol).unwrap().open().await
        };
        open(secured, Party::Origin, Protocol::H1).await.unwrap();
        open(secured, Party::Client, Protocol::H1).await.unwrap_err();
        open(secured, Party::Origin, Protocol::H2).await.unwrap_err();
        open(plain, Party::Origin, Protocol::H1).await.unwrap_err();
    }
}
