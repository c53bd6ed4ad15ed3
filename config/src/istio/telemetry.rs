//! `Telemetry`: overrides of tracing and access logs as written. How the levels add up is decided in `compile`.

use super::{
    Meta,
    custom_tags::custom_tags,
    mesh::{ProviderName, names},
    selector,
};
use crate::{
    fields::{Labels, Object},
    report::Code,
    sink::Sink,
    snapshot::{CustomTag, Direction},
};

/// One resource.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) meta: Meta,
    /// None without labels: it is of its whole namespace.
    pub(crate) selector: Option<Labels>,
    /// It has `targetRefs`, and is not for sidecars.
    pub(crate) attached: bool,
    pub(crate) tracing: Vec<TracingRule>,
    pub(crate) logging: Vec<LogRule>,
}

/// One entry of `tracing`; what is absent is inherited.
#[derive(Debug)]
pub(crate) struct TracingRule {
    pub(crate) mode: Mode,
    pub(crate) providers: Vec<ProviderName>,
    pub(crate) disabled: Option<bool>,
    /// Hundredths of a percent.
    pub(crate) sampling: Option<u16>,
    pub(crate) custom_tags: Option<Box<[CustomTag]>>,
    pub(crate) istio_tags: Option<bool>,
    pub(crate) by_request_id: Option<bool>,
}

/// One entry of `accessLogging`.
#[derive(Debug)]
pub(crate) struct LogRule {
    pub(crate) mode: Mode,
    pub(crate) providers: Vec<ProviderName>,
    pub(crate) disabled: bool,
}

/// `match.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Client,
    Server,
    Both,
}

impl Mode {
    pub(crate) fn takes(self, direction: Direction) -> bool {
        match self {
            Self::Client => direction == Direction::Outbound,
            Self::Server => direction == Direction::Inbound,
            Self::Both => true,
        }
    }
}

/// Reads the spec.
pub(crate) fn read(spec: &Object<'_>, meta: Meta, sink: &mut Sink) -> Telemetry {
    let selector = selector(spec, "selector", "matchLabels", sink);
    let (tracing, logging) = (spec.objects("tracing"), spec.objects("accessLogging"));
    Telemetry {
        meta,
        selector: selector.filter(|labels| !labels.is_empty()),
        attached: spec.has("targetRef") || spec.has("targetRefs"),
        tracing: tracing.iter().map(|entry| tracing_rule(entry, sink)).collect(),
        logging: logging.iter().map(|entry| log_rule(entry, sink)).collect(),
    }
}

fn tracing_rule(entry: &Object<'_>, sink: &mut Sink) -> TracingRule {
    TracingRule {
        mode: mode(entry),
        providers: provider_names(entry, sink),
        disabled: entry.bool("disableSpanReporting"),
        sampling: sampling(entry, sink),
        custom_tags: custom_tags(entry, sink),
        istio_tags: entry.bool("enableIstioTags"),
        by_request_id: entry.bool("useRequestIdForTraceSampling"),
    }
}

fn log_rule(entry: &Object<'_>, sink: &mut Sink) -> LogRule {
    LogRule {
        mode: mode(entry),
        providers: provider_names(entry, sink),
        disabled: entry.bool("disabled") == Some(true),
    }
}

fn mode(entry: &Object<'_>) -> Mode {
    match entry.object("match").and_then(|when| when.text("mode")).map(|mode| mode.value) {
        Some("CLIENT") => Mode::Client,
        Some("SERVER") => Mode::Server,
        _ => Mode::Both,
    }
}

fn provider_names(entry: &Object<'_>, sink: &mut Sink) -> Vec<ProviderName> {
    let mut listed = Vec::new();
    for provider in entry.objects("providers") {
        match provider.text("name").filter(|name| !name.value.is_empty()) {
            Some(name) => listed.push(name),
            None => {
                sink.report(Code::MissingField, provider.span(), "the provider has no name");
            }
        }
    }
    names(&listed)
}

fn sampling(entry: &Object<'_>, sink: &mut Sink) -> Option<u16> {
    let percent = entry.float("randomSamplingPercentage")?;
    let sampling = hundredths(percent.value);
    if sampling.is_none() {
        let message = format!("{} is not a percentage, which is 0 to 100", percent.value);
        sink.report(Code::InvalidValue, percent.span, message);
    }
    sampling
}

/// Hundredths of a percent, which is Envoy's precision.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000 by the guard")]
pub(crate) fn hundredths(percent: f64) -> Option<u16> {
    (0.0..=100.0).contains(&percent).then(|| (percent * 100.0).round() as u16)
}
