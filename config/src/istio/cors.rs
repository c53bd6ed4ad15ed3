//! `CorsPolicy`: who may call from a web page of another origin, compiled to header values.

use http::{HeaderValue, Method};

use super::{STRING_MATCH, at_least_1ms, header_name, value_match};
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::{Cors, ValueMatch},
};

pub(super) static CORS: Message = Message {
    name: "CorsPolicy",
    fields: &[
        yes("allowOrigin", Type::List(&Type::Text), "the_older_list_of_origins_gives_way_to_the_newer"),
        yes("allowOrigins", Type::List(&Type::Object(&STRING_MATCH)), "a_cors_policy_is_compiled"),
        yes("allowMethods", Type::List(&Type::Text), "a_cors_policy_is_compiled"),
        yes("allowHeaders", Type::List(&Type::Text), "a_cors_policy_is_compiled"),
        yes("exposeHeaders", Type::List(&Type::Text), "a_cors_policy_is_compiled"),
        yes("maxAge", Type::Duration, "a_cors_policy_is_compiled"),
        yes("allowCredentials", Type::Bool, "a_cors_policy_is_compiled"),
        yes(
            "unmatchedPreflights",
            Type::Enum(&["UNSPECIFIED", "FORWARD", "IGNORE"]),
            "a_cors_policy_is_compiled",
        ),
    ],
};

/// `corsPolicy` of a rule.
pub(super) fn cors(rule: &Object<'_>, sink: &mut Sink) -> Option<Cors> {
    let policy = rule.object("corsPolicy")?;
    let allow_origins = origins(&policy, sink);
    let forwards = policy.text("unmatchedPreflights").is_none_or(|text| text.value != "IGNORE");
    if allow_origins.is_empty() && forwards {
        let found = sink.report(Code::NoEffect, policy.span(), "the policy allows no origin");
        found.label("has no effect").help("list them under `allowOrigins`");
    }
    for text in policy.texts("allowMethods") {
        if !is_method(text.value) {
            let message = format!("`{}` is not a method", text.value);
            sink.report(Code::InvalidValue, text.span, message).help("write it in capitals, or `*` for all");
        }
    }
    for field in ["allowHeaders", "exposeHeaders"] {
        for text in policy.texts(field) {
            if text.value != "*" {
                header_name(&text, sink);
            }
        }
    }
    Some(Cors {
        allow_origins,
        allow_methods: joined(&policy.texts("allowMethods")),
        allow_headers: joined(&policy.texts("allowHeaders")),
        expose_headers: joined(&policy.texts("exposeHeaders")),
        max_age: max_age(&policy, sink),
        allow_credentials: policy.bool("allowCredentials").unwrap_or_default(),
        forward_unmatched_preflights: forwards,
    })
}

/// Envoy asks each matcher for `*` as well: one that takes it takes every origin.
fn origins(policy: &Object<'_>, sink: &mut Sink) -> Box<[ValueMatch]> {
    let older = policy.texts("allowOrigin");
    let newer = policy.objects("allowOrigins");
    if policy.has("allowOrigin") {
        let message = "`allowOrigin` is deprecated";
        let found = sink.report(Code::Deprecated, policy.key_span("allowOrigin"), message);
        if !newer.is_empty() {
            found.label("has no effect beside `allowOrigins`");
        }
        found.help("write `allowOrigins: [{ exact: ... }]`");
    }
    let mut origins = Vec::new();
    for origin in &newer {
        let empty = ["exact", "prefix", "regex"]
            .iter()
            .all(|form| origin.text(form).is_none_or(|text| text.value.is_empty()));
        if empty {
            let found = sink.report(Code::InvalidValue, origin.span(), "the origin is empty");
            found.help("give it `exact`, `prefix` or `regex`");
        } else if let Some(matcher) = value_match(origin.node, sink) {
            origins.push(matcher);
        }
    }
    if newer.is_empty() {
        origins.extend(older.iter().map(|text| ValueMatch::Exact(text.value.into())));
    }
    if origins.iter().any(|matcher| matcher.matches("*")) {
        [ValueMatch::Present].into()
    } else {
        origins.into()
    }
}

fn is_method(name: &str) -> bool {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    name == "*" || known.iter().any(|method| method.as_str() == name)
}

fn joined(texts: &[Spanned<&str>]) -> Option<HeaderValue> {
    let texts: Vec<_> = texts.iter().map(|text| text.value).collect();
    HeaderValue::from_str(&texts.join(",")).ok().filter(|value| !value.is_empty())
}

fn max_age(policy: &Object<'_>, sink: &mut Sink) -> Option<HeaderValue> {
    let written = policy.duration("maxAge");
    let age = at_least_1ms(written, sink)?;
    if let Some(Spanned { span, .. }) = written.filter(|_| age.subsec_nanos() > 0) {
        sink.report(Code::InvalidValue, span, "the age is exact to whole seconds only");
    }
    Some(age.as_secs().into())
}
