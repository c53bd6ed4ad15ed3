//! Header hygiene: what ends at this hop, what a client may not say, and what we add, in Envoy's order.
//!
//! Hop-by-hop and `Connection`-named headers go before any of ours come. The header operations of routes run here,
//! their values are made in [`format`](super::format).

use std::net::SocketAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, SERVER, TE, TRANSFER_ENCODING, UPGRADE,
    },
};
use outrigger_config::snapshot::{Direction, HeaderOps};

use super::format::{Facts, evaluate};
use crate::net::tls::Secured;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub(crate) const X_ENVOY_EXPECTED_RQ_TIMEOUT_MS: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(crate) const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub(crate) const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub(crate) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What only a mesh-internal caller may say, and the certificate header; a sidecar takes every caller for external (Envoy `cleanHeaders`).
const INTERNAL: [&str; 17] = [
    "x-envoy-force-trace",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-original-url",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-expected-rq-timeout-ms",
    "x-forwarded-client-cert",
];

/// Removes what must not pass from the client: hop-by-hop headers, those that any `Connection` line names, internal
/// `x-envoy-*` and the certificate header (SANITIZE). The framing stays whatever `Connection` says. `Host`
/// comes first, where it goes upstream by HTTP/1; its value counts no more, the authority is kept apart.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    let trailers = headers.get_all(TE).iter().any(|line| has_token(line, "trailers"));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let named = named_by_connection(headers);
    let passes = |name: &HeaderName| match name.as_str() {
        "te" => trailers,
        internal if internal.starts_with("x-") && INTERNAL.contains(&internal) => false,
        _ => !is_hop_by_hop(name) && *name != HTTP2_SETTINGS && !named.contains(name),
    };
    match headers.get(HOST).cloned().filter(|_| !begins_with_host(headers)) {
        Some(host) => *headers = behind_host(host, std::mem::take(headers), passes),
        None => retain(headers, passes),
    }
}

/// The headers of an HTTP/1 request to `authority`: `Host` stands first, as in Envoy.
pub(crate) fn with_host(headers: &HeaderMap, authority: &HeaderValue) -> HeaderMap {
    if !begins_with_host(headers) {
        return behind_host(authority.clone(), headers.clone(), |_| true);
    }
    let mut headers = headers.clone();
    headers.insert(HOST, authority.clone());
    headers
}

/// The headers of an HTTP/2 request, which has its authority elsewhere.
pub(crate) fn without_host(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    retain(&mut headers, |name| *name != HOST);
    headers
}

fn begins_with_host(headers: &HeaderMap) -> bool {
    headers.keys().next() == Some(&HOST)
}

fn behind_host(host: HeaderValue, headers: HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    // One more than there are: some of ours will follow.
    let mut kept = HeaderMap::with_capacity(headers.len() + 1);
    kept.insert(HOST, host);
    append(&mut kept, headers, |name| *name != HOST && passes(name));
    kept
}

/// Keeps the headers whose names pass, in their order: `HeaderMap::remove` moves the last one into the gap.
fn retain(headers: &mut HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    if headers.keys().all(&passes) {
        return;
    }
    let mut kept = HeaderMap::with_capacity(headers.len());
    append(&mut kept, std::mem::take(headers), passes);
    *headers = kept;
}

/// Removes these, and keeps the others in their order.
pub(crate) fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    retain(headers, |name| !names.contains(name));
}

fn append(kept: &mut HeaderMap, headers: HeaderMap, passes: impl Fn(&HeaderName) -> bool) {
    let mut current = None;
    // Further lines of a name come without it.
    for (name, value) in headers {
        if name.is_some() {
            current = name.filter(&passes);
        }
        if let Some(name) = &current {
            kept.append(name, value);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, UPGRADE, TRANSFER_ENCODING].contains(name)
}

/// Removes what ends at this hop from an upstream's answer. Headers that its `Connection` names stay, as in Envoy.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    retain(headers, |name| !is_hop_by_hop(name));
}

/// Removes from trailers what would change framing, routing or the connection if someone merged them into headers.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let passes = |name: &HeaderName| !is_hop_by_hop(name) && ![TE, CONTENT_LENGTH, HOST].contains(name);
    retain(trailers, passes);
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).iter().chain(headers.get_all(PROXY_CONNECTION));
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect()
}

/// The client as the last `x-forwarded-for` address names it, port unknown (Envoy without `use_remote_address`).
pub(crate) fn forwarded_for(headers: &HeaderMap) -> Option<SocketAddr> {
    let line = headers.get_all(X_FORWARDED_FOR).iter().next_back()?.to_str().ok()?;
    let last = line.rsplit(',').next()?.trim();
    Some(SocketAddr::new(last.parse().ok()?, 0))
}

/// What a client of the mesh says of those before it, and behind that what its own certificate says (Istio
/// `APPEND_FORWARD`); of one that is not, the latter alone (`SANITIZE_SET`, as at Istio's gateways). In place of what
/// [`clean_request`] removes.
pub(crate) fn forwarded_certificates(headers: &HeaderMap, secured: &Secured) -> Option<HeaderValue> {
    let own = secured.forwarded.as_ref()?;
    if !secured.parties.of_mesh() || !headers.contains_key(X_FORWARDED_CLIENT_CERT) {
        return Some(own.clone());
    }
    let before = headers.get_all(X_FORWARDED_CLIENT_CERT);
    let all: Vec<_> = before.iter().chain([own]).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b',')).ok()
}

/// Names another hop that the request came through; its lines become one.
pub(crate) fn forward_for(headers: &mut HeaderMap, address: &HeaderValue) {
    let mut hops: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    hops.push(address.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&hops.join(&b','))
        && !value.is_empty()
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// Whether a comma-separated value holds a token, parameters and case ignored.
pub(crate) fn has_token(value: &HeaderValue, token: &str) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|part| {
        let name = part.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

/// True for a gRPC request: `application/grpc`, with or without a suffix; not gRPC-Web.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Several cookie lines (HTTP/2 splits them) become one for HTTP/1 and for hashing.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in [second].into_iter().chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Istio's order: removals, then `set`, then `add`. An empty value is not added.
pub(crate) fn apply(ops: &HeaderOps, headers: &mut HeaderMap, facts: &Facts<'_>) {
    if !ops.remove.is_empty() {
        remove(headers, &ops.remove);
    }
    for (name, format) in &ops.set {
        match evaluate(format, facts, headers) {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
    for (name, format) in &ops.add {
        if let Some(value) = evaluate(format, facts, headers) {
            headers.append(name, value);
        }
    }
}

/// Overwrites the upstream's own name.
pub(crate) fn set_server(headers: &mut HeaderMap, direction: Direction) {
    let name = match direction {
        Direction::Inbound => "istio-envoy",
        Direction::Outbound => "envoy",
    };
    headers.insert(SERVER, HeaderValue::from_static(name));
}

/// Bytes of a head as HTTP/1 writes it; `line` is the length of its first line. For HTTP/2 it stands for the size
/// before compression.
pub(crate) fn head_size(line: usize, headers: &HeaderMap) -> u64 {
    let lines: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (line + lines + 4) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_stays_keeps_its_order_and_its_lines() {
        let mut map = headers(&[
            ("host", "a"),
            ("z", "1"),
            ("connection", "y"),
            ("b", "1"),
            ("y", "1"),
            ("b", "2"),
            ("a", "1"),
            ("x-envoy-internal", "1"),
            ("c", "1"),
        ]);
        clean_request(&mut map);
        let lines: Vec<_> =
            map.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(lines, [("host", "a"), ("z", "1"), ("b", "1"), ("b", "2"), ("a", "1"), ("c", "1")]);
    }

    #[test]
    fn host_comes_first_whatever_came_before_it() {
        let order = |map: &HeaderMap| map.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
        let mut map = headers(&[("a", "1"), ("b", "1"), ("host", "web"), ("c", "1")]);
        clean_request(&mut map);
        assert_eq!(order(&map), ["host", "a", "b", "c"]);
        let authority = HeaderValue::from_static("other");
        let sent = with_host(&map, &authority);
        assert_eq!((order(&sent), &sent[HOST]), (order(&map), &authority));
        let sent = with_host(&headers(&[("a", "1"), ("b", "1")]), &authority);
        assert_eq!((order(&sent), &sent[HOST]), (vec!["host".into(), "a".into(), "b".into()], &authority));
        assert_eq!(order(&without_host(&map)), ["a", "b", "c"]);
    }

    #[test]
    fn the_last_forwarded_address_is_the_client() {
        let client = |lines: &[(&str, &str)]| forwarded_for(&headers(lines)).map(|client| client.to_string());
        assert_eq!(client(&[("x-forwarded-for", "1.2.3.4, 5.6.7.8")]).as_deref(), Some("5.6.7.8:0"));
        assert_eq!(
            client(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "::1")]).as_deref(),
            Some("[::1]:0")
        );
        assert_eq!(client(&[("x-forwarded-for", "1.2.3.4, unknown")]), None);
        assert_eq!(client(&[]), None);
    }

    #[test]
    fn another_hop_is_named_behind_those_before_it() {
        let own = HeaderValue::from_static("10.0.0.1");
        for (lines, expected) in [
            (&[] as &[_], "10.0.0.1"),
            (&[("x-forwarded-for", "1.2.3.4, 5.6.7.8")], "1.2.3.4, 5.6.7.8,10.0.0.1"),
            (&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "::1")], "1.2.3.4,::1,10.0.0.1"),
        ] {
            let mut map = headers(lines);
            forward_for(&mut map, &own);
            assert_eq!(map.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn headers_named_by_any_connection_line_end_here() {
        let mut map = headers(&[
            ("host", "a"),
            ("content-length", "3"),
            ("connection", "keep-alive, X-Secret"),
            ("connection", "x-other,Host , content-length"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("x-kept", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive, x-third"),
            ("x-third", "1"),
            ("te", "deflate"),
            ("transfer-encoding", "chunked"),
        ]);
        clean_request(&mut map);
        assert_eq!(names(&map), ["content-length", "host", "x-kept"]);
    }

    #[test]
    fn of_te_only_trailers_is_kept() {
        let mut map = headers(&[("te", "deflate, trailers;q=0.5"), ("connection", "TE")]);
        clean_request(&mut map);
        assert_eq!(map.get(TE).unwrap(), "trailers");
    }

    #[test]
    fn upgrade_to_h2c_is_stripped() {
        let mut map = headers(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ]);
        clean_request(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn a_client_cannot_say_what_only_the_mesh_may() {
        let mut map = headers(&[
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-internal", "true"),
            ("x-forwarded-client-cert", "By=x"),
            ("x-envoy-original-path", "/kept"),
            ("x-envoy-external-address", "kept"),
            ("x-forwarded-for", "kept"),
        ]);
        clean_request(&mut map);
        assert_eq!(names(&map), ["x-envoy-external-address", "x-envoy-original-path", "x-forwarded-for"]);
    }

    #[test]
    fn headers_named_by_an_answers_connection_stay() {
        let mut map =
            headers(&[("connection", "close, x-kept"), ("x-kept", "1"), ("keep-alive", "timeout=1")]);
        clean_response(&mut map);
        assert_eq!(names(&map), ["x-kept"]);
    }

    #[test]
    fn trailers_keep_what_has_no_meaning_for_the_connection() {
        let mut map = headers(&[
            ("grpc-status", "0"),
            ("host", "a"),
            ("te", "trailers"),
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("connection", "x"),
            ("keep-alive", "1"),
            ("proxy-connection", "x"),
            ("upgrade", "x"),
            ("x", "1"),
        ]);
        clean_trailers(&mut map);
        assert_eq!(names(&map), ["grpc-status", "x"]);
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let grpc = |value| is_grpc(&headers(&[("content-type", value)]));
        assert!(grpc("application/grpc") && grpc("application/grpc+proto") && grpc("application/grpc;x"));
        assert!(!grpc("application/grpc-web") && !grpc("application/json") && !is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn cookie_lines_are_joined() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        join_cookies(&mut map);
        assert_eq!(map.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
