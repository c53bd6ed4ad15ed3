//! `HTTPRedirect`: another place to ask. What it is for a match and a port, `compile` finds out.

use std::num::NonZeroU16;

use http::{HeaderValue, StatusCode};

use super::port;
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::RedirectScheme,
};

/// `redirect` of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    pub(crate) status: StatusCode,
    pub(crate) scheme: Option<RedirectScheme>,
    pub(crate) authority: Option<Box<str>>,
    pub(crate) port: Option<RedirectPort>,
    pub(crate) path: Option<RedirectPath>,
}

/// Another port.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RedirectPort {
    Number(NonZeroU16),
    /// That of the listener.
    OfRequest,
}

/// Another path.
#[derive(Debug, Clone)]
pub(crate) enum RedirectPath {
    /// `uri`
    Whole(Box<str>),
    /// `prefixRewrite`, in the place of the prefix that matched.
    Prefix(Box<str>),
}

static DERIVED: &[&str] = &["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"];

pub(super) static REDIRECT: Message = Message {
    name: "HTTPRedirect",
    fields: &[
        yes("uri", Type::Text, "a_redirect_is_translated_as_in_istio"),
        yes("authority", Type::Text, "a_redirect_is_translated_as_in_istio"),
        yes("port", Type::Int, "the_port_of_a_redirect_is_left_out_where_it_goes_without_saying"),
        yes(
            "derivePort",
            Type::Enum(DERIVED),
            "the_port_of_a_redirect_is_left_out_where_it_goes_without_saying",
        ),
        yes("scheme", Type::Enum(&["http", "https"]), "a_redirect_is_translated_as_in_istio"),
        yes("redirectCode", Type::Int, "a_redirect_is_translated_as_in_istio"),
        yes("prefixRewrite", Type::Text, "a_prefix_is_replaced_by_its_length_and_any_other_match_as_a_whole"),
    ],
};

pub(super) fn read_redirect(redirect: &Object<'_>, rule: &Object<'_>, sink: &mut Sink) -> Redirect {
    let text = |field: &str| redirect.text(field).filter(|text| !text.value.is_empty());
    let (uri, prefix, authority) = (text("uri"), text("prefixRewrite"), text("authority"));
    let given = uri.is_some() || prefix.is_some() || authority.is_some();
    if !given && !["port", "derivePort", "scheme"].into_iter().any(|field| redirect.has(field)) {
        let found = sink.report(Code::MissingField, redirect.span(), "the redirect leads nowhere else");
        found.help("give it one of `uri`, `prefixRewrite`, `authority`, `port`, `derivePort`, `scheme`");
    }
    for (one, other) in [("uri", "prefixRewrite"), ("port", "derivePort")] {
        if redirect.has(one) && redirect.has(other) {
            let message = format!("a redirect has one of `{one}` and `{other}`");
            sink.report(Code::ExclusiveFields, redirect.key_span(other), message);
        }
    }
    for text in [uri, prefix, authority].into_iter().flatten() {
        if HeaderValue::from_str(text.value).is_err() {
            let message = "the location would hold characters that no header may";
            sink.report(Code::InvalidValue, text.span, message);
        }
    }
    if let Some(prefix) = prefix.filter(|_| !all_by_prefix(rule)) {
        let message = "`prefixRewrite` needs a prefix to replace";
        sink.report(Code::ExclusiveFields, prefix.span, message).help("match the uri by `prefix` everywhere");
    }
    let whole = uri.map(|uri| RedirectPath::Whole(uri.value.into()));
    Redirect {
        status: redirect
            .int("redirectCode")
            .map_or(StatusCode::MOVED_PERMANENTLY, |code| status(&code, sink)),
        scheme: redirect.text("scheme").and_then(|scheme| match scheme.value {
            "http" => Some(RedirectScheme::Http),
            "https" => Some(RedirectScheme::Https),
            _ => None,
        }),
        authority: authority.map(|authority| authority.value.into()),
        port: read_port(redirect, sink),
        path: whole.or(prefix.map(|prefix| RedirectPath::Prefix(prefix.value.into()))),
    }
}

/// A block without `uri` matches the prefix `/`.
fn all_by_prefix(rule: &Object<'_>) -> bool {
    let blocks = rule.objects("match");
    blocks.iter().filter_map(|block| block.object("uri")).all(|uri| uri.has("prefix"))
}

fn read_port(redirect: &Object<'_>, sink: &mut Sink) -> Option<RedirectPort> {
    if let Some(number) = redirect.int("port").filter(|number| number.value != 0) {
        return NonZeroU16::new(port(number, sink)?).map(RedirectPort::Number);
    }
    let derived = redirect.text("derivePort")?;
    // By the protocol's default, which goes without saying.
    (derived.value == "FROM_REQUEST_PORT").then_some(RedirectPort::OfRequest)
}

/// Istio lets other 3xx pass and then has no action for them, which Envoy refuses.
fn status(code: &Spanned<i64>, sink: &mut Sink) -> StatusCode {
    match code.value {
        0 | 301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        other => {
            let found = sink.report(Code::InvalidValue, code.span, format!("{other} is no redirect"));
            found.help("write 301, 302, 303, 307 or 308");
            StatusCode::MOVED_PERMANENTLY
        }
    }
}
