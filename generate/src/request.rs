//! Requests: hosts, paths, headers and cookies that the rules look at.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{one_of, sometimes};

/// A request to the listener.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: &'static str,
    /// Host and port as the client writes them.
    pub authority: &'static str,
    /// Path and query.
    pub path: String,
    /// Header lines, `Host` not among them.
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Asked {
    /// For other programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "method": self.method,
            "authority": self.authority,
            "path": self.path,
            "headers": self.headers.iter().map(|(name, value)| [name, value]).collect::<Vec<_>>(),
        })
    }
}

pub(crate) fn asked() -> impl Strategy<Value = Asked> {
    let authority = one_of([
        "a",
        "A",
        "a.default",
        "a.default.svc.cluster.local",
        "a.default.svc.cluster.local.",
        "a:8080",
        "a:1",
        "b",
        "b.default.svc:8080",
        "x.wild.test",
        "wild.test",
        "10.96.0.1",
        "10.96.0.1:8080",
        "nobody",
    ]);
    let path = one_of(["/", "/a", "/A", "/ab", "/a/b", "/a/../b", "/%61", "/b", "/ba", "//a", "/a%2fb"]);
    let pair = (one_of(["k", "j", "K"]), one_of(["=", "=a", "=ab", "=b", "=a%20b", ""]));
    let query = prop::collection::vec(pair, 0..3);
    let header = (
        one_of(["x", "y", "x-user", "x-user", "user-agent", "x-forwarded-proto", "x-request-id", "x-hop"]),
        one_of(["", "a", "ab", "b", "A", "https", "a, b"]),
    );
    let cookie = sometimes(30, one_of(["sess=a", "other=1; sess=\"b\"", "sess=", "a=b"]));
    let connection = sometimes(10, one_of(["x-hop", "x, close"]));
    (
        one_of(["GET", "GET", "POST", "PUT"]),
        authority,
        path,
        query,
        prop::collection::vec(header, 0..4),
        cookie,
        connection,
    )
        .prop_map(|(method, authority, path, query, mut headers, cookie, connection)| {
            let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}{value}")).collect();
            let mark = if query.is_empty() { "" } else { "?" };
            headers.extend(cookie.map(|value| ("cookie", value)));
            headers.extend(connection.map(|value| ("connection", value)));
            Asked { method, authority, path: format!("{path}{mark}{}", query.join("&")), headers }
        })
}
