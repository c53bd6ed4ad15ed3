//! Where a rule sends its requests: the entries of `route` with their weights. Which cluster that is, `compile` finds out.

use super::{
    Meta, check_name,
    headers::{HEADERS, Headers, headers},
    is_label, port,
};
use crate::{
    fields::{Message, Object, Spanned, Type, yes},
    report::Code,
    sink::Sink,
};

/// One entry of `route`; the host is a full name.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) host: Spanned<Box<str>>,
    pub(crate) subset: Option<Spanned<Box<str>>>,
    pub(crate) port: Option<Spanned<u16>>,
    pub(crate) weight: u32,
    pub(crate) headers: Headers,
}

pub(super) static HTTP_DESTINATION: Message = Message {
    name: "HTTPRouteDestination",
    fields: &[
        yes("destination", Type::Object(&DESTINATION), "the_seed_compiles"),
        yes("weight", Type::Int, "weights_split_the_draws"),
        yes("headers", Type::Object(&HEADERS), "header_operations_keep_istios_order"),
    ],
};

pub(super) static DESTINATION: Message = Message {
    name: "Destination",
    fields: &[
        yes("host", Type::Text, "short_names_take_the_namespace_of_the_rule"),
        yes("subset", Type::Text, "the_seed_compiles"),
        yes("port", Type::Object(&PORT_SELECTOR), "the_port_of_a_destination_is_chosen_as_in_istio"),
    ],
};

pub(super) static PORT_SELECTOR: Message = Message {
    name: "PortSelector",
    fields: &[yes("number", Type::Int, "the_port_of_a_destination_is_chosen_as_in_istio")],
};

/// Weights as they count: a lone destination has 1, those with 0 are dropped.
pub(super) fn weighted(entries: &[Object<'_>], meta: &Meta, sink: &mut Sink) -> Vec<Destination> {
    let lone = entries.len() == 1;
    let mut destinations = Vec::new();
    let mut valid = true;
    for entry in entries {
        let weight = entry.int("weight");
        let value = match weight {
            Some(weight) if weight.value < 0 || weight.value > i64::from(i32::MAX) => {
                valid = false;
                let found =
                    sink.report(Code::InvalidWeights, weight.span, format!("the weight is {}", weight.value));
                found.help("weights are 0 to 2147483647; the share is the weight by the sum of the weights");
                0
            }
            Some(weight) if lone => {
                if weight.value != 100 {
                    let message = format!("the weight {} of a lone destination has no effect", weight.value);
                    let found = sink.report(Code::LoneWeight, weight.span, message);
                    found.label("it takes every request that matches");
                    found.help("remove the weight, or list all destinations under one `route`");
                }
                1
            }
            Some(weight) => u32::try_from(weight.value).unwrap_or_default(),
            None => u32::from(lone),
        };
        if let Some(destination) = destination(entry, value, meta, sink) {
            destinations.push(destination);
        }
    }
    if !lone && valid && !destinations.is_empty() {
        destinations.retain(|destination| destination.weight > 0);
        if destinations.is_empty() {
            let span = entries.first().map_or(meta.span, Object::span);
            let found = sink.report(Code::InvalidWeights, span, "the weights of all destinations are 0");
            found.help("give at least one destination a weight");
        }
    }
    destinations
}

fn destination(entry: &Object<'_>, weight: u32, meta: &Meta, sink: &mut Sink) -> Option<Destination> {
    let Some(to) = entry.object("destination") else {
        sink.report(Code::MissingField, entry.span(), "the entry has no destination");
        return None;
    };
    let to = target(&to, meta, sink)?;
    // Destinations of connections have none.
    let headers = if entry.declares("headers") { headers(entry, sink) } else { None };
    Some(Destination { weight, headers: headers.unwrap_or_default(), ..to })
}

/// A `Destination` alone, which takes everything.
pub(super) fn target(target: &Object<'_>, meta: &Meta, sink: &mut Sink) -> Option<Destination> {
    let Some(host) = target.text("host") else {
        sink.report(Code::MissingField, target.span(), "the destination has no host");
        return None;
    };
    if host.value == "*" {
        sink.report(Code::InvalidHost, host.span, "`*` is no destination");
        return None;
    }
    if !check_name(&host, sink) {
        return None;
    }
    let subset = target.text("subset").filter(|subset| !subset.value.is_empty());
    if let Some(subset) = subset.filter(|subset| !is_label(subset.value)) {
        sink.report(Code::InvalidValue, subset.span, format!("`{}` is not a subset's name", subset.value));
    }
    let selector = target.object("port");
    let number = selector.and_then(|selector| selector.int("number"));
    if let (Some(selector), None) = (selector, number) {
        sink.report(Code::MissingField, selector.span(), "the port has no number");
    }
    Some(Destination {
        host: Spanned { value: meta.full_host(host.value), span: host.span },
        subset: subset.map(|subset| Spanned { value: subset.value.into(), span: subset.span }),
        port: number.and_then(|n| Some(Spanned { value: port(n, sink)?, span: n.span })),
        weight: 1,
        headers: Headers::default(),
    })
}
