//! Whether one match takes every request that another one takes. It may fail to see that it does, but never claims it
//! in error.

use regex::Regex;

use crate::{
    istio::{http_match::Match, selects},
    snapshot::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch, written},
};

/// True if the requests of `later` are all among those of `earlier`, for any proxy.
pub(super) fn covers(earlier: &Match, later: &Match) -> bool {
    // With gateways set, Istio does not look at labels and namespace.
    let reach = if earlier.gateways.is_empty() {
        let free = earlier.source_labels.is_empty() && earlier.source_namespace.is_none();
        let narrower = selects(&earlier.source_labels, &later.source_labels)
            && (earlier.source_namespace.is_none() || earlier.source_namespace == later.source_namespace);
        free || (later.gateways.is_empty() && narrower)
    } else {
        earlier.gateways == later.gateways
    };
    reach && (earlier.port.is_none() || earlier.port == later.port) && takes_more(&earlier.when, &later.when)
}

fn takes_more(earlier: &RouteMatch, later: &RouteMatch) -> bool {
    path_takes_more(&earlier.path, &later.path)
        && earlier.headers.iter().all(|a| later.headers.iter().any(|b| header_follows(a, b)))
        && earlier.query.iter().all(|a| later.query.iter().any(|b| query_follows(a, b)))
}

/// `a` holds wherever `b` does.
fn header_follows(a: &HeaderMatch, b: &HeaderMatch) -> bool {
    if a.key != b.key || a.invert != b.invert {
        return false;
    }
    let (a_value, b_value) = (Shape::of(&a.value), Shape::of(&b.value));
    if !a.invert {
        return a_value.takes_more(&b_value);
    }
    // An absent header is not present, but counts as empty for all other values.
    let by_presence = matches!(b.value, ValueMatch::Present);
    b_value.takes_more(&a_value)
        && (!by_presence || matches!(a.value, ValueMatch::Present) || !a.value.matches(""))
}

fn query_follows(a: &QueryMatch, b: &QueryMatch) -> bool {
    a.key == b.key && Shape::of(&a.value).takes_more(&Shape::of(&b.value))
}

fn path_takes_more(a: &PathMatch, b: &PathMatch) -> bool {
    let (a_case, b_case) = (ignores_case(a), ignores_case(b));
    let (a, b) = (path_shape(a), path_shape(b));
    match a {
        Shape::Prefix("" | "/") => true,
        Shape::Exact(text) | Shape::Prefix(text)
            if !a_case && b_case && text.bytes().any(|b| b.is_ascii_alphabetic()) =>
        {
            false
        }
        Shape::Exact(text) if a_case => {
            matches!(b, Shape::Exact(other) if text.eq_ignore_ascii_case(other))
        }
        Shape::Prefix(text) if a_case => {
            b.begins_with().get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text))
        }
        Shape::Regex(_) if b_case => false,
        _ => a.takes_more(&b),
    }
}

fn ignores_case(path: &PathMatch) -> bool {
    matches!(path, PathMatch::Prefix { ignore_case: true, .. } | PathMatch::Exact { ignore_case: true, .. })
}

fn path_shape(path: &PathMatch) -> Shape<'_> {
    match path {
        PathMatch::Prefix { value, .. } => Shape::Prefix(value),
        PathMatch::Exact { value, .. } => Shape::Exact(value),
        PathMatch::Regex(regex) => Shape::of_regex(regex),
    }
}

/// A condition on a text; `x.*` is a prefix like any other.
enum Shape<'m> {
    Exact(&'m str),
    Prefix(&'m str),
    Regex(&'m Regex),
}

const SPECIAL: [char; 14] = ['.', '[', ']', '(', ')', '*', '+', '?', '{', '}', '|', '^', '$', '\\'];

impl<'m> Shape<'m> {
    fn of(value: &'m ValueMatch) -> Self {
        match value {
            ValueMatch::Present => Self::Prefix(""),
            ValueMatch::Exact(text) => Self::Exact(text),
            ValueMatch::Prefix(text) => Self::Prefix(text),
            ValueMatch::Regex(regex) => Self::of_regex(regex),
        }
    }

    fn of_regex(regex: &'m Regex) -> Self {
        match written(regex).strip_suffix(".*") {
            Some(prefix) if !prefix.contains(SPECIAL) => Self::Prefix(prefix),
            _ => Self::Regex(regex),
        }
    }

    fn takes_more(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Prefix(prefix), other) => other.begins_with().starts_with(prefix),
            (Self::Exact(text), Self::Exact(other)) => text == other,
            (Self::Regex(regex), Self::Exact(text)) => regex.is_match(text),
            (Self::Regex(regex), Self::Regex(other)) => regex.as_str() == other.as_str(),
            _ => false,
        }
    }

    /// What every text that fits begins with.
    fn begins_with(&self) -> &'m str {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Regex(regex) => {
                let text = written(regex);
                let end = text.find(SPECIAL).unwrap_or(text.len());
                let (literal, rest) = text.split_at(end);
                if text.contains('|') {
                    return "";
                }
                // What may be missing or is counted belongs to the last character.
                match literal.char_indices().next_back() {
                    Some((last, _)) if rest.starts_with(['*', '?', '{']) => &literal[..last],
                    _ => literal,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regex(text: &str) -> Regex {
        Regex::new(&format!("^(?:{text})$")).unwrap()
    }

    fn path(kind: usize, text: &str) -> PathMatch {
        match kind {
            0 | 1 => PathMatch::Prefix { value: text.into(), ignore_case: kind == 1 },
            2 | 3 => PathMatch::Exact { value: text.into(), ignore_case: kind == 3 },
            4 => PathMatch::Regex(regex(&format!("{text}.*"))),
            5 => PathMatch::Regex(regex(&format!("{text}?"))),
            6 => PathMatch::Regex(regex(&format!("{text}|/b"))),
            7 => PathMatch::Regex(regex(&format!("{text}+"))),
            _ => PathMatch::Regex(regex(text)),
        }
    }

    #[test]
    fn a_wider_path_takes_more() {
        for (earlier, later) in [
            (path(0, "/"), path(8, "[a-z]+")),
            (path(0, "/a"), path(0, "/ab")),
            (path(0, "/a"), path(8, "/ab/[0-9]+")),
            (path(1, "/A"), path(3, "/ab")),
            (path(4, "/a"), path(0, "/a/")),
            (path(8, "/[a-z]+"), path(2, "/abc")),
            (path(8, "/[a-z]+"), path(8, "/[a-z]+")),
        ] {
            assert!(path_takes_more(&earlier, &later), "{earlier:?} {later:?}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        "/[abAB]{0,3}"
    }

    proptest! {
        #[test]
        fn what_is_covered_is_taken(a in 0_usize..9, b in 0_usize..9, x in texts(), y in texts(), tried in prop::collection::vec(texts(), 40)) {
            let (a, b) = (path(a, &x), path(b, &y));
            if path_takes_more(&a, &b) {
                for text in tried.iter().chain([&x, &y]) {
                    prop_assert!(!b.matches(text) || a.matches(text), "{a:?} {b:?} {text}");
                }
            }
        }

        #[test]
        fn a_header_that_follows_holds(a in 0_usize..4, b in 0_usize..4, x in "[ab]{0,2}", y in "[ab]{0,2}", invert: bool, tried in prop::collection::vec("[ab]{0,3}", 20)) {
            let value = |kind: usize, text: &str| match kind {
                0 => ValueMatch::Present,
                1 => ValueMatch::Exact(text.into()),
                2 => ValueMatch::Prefix(text.into()),
                _ => ValueMatch::Regex(regex(&format!("{text}.?"))),
            };
            let key = crate::snapshot::HeaderKey::Method;
            let condition = |kind, text: &str| HeaderMatch { key: key.clone(), value: value(kind, text), invert };
            let (a, b) = (condition(a, &x), condition(b, &y));
            // An absent header: not present, else like the empty text.
            let holds = |c: &HeaderMatch, text: Option<&str>| match (&c.value, text) {
                (ValueMatch::Present, None) => invert,
                (_, None) if !invert => false,
                (value, text) => value.matches(text.unwrap_or_default()) != invert,
            };
            if header_follows(&a, &b) {
                for text in tried.iter().map(|text| Some(&**text)).chain([None, Some(&*x), Some(&*y)]) {
                    prop_assert!(!holds(&b, text) || holds(&a, text), "{a:?} {b:?} {text:?}");
                }
            }
        }
    }
}
