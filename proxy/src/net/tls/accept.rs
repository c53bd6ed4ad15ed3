//! The server's side: TLS with clients, by the proxy's own identity or a certificate of the port's own.

use std::{cell::RefCell, io, sync::Arc, time::Duration};

use http::{HeaderValue, Version};
use rustls::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{
    HANDSHAKE, Parties, Peer, Secret, Stream, TlsFailure, hello,
    peek::{self, Sniffed},
    serving::Inside,
};

/// How long raw bytes that may be plain text are waited for: a server may be the one to speak first.
pub(crate) const FIRST_WORD: Duration = Duration::from_secs(5);

/// How connections are taken at a listener.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    pub(crate) secret: Arc<Secret>,
    /// Plain text is taken, too (PERMISSIVE).
    pub(crate) plaintext: bool,
    /// How long raw bytes that may be plain text are waited for.
    pub(crate) first_word: Duration,
}

/// A connection that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stream: Stream,
    /// `None` without TLS.
    pub(crate) secured: Option<Arc<Secured>>,
    /// The client said nothing in time, and is taken for one whose server speaks first.
    pub(crate) silent: bool,
}

/// What was agreed with a client.
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) parties: Arc<Parties>,
    /// What the workload is told of the client; `None` if it has shown nothing, or a header cannot say it.
    pub(crate) forwarded: Option<HeaderValue>,
    /// What it said that it would speak.
    protocol: Option<Box<[u8]>>,
    pub(crate) server_name: Option<Box<str>>,
}

impl Taken {
    /// As it came.
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), secured: None, silent: false }
    }
}

impl Secured {
    /// Whether HTTP of this version was agreed on; a client that offers nothing of the kind speaks what it likes.
    pub(crate) fn agrees_to(&self, version: Version) -> bool {
        match self.protocol.as_deref() {
            Some(b"h2" | b"istio-h2") => version == Version::HTTP_2,
            Some(b"http/1.1" | b"istio-http/1.1" | b"istio-http/1.0") => version == Version::HTTP_11,
            _ => true,
        }
    }
}

/// Takes a connection: `raw` if its bytes are passed on, whatever they are. TLS that is not of the mesh passes unopened
/// there, as in Istio, where plain text does. `idle` limits the wait for the first byte, `space` a hello. `None`: the
/// client sent nothing, or left.
///
/// # Errors
/// It is refused: [`TlsFailure`] within, or the socket's own error.
pub(crate) async fn take(
    stream: TcpStream,
    inbound: &Inbound,
    raw: bool,
    idle: Duration,
    space: &RefCell<Vec<u8>>,
) -> io::Result<Option<Taken>> {
    let plain = |stream| Ok(Some(Taken::plain(stream)));
    let mut first = [0];
    let wait = if raw && inbound.plaintext { idle.min(inbound.first_word) } else { idle };
    match timeout(wait, stream.peek(&mut first)).await {
        // A client that only listens.
        Ok(Ok(0)) if raw && inbound.plaintext => return plain(stream),
        Ok(Ok(0)) => return Ok(None),
        Ok(peeked) => drop(peeked?),
        Err(_) if raw && inbound.plaintext => {
            return Ok(Some(Taken { silent: true, ..Taken::plain(stream) }));
        }
        Err(_) => return Ok(None),
    }
    let [first] = first;
    if first != hello::RECORD {
        if inbound.plaintext {
            return plain(stream);
        }
        return Err(io::Error::other(TlsFailure::Plaintext));
    }
    let mut inside = if raw { Inside::Bytes } else { Inside::Requests };
    if raw && (inbound.plaintext || !inbound.secret.is_of_mesh()) {
        match peek::hello(&stream, idle, space).await? {
            Sniffed::Hello(Some(asked)) if asked.mutual && inbound.plaintext => {}
            Sniffed::Hello(_) if inbound.plaintext => return plain(stream),
            Sniffed::Hello(Some(asked)) if asked.requests => {}
            Sniffed::Hello(_) => inside = Inside::OtherBytes,
            Sniffed::Silent | Sniffed::Unfinished => return Ok(None),
        }
    }
    shake(stream, inbound, inside).await.map(Some)
}

async fn shake(stream: TcpStream, inbound: &Inbound, inside: Inside) -> io::Result<Taken> {
    let (config, own) = match &**inbound.secret.state() {
        Ok(ready) => (Arc::clone(ready.server(inside).map_err(io::Error::other)?), ready.own.clone()),
        Err(why) => return Err(io::Error::other(TlsFailure::Unusable(Arc::clone(why)))),
    };
    let shaken = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
    let stream =
        shaken.unwrap_or_else(|_| Err(io::Error::other(TlsFailure::Late))).map_err(TlsFailure::of)?;
    let (_, state) = stream.get_ref();
    let of_mesh = inbound.secret.is_of_mesh();
    let peer = match state.peer_certificates().and_then(<[_]>::first) {
        // Whoever had to show one was refused without.
        None if !of_mesh => None,
        shown => match shown.and_then(Peer::of) {
            Some(peer) => Some(peer),
            None => return Err(io::Error::other(TlsFailure::Handshake(Error::NoCertificatesPresented))),
        },
    };
    let parties = Parties { peer, own, of_mesh };
    let secured = Secured {
        forwarded: parties.forwarded().and_then(|text| HeaderValue::try_from(text).ok()),
        parties: Arc::new(parties),
        protocol: state.alpn_protocol().map(Into::into),
        server_name: state.server_name().map(Into::into),
    };
    Ok(Taken {
        stream: Stream::Tls(Box::new(TlsStream::Server(stream))),
        secured: Some(Arc::new(secured)),
        silent: false,
    })
}
