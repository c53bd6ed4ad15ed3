//! `HTTPRetry`: the policy of a route, and the mesh's default.

use std::{num::NonZeroU32, time::Duration};

use http::StatusCode;

use super::at_least_1ms;
use crate::{
    fields::{Message, Object, Spanned, Type, did_you_mean, warned, yes},
    report::Code,
    sink::Sink,
    snapshot::{RetryOn, RetryPolicy},
};

/// `retries`; `None` inside is switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retries(pub(crate) Option<RetryPolicy>);

pub(crate) static HTTP_RETRY: Message = Message {
    name: "HTTPRetry",
    fields: &[
        yes("attempts", Type::Int, "timeouts_and_retries_are_compiled"),
        yes("perTryTimeout", Type::Duration, "timeouts_and_retries_are_compiled"),
        yes("retryOn", Type::Text, "timeouts_and_retries_are_compiled"),
        warned("retryRemoteLocalities", Type::Bool, "endpoints have no localities yet"),
        yes("retryIgnorePreviousHosts", Type::Bool, "timeouts_and_retries_are_compiled"),
        yes("backoff", Type::Duration, "timeouts_and_retries_are_compiled"),
    ],
};

const INBOUND: &str = "Istio ignores it here";

pub(crate) static INBOUND_RETRY: Message = Message {
    name: "InboundHTTPRetry",
    fields: &[
        yes("attempts", Type::Int, "the_mesh_says_what_inbound_routes_retry"),
        yes("retryOn", Type::Text, "the_mesh_says_what_inbound_routes_retry"),
        yes("backoff", Type::Duration, "the_mesh_says_what_inbound_routes_retry"),
        warned("perTryTimeout", Type::Duration, INBOUND),
        warned("retryRemoteLocalities", Type::Bool, INBOUND),
        warned("retryIgnorePreviousHosts", Type::Bool, INBOUND),
    ],
};

const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// Istio's default list: no status code is among it.
pub(crate) fn default_retry() -> RetryPolicy {
    RetryPolicy {
        attempts: NonZeroU32::MIN.saturating_add(1),
        on: RetryOn {
            connect_failure: true,
            refused_stream: true,
            unavailable: true,
            cancelled: true,
            ..RetryOn::default()
        },
        per_try_timeout: None,
        backoff: DEFAULT_BACKOFF,
        avoid_previous_hosts: true,
    }
}

/// Of inbound routes: what never reached the workload.
pub(crate) fn default_inbound_retry() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn { reset_before_request: true, ..RetryOn::default() },
        avoid_previous_hosts: false,
        ..default_retry()
    }
}

/// The mesh's `defaultInboundHttpRetryPolicy`: there is one endpoint, and no time limit.
pub(crate) fn read_inbound_retries(retries: &Object<'_>, sink: &mut Sink) -> Retries {
    let Retries(policy) = read_retries(retries, sink);
    let default = default_inbound_retry();
    Retries(policy.map(|policy| RetryPolicy {
        on: if retries.has("retryOn") { policy.on } else { default.on },
        per_try_timeout: None,
        avoid_previous_hosts: false,
        ..policy
    }))
}

/// Shared with the mesh's `defaultHttpRetryPolicy`.
pub(crate) fn read_retries(retries: &Object<'_>, sink: &mut Sink) -> Retries {
    let attempts = retries.int("attempts").unwrap_or(Spanned { value: 0, span: retries.span() });
    let Ok(number) = u32::try_from(attempts.value) else {
        sink.report(Code::InvalidRetry, attempts.span, "attempts is negative or too large");
        return Retries(None);
    };
    let Some(number) = NonZeroU32::new(number) else {
        let rest = ["perTryTimeout", "retryOn", "retryRemoteLocalities"];
        if let Some(field) = rest.into_iter().find(|field| retries.has(field)) {
            let message = format!("`{field}` has no meaning with 0 attempts");
            let found = sink.report(Code::InvalidRetry, retries.key_span(field), message);
            found.help("set `attempts` to the number of retries, or remove the field");
        }
        return Retries(None);
    };
    let default = default_retry();
    Retries(Some(RetryPolicy {
        attempts: number,
        on: retries
            .text("retryOn")
            .filter(|text| !text.value.is_empty())
            .map_or(default.on, |text| retry_on(&text, sink)),
        per_try_timeout: at_least_1ms(retries.duration("perTryTimeout").filter(|t| !t.value.is_zero()), sink),
        backoff: at_least_1ms(retries.duration("backoff"), sink).unwrap_or(DEFAULT_BACKOFF),
        avoid_previous_hosts: retries.bool("retryIgnorePreviousHosts").unwrap_or(true),
    }))
}

const RETRY_WORDS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Istio takes a number for a status if Go has a text for it.
fn has_a_text(status: u16) -> bool {
    matches!(status, 103 | 425)
        || StatusCode::from_u16(status).is_ok_and(|code| code.canonical_reason().is_some())
}

fn retry_on(text: &Spanned<&str>, sink: &mut Sink) -> RetryOn {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for word in text.value.split(',') {
        match word {
            "5xx" => on.server_error = true,
            "gateway-error" => on.gateway_error = true,
            "reset" => on.reset = true,
            "reset-before-request" => on.reset_before_request = true,
            "connect-failure" => on.connect_failure = true,
            "retriable-4xx" => on.retriable_4xx = true,
            "refused-stream" => on.refused_stream = true,
            "envoy-ratelimited" => on.envoy_ratelimited = true,
            "cancelled" => on.cancelled = true,
            "deadline-exceeded" => on.deadline_exceeded = true,
            "internal" => on.internal = true,
            "resource-exhausted" => on.resource_exhausted = true,
            "unavailable" => on.unavailable = true,
            // The list of codes follows; response headers and HTTP/3 never ask for a retry here.
            "retriable-status-codes" | "retriable-headers" | "http3-post-connect-failure" => {}
            _ => match word.parse::<u16>() {
                Ok(status) if has_a_text(status) => statuses.push(status),
                _ => {
                    let message = format!("`{word}` is no reason to retry");
                    let guess = did_you_mean(word.trim(), RETRY_WORDS.into_iter());
                    let found = sink.report(Code::InvalidRetry, text.span, message);
                    found.help(format!("{guess}words are separated by commas without blanks"));
                }
            },
        }
    }
    on.statuses = statuses.into();
    on
}
