//! Istio's path normalisation: what is matched is what is forwarded.
//!
//! `BASE` (Envoy `normalize_path`) decodes percent-encoded unreserved characters, resolves dot segments and turns
//! backslashes into slashes. `//` and `%2F` stay: merging and decoding slashes are modes on top of it.

use std::borrow::Cow;

use crate::snapshot::PathNormalization;

/// The path does not begin with a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path does not begin with `/`")]
pub struct InvalidPath;

/// Normalises the path of `path_and_query`, and leaves the query string as it is.
///
/// # Errors
/// [`InvalidPath`] for a path that does not begin with a slash.
pub fn normalize_path(path_and_query: &str, mode: PathNormalization) -> Result<Cow<'_, str>, InvalidPath> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if !path.starts_with('/') {
        return Err(InvalidPath);
    }
    if mode == PathNormalization::None || is_normal(path, mode) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    let unescaped = match mode {
        PathNormalization::DecodeAndMergeSlashes => Cow::Owned(with_slashes(path)),
        _ => Cow::Borrowed(path),
    };
    let mut normal = without_dot_segments(&decoded(&unescaped));
    if mode != PathNormalization::Base {
        merge_slashes(&mut normal);
    }
    normal.push_str(query);
    Ok(Cow::Owned(normal))
}

/// True for the common case: nothing to decode or to merge, no segment that begins with a dot.
fn is_normal(path: &str, mode: PathNormalization) -> bool {
    let merged = mode == PathNormalization::Base || !path.contains("//");
    merged && !path.contains(['%', '\\']) && !path.contains("/.")
}

/// Decodes the escapes of slash and backslash alone.
fn with_slashes(path: &str) -> String {
    path.replace("%2F", "/").replace("%2f", "/").replace("%5C", "\\").replace("%5c", "\\")
}

/// Each run of slashes becomes one; where there is nothing else, Envoy leaves two.
fn merge_slashes(path: &mut String) {
    if path.len() > 1 && path.bytes().all(|byte| byte == b'/') {
        path.truncate(2);
        return;
    }
    let mut last = ' ';
    path.retain(|char| {
        let repeated = char == '/' && last == '/';
        last = char;
        !repeated
    });
}

/// Decodes escapes of unreserved characters (RFC 3986 2.3); the others stay as they are written.
fn decoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let digits = after.strip_prefix('%').and_then(|digits| digits.get(..2));
        let escape = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok().map(|byte| (digits, byte))) {
            Some((digits, byte)) => {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    out.push('%');
                    out.push_str(digits);
                }
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(if after.starts_with('\\') { '/' } else { '%' });
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// RFC 3986 5.2.4; a path that climbs above the root stays there.
fn without_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut open = false;
    for segment in path.split('/').skip(1) {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if open || out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes};

    use super::*;

    #[test]
    fn dots_and_unreserved_escapes_are_resolved_and_slashes_stay() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/../x", "/x"),
            ("/./x", "/x"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/../../x", "/x"),
            ("/%65xact", "/exact"),
            ("/%2e%2E/x", "/x"),
            ("/a%2fb", "/a%2fb"),
            ("//a//b", "//a//b"),
            ("/a\\..\\b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/100%", "/100%"),
            ("/%zz", "/%zz"),
            ("/%+f", "/%+f"),
            ("/a/./b?x=/../%65", "/a/b?x=/../%65"),
        ] {
            assert_eq!(normalize_path(path, Base).unwrap(), normal, "{path}");
            assert_eq!(normalize_path(normal, Base).unwrap(), normal, "{normal} is a fixed point");
        }
    }

    /// As observed with Envoy 1.40; `e2e/path_diff.py` asks it again.
    #[test]
    fn slashes_are_merged_behind_all_else_and_decoded_before() {
        for (path, merged, decoded) in [
            ("/a//b///", "/a/b/", "/a/b/"),
            ("//a/../b", "/b", "/b"),
            ("/a//../b", "/a/b", "/a/b"),
            ("///", "//", "//"),
            ("/a%2f%2Fb", "/a%2f%2Fb", "/a/b"),
            ("/a%5c..%5Cb", "/a%5c..%5Cb", "/b"),
            ("/%2f", "/%2f", "//"),
            ("/a%252fb", "/a%252fb", "/a%252fb"),
            ("/a?b=//%2f", "/a?b=//%2f", "/a?b=//%2f"),
        ] {
            assert_eq!(normalize_path(path, MergeSlashes).unwrap(), merged, "{path}");
            assert_eq!(normalize_path(path, DecodeAndMergeSlashes).unwrap(), decoded, "{path}");
            assert_eq!(normalize_path(path, PathNormalization::None).unwrap(), path);
        }
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        assert!(matches!(normalize_path("/a/b?c=%65", Base), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_path_without_a_leading_slash_is_refused() {
        assert_eq!(normalize_path("*", Base), Err(InvalidPath));
        assert_eq!(normalize_path("", Base), Err(InvalidPath));
    }
}
