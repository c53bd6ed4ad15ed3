//! What a request must look like before it is routed: checks that need a parsed head.
//!
//! Those that need the raw bytes of an HTTP/1 head were made by the gate of the socket.

use http::{
    HeaderValue, Method, Version,
    header::{CONNECTION, HOST, UPGRADE},
    request::Parts,
};

use super::{headers::has_token, reply::Failure};
use crate::net::head::{MAX_HEADERS, is_authority};

/// `:method`, `:scheme`, `:authority` and `:path` count as headers, as in Envoy.
const PSEUDO_HEADERS: usize = 4;

/// Yields the authority that the request is routed by: that of the target, else Host.
///
/// # Errors
/// The [`Failure`] that the client gets.
pub(crate) fn check(parts: &Parts) -> Result<HeaderValue, Failure> {
    if parts.version == Version::HTTP_2 && parts.headers.len() + PSEUDO_HEADERS > MAX_HEADERS {
        return Err(Failure::ResetStream);
    }
    if parts.method == Method::CONNECT {
        return Err(Failure::NoRoute);
    }
    let authority = authority(parts)?;
    if parts.uri.path() == "*" {
        return Err(Failure::AsteriskPath);
    }
    let upgrades = parts.headers.get_all(CONNECTION).iter().any(|line| has_token(line, "upgrade"));
    let mut protocols = parts.headers.get_all(UPGRADE).iter();
    if upgrades && protocols.any(|line| !line.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        // WebSocket, too, until it is built.
        return Err(Failure::UpgradeFailed);
    }
    Ok(authority)
}

fn authority(parts: &Parts) -> Result<HeaderValue, Failure> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::InvalidAuthority);
    }
    let Some(target) = parts.uri.authority() else {
        let host = host.ok_or(Failure::MissingHost)?;
        return is_authority(host.as_bytes()).then(|| host.clone()).ok_or(Failure::InvalidAuthority);
    };
    let valid = is_authority(target.as_str().as_bytes());
    // HTTP/1: the target wins (RFC 9112 3.2.2). HTTP/2 has one authority only.
    let contradicted = parts.version == Version::HTTP_2
        && host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()));
    if !valid || contradicted {
        return Err(Failure::InvalidAuthority);
    }
    HeaderValue::from_str(target.as_str()).map_err(|_| Failure::InvalidAuthority)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn judged(uri: &str, version: Version, lines: &[(&str, &str)]) -> Result<String, Failure> {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts).map(|authority| authority.to_str().unwrap().to_owned())
    }

    const H1: Version = Version::HTTP_11;
    const H2: Version = Version::HTTP_2;

    #[test]
    fn the_authority_is_one_and_well_formed() {
        assert_eq!(judged("/", H1, &[("host", "a:80")]), Ok("a:80".into()));
        assert_eq!(judged("http://b/x", H1, &[("host", "a")]), Ok("b".into()));
        assert_eq!(judged("http://a/x", H2, &[]), Ok("a".into()));
        assert_eq!(judged("http://a/x", H2, &[("host", "A")]), Ok("a".into()));
        assert_eq!(judged("/", H1, &[]), Err(Failure::MissingHost));
        assert_eq!(judged("/", H1, &[("host", "a"), ("host", "a")]), Err(Failure::InvalidAuthority));
        assert_eq!(judged("http://a/x", H2, &[("host", "b")]), Err(Failure::InvalidAuthority));
        assert_eq!(judged("http://u@a/x", H1, &[]), Err(Failure::InvalidAuthority));
        assert_eq!(judged("/", H2, &[("host", "a b")]), Err(Failure::InvalidAuthority));
    }

    #[test]
    fn only_h2c_is_an_upgrade_that_may_be_ignored() {
        let upgrade = |protocol| {
            judged("/", H1, &[("host", "a"), ("connection", "keep-alive, Upgrade"), ("upgrade", protocol)])
        };
        assert_eq!(upgrade("h2c"), Ok("a".into()));
        assert_eq!(upgrade("websocket"), Err(Failure::UpgradeFailed));
        assert_eq!(upgrade("h2c, websocket"), Err(Failure::UpgradeFailed));
        assert_eq!(judged("/", H1, &[("host", "a"), ("upgrade", "websocket")]), Ok("a".into()));
    }

    #[test]
    fn http2_headers_are_counted_with_the_pseudo_headers() {
        let lines = vec![("x", "1"); 97];
        assert_eq!(judged("http://a/", H2, &lines[..96]), Ok("a".into()));
        assert_eq!(judged("http://a/", H2, &lines), Err(Failure::ResetStream));
    }
}
