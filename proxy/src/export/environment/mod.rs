//! `OTEL_*` (OpenTelemetry environment variable specification), read once at the start.
//!
//! What cannot be used is a [`Problem`] and counts as not set: no variable keeps the proxy from forwarding.

mod endpoint;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::snapshot::{
    ClientTls, Credentials, Destination, Identity, KeyFiles, OtlpProtocol, Propagation, ServerName,
    TelemetryDefaults, Trust,
};

use self::endpoint::{Endpoint, percent_decoded};
use super::{Batching, MetricInterval, Otel, Temporality};
use crate::telemetry::{Bounds, Environment, Resource, Signal};

/// For one export, its retries included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What a queue may hold at most, whatever the variables say.
const MOST_ITEMS: usize = 1 << 17;

/// A variable that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub variable: String,
    /// Its value; those of headers are secrets and left out.
    pub value: String,
    /// Why not, and what to write instead.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: {}", self.variable, self.value, self.why)
    }
}

impl Otel {
    /// Reads the variables by `get`.
    pub fn from_environment(get: fn(&str) -> Option<String>) -> (Self, Vec<Problem>) {
        Self::read(get, Environment(get))
    }

    fn read(get: impl Fn(&str) -> Option<String>, environment: Environment) -> (Self, Vec<Problem>) {
        let mut reader = Reader { get, problems: Vec::new() };
        let off = reader.text("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let mut otel = if off { Self { records: records(), ..Self::default() } } else { reader.otel() };
        otel.resource = Arc::new(Resource { environment, ..Resource::clone(&otel.resource) });
        (otel, reader.problems)
    }
}

struct Reader<G> {
    get: G,
    problems: Vec<Problem>,
}

impl<G: Fn(&str) -> Option<String>> Reader<G> {
    fn otel(&mut self) -> Otel {
        let (sampling, ignore_parent) = self.sampler();
        Otel {
            defaults: TelemetryDefaults {
                traces: self.destination(Signal::Traces),
                logs: self.destination(Signal::Logs),
                metrics: self.destination(Signal::Metrics),
                propagation: self.propagation(),
                sampling,
                ignore_parent,
            },
            resource: Arc::new(self.resource()),
            spans: self.batching("OTEL_BSP", Batching::default()),
            records: self.batching("OTEL_BLRP", records()),
            interval: MetricInterval(
                self.millis("OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(MetricInterval::default().0),
            ),
            temporality: self.temporality(),
        }
    }

    /// An empty value counts as not set.
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn problem(&mut self, variable: &str, value: &str, why: impl Into<String>) {
        let (variable, value) = (variable.to_owned(), value.to_owned());
        self.problems.push(Problem { variable, value, why: why.into() });
    }

    fn parsed<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problem(name, &text, format!("expected {expected}"));
        }
        value
    }

    /// Positive milliseconds.
    fn millis(&mut self, name: &str) -> Option<Duration> {
        let millis = self.parsed::<u64>(name, "milliseconds, a whole number")?;
        if millis == 0 {
            self.problem(name, "0", "expected milliseconds, 1 or more");
        }
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    fn batching(&mut self, prefix: &str, default: Batching) -> Batching {
        let mut count = |name: &str, default: usize| {
            let name = format!("{prefix}_{name}");
            match self.parsed::<usize>(&name, "a whole number") {
                Some(number @ 1..=MOST_ITEMS) => number,
                Some(number) => {
                    self.problem(&name, &number.to_string(), format!("expected 1 to {MOST_ITEMS}"));
                    default
                }
                None => default,
            }
        };
        let items = count("MAX_QUEUE_SIZE", default.bounds.items);
        let batch = count("MAX_EXPORT_BATCH_SIZE", default.bounds.batch);
        Batching {
            bounds: Bounds { items, batch, ..default.bounds },
            delay: self.millis(&format!("{prefix}_SCHEDULE_DELAY")).unwrap_or(default.delay),
        }
    }

    /// A setting of a signal, else that of all.
    fn setting(&self, signal: Signal, name: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{name}", signal.as_str().to_uppercase());
        let common = format!("OTEL_EXPORTER_OTLP_{name}");
        [own, common].into_iter().find_map(|variable| Some((self.text(&variable)?, variable)))
    }

    fn destination(&mut self, signal: Signal) -> Option<Destination> {
        let selector = format!("OTEL_{}_EXPORTER", signal.as_str().to_uppercase());
        if let Some(exporters) = self.text(&selector)
            && !exporters.split(',').any(|exporter| exporter.trim() == "otlp")
        {
            if exporters != "none" && exporters != "prometheus" {
                self.problem(&selector, &exporters, "expected `otlp` or `none`; nothing is exported");
            }
            return None;
        }
        let (text, variable) = self.setting(signal, "ENDPOINT")?;
        let endpoint = match Endpoint::parse(&text) {
            Ok(endpoint) => endpoint,
            Err(why) => {
                self.problem(&variable, &text, why);
                return None;
            }
        };
        let asks_for_tls = ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"];
        if endpoint.bare && asks_for_tls.iter().any(|name| self.setting(signal, name).is_some()) {
            // What is meant is not plain text.
            self.problem(
                &variable,
                &text,
                "write `https://` before it, since there are certificates for it; nothing is exported",
            );
            return None;
        }
        let own = variable != "OTEL_EXPORTER_OTLP_ENDPOINT";
        let protocol = self.protocol(signal, &endpoint, own)?;
        let tls = if endpoint.secure { Some(Arc::new(self.tls(signal, &endpoint.host)?)) } else { None };
        Some(Destination {
            name: variable.into(),
            host: endpoint.host.into(),
            port: endpoint.port,
            tls,
            cluster: None,
            protocol,
            headers: self.headers(signal),
            timeout: self.timeout(signal),
            gzip: self.gzip(signal),
            semantic_service_name: false,
        })
    }

    /// The receiver has the name of the URL, by the roots of a file or of the system.
    fn tls(&mut self, signal: Signal, host: &str) -> Option<ClientTls> {
        let file = |name: &str| self.setting(signal, name);
        let (certificates, key) = (file("CLIENT_CERTIFICATE"), file("CLIENT_KEY"));
        let trust = file("CERTIFICATE").map_or(Trust::System, |(path, _)| Trust::File(path.into()));
        let identity = match (certificates, key) {
            (None, None) => Identity::Anonymous,
            (Some((certificates, _)), Some((key, _))) => {
                Identity::Files(KeyFiles { certificates: certificates.into(), key: key.into() })
            }
            (Some((path, variable)), None) | (None, Some((path, variable))) => {
                let why = "expected both a CLIENT_CERTIFICATE and a CLIENT_KEY; nothing is exported";
                self.problem(&variable, &path, why);
                return None;
            }
        };
        let credentials = Credentials { identity, trust, names: Box::default(), revoked: None };
        Some(ClientTls { credentials, server_name: ServerName::Is(host.into()) })
    }

    /// Port 4317 speaks gRPC unless something else is said, every other port HTTP.
    fn protocol(&mut self, signal: Signal, endpoint: &Endpoint, own: bool) -> Option<OtlpProtocol> {
        let said = self.setting(signal, "PROTOCOL");
        let grpc = match &said {
            None => endpoint.port == 4317,
            Some((text, _)) if text == "grpc" => true,
            Some((text, _)) if text == "http/protobuf" => false,
            Some((text, variable)) => {
                self.problem(variable, text, "expected `grpc` or `http/protobuf`; nothing is exported");
                return None;
            }
        };
        if grpc {
            return Some(OtlpProtocol::Grpc);
        }
        // The endpoint of one signal is taken as it is, that of all gets the signal's path.
        let path = match own {
            true => endpoint.path.clone(),
            false => {
                let base = endpoint.path.path().trim_end_matches('/');
                format!("{base}/v1/{}", signal.as_str()).parse().ok()?
            }
        };
        Some(OtlpProtocol::Http { path })
    }

    /// `key=value,...`, percent-encoded.
    fn headers(&mut self, signal: Signal) -> HeaderMap {
        let Some((text, variable)) = self.setting(signal, "HEADERS") else { return HeaderMap::new() };
        let mut headers = HeaderMap::new();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let read = pair.split_once('=').and_then(|(name, value)| {
                let name: HeaderName = name.trim().to_ascii_lowercase().parse().ok()?;
                Some((name, HeaderValue::from_bytes(&percent_decoded(value.trim())).ok()?))
            });
            match read {
                Some((name, value)) => drop(headers.append(name, value)),
                None => self.problem(&variable, "...", "expected `name=value,...`; this header is left out"),
            }
        }
        headers
    }

    fn timeout(&mut self, signal: Signal) -> Duration {
        let Some((_, variable)) = self.setting(signal, "TIMEOUT") else { return TIMEOUT };
        self.millis(&variable).unwrap_or(TIMEOUT)
    }

    fn gzip(&mut self, signal: Signal) -> bool {
        match self.setting(signal, "COMPRESSION") {
            None => false,
            Some((text, _)) if text == "none" => false,
            Some((text, _)) if text == "gzip" => true,
            Some((text, variable)) => {
                self.problem(&variable, &text, "expected `gzip` or `none`; nothing is compressed");
                false
            }
        }
    }

    /// The share in hundredths of a percent, and whether the caller's flag is ignored.
    fn sampler(&mut self) -> (Option<u16>, bool) {
        let name = "OTEL_TRACES_SAMPLER";
        let Some(sampler) = self.text(name) else { return (None, false) };
        let (kind, parent_based) = match sampler.strip_prefix("parentbased_") {
            Some(kind) => (kind, true),
            None => (&*sampler, false),
        };
        let share = match kind {
            "always_on" => Some(10_000),
            "always_off" => Some(0),
            "traceidratio" => Some(self.ratio()),
            _ => None,
        };
        match share {
            Some(share) => (Some(share), !parent_based),
            None => {
                let known = "always_on, always_off, traceidratio, or one of them behind `parentbased_`";
                self.problem(name, &sampler, format!("expected {known}; Istio's 1 % holds"));
                (None, false)
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10000 by the guard")]
    fn ratio(&mut self) -> u16 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        match self.parsed::<f64>(name, "a ratio between 0 and 1; all traces are sampled") {
            Some(ratio) if (0.0..=1.0).contains(&ratio) => (ratio * 10_000.0).round() as u16,
            Some(ratio) => {
                self.problem(
                    name,
                    &ratio.to_string(),
                    "expected a ratio between 0 and 1; all traces are sampled",
                );
                10_000
            }
            None => 10_000,
        }
    }

    fn propagation(&mut self) -> Option<Propagation> {
        let name = "OTEL_PROPAGATORS";
        let text = self.text(name)?;
        let (mut b3, mut w3c) = (false, false);
        for propagator in text.split(',').map(str::trim) {
            match propagator {
                "tracecontext" => w3c = true,
                "b3" | "b3multi" => b3 = true,
                // Baggage passes as every header does.
                "baggage" | "none" | "" => {}
                other => {
                    let why = "expected tracecontext, baggage, b3, b3multi or none; this one is left out";
                    self.problem(name, other, why);
                }
            }
        }
        Some(match (b3, w3c) {
            (true, true) => Propagation::B3AndW3c,
            (true, false) => Propagation::B3,
            (false, true) => Propagation::W3c,
            (false, false) => Propagation::Off,
        })
    }

    fn resource(&mut self) -> Resource {
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        let mut attributes = Vec::new();
        for pair in self.text(name).unwrap_or_default().split(',').filter(|pair| !pair.trim().is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.trim().is_empty() => {
                    let value = String::from_utf8_lossy(&percent_decoded(value.trim())).into_owned();
                    attributes.push((key.trim().to_owned(), value));
                }
                _ => self.problem(name, pair, "expected `key=value,...`; this one is left out"),
            }
        }
        Resource { service_name: self.text("OTEL_SERVICE_NAME"), attributes, ..Resource::default() }
    }

    fn temporality(&mut self) -> Temporality {
        let name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        match self.text(name).map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("cumulative") => Temporality::Cumulative,
            Some("delta" | "lowmemory") => Temporality::Delta,
            Some(other) => {
                self.problem(name, other, "expected cumulative, delta or lowmemory; cumulative holds");
                Temporality::Cumulative
            }
        }
    }
}

/// `OTEL_BLRP_SCHEDULE_DELAY` is 1 s by default.
fn records() -> Batching {
    Batching { delay: Duration::from_secs(1), ..Batching::default() }
}
