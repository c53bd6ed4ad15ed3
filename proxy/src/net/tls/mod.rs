//! TLS on either side of the proxy, by rustls: who we are, whom we believe, and the handshakes.
//!
//! [`Secrets`] loads what the configuration names from files and follows their changes; [`Security`] begins TLS with an
//! endpoint, [`take`] ends it for a client. What goes over the connection afterwards, and when a connection is secured,
//! is not decided here. Nothing is resumed on the way in, and no early data is sent or taken.

mod accept;
mod files;
mod hello;
mod originate;
mod peek;
mod peer;
mod ready;
mod secrets;
mod serving;
mod stream;
mod verify;

use std::{
    fmt, io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use rustls::crypto::CryptoProvider;

pub(crate) use accept::{FIRST_WORD, Inbound, Secured, Taken, take};
pub(crate) use files::{Identity, pem_problem};
pub(crate) use hello::{Hello, RECORD, read as read_hello};
pub(crate) use originate::{Security, unverified};
pub(crate) use peek::{Sniffed, hello};
pub(crate) use peer::{Parties, Peer, namespace};
pub(crate) use ready::CertificateFile;
pub(crate) use secrets::{Secret, Secrets};
pub(crate) use stream::Stream;

/// How long a client may take to its end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// The one provider of cryptography.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}

fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// What is spoken inside, by which ALPN names are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// Bytes of which nothing is known.
    Raw,
}

/// Why a connection could not be secured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TlsFailure {
    /// What the configuration names cannot be used: nothing was sent.
    Unusable(Arc<str>),
    /// The peer, or what it sent, was refused, or it refused us.
    Handshake(rustls::Error),
    /// It agreed to speak something that was not offered.
    Protocol(Box<str>),
    /// A client speaks plain text where TLS alone is taken.
    Plaintext,
    /// The handshake took too long.
    Late,
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(why) => f.write_str(why),
            Self::Handshake(rustls::Error::InvalidCertificate(why)) => match why {
                rustls::CertificateError::Other(other) => write!(f, "certificate refused: {other}"),
                why => write!(f, "certificate refused: {why}"),
            },
            Self::Handshake(error) => error.fmt(f),
            Self::Protocol(name) => write!(f, "the peer chose the protocol {name:?}"),
            Self::Late => f.write_str("the handshake took too long"),
            Self::Plaintext => f.write_str("plain text is not taken here"),
        }
    }
}

impl std::error::Error for TlsFailure {}

impl TlsFailure {
    /// The reason within an error of the socket, if that is what it is about.
    pub(crate) fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    fn of(error: io::Error) -> io::Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => io::Error::other(Self::Handshake(inner.clone())),
            None => error,
        }
    }
}
