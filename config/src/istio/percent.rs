//! `Percent`, and the whole percent that came before it: how many of the requests.

use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::{Sink, Span},
    snapshot::Share,
};

pub(super) static PERCENT: Message =
    Message { name: "Percent", fields: &[yes("value", Type::Float, "a_percentage_is_exact_to_a_millionth")] };

/// The smallest share that is not zero, in percent.
pub(super) const SMALLEST: f64 = 0.0001;

/// Zero, or `least` to 100 percent; what is outside is an error, and none.
pub(super) fn share(percent: &Object<'_>, least: f64, sink: &mut Sink) -> Share {
    let Some(Spanned { value, span }) = percent.float("value") else { return Share::NONE };
    match Share::percent(value) {
        Some(share) if value == 0.0 || value >= least => share,
        _ => outside(value, span, sink),
    }
}

/// By the field `new`, or by the deprecated `old` in whole percents.
pub(super) fn either(
    parent: &Object<'_>,
    old: &str,
    new: &str,
    least: f64,
    sink: &mut Sink,
) -> Option<Share> {
    deprecated(parent, old, new, sink);
    match (parent.object(new), parent.int(old)) {
        (Some(percent), _) => Some(share(&percent, least, sink)),
        (None, whole) => whole.map(|whole| whole_share(whole, sink)),
    }
}

fn whole_share(percent: Spanned<i64>, sink: &mut Sink) -> Share {
    let share = u8::try_from(percent.value).ok().and_then(|percent| Share::percent(percent.into()));
    share.unwrap_or_else(|| outside(percent.value, percent.span, sink))
}

fn outside(value: impl std::fmt::Display, span: Span, sink: &mut Sink) -> Share {
    let message = format!("{value} is not a percentage");
    sink.report(Code::InvalidValue, span, message).help("0, or 0.0001 to 100");
    Share::NONE
}

/// Says that a whole percent is deprecated, or overruled.
fn deprecated(parent: &Object<'_>, old: &str, new: &str, sink: &mut Sink) {
    if !parent.has(old) {
        return;
    }
    let message = format!("`{old}` is deprecated");
    let found = sink.report(Code::Deprecated, parent.key_span(old), message);
    if parent.has(new) {
        found.label(format!("has no effect beside `{new}`"));
    }
    found.help(format!("write `{new}: {{ value: ... }}`"));
}
