//! The texts of variables that name a receiver: a URL, and percent-encoded pairs.

use http::{Uri, uri::PathAndQuery};

/// Where a receiver is.
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
    /// `https`
    pub(super) secure: bool,
    /// No scheme is written.
    pub(super) bare: bool,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "expected a URL like `http://collector:4317`; nothing is exported";
        // gRPC exporters take `host:port` as well.
        let bare = !text.contains("://");
        let text = if bare { format!("http://{text}") } else { text.to_owned() };
        let uri: Uri = text.parse().map_err(|error| format!("{error}; {FORM}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(FORM.to_owned()),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().unwrap_or_default();
        // A port that is none is not said to be one; nor is user information.
        let port = match authority.strip_prefix(host) {
            Some("") if secure => 443,
            Some("") => 4318,
            _ => uri.port_u16().filter(|port| *port > 0).ok_or(FORM)?,
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.contains('@') {
            return Err(FORM.to_owned());
        }
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Ok(Self { host, port, path, secure, bare })
    }
}

pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escaped =
            (*byte == b'%').then(|| tail.get(..2).and_then(|two| std::str::from_utf8(two).ok())).flatten();
        match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}
