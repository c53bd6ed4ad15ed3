//! What to inject into one pod: its labels and annotations over the options of the call, read once and typed.

mod annotations;
pub(crate) mod names;

use std::sync::Arc;

pub(crate) use annotations::{Annotations, flag};
use names::Setting;
use outrigger_config::{Source, tree};

use crate::{
    options::Options,
    problem::{Path, Problem},
    value::{Map, Value, map},
};

/// Istio's port of the agent's pages: readiness, probes of the application, merged metrics.
pub(crate) const STATUS_PORT: u16 = 15020;

/// How traffic comes to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interception {
    Redirect,
    Tproxy,
    /// Nothing is captured: explicit listeners only.
    None,
}

impl Interception {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }

    fn of_config(config: &Map, annotations: &Path) -> Result<Self, Problem> {
        let Some(mode) = config.get("interceptionMode") else { return Ok(Self::Redirect) };
        mode.text().and_then(Self::parse).ok_or_else(|| {
            let path = annotations.key(Setting::ProxyConfig.names()[1]);
            Problem::new(path, format!("{} is no interceptionMode", mode.to_json()), MODES)
        })
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Redirect, Self::Tproxy, Self::None].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Everything that a pod may choose.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) image: String,
    pub(crate) log_level: Option<&'static str>,
    pub(crate) interception: Interception,
    pub(crate) rewrite_probes: bool,
    pub(crate) merge_metrics: bool,
    pub(crate) native: bool,
    /// Classic form: the application's containers start when the proxy is ready.
    pub(crate) hold: bool,
    pub(crate) resources: Value,
    pub(crate) volumes: Map,
    pub(crate) mounts: Map,
    pub(crate) capture: Capture,
    /// `ProxyConfig`, without its metadata.
    pub(crate) proxy_config: Map,
    /// `proxyMetadata`: variables of the proxy.
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) overrides: Map,
    pub(crate) status_port: u16,
    /// `None` where the annotation says that there is no readiness probe.
    pub(crate) readiness: Option<Readiness>,
}

/// Which traffic is captured, in the form of Istio's flags.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) include_inbound: String,
    pub(crate) exclude_inbound: String,
    pub(crate) include_outbound: Option<String>,
    pub(crate) exclude_outbound: Option<String>,
    pub(crate) include_ranges: String,
    pub(crate) exclude_ranges: String,
    pub(crate) exclude_interfaces: Option<String>,
    pub(crate) virtual_interfaces: Option<String>,
}

/// The readiness probe, in seconds and failures.
#[derive(Debug)]
pub(crate) struct Readiness {
    pub(crate) initial_delay: u32,
    pub(crate) period: u32,
    pub(crate) failures: u32,
}

impl Settings {
    /// Reads the annotations, which stand at `path`.
    ///
    /// # Errors
    /// The first annotation whose value cannot be used.
    pub(crate) fn read(map: Option<&Map>, path: &Path, options: &Options) -> Result<Self, Problem> {
        let read = Annotations::new(map, path);
        let mut proxy_config = proxy_config(&read)?;
        let metadata = proxy_metadata(&mut proxy_config, path, &options.proxy_metadata)?;
        let interception = match read.parse(Setting::InterceptionMode, MODES, Interception::parse)? {
            Some(mode) => mode,
            None => Interception::of_config(&proxy_config, path)?,
        };
        let port =
            read.parse(Setting::StatusPort, "a port such as \"15020\", or \"0\"", |text| text.parse().ok())?;
        let status_port = port.filter(|port| *port != 0).unwrap_or(STATUS_PORT);
        Ok(Self {
            image: read.text(Setting::ProxyImage)?.unwrap_or_else(|| options.image.clone()),
            log_level: read.parse(Setting::LogLevel, LEVELS, log_level)?,
            interception,
            rewrite_probes: read.flag(Setting::RewriteProbes)?.unwrap_or(true),
            merge_metrics: read.flag(Setting::MergeMetrics)?.unwrap_or(true),
            native: read.flag(Setting::NativeSidecar)?.unwrap_or(options.native),
            hold: proxy_config.get("holdApplicationUntilProxyStarts") != Some(&Value::Bool(false)),
            resources: resources(&read)?,
            volumes: read.object(Setting::UserVolume, USER_VOLUME)?.unwrap_or_default(),
            mounts: read.object(Setting::UserVolumeMount, USER_VOLUME_MOUNT)?.unwrap_or_default(),
            capture: Capture::read(&read, status_port)?,
            overrides: read.object(Setting::Overrides, OVERRIDES)?.unwrap_or_default(),
            readiness: if port == Some(0) { None } else { Some(Readiness::read(&read)?) },
            proxy_config,
            metadata,
            status_port,
        })
    }
}

const MODES: &str = "REDIRECT, TPROXY or NONE";
const LEVELS: &str = "trace, debug, info, warning, error, critical or off";
const USER_VOLUME: &str =
    r#"JSON of names and volumes, for example {"certs":{"secret":{"secretName":"certs"}}}"#;
const USER_VOLUME_MOUNT: &str = r#"JSON of names and mounts, for example {"certs":{"mountPath":"/certs"}}"#;
const OVERRIDES: &str = r#"JSON of containers, for example {"containers":[{"name":"istio-proxy"}]}"#;

/// Envoy's words to those of our log.
fn log_level(text: &str) -> Option<&'static str> {
    Some(match text {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return None,
    })
}

impl Capture {
    /// The ports of our own pages are never captured, as in Istio.
    fn read(read: &Annotations<'_>, status_port: u16) -> Result<Self, Problem> {
        let excluded = read.ports(Setting::ExcludeInboundPorts, false)?.filter(|ports| !ports.is_empty());
        let own = format!("15090,15021,{status_port}");
        Ok(Self {
            include_inbound: read
                .ports(Setting::IncludeInboundPorts, true)?
                .unwrap_or_else(|| "*".to_owned()),
            exclude_inbound: excluded.map_or_else(|| own.clone(), |ports| format!("{own},{ports}")),
            include_outbound: read.ports(Setting::IncludeOutboundPorts, false)?,
            exclude_outbound: read.ports(Setting::ExcludeOutboundPorts, false)?,
            include_ranges: read
                .networks(Setting::IncludeOutboundRanges, true)?
                .unwrap_or_else(|| "*".to_owned()),
            exclude_ranges: read.networks(Setting::ExcludeOutboundRanges, false)?.unwrap_or_default(),
            exclude_interfaces: read.interfaces(Setting::ExcludeInterfaces)?,
            virtual_interfaces: read.interfaces(Setting::VirtualInterfaces)?,
        })
    }
}

impl Readiness {
    /// Istio's defaults.
    fn read(read: &Annotations<'_>) -> Result<Self, Problem> {
        Ok(Self {
            initial_delay: read.number(Setting::ReadinessInitialDelay)?.unwrap_or(0),
            period: read.number(Setting::ReadinessPeriod)?.unwrap_or(15),
            failures: read.number(Setting::ReadinessFailures)?.unwrap_or(4),
        })
    }
}

/// Istio: one annotation of the four, and none of the defaults counts. Its own default request of memory is 128Mi; ours
/// fits this proxy.
fn resources(read: &Annotations<'_>) -> Result<Value, Problem> {
    let group = |cpu: Setting, memory: Setting| -> Result<Option<Value>, Problem> {
        let given = [("cpu", read.quantity(cpu)?), ("memory", read.quantity(memory)?)];
        let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
        let given: Map = given.collect();
        Ok((!given.is_empty()).then_some(given.into()))
    };
    let requests = group(Setting::ProxyCpu, Setting::ProxyMemory)?;
    let limits = group(Setting::ProxyCpuLimit, Setting::ProxyMemoryLimit)?;
    if requests.is_none() && limits.is_none() {
        return Ok(map([
            ("requests", map([("cpu", "100m".into()), ("memory", "64Mi".into())])),
            ("limits", map([("cpu", "2000m".into()), ("memory", "1Gi".into())])),
        ]));
    }
    let groups = [("requests", requests), ("limits", limits)];
    Ok(Value::Map(groups.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()))
}

/// The `ProxyConfig` of the annotation.
fn proxy_config(read: &Annotations<'_>) -> Result<Map, Problem> {
    let Some(found) = read.find(Setting::ProxyConfig)? else { return Ok(Map::new()) };
    let source = Source { name: Arc::from("proxy.istio.io/config"), text: found.text.to_owned() };
    let help = "YAML of a ProxyConfig, for example \"concurrency: 2\"";
    let stretches = tree::stretches(&source).map_err(|report| {
        let first = report.diagnostics.first().map(|one| one.message.clone()).unwrap_or_default();
        Problem::new(found.path.clone(), format!("this is no YAML: {first}"), help)
    })?;
    match stretches.iter().flat_map(|stretch| &stretch.documents).next().map(Value::of) {
        None => Ok(Map::new()),
        Some(Value::Map(config)) => Ok(config),
        Some(other) => {
            let message = format!("a ProxyConfig is expected, not {}", other.kind());
            Err(Problem::new(found.path, message, help))
        }
    }
}

/// Variables, those of all pods first: numbers and booleans are written as they stand.
fn proxy_metadata(
    config: &mut Map,
    annotations: &Path,
    of_all: &[(String, String)],
) -> Result<Vec<(String, String)>, Problem> {
    let Some(Value::Map(entries)) = config.get("proxyMetadata") else { return Ok(of_all.to_vec()) };
    let rest = of_all.iter().filter(|(name, _)| !entries.contains_key(name)).cloned().map(Ok);
    let own = entries.iter().map(|(name, value)| match value {
        Value::Text(text) => Ok((name.clone(), text.clone())),
        Value::Bool(_) | Value::Number(_) => Ok((name.clone(), value.to_json())),
        other => {
            let path = annotations.key("proxy.istio.io/config");
            let message = format!("proxyMetadata.{name} is {}", other.kind());
            Err(Problem::new(path, message, "a variable has a string"))
        }
    });
    rest.chain(own).collect()
}
