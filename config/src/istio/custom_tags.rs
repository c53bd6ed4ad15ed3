//! `customTags`: tags of spans, alike in `MeshConfig` and `Telemetry`.

use std::sync::Arc;

use super::{header_name, log_format::format_or_report};
use crate::{
    fields::{Message, Object, Type, yes},
    report::Code,
    sink::Sink,
    snapshot::{CustomTag, TagValue},
};

pub(super) static CUSTOM_TAG: Message = Message {
    name: "CustomTag",
    fields: &[
        yes("literal", Type::Object(&LITERAL), "every_kind_of_custom_tag_is_compiled"),
        yes("environment", Type::Object(&NAMED), "every_kind_of_custom_tag_is_compiled"),
        yes("header", Type::Object(&NAMED), "every_kind_of_custom_tag_is_compiled"),
        yes("formatter", Type::Object(&LITERAL), "every_kind_of_custom_tag_is_compiled"),
    ],
};

/// `Literal` and `Formatter`.
static LITERAL: Message = Message {
    name: "CustomTagValue",
    fields: &[yes("value", Type::Text, "every_kind_of_custom_tag_is_compiled")],
};

/// `Environment` and `RequestHeader`.
static NAMED: Message = Message {
    name: "CustomTagSource",
    fields: &[
        yes("name", Type::Text, "every_kind_of_custom_tag_is_compiled"),
        yes("defaultValue", Type::Text, "every_kind_of_custom_tag_is_compiled"),
    ],
};

/// The tags by name; `None` where the field is absent.
pub(super) fn custom_tags(parent: &Object<'_>, sink: &mut Sink) -> Option<Box<[CustomTag]>> {
    if !parent.has("customTags") {
        return None;
    }
    let mut tags = Vec::new();
    for entry in parent.entries("customTags") {
        let value = tag_value(&Object::new(&entry.value, &CUSTOM_TAG), sink);
        tags.extend(value.map(|value| CustomTag { name: entry.key.as_ref().into(), value }));
    }
    tags.sort_by(|a, b| a.name.cmp(&b.name));
    Some(tags.into())
}

/// One of the four kinds.
fn tag_value(tag: &Object<'_>, sink: &mut Sink) -> Option<TagValue> {
    let kinds = ["literal", "environment", "header", "formatter"];
    let mut given = kinds.into_iter().filter_map(|kind| Some((kind, tag.object(kind)?)));
    let Some((kind, source)) = given.next() else {
        let found = sink.report(Code::MissingField, tag.span(), "the tag has no value");
        found.help(format!("one of {} is meant", kinds.join(", ")));
        return None;
    };
    if let Some((other, _)) = given.next() {
        let message = format!("`{other}` stands beside `{kind}`; a tag has one value");
        sink.report(Code::ExclusiveFields, tag.key_span(other), message);
    }
    let field = if matches!(kind, "literal" | "formatter") { "value" } else { "name" };
    let Some(text) = source.text(field).filter(|text| !text.value.is_empty()) else {
        sink.report(Code::MissingField, source.span(), format!("the {kind} of the tag has no {field}"));
        return None;
    };
    // Read for the two kinds alone that have it.
    let default = || -> Option<Arc<str>> {
        source.text("defaultValue").filter(|text| !text.value.is_empty()).map(|text| text.value.into())
    };
    Some(match kind {
        "literal" => TagValue::Literal(text.value.into()),
        "environment" => TagValue::Environment { name: text.value.into(), default: default() },
        "header" => TagValue::Header { name: header_name(&text, sink)?, default: default() },
        _ => TagValue::Format(format_or_report(text.value, text.span, sink)?),
    })
}
