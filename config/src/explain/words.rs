//! Conditions and policies in words: what was asked for, and what the request has. Nothing is decided here.

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use super::Check;
use crate::{
    decide::{Condition, Peers, RequestView, cookie_value, query_value},
    snapshot::{Dns, HashPolicy, HeaderKey, PathMatch, Target, ValueMatch, written},
};

/// Values are cut behind so many characters.
const LONGEST: usize = 200;

/// Whether it is the prefix that every path has.
pub(super) fn is_trivial(condition: &Condition<'_>) -> bool {
    matches!(condition, Condition::Path(PathMatch::Prefix { value, .. }) if matches!(&**value, "" | "/"))
}

/// Where the endpoints of a cluster by DNS come from.
pub(super) fn of_dns(dns: &Dns) -> String {
    let each = if dns.first_only { "the first address" } else { "the addresses" };
    let names: Vec<_> = dns.names().map(|name| quoted(name)).collect();
    let beside = dns.targets.iter().filter_map(|target| match target {
        Target::Address(endpoint) => Some(format!("{}, ", endpoint.key)),
        Target::Name(_) => None,
    });
    let beside: String = beside.collect();
    let names = names.join(", ");
    format!("its endpoints are {beside}{each} of {names}, looked up while the proxy runs")
}

pub(super) fn check(condition: &Condition<'_>, request: &RequestView<'_>, holds: bool) -> Check {
    let (subject, expected, found) = match condition {
        Condition::Path(path) => ("path".to_owned(), of_path(path), quoted(request.path())),
        Condition::Header(header) => {
            let (subject, found) = match &header.key {
                HeaderKey::Method => ("method".to_owned(), quoted(request.method.as_str())),
                HeaderKey::Scheme => ("scheme".to_owned(), quoted(request.scheme)),
                HeaderKey::Authority => ("authority".to_owned(), quoted(request.authority)),
                HeaderKey::Path => ("path and query".to_owned(), quoted(request.path_and_query)),
                HeaderKey::Name(name) => (format!("header `{name}`"), lines(request.headers, name)),
            };
            (subject, of_value(&header.value, header.invert), found)
        }
        Condition::Query(query) => {
            let found = query_value(request.query(), &query.key).map_or_else(nothing, quoted);
            (format!("query parameter `{}`", query.key), of_value(&query.value, false), found)
        }
    };
    Check { subject, expected, found, holds }
}

fn of_path(path: &PathMatch) -> String {
    let (verb, value, ignore_case) = match path {
        PathMatch::Prefix { value, ignore_case } => ("begins with", &**value, *ignore_case),
        PathMatch::Exact { value, ignore_case } => ("is", &**value, *ignore_case),
        PathMatch::Regex(regex) => ("fits", written(regex), false),
    };
    let case = if ignore_case { ", case ignored" } else { "" };
    format!("{verb} {}{case}", quoted(value))
}

pub(super) fn of_value(value: &ValueMatch, invert: bool) -> String {
    let (plain, not, value) = match value {
        ValueMatch::Present => return if invert { "is absent" } else { "is there" }.to_owned(),
        ValueMatch::Exact(exact) => ("is", "is not", &**exact),
        ValueMatch::Prefix(prefix) => ("begins with", "does not begin with", &**prefix),
        ValueMatch::Regex(regex) => ("fits", "does not fit", written(regex)),
    };
    format!("{} {}", if invert { not } else { plain }, quoted(value))
}

fn lines(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<_> = headers.get_all(name).iter().map(readable).map(|line| quoted(&line)).collect();
    if lines.is_empty() { nothing() } else { lines.join(", ") }
}

/// What a hash policy looks at; `None` is absent.
pub(super) fn hashed_value(policy: &HashPolicy, request: &RequestView<'_>, peers: Peers) -> Option<String> {
    match policy {
        HashPolicy::Header(name) if *name == HOST => Some(request.authority.to_owned()),
        HashPolicy::Header(name) => joined(request.headers, name),
        HashPolicy::Cookie(cookie) => cookie_value(request.headers, &cookie.name)
            .map(|value| String::from_utf8_lossy(value).into_owned()),
        HashPolicy::SourceIp => Some(peers.remote.ip().to_string()),
        HashPolicy::Query(key) => query_value(request.query(), key).map(str::to_owned),
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(readable).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

pub(super) fn readable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn nothing() -> String {
    "nothing".to_owned()
}

/// In back quotes, control characters escaped, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    let mut characters = text.chars();
    for c in characters.by_ref().take(LONGEST) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push_str(if characters.next().is_some() { "...`" } else { "`" });
    out
}
