//! `Headers`: operations on the headers of requests and responses, and the authority that hides among them.

use http::{HeaderName, HeaderValue};

use super::header_name;
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    format::Format,
    report::Code,
    sink::{Sink, Span},
    snapshot::HeaderOps,
    yaml::Entry,
};

/// `headers`, the authority set apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers {
    pub(crate) request: HeaderOps,
    pub(crate) response: HeaderOps,
    pub(crate) authority: Option<Spanned<HeaderValue>>,
}

pub(crate) static HEADERS: Message = Message {
    name: "Headers",
    fields: &[
        yes("request", Type::Object(&HEADER_OPERATIONS), "header_operations_keep_istios_order"),
        yes("response", Type::Object(&HEADER_OPERATIONS), "header_operations_keep_istios_order"),
    ],
};

static HEADER_OPERATIONS: Message = Message {
    name: "HeaderOperations",
    fields: &[
        yes("set", Type::Map(&Type::Text), "header_operations_keep_istios_order"),
        yes("add", Type::Map(&Type::Text), "header_operations_keep_istios_order"),
        yes("remove", Type::List(&Type::Text), "header_operations_keep_istios_order"),
    ],
};

/// `None` where the parent has none.
pub(crate) fn headers(parent: &Object<'_>, sink: &mut Sink) -> Option<Headers> {
    let headers = parent.object("headers")?;
    let mut authority = None;
    let request = headers.object("request").map(|ops| operations(&ops, Some(&mut authority), sink));
    let response = headers.object("response").map(|ops| operations(&ops, None, sink));
    Some(Headers { request: request.unwrap_or_default(), response: response.unwrap_or_default(), authority })
}

/// `authority` is where a `host` or `:authority` of a request goes; responses have none.
fn operations(
    ops: &Object<'_>,
    mut authority: Option<&mut Option<Spanned<HeaderValue>>>,
    sink: &mut Sink,
) -> HeaderOps {
    let mut values = |field: &str, sink: &mut Sink| {
        let mut pairs: Vec<(HeaderName, Format)> = Vec::new();
        for entry in ops.entries(field) {
            let name = entry.key.to_ascii_lowercase();
            if let (":authority" | "host", Some(authority)) = (&*name, &mut authority) {
                set_authority(entry, authority, sink);
            } else if let Some(name) = operated_name(&name, entry.key_span, sink)
                && let Some(text) = entry.value.text()
            {
                match header_value(text) {
                    Ok(value) => pairs.push((name, value)),
                    Err(why) => {
                        sink.report(Code::InvalidHeader, entry.value.span, why);
                    }
                }
            }
        }
        pairs.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
        pairs.into()
    };
    let set = values("set", sink);
    let add = values("add", sink);
    let remove = ops.texts("remove");
    let remove = remove.iter().filter_map(|text| operated_name(text.value, text.span, sink));
    let mut remove: Vec<_> = remove.collect();
    remove.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    HeaderOps { remove: remove.into(), set, add }
}

fn header_value(text: &str) -> Result<Format, String> {
    if HeaderValue::from_str(text).is_err() {
        return Err("the value holds characters that no header may".to_owned());
    }
    Format::parse(text).map_err(|error| error.to_string())
}

fn operated_name(name: &str, span: Span, sink: &mut Sink) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        sink.report(Code::InvalidHeader, span, format!("`{name}` cannot be changed here"));
        return None;
    }
    header_name(&Spanned { value: name, span }, sink)
}

fn set_authority(entry: &Entry, authority: &mut Option<Spanned<HeaderValue>>, sink: &mut Sink) {
    let span = entry.value.span;
    let Some(text) = entry.value.text() else { return };
    let literal = Format::parse(text).ok().and_then(|format| HeaderValue::from_str(format.literal()?).ok());
    match literal {
        Some(_) if authority.is_some() => {
            sink.report(Code::ExclusiveFields, span, "the authority is set twice");
        }
        Some(value) => *authority = Some(Spanned { value, span }),
        None => {
            sink.report(Code::InvalidHeader, span, "the authority must be a literal text");
        }
    }
}
