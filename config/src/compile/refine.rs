//! Matches of a delegate within those of its root: each must narrow one of them (Istio `mergeHTTPMatchRequests`).

use super::delegates::joined;
use crate::{
    istio::{http_match::Match, virtual_service::HttpRule},
    snapshot::{HeaderMatch, PathMatch, RouteMatch, ValueMatch},
};

/// Every pair of a root's match and one of the leaf that narrows it; `None` if one of the leaf narrows none.
pub(super) fn refined(root: &[Match], leaf: &HttpRule) -> Option<Vec<Match>> {
    if leaf.matches.is_empty() {
        let origin = &leaf.origin;
        return Some(root.iter().map(|block| Match { origin: origin.clone(), ..block.clone() }).collect());
    }
    if root.is_empty() {
        return Some(leaf.matches.clone());
    }
    let mut out = Vec::new();
    for narrow in &leaf.matches {
        let before = out.len();
        out.extend(root.iter().filter(|wide| narrows(wide, narrow)).map(|wide| merged(wide, narrow)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

/// Istio `hasConflict`, the other way round.
fn narrows(wide: &Match, narrow: &Match) -> bool {
    let path =
        !wide.has_uri || !narrow.has_uri || within(&of_path(&wide.when.path), &of_path(&narrow.when.path));
    let headers = narrow.when.headers.iter().all(|of_leaf| {
        let mut same = wide.when.headers.iter().filter(|of_root| is_same_header(of_root, of_leaf));
        same.all(|of_root| within(&of_value(&of_root.value), &of_value(&of_leaf.value)))
    });
    let query = narrow.when.query.iter().all(|of_leaf| {
        let mut same = wide.when.query.iter().filter(|of_root| of_root.key == of_leaf.key);
        same.all(|of_root| within(&of_value(&of_root.value), &of_value(&of_leaf.value)))
    });
    let port = wide.port.is_none() || narrow.port.is_none() || wide.port == narrow.port;
    // A root's namespace has to be written again.
    let namespace = wide.source_namespace.is_none() || wide.source_namespace == narrow.source_namespace;
    let labels = narrow
        .source_labels
        .iter()
        .all(|(key, value)| wide.source_labels.get(key).is_none_or(|of_root| of_root == value));
    let gateways =
        wide.gateways.is_empty() || narrow.gateways.iter().all(|gateway| wide.gateways.contains(gateway));
    let case = wide.ignore_uri_case == narrow.ignore_uri_case;
    path && headers && query && port && namespace && labels && gateways && case
}

/// What can be compared of a `StringMatch`.
enum Form<'m> {
    Exact(&'m str),
    Prefix(&'m str),
    /// Regular expressions, and mere presence.
    Other,
}

fn of_path(path: &PathMatch) -> Form<'_> {
    match path {
        PathMatch::Exact { value, .. } => Form::Exact(value),
        PathMatch::Prefix { value, .. } => Form::Prefix(value),
        PathMatch::Regex(_) => Form::Other,
    }
}

fn of_value(value: &ValueMatch) -> Form<'_> {
    match value {
        ValueMatch::Exact(value) => Form::Exact(value),
        ValueMatch::Prefix(value) => Form::Prefix(value),
        ValueMatch::Present | ValueMatch::Regex(_) => Form::Other,
    }
}

/// Istio `stringMatchConflict`, the other way round: an empty text narrows nothing, and is narrowed by nothing.
fn within(wide: &Form<'_>, narrow: &Form<'_>) -> bool {
    match (wide, narrow) {
        (Form::Exact(wide), Form::Exact(narrow)) => !wide.is_empty() && wide == narrow,
        (Form::Prefix(wide), Form::Exact(narrow) | Form::Prefix(narrow)) => {
            !wide.is_empty() && !narrow.is_empty() && narrow.starts_with(wide)
        }
        _ => false,
    }
}

fn is_same_header(one: &HeaderMatch, other: &HeaderMatch) -> bool {
    one.key == other.key && one.invert == other.invert
}

/// The leaf's conditions, and those of the root that it does not have.
fn merged(wide: &Match, narrow: &Match) -> Match {
    let (of_root, of_leaf) = (&wide.when, &narrow.when);
    let kept = of_root
        .headers
        .iter()
        .filter(|header| !of_leaf.headers.iter().any(|other| is_same_header(header, other)));
    let asked =
        of_root.query.iter().filter(|query| !of_leaf.query.iter().any(|other| other.key == query.key));
    let mut source_labels = wide.source_labels.clone();
    source_labels.extend(narrow.source_labels.clone());
    Match {
        name: joined(&wide.name, &narrow.name),
        span: narrow.span,
        path_span: if narrow.has_uri { narrow.path_span } else { narrow.span },
        origin: narrow.origin.clone(),
        when: RouteMatch {
            path: if narrow.has_uri { &of_leaf.path } else { &of_root.path }.clone(),
            headers: kept.chain(&of_leaf.headers).cloned().collect(),
            query: asked.chain(&of_leaf.query).cloned().collect(),
        },
        has_uri: wide.has_uri || narrow.has_uri,
        ignore_uri_case: narrow.ignore_uri_case,
        port: narrow.port.or(wide.port),
        source_labels,
        source_namespace: narrow.source_namespace.clone().or_else(|| wide.source_namespace.clone()),
        gateways: if narrow.gateways.is_empty() { &wide.gateways } else { &narrow.gateways }.clone(),
    }
}
