//! Istio's `BASE` path normalisation (Envoy `normalize_path`): what is matched is what is forwarded.
//!
//! Percent-encoded unreserved characters are decoded, dot segments are resolved, a backslash becomes a slash.
//! `//` and `%2F` stay: merging and decoding slashes are other modes.

use std::borrow::Cow;

/// The path does not begin with a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the path does not begin with `/`")]
pub struct InvalidPath;

/// Normalises the path of `path_and_query`, and leaves the query string as it is.
///
/// # Errors
/// [`InvalidPath`] for a path that does not begin with a slash.
pub fn normalize_path(path_and_query: &str) -> Result<Cow<'_, str>, InvalidPath> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if !path.starts_with('/') {
        return Err(InvalidPath);
    }
    if is_normal(path) {
        return Ok(Cow::Borrowed(path_and_query));
    }
    let mut normal = without_dot_segments(&decoded(path));
    normal.push_str(query);
    Ok(Cow::Owned(normal))
}

/// True for the common case: nothing to decode, no segment that begins with a dot.
fn is_normal(path: &str) -> bool {
    !path.contains(['%', '\\']) && !path.contains("/.")
}

/// Decodes escapes of unreserved characters (RFC 3986 2.3) and writes the others in upper case.
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
                    out.push_str(&digits.to_ascii_uppercase());
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
            ("/a%2fb", "/a%2Fb"),
            ("//a//b", "//a//b"),
            ("/a\\..\\b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/100%", "/100%"),
            ("/%zz", "/%zz"),
            ("/%+f", "/%+f"),
            ("/a/./b?x=/../%65", "/a/b?x=/../%65"),
        ] {
            assert_eq!(normalize_path(path).unwrap(), normal, "{path}");
            assert_eq!(normalize_path(normal).unwrap(), normal, "{normal} is a fixed point");
        }
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        assert!(matches!(normalize_path("/a/b?c=%65"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_path_without_a_leading_slash_is_refused() {
        assert_eq!(normalize_path("*"), Err(InvalidPath));
        assert_eq!(normalize_path(""), Err(InvalidPath));
    }
}
