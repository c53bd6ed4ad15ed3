//! Virtual hosts, routes and their conditions.

use serde_json::{Map, Value, json};

use super::{
    action::{cors, fault, operations},
    object, put,
};
use crate::snapshot::{
    Affixes, HeaderKey, HostMap, PathMatch, Route, RouteMatch, RouteTable, Snapshot, ValueMatch, VirtualHost,
};

impl Snapshot {
    pub(super) fn virtual_host(&self, host: &VirtualHost, domains: &[String]) -> Value {
        json!({
            "name": &*host.name,
            "domains": domains,
            "origin": host.origin.to_string(),
            "routes": host.routes.iter().map(|route| self.route(route)).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn route(&self, route: &Route) -> Value {
        let mut out = object(json!({
            "name": &*route.name,
            "match": route_match(&route.when),
            "origin": route.origin.to_string(),
        }));
        self.action(&route.action, &mut out);
        put(&mut out, "fault", route.fault.as_deref().map_or(Value::Null, fault));
        put(&mut out, "cors", route.cors.as_deref().map_or(Value::Null, cors));
        if let Some(operation) = route.operation.as_ref().and_then(|operation| operation.to_str().ok()) {
            put(&mut out, "decorator", json!({ "operation": operation }));
        }
        put(&mut out, "request_headers", operations(&route.request_headers));
        put(&mut out, "response_headers", operations(&route.response_headers));
        Value::Object(out)
    }
}

/// Of each virtual host: names, wildcards, the last resort.
pub(crate) fn domains(table: &RouteTable) -> Vec<Vec<String>> {
    let mut domains = vec![Vec::new(); table.virtual_hosts.len()];
    for (domain, at) in in_order(&table.hosts) {
        if let Some(of_host) = domains.get_mut(at as usize) {
            of_host.push(domain);
        }
    }
    domains
}

/// Those of one.
pub(super) fn domains_of(hosts: &HostMap, index: u32) -> Vec<String> {
    in_order(hosts).into_iter().filter(|(_, at)| *at == index).map(|(domain, _)| domain).collect()
}

fn in_order(hosts: &HostMap) -> Vec<(String, u32)> {
    let exact = hosts.exact.iter().map(|(name, at)| (0, 0, name.to_string(), *at));
    let affixes = |affixes: &Affixes, rank: u8, write: fn(&str) -> String| -> Vec<_> {
        // The longest first.
        let parts = affixes.by_text.iter();
        parts.map(|(part, at)| (rank, usize::MAX - part.len(), write(part), *at)).collect()
    };
    let mut all: Vec<(u8, usize, String, u32)> = exact.collect();
    all.extend(affixes(&hosts.suffixes, 1, |part| format!("*{part}")));
    all.extend(affixes(&hosts.prefixes, 2, |part| format!("{part}*")));
    all.extend(hosts.any.map(|at| (3, 0, "*".to_owned(), at)));
    all.sort();
    all.into_iter().map(|(.., domain, at)| (domain, at)).collect()
}

fn route_match(when: &RouteMatch) -> Value {
    let (form, value, ignore_case) = match &when.path {
        PathMatch::Prefix { value, ignore_case } => ("prefix", &**value, *ignore_case),
        PathMatch::Exact { value, ignore_case } => ("path", &**value, *ignore_case),
        PathMatch::Regex(regex) => ("safe_regex", regex.as_str(), false),
    };
    let mut out = object(json!({ form: value }));
    put(&mut out, "case_sensitive", ignore_case.then_some(false).into());
    let headers = when.headers.iter().map(|header| {
        let name = match &header.key {
            HeaderKey::Method => ":method",
            HeaderKey::Scheme => ":scheme",
            HeaderKey::Authority => ":authority",
            HeaderKey::Path => ":path",
            HeaderKey::Name(name) => name.as_str(),
        };
        let mut out = value_match(&header.value);
        out.insert("name".to_owned(), name.into());
        put(&mut out, "invert_match", header.invert.then_some(true).into());
        Value::Object(out)
    });
    put(&mut out, "headers", headers.collect());
    let query = when.query.iter().map(|query| {
        let mut out = value_match(&query.value);
        out.insert("name".to_owned(), (*query.key).into());
        Value::Object(out)
    });
    put(&mut out, "query_parameters", query.collect());
    Value::Object(out)
}

pub(super) fn value_match(value: &ValueMatch) -> Map<String, Value> {
    object(match value {
        ValueMatch::Present => json!({ "present_match": true }),
        ValueMatch::Exact(exact) => json!({ "exact": &**exact }),
        ValueMatch::Prefix(prefix) => json!({ "prefix": &**prefix }),
        ValueMatch::Regex(regex) => json!({ "safe_regex": regex.as_str() }),
    })
}
