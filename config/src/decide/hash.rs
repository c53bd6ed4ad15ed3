//! The key for ring hash and Maglev: Envoy `hash_policy` over XXH64, bit for bit.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, HOST},
};
use twox_hash::XxHash64;

use super::{RequestView, matching::query_value};
use crate::snapshot::{HashCookie, HashPolicy};

/// The two ends of the client's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peers {
    /// The client.
    pub remote: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
}

/// What the policies yield.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hashed {
    /// `None`: any host will do.
    pub key: Option<u64>,
    /// `Set-Cookie` lines for the response.
    pub cookies: Vec<HeaderValue>,
}

/// XXH64 as Envoy's `HashUtil::xxHash64`.
#[must_use]
pub fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// The key of a client's address, without its port.
#[must_use]
pub fn source_key(address: IpAddr) -> u64 {
    xxh64(address.to_string().as_bytes(), 0)
}

/// Combines all policies: `key = rotl(key, 1) ^ next`, in their order; a policy that yields nothing is passed over.
#[must_use]
pub fn hash_key(policies: &[HashPolicy], request: &RequestView<'_>, peers: Peers) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        if let Some(next) = policy_hash(policy, request, peers, &mut hashed.cookies) {
            hashed.key = Some(combined(hashed.key, next));
        }
    }
    hashed
}

/// What one policy yields; a cookie that it makes is added to `cookies`.
// Explain is its second caller, for which the request path is not to pay a call.
#[inline(always)]
pub(crate) fn policy_hash(
    policy: &HashPolicy,
    request: &RequestView<'_>,
    peers: Peers,
    cookies: &mut Vec<HeaderValue>,
) -> Option<u64> {
    match policy {
        // Envoy keeps Host as `:authority`.
        HashPolicy::Header(name) if *name == HOST => Some(xxh64(request.authority.as_bytes(), 0)),
        HashPolicy::Header(name) => header_hash(request.headers, name),
        HashPolicy::Cookie(cookie) => cookie_hash(cookie, request.headers, peers, cookies),
        HashPolicy::SourceIp => Some(source_key(peers.remote.ip())),
        HashPolicy::Query(key) => {
            let value = request.query().and_then(|query| query_value(Some(query), key));
            value.map(|value| xxh64(value.as_bytes(), 0))
        }
    }
}

/// The key with one more part.
pub(crate) fn combined(key: Option<u64>, next: u64) -> u64 {
    key.map_or(0, |key| key.rotate_left(1)) ^ next
}

/// All values, sorted bytewise; each hash is the seed of the next.
fn header_hash(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(xxh64(first.as_bytes(), 0));
    };
    let mut values: Vec<&[u8]> =
        [first, second].into_iter().chain(lines).map(HeaderValue::as_bytes).collect();
    values.sort_unstable();
    Some(values.into_iter().fold(0, |seed, value| xxh64(value, seed)))
}

fn cookie_hash(
    cookie: &HashCookie,
    headers: &HeaderMap,
    peers: Peers,
    set: &mut Vec<HeaderValue>,
) -> Option<u64> {
    if let Some(value) = cookie_value(headers, &cookie.name) {
        return Some(xxh64(value, 0));
    }
    // Without one nobody makes the cookie.
    cookie.ttl?;
    let value = format!("{:016x}", xxh64(format!("{}{}", peers.remote, peers.local).as_bytes(), 0));
    // A name or path that no header can carry was refused when the policy was compiled.
    set.extend(HeaderValue::try_from(cookie.line(&value)));
    Some(xxh64(value.as_bytes(), 0))
}

/// First cookie of that name; surrounding quotes do not count, an empty one is absent.
pub(crate) fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let value = pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = pair.split_at(at);
        (key == name.as_bytes()).then(|| value.get(1..).unwrap_or_default())
    })?;
    let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;

    use super::*;
    use crate::snapshot::CookieAttribute;

    const SESSION: HeaderName = HeaderName::from_static("x-session-id");

    fn peers() -> Peers {
        Peers { remote: "10.0.0.9:51234".parse().unwrap(), local: "10.0.0.1:8080".parse().unwrap() }
    }

    fn hash(policies: &[HashPolicy], lines: &[(HeaderName, &str)], path: &str) -> Hashed {
        let headers: HeaderMap =
            lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        let request = RequestView {
            method: &Method::GET,
            scheme: "http",
            authority: "a",
            path_and_query: path,
            headers: &headers,
        };
        hash_key(policies, &request, peers())
    }

    fn header_key(values: &[&str]) -> Option<u64> {
        let lines: Vec<_> = values.iter().map(|value| (SESSION, *value)).collect();
        hash(&[HashPolicy::Header(SESSION)], &lines, "/").key
    }

    #[test]
    fn one_value_is_its_xxh64() {
        assert_eq!(header_key(&["alice"]), Some(8332761332120969289));
        assert_eq!(header_key(&[""]), Some(17241709254077376921), "present but empty is hashed");
        assert_eq!(header_key(&[]), None);
    }

    #[test]
    fn host_is_the_authority() {
        let key = hash(&[HashPolicy::Header(HOST)], &[(HOST, "ignored")], "/").key;
        assert_eq!(key, Some(xxh64(b"a", 0)));
    }

    #[test]
    fn several_values_are_sorted_and_chained() {
        assert_eq!(xxh64(b"bar", xxh64(b"foo", 0)), 17745830980996999794);
        assert_eq!(header_key(&["foo", "bar"]), Some(6648465492906218751));
        assert_eq!(header_key(&["bar", "foo"]), Some(6648465492906218751));
    }

    #[test]
    fn policies_combine_by_rotation() {
        let twice = [HashPolicy::Header(SESSION), HashPolicy::Header(SESSION)];
        let key = |policies: &[HashPolicy]| hash(policies, &[(SESSION, "alice")], "/?k=bob").key;
        assert_eq!(key(&twice), Some(10728769313519608027));
        let mixed = [HashPolicy::Header(SESSION), HashPolicy::Query("k".into())];
        assert_eq!(key(&mixed), Some(8484885790741369001));
        let absent = [HashPolicy::Query("none".into()), HashPolicy::Header(SESSION)];
        assert_eq!(key(&absent), Some(8332761332120969289));
    }

    #[test]
    fn a_missing_cookie_is_made_only_with_a_ttl() {
        let cookie = |ttl| {
            let cookie = HashCookie::new("sess".into(), Some("/p".into()), ttl, Box::default());
            [HashPolicy::Cookie(Box::new(cookie))]
        };
        assert_eq!(hash(&cookie(None), &[], "/"), Hashed::default());
        let made = hash(&cookie(Some(Duration::from_secs(60))), &[], "/");
        assert_eq!(made.key, Some(18242507199497365792));
        assert_eq!(made.cookies, ["sess=\"11b50479a824e41e\"; Max-Age=60; Path=/p; HttpOnly"]);
        let session = hash(&cookie(Some(Duration::ZERO)), &[(COOKIE, "sess=")], "/");
        assert_eq!(session.cookies, ["sess=\"11b50479a824e41e\"; Path=/p; HttpOnly"]);
        let sent = hash(&cookie(None), &[(COOKIE, "a=b; sess=\"alice\"; sess=bob")], "/");
        assert_eq!(sent, Hashed { key: Some(8332761332120969289), cookies: vec![] });
    }

    /// Envoy 1.40 says the same; `e2e/hash_diff.py` asks it.
    #[test]
    fn the_attributes_of_a_made_cookie_stand_before_http_only() {
        let attributes = [("SameSite", "Lax"), ("Secure", "")]
            .map(|(name, value)| CookieAttribute { name: name.into(), value: value.into() });
        let ttl = Some(Duration::from_secs(60));
        let cookie = HashCookie::new("sess".into(), Some("/p".into()), ttl, attributes.into());
        let made = hash(&[HashPolicy::Cookie(Box::new(cookie))], &[], "/");
        let line = "sess=\"11b50479a824e41e\"; Max-Age=60; Path=/p; SameSite=Lax; Secure; HttpOnly";
        assert_eq!(made.cookies, [line]);
    }
}
