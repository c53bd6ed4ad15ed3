//! Istio's `HTTPMatchRequest` on one request: `VirtualService.http.match`.

use http::HeaderMap;

use super::RequestView;
use crate::snapshot::{HeaderKey, HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};

/// One condition of a [`RouteMatch`].
#[derive(Debug, Clone, Copy)]
pub enum Condition<'s> {
    /// On the path.
    Path(&'s PathMatch),
    /// On a header or pseudo header.
    Header(&'s HeaderMatch),
    /// On a query parameter.
    Query(&'s QueryMatch),
}

impl Condition<'_> {
    /// Whether the request fulfils it.
    #[must_use]
    pub fn holds(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Path(path) => path.matches(request.path()),
            Self::Header(header) => header.holds(request),
            Self::Query(query) => query.holds(request.query()),
        }
    }
}

impl RouteMatch {
    /// True if every condition holds.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.path.matches(request.path())
            && self.headers.iter().all(|condition| condition.holds(request))
            && self.query.iter().all(|condition| condition.holds(request.query()))
    }

    /// Its conditions, in the order in which [`matches`](Self::matches) looks at them.
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        std::iter::once(Condition::Path(&self.path))
            .chain(self.headers.iter().map(Condition::Header))
            .chain(self.query.iter().map(Condition::Query))
    }
}

impl PathMatch {
    /// Compares a path without query.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Prefix { value, ignore_case: false } => path.starts_with(&**value),
            Self::Prefix { value, ignore_case: true } => path
                .as_bytes()
                .get(..value.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(value.as_bytes())),
            Self::Exact { value, ignore_case: false } => path == &**value,
            Self::Exact { value, ignore_case: true } => path.eq_ignore_ascii_case(value),
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

impl HeaderMatch {
    /// Whether the condition holds, turned round where it is to be (`withoutHeaders`).
    #[must_use]
    pub fn holds(&self, request: &RequestView<'_>) -> bool {
        let holds = match &self.key {
            HeaderKey::Method => self.value.matches(request.method.as_str()),
            HeaderKey::Scheme => self.value.matches(request.scheme),
            HeaderKey::Authority => self.value.matches(request.authority),
            HeaderKey::Path => self.value.matches(request.path_and_query),
            HeaderKey::Name(name) => self.any_line_matches(request.headers, name),
        };
        holds != self.invert
    }

    /// Lines are compared one by one (Envoy 1.40). A value that is not UTF-8 fits nothing, and a condition that must
    /// not hold is then taken to hold: what cannot be read is never let through by an exclusion.
    fn any_line_matches(&self, headers: &HeaderMap, name: &http::HeaderName) -> bool {
        let mut lines = headers.get_all(name).iter().peekable();
        if lines.peek().is_none() {
            return self.invert && self.value.matches_absent();
        }
        lines.any(|line| match str::from_utf8(line.as_bytes()) {
            Ok(text) => self.value.matches(text.trim_matches([' ', '\t'])),
            Err(_) => matches!(self.value, ValueMatch::Present) || self.invert,
        })
    }
}

impl QueryMatch {
    /// Whether the first value of the parameter fits.
    #[must_use]
    pub fn holds(&self, query: Option<&str>) -> bool {
        query_value(query, &self.key).is_some_and(|value| self.value.matches(value))
    }
}

/// The first value of a parameter, not decoded; one without `=` is empty.
pub(crate) fn query_value<'q>(query: Option<&'q str>, key: &str) -> Option<&'q str> {
    query.unwrap_or_default().split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then_some(value)
    })
}

impl ValueMatch {
    /// Compares a value that is there.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(exact) => value == &**exact,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Regex(regex) => regex.is_match(value),
        }
    }

    /// For `withoutHeaders`: an absent header counts as the empty string, but is not present.
    fn matches_absent(&self) -> bool {
        !matches!(self, Self::Present) && self.matches("")
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Method};
    use regex::Regex;

    use super::*;

    const X: HeaderName = HeaderName::from_static("x");

    fn header(value: ValueMatch, invert: bool, lines: &[&str]) -> bool {
        let headers: HeaderMap =
            lines.iter().map(|line| (X, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect();
        HeaderMatch { key: HeaderKey::Name(X), value, invert }.holds(&RequestView {
            method: &Method::GET,
            scheme: "http",
            authority: "a",
            path_and_query: "/",
            headers: &headers,
        })
    }

    fn exact(value: &str) -> ValueMatch {
        ValueMatch::Exact(value.into())
    }

    #[test]
    fn several_lines_of_a_header_match_one_by_one() {
        assert!(header(exact("a"), false, &["a", "b"]));
        assert!(header(exact("b"), false, &["a", "b"]));
        assert!(!header(exact("a,b"), false, &["a", "b"]));
        assert!(header(exact("a, b"), false, &["a, b"]));
        assert!(!header(exact("a"), false, &["a, b"]));
    }

    #[test]
    fn an_empty_value_is_present_and_equals_the_empty_string() {
        assert!(header(exact(""), false, &[""]));
        assert!(header(ValueMatch::Present, false, &[""]));
        assert!(!header(exact(""), false, &[]));
        assert!(!header(ValueMatch::Present, false, &[]));
    }

    #[test]
    fn without_headers_takes_an_absent_header_for_the_empty_string() {
        assert!(header(exact("foo"), true, &[]), "absent is not foo");
        assert!(header(exact("foo"), true, &["bar"]));
        assert!(!header(exact("foo"), true, &["foo"]));
        assert!(header(ValueMatch::Present, true, &[]));
        assert!(!header(ValueMatch::Present, true, &[""]), "an empty value is present");
        assert!(!header(ValueMatch::Regex(Regex::new("^(?:.*)$").unwrap()), true, &[]), "absent matches .*");
    }

    #[test]
    fn an_unreadable_value_never_passes_an_exclusion() {
        let line = HeaderValue::from_bytes(b"\xff").unwrap();
        let headers = HeaderMap::from_iter([(X, line)]);
        let request = RequestView {
            method: &Method::GET,
            scheme: "http",
            authority: "a",
            path_and_query: "/",
            headers: &headers,
        };
        let condition = |invert| HeaderMatch { key: HeaderKey::Name(X), value: exact("a"), invert };
        assert!(!condition(false).holds(&request));
        assert!(!condition(true).holds(&request));
    }

    #[test]
    fn path_prefix_is_a_plain_string_prefix() {
        let prefix = PathMatch::Prefix { value: "/api".into(), ignore_case: false };
        assert!(prefix.matches("/apiv2") && !prefix.matches("/API"));
        let prefix = PathMatch::Prefix { value: "/api".into(), ignore_case: true };
        assert!(prefix.matches("/APIv2") && !prefix.matches("/ap") && !prefix.matches("/a\u{e4}"));
    }

    #[test]
    fn query_takes_the_first_value_undecoded() {
        let query = |value: ValueMatch, query: &str| QueryMatch { key: "k".into(), value }.holds(Some(query));
        assert!(query(exact("1"), "k=1&k=2"));
        assert!(!query(exact("2"), "k=1&k=2"));
        assert!(query(exact(""), "k") && query(exact(""), "k="));
        assert!(!query(exact("a b"), "k=a%20b") && query(exact("a%20b"), "k=a%20b"));
        assert!(!query(ValueMatch::Present, "K=1"));
    }
}
