//! Where a client is sent: the `location` that Envoy builds from the request and the redirect.

use std::borrow::Cow;

use super::{RequestView, rewritten};
use crate::snapshot::{PathRewrite, Redirect, RedirectScheme};

/// The `location` of a redirect. Without one it is the request's own URL, which Envoy gives with a `directResponse` of
/// 201 or 3xx.
#[must_use]
pub fn location(request: &RequestView<'_>, redirect: Option<&Redirect>) -> String {
    let scheme =
        redirect.and_then(|redirect| redirect.scheme).map_or(request.scheme, |scheme| match scheme {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        });
    let port = redirect.and_then(|redirect| redirect.port);
    let host = match redirect.and_then(|redirect| redirect.authority.as_deref()) {
        Some(authority) => authority,
        None => request_host(request, scheme, port.is_some()),
    };
    let path = new_path(redirect.and_then(|redirect| redirect.path.as_ref()), request.path_and_query);
    let slash = if path.starts_with('/') { "" } else { "/" };
    match port {
        Some(port) => format!("{scheme}://{host}:{port}{slash}{path}"),
        None => [scheme, "://", host, slash, &path].concat(),
    }
}

/// The query string stays, unless the new path has one.
fn new_path<'a>(path: Option<&PathRewrite>, asked: &'a str) -> Cow<'a, str> {
    match path {
        None => Cow::Borrowed(asked),
        Some(PathRewrite::Full(value)) if value.contains('?') => Cow::Owned(value.to_string()),
        Some(rewrite) => rewritten(rewrite, asked).unwrap_or(Cow::Borrowed(asked)),
    }
}

/// The request's host. Its port goes where another one is given, and where it was the default of another scheme.
fn request_host<'a>(request: &RequestView<'a>, scheme: &str, other_port: bool) -> &'a str {
    let authority = request.authority;
    let colon = match authority.strip_prefix('[') {
        Some(_) => authority.rfind("]:").map(|at| at + 1),
        None => authority.rfind(':'),
    };
    let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(at)) else { return authority };
    let came_by = request.headers.get("x-forwarded-proto").map_or(&b""[..], |value| value.as_bytes());
    let default_of_other =
        came_by != scheme.as_bytes() && matches!((came_by, port), (b"http", ":80") | (b"https", ":443"));
    if other_port || default_of_other { host } else { authority }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, StatusCode};

    use super::*;

    fn to() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            authority: None,
            port: None,
            path: None,
        }
    }

    fn uri(path: &str) -> Redirect {
        Redirect { path: Some(PathRewrite::Full(path.into())), ..to() }
    }

    fn located(scheme: &'static str, authority: &str, path: &str, redirect: Option<&Redirect>) -> String {
        let headers =
            HeaderMap::from_iter([("x-forwarded-proto".parse().unwrap(), HeaderValue::from_static(scheme))]);
        let request =
            RequestView { method: &Method::GET, scheme, authority, path_and_query: path, headers: &headers };
        location(&request, redirect)
    }

    #[test]
    fn a_location_is_built_as_envoy_builds_it() {
        let port = Redirect { port: 8443.try_into().ok(), ..to() };
        let https = Redirect { scheme: Some(RedirectScheme::Https), ..to() };
        let host = Redirect { authority: Some("other.example:99".into()), ..to() };
        let prefix = Redirect { path: Some(PathRewrite::Prefix { matched: 3, value: "/x".into() }), ..to() };
        let bare = Redirect { path: Some(PathRewrite::Prefix { matched: 4, value: "x".into() }), ..to() };
        for (redirect, authority, path, expected) in [
            (bare, "web", "/old/a", "http://web/x/a"),
            (uri("/new"), "web", "/old/x?y=1", "http://web/new?y=1"),
            (uri("/new?a=b"), "web", "/old?y=1", "http://web/new?a=b"),
            (uri("/n#frag"), "web", "/old?x", "http://web/n#frag?x"),
            (uri("new"), "WEB:8080", "/old", "http://WEB:8080/new"),
            (uri("/new"), "web:80", "/old", "http://web:80/new"),
            (host.clone(), "web:80", "/a?b", "http://other.example:99/a?b"),
            (Redirect { port: 77.try_into().ok(), ..host }, "web", "/a", "http://other.example:99:77/a"),
            (port.clone(), "web:80", "/a", "http://web:8443/a"),
            (port.clone(), "[::1]:80", "/a", "http://[::1]:8443/a"),
            (port, "[::1]", "/a", "http://[::1]:8443/a"),
            (https.clone(), "web:80", "/a", "https://web/a"),
            (https.clone(), "[::1]:80", "/a", "https://[::1]/a"),
            (https.clone(), "web:443", "/a", "https://web:443/a"),
            (https, "web:8080", "/a", "https://web:8080/a"),
            (prefix, "web", "/Old/a?b=/old", "http://web/xd/a?b=/old"),
        ] {
            assert_eq!(located("http", authority, path, Some(&redirect)), expected, "{redirect:?}");
        }
    }

    #[test]
    fn the_port_that_went_without_saying_goes_with_its_scheme() {
        let http = Redirect { scheme: Some(RedirectScheme::Http), ..to() };
        assert_eq!(located("https", "web:443", "/a", Some(&http)), "http://web/a");
        assert_eq!(located("https", "web:443", "/a", Some(&uri("/n"))), "https://web:443/n");
    }

    #[test]
    fn without_a_redirect_it_is_the_requests_own_url() {
        assert_eq!(located("http", "web:80", "/a?b", None), "http://web:80/a?b");
    }
}
