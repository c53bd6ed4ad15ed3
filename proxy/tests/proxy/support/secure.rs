//! TLS around the harness: a front before a plain origin, and a client of a TLS listener.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{
    client::{Client, connect},
    wait::soon,
};

/// What a client has agreed on with a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) server_name: Option<String>,
    pub(crate) protocol: Option<String>,
    /// The certificate that it has shown.
    pub(crate) certificate: Option<Vec<u8>>,
}

/// Ends TLS and passes the bytes on to a plain origin.
pub(crate) struct Front {
    address: SocketAddr,
    agreed: Arc<Mutex<Vec<Agreed>>>,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    pub(crate) async fn before(origin: SocketAddr, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let agreed = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, record) = (TlsAcceptor::from(config), Arc::clone(&agreed));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, record) = (acceptor.clone(), Arc::clone(&record));
                connections.spawn(async move {
                    // A client that refuses us has its reasons, which the test looks at there.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let (_, state) = stream.get_ref();
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    record.lock().unwrap().push(Agreed {
                        server_name: state.server_name().map(Into::into),
                        protocol: state.alpn_protocol().map(text),
                        certificate: state.peer_certificates().map(|chain| chain[0].to_vec()),
                    });
                    let mut plain = TcpStream::connect(origin).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                });
            }
        });
        Self { address, agreed, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn agreed(&self) -> Vec<Agreed> {
        self.agreed.lock().unwrap().clone()
    }
}

/// Shakes hands with a listener.
pub(crate) async fn shake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    TlsConnector::from(config)
        .connect("outbound_.7070_._.web".try_into().unwrap(), connect(address).await)
        .await
}

/// The first bytes of an answer; `None` if the client was refused. With TLS 1.3 that shows after the handshake.
pub(crate) async fn asked(address: SocketAddr, config: Arc<ClientConfig>) -> Option<Vec<u8>> {
    let mut stream = shake(address, config).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.ok()?;
    let mut answer = vec![0; 12];
    soon("an answer", stream.read_exact(&mut answer)).await.ok()?;
    Some(answer)
}

/// A client over TLS; which HTTP it speaks is its own business.
pub(crate) async fn http1(stream: TlsStream<TcpStream>) -> Client {
    let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Client::Http1(sender)
}

pub(crate) async fn http2(stream: TlsStream<TcpStream>) -> Client {
    let (sender, connection) =
        conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Client::Http2(sender)
}
