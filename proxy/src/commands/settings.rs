//! What Istio's variables say about the process: its threads, and how it ends.

use std::time::Duration;

use super::environment;
use crate::app::DrainTimes;

/// Istio's lifecycle variables, made to fit into the grace period.
pub(super) fn drain_times(settings: &ProxyConfig, grace: Option<Duration>) -> DrainTimes {
    let defaults = DrainTimes::default();
    let minimum = environment("MINIMUM_DRAIN_DURATION").and_then(|text| duration(&text));
    let times = DrainTimes {
        announce: settings.termination_drain.unwrap_or(defaults.announce),
        until_idle: environment("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
            .is_some_and(|value| value == "true")
            .then(|| minimum.unwrap_or(Duration::from_secs(5))),
        ..defaults
    };
    grace.map_or(times, |grace| times.within(grace))
}

/// Whole seconds, as Kubernetes writes them.
pub(super) fn grace_period(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    Ok(Duration::from_secs(seconds.into()))
}

/// What is honoured of the variable `PROXY_CONFIG`, which injection writes as JSON.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ProxyConfig {
    pub(super) concurrency: Option<usize>,
    termination_drain: Option<Duration>,
}

impl ProxyConfig {
    pub(super) fn parse(json: &str) -> Self {
        let value: serde_json::Value = match serde_json::from_str(json) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(%error, "PROXY_CONFIG is no JSON: ignored");
                return Self::default();
            }
        };
        let concurrency = value.get("concurrency").and_then(serde_json::Value::as_u64);
        Self {
            concurrency: concurrency.and_then(|count| count.try_into().ok()),
            termination_drain: value
                .get("terminationDrainDuration")
                .and_then(|text| text.as_str())
                .and_then(duration),
        }
    }
}

/// `1.5s`, `1h5m`, `300ms`: a protobuf or Go duration, not negative.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(value.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_istio_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("1h1.5m300ms"), Some(Duration::from_millis(3_690_300)));
        for wrong in ["", "5", "s", "-5s", "5x", "1e3s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn proxy_config_is_read_and_rubbish_ignored() {
        let settings = ProxyConfig::parse(r#"{"concurrency":3,"terminationDrainDuration":"11s","x":1}"#);
        let expected = ProxyConfig { concurrency: Some(3), termination_drain: Some(Duration::from_secs(11)) };
        assert_eq!(settings, expected);
        assert_eq!(ProxyConfig::parse("concurrency: 3"), ProxyConfig::default());
    }
}
