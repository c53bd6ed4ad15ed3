//! `Delegate`: a rule that leaves the rest to another virtual service. They are put together in `compile`.

use std::sync::Arc;

use super::Meta;
use crate::{
    fields::{Message, Object, Type, yes},
    sink::Span,
    snapshot::DirectResponse,
};

/// `delegate` of a rule.
#[derive(Debug, Clone)]
pub(crate) struct Delegate {
    pub(crate) name: Arc<str>,
    /// That of the rule, unless it says otherwise.
    pub(crate) namespace: Arc<str>,
    pub(crate) span: Span,
    /// The rule's own `directResponse`, which the delegate's rules inherit.
    pub(crate) direct: Option<DirectResponse>,
}

pub(super) static DELEGATE: Message = Message {
    name: "Delegate",
    fields: &[
        yes("name", Type::Text, "a_delegates_rules_stand_in_the_place_of_the_entry"),
        yes("namespace", Type::Text, "a_delegate_is_looked_up_in_its_namespace"),
    ],
};

/// What is named nowhere is not found, as in Istio.
pub(super) fn read_delegate(delegate: &Object<'_>, direct: Option<DirectResponse>, meta: &Meta) -> Delegate {
    let namespace = delegate.text("namespace").filter(|namespace| !namespace.value.is_empty());
    Delegate {
        name: delegate.text("name").map_or("", |name| name.value).into(),
        namespace: namespace.map_or_else(|| Arc::clone(&meta.namespace), |text| text.value.into()),
        span: delegate.span(),
        direct,
    }
}
