//! The path that goes on instead of the one that came: Istio's `rewrite.uri`, `uriRegexRewrite` and the `prefixRewrite`
//! of a redirect (Envoy `prefix_rewrite`, `regex_rewrite`).

use std::borrow::Cow;

use crate::snapshot::PathRewrite;

/// The new path and query; borrowed where the rewrite finds nothing to change. `None` leaves the request as it is: a path
/// cannot become empty, and Envoy then takes it for not rewritten at all.
#[must_use]
pub fn rewritten<'a>(rewrite: &PathRewrite, path_and_query: &'a str) -> Option<Cow<'a, str>> {
    let at = path_and_query.find('?').unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at_checked(at)?;
    match rewrite {
        PathRewrite::Prefix { matched, value } => {
            let rest = path_and_query.get(*matched..)?;
            Some(Cow::Owned([value, rest].concat()))
        }
        PathRewrite::Full(value) => Some(Cow::Owned([value, query].concat())),
        PathRewrite::Regex { pattern, substitution } => match pattern.replace_all(path, &**substitution) {
            Cow::Borrowed(_) => Some(Cow::Borrowed(path_and_query)),
            Cow::Owned(new) if new.is_empty() => None,
            Cow::Owned(mut new) => {
                new.push_str(query);
                Some(Cow::Owned(new))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    fn prefix(matched: usize, value: &str) -> PathRewrite {
        PathRewrite::Prefix { matched, value: value.into() }
    }

    fn regex(pattern: &str, substitution: &str) -> PathRewrite {
        let pattern = Regex::new(pattern).unwrap();
        PathRewrite::Regex { pattern, substitution: substitution.into() }
    }

    #[test]
    fn paths_are_rewritten_as_envoy_does() {
        for (rewrite, path, new) in [
            (prefix(4, "/new"), "/api/x?y=/api", "/new/x?y=/api"),
            (prefix(4, "/new"), "/api?y", "/new?y"),
            (prefix(4, "/"), "/api/x", "//x"),
            (prefix(4, "/"), "/apix", "/x"),
            (prefix(4, "/new"), "/API/x", "/new/x"),
            (prefix(1, "/all"), "/x", "/allx"),
            (prefix(0, "/all"), "/x", "/all/x"),
            (prefix(4, "/new?a"), "/api?b", "/new?a?b"),
            (PathRewrite::Full("/new".into()), "/any/thing?q", "/new?q"),
            (PathRewrite::Full("/new".into()), "/any", "/new"),
            (regex("/([a-z]+)/([0-9]*)", "/${2}-${1}$$1"), "/wx/12/ab/3?q=/ab/1", "/12-wx$1/3-ab$1?q=/ab/1"),
            (regex("a*", "-"), "/wzaab?aa", "-/-w-z-b-?aa"),
            (regex(".*", "${0}${0}"), "/x?y", "/x/x?y"),
        ] {
            assert_eq!(rewritten(&rewrite, path).as_deref(), Some(new), "{rewrite:?} of {path}");
        }
    }

    #[test]
    fn a_regex_that_matches_nothing_copies_nothing() {
        assert!(matches!(rewritten(&regex("z", "-"), "/x?z"), Some(Cow::Borrowed("/x?z"))));
    }

    #[test]
    fn a_path_never_becomes_empty() {
        assert_eq!(rewritten(&regex("^/x(.*)$", "${1}"), "/x?q"), None);
    }
}
