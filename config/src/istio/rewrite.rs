//! `HTTPRewrite`: another path or authority for the upstream. What of the path a match took, `compile` knows.

use http::{HeaderValue, uri::PathAndQuery};
use regex::Regex;

use super::{any_match, headers::Headers};
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
};

/// `rewrite` of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Rewrite {
    pub(crate) path: Option<RewritePath>,
    pub(crate) authority: Option<HeaderValue>,
}

/// Another path.
#[derive(Debug, Clone)]
pub(crate) enum RewritePath {
    /// `uri`, in the place of what matched.
    Matched(Box<str>),
    /// `uriRegexRewrite`, in the notation of the regex crate.
    Regex { pattern: Regex, substitution: Box<str> },
}

pub(super) static REWRITE: Message = Message {
    name: "HTTPRewrite",
    fields: &[
        yes("uri", Type::Text, "a_prefix_is_replaced_by_its_length_and_any_other_match_as_a_whole"),
        yes("authority", Type::Text, "the_authority_of_a_rewrite_is_that_of_the_route"),
        yes("uriRegexRewrite", Type::Object(&REGEX_REWRITE), "a_substitution_is_translated_from_re2"),
    ],
};

static REGEX_REWRITE: Message = Message {
    name: "RegexRewrite",
    fields: &[
        yes("match", Type::Text, "a_substitution_is_translated_from_re2"),
        yes("rewrite", Type::Text, "a_substitution_is_translated_from_re2"),
    ],
};

/// `headers` are those of the same rule: they may set the authority too.
pub(super) fn read_rewrite(rewrite: &Object<'_>, headers: Option<&Headers>, sink: &mut Sink) -> Rewrite {
    let uri = rewrite.text("uri").filter(|uri| !uri.value.is_empty());
    let authority = rewrite.text("authority").filter(|authority| !authority.value.is_empty());
    let regex = rewrite.object("uriRegexRewrite");
    if uri.is_none() && authority.is_none() && regex.is_none() {
        let found = sink.report(Code::MissingField, rewrite.span(), "the rewrite changes nothing");
        found.help("give it `uri`, `uriRegexRewrite` or `authority`");
    }
    if uri.is_some() && regex.is_some() {
        let message = "a rewrite has one of `uri` and `uriRegexRewrite`";
        sink.report(Code::ExclusiveFields, rewrite.key_span("uriRegexRewrite"), message);
    }
    if let (Some(_), Some(second)) = (authority, headers.and_then(|headers| headers.authority.as_ref())) {
        sink.report(Code::ExclusiveFields, second.span, "the authority is set by the rewrite already");
    }
    let path = match uri {
        Some(uri) => Some(RewritePath::Matched(checked(&uri, sink).into())),
        None => regex.and_then(|regex| read_regex(&regex, sink)),
    };
    Rewrite { path, authority: authority.and_then(|authority| literal(&authority, sink)) }
}

/// Istio takes any text; what no request line can hold would fail every request.
fn checked<'n>(uri: &Spanned<&'n str>, sink: &mut Sink) -> &'n str {
    let whole = PathAndQuery::try_from(uri.value).is_ok_and(|path| path.as_str() == uri.value);
    if !whole || !uri.value.starts_with('/') {
        let found = sink.report(Code::InvalidValue, uri.span, format!("`{}` is no path", uri.value));
        found.help("a path begins with `/`, and holds no blank and no `#`");
    }
    uri.value
}

fn literal(authority: &Spanned<&str>, sink: &mut Sink) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(authority.value).ok();
    if value.is_none() {
        let message = "the authority holds characters that no header may";
        sink.report(Code::InvalidHeader, authority.span, message);
    }
    value
}

fn read_regex(regex: &Object<'_>, sink: &mut Sink) -> Option<RewritePath> {
    let text = |field: &str| regex.text(field).filter(|text| !text.value.is_empty());
    let (Some(pattern), Some(rewrite)) = (text("match"), text("rewrite")) else {
        sink.report(Code::MissingField, regex.span(), "a `uriRegexRewrite` needs `match` and `rewrite`");
        return None;
    };
    let compiled = any_match(&pattern, sink)?;
    match substitution(rewrite.value, compiled.captures_len()) {
        Ok(substitution) => Some(RewritePath::Regex { pattern: compiled, substitution: substitution.into() }),
        Err(why) => {
            let found = sink.report(Code::InvalidRegex, rewrite.span, why);
            found.help("`\\1` is the first group, `\\0` the whole match, `\\\\` a backslash");
            None
        }
    }
}

/// From RE2's notation to that of the regex crate; `groups` counts the whole match.
fn substitution(text: &str, groups: usize) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => out.push_str("$$"),
            '\\' => match letters.next().map(|next| (next, next.to_digit(10))) {
                Some((_, Some(group))) if (group as usize) < groups => {
                    out.push_str("${");
                    out.push_str(&group.to_string());
                    out.push('}');
                }
                Some((_, Some(group))) => {
                    return Err(format!("the expression has no group {group}"));
                }
                Some(('\\', _)) => out.push('\\'),
                _ => return Err("a backslash stands before a digit or another backslash".to_owned()),
            },
            letter => out.push(letter),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_are_translated_from_re2() {
        for (text, expected) in [
            (r"/\2/\1", Ok("/${2}/${1}")),
            (r"\11", Ok("${1}1")),
            (r"\0$1", Ok("${0}$$1")),
            (r"\\1", Ok(r"\1")),
            ("/plain", Ok("/plain")),
            (r"\3", Err("the expression has no group 3")),
            (r"\d", Err("a backslash stands before a digit or another backslash")),
            (r"x\", Err("a backslash stands before a digit or another backslash")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(substitution(text, 3), expected, "{text}");
        }
    }
}
