//! `MeshConfig`: the key `mesh` of the ConfigMap `istio`, or a file of its own.

use std::{sync::Arc, time::Duration};

use super::{
    Exports, at_least_1ms,
    connection_pool::keepalive,
    custom_tags::custom_tags,
    destination_rule::{Blocks, blocks},
    locality::{LocalitySetting, check_setting, locality_setting},
    log_format::{default_json, default_text, json_format, text_line},
    mesh_fields::MESH_CONFIG,
    providers::{Provider, length, providers, zipkin_propagation},
    retries::{Retries, default_inbound_retry, read_inbound_retries, read_retries},
    sidecar::{OutboundMode, outbound_mode},
};
use crate::{
    fields::{self, Object, Spanned},
    report::Code,
    sink::Sink,
    snapshot::{AccessLog, CustomTag, Keepalive, LogEncoding, LogSink, PathNormalization, Propagation},
    yaml::{self, Base, Node, Value},
};

/// The name of a provider where it is chosen.
pub(crate) type ProviderName = Spanned<Box<str>>;

/// How long a client may say nothing before its connection passes as bytes. Istio waits for ever, and a server that
/// speaks first with it: docs/adr/0011.
const DETECTION: Duration = Duration::from_secs(1);

/// The settings, defaults applied.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// `accessLogFile`
    pub(crate) log_file: Option<Box<str>>,
    /// Of `accessLogFile` and the built-in provider `envoy`.
    pub(crate) log_encoding: LogEncoding,
    pub(crate) tracing: MeshTracing,
    pub(crate) providers: Vec<Provider>,
    /// `defaultProviders.tracing`
    pub(crate) tracers: Vec<ProviderName>,
    /// `defaultProviders.accessLogging`
    pub(crate) loggers: Vec<ProviderName>,
    pub(crate) outbound: OutboundMode,
    /// `protocolDetectionTimeout`; `None` is for ever.
    pub(crate) detection: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    /// `dnsRefreshRate`: the longest wait before a name is looked up again that had no answer.
    pub(crate) dns_refresh: Duration,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) retries: Option<Retries>,
    /// Without it the default is on, with nothing said.
    pub(crate) locality: LocalitySetting,
    pub(crate) inbound_retries: Retries,
    pub(crate) root_namespace: Box<str>,
    pub(crate) exports: DefaultExports,
    /// `h2UpgradePolicy`
    pub(crate) upgrade: bool,
    /// `defaultTrafficPolicy`
    pub(crate) policy: Blocks,
    pub(crate) paths: PathNormalization,
    /// `enableAutoMtls`
    pub(crate) auto_mutual: bool,
    /// `trustDomain`
    pub(crate) trust_domain: Option<Arc<str>>,
    pub(crate) trust_aliases: Vec<Arc<str>>,
}

/// Who sees resources that do not say it: everyone, if these do not either.
#[derive(Debug, Default)]
pub(crate) struct DefaultExports {
    pub(crate) services: Exports,
    pub(crate) virtual_services: Exports,
    pub(crate) destination_rules: Exports,
}

/// `enableTracing` and `defaultConfig.tracing`, as written.
#[derive(Debug, Default)]
pub(crate) struct MeshTracing {
    pub(crate) disabled: bool,
    /// Zero is unset.
    pub(crate) sampling: Option<Spanned<f64>>,
    /// Of the old block `zipkin`.
    pub(crate) propagation: Option<Propagation>,
    pub(crate) custom_tags: Box<[CustomTag]>,
    pub(crate) max_path_length: Option<usize>,
    pub(crate) istio_tags: Option<bool>,
}

impl Default for Mesh {
    /// Istio's defaults.
    fn default() -> Self {
        Self {
            log_file: None,
            log_encoding: LogEncoding::Text(default_text()),
            tracing: MeshTracing::default(),
            providers: Vec::new(),
            tracers: Vec::new(),
            loggers: Vec::new(),
            outbound: OutboundMode::AllowAny,
            detection: Some(DETECTION),
            connect_timeout: Duration::from_secs(10),
            dns_refresh: Duration::from_secs(60),
            keepalive: None,
            retries: None,
            locality: LocalitySetting::default(),
            inbound_retries: Retries(Some(default_inbound_retry())),
            root_namespace: "istio-system".into(),
            exports: DefaultExports::default(),
            upgrade: false,
            policy: Blocks::default(),
            paths: PathNormalization::default(),
            auto_mutual: true,
            trust_domain: None,
            trust_aliases: Vec::new(),
        }
    }
}

impl Mesh {
    /// What `accessLogFile` asks for.
    pub(crate) fn access_log(&self) -> Option<AccessLog> {
        let path = self.log_file.as_deref()?;
        Some(AccessLog { to: LogSink::File(path.into()), encoding: self.log_encoding.clone() })
    }
}

/// The settings within a ConfigMap: a document in a block of text. The lines of findings are those of the file.
pub(crate) fn embedded(config_map: &Node, sink: &mut Sink) -> Vec<Node> {
    let Some(block) = config_map.get("data").and_then(|data| data.get("mesh")) else {
        sink.report(Code::MissingField, config_map.span, "the ConfigMap `istio` has no key `mesh`");
        return Vec::new();
    };
    let text = block.text().unwrap_or_default();
    // A literal block's place is its first line that is not empty; it keeps its lines, each with the same indent.
    let empty = text.bytes().take_while(|byte| *byte == b'\n').count();
    let empty = u32::try_from(empty).unwrap_or_default();
    let base = Base {
        file: block.span.file,
        line: block.span.line.saturating_sub(empty.saturating_add(1)),
        column: block.span.column.saturating_sub(1),
    };
    yaml::parse(base, text, 0, sink).documents
}

/// Reads the settings from a document that is a `MeshConfig`.
pub(crate) fn read(document: &Node, sink: &mut Sink) -> Mesh {
    fields::check(document, &MESH_CONFIG, sink);
    let config = Object::new(document, &MESH_CONFIG);
    let default = Mesh::default();
    let chosen = config.object("defaultProviders");
    let log_file = config.text("accessLogFile").filter(|path| !path.value.is_empty());
    Mesh {
        log_file: log_file.map(|path| path.value.into()),
        log_encoding: log_encoding(&config, sink),
        tracing: tracing(&config, sink),
        providers: providers(&config, sink),
        tracers: chosen.map(|chosen| names(&chosen.texts("tracing"))).unwrap_or_default(),
        loggers: chosen.map(|chosen| names(&chosen.texts("accessLogging"))).unwrap_or_default(),
        outbound: config
            .object("outboundTrafficPolicy")
            .map_or(default.outbound, |policy| outbound_mode(&policy)),
        detection: config
            .duration("protocolDetectionTimeout")
            .map_or(default.detection, |written| Some(written.value).filter(|limit| !limit.is_zero())),
        connect_timeout: at_least_1ms(config.duration("connectTimeout"), sink)
            .unwrap_or(default.connect_timeout),
        dns_refresh: at_least_1ms(config.duration("dnsRefreshRate"), sink).unwrap_or(default.dns_refresh),
        keepalive: config.object("tcpKeepalive").map(|block| keepalive(&block, sink)),
        retries: config.object("defaultHttpRetryPolicy").map(|block| read_retries(&block, sink)),
        locality: config
            .object("localityLbSetting")
            .map(|block| {
                // Every rule may bring the outlier detection.
                check_setting(&block, true, sink);
                locality_setting(&block)
            })
            .unwrap_or_default(),
        inbound_retries: config
            .object("defaultInboundHttpRetryPolicy")
            .map_or(default.inbound_retries, |block| read_inbound_retries(&block, sink)),
        root_namespace: config
            .text("rootNamespace")
            .filter(|name| !name.value.is_empty())
            .map_or(default.root_namespace, |name| name.value.into()),
        exports: DefaultExports {
            services: Exports::of(&config.texts("defaultServiceExportTo"), ".", true, sink),
            virtual_services: Exports::of(&config.texts("defaultVirtualServiceExportTo"), ".", true, sink),
            destination_rules: Exports::of(&config.texts("defaultDestinationRuleExportTo"), ".", true, sink),
        },
        upgrade: config.text("h2UpgradePolicy").is_some_and(|policy| policy.value == "UPGRADE"),
        policy: config
            .object("defaultTrafficPolicy")
            .map(|block| blocks(&block, None, sink))
            .unwrap_or_default(),
        paths: config.object("pathNormalization").map(|block| paths(&block)).unwrap_or_default(),
        auto_mutual: config.bool("enableAutoMtls").unwrap_or(default.auto_mutual),
        trust_domain: config.text("trustDomain").and_then(|domain| trust_domain(&domain, sink)),
        trust_aliases: config
            .texts("trustDomainAliases")
            .iter()
            .filter_map(|domain| trust_domain(domain, sink))
            .collect(),
    }
}

/// SPIFFE-ID 2.1: lower case letters, digits, `.`, `-` and `_`.
fn trust_domain(text: &Spanned<&str>, sink: &mut Sink) -> Option<Arc<str>> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    if text.value.is_empty() || text.value.len() > 255 || !text.value.bytes().all(fits) {
        let message = format!("`{}` is not a trust domain", text.value);
        sink.report(Code::InvalidValue, text.span, message)
            .help("lower case letters, digits, dots, hyphens and underscores, as in `cluster.local`");
        return None;
    }
    Some(text.value.into())
}

fn paths(block: &Object<'_>) -> PathNormalization {
    match block.text("normalization").map(|mode| mode.value) {
        Some("NONE") => PathNormalization::None,
        Some("MERGE_SLASHES") => PathNormalization::MergeSlashes,
        Some("DECODE_AND_MERGE_SLASHES") => PathNormalization::DecodeAndMergeSlashes,
        _ => PathNormalization::Base,
    }
}

/// Names of providers, to be looked up when everything is read.
pub(super) fn names(texts: &[Spanned<&str>]) -> Vec<ProviderName> {
    texts.iter().map(|text| Spanned { value: text.value.into(), span: text.span }).collect()
}

fn log_encoding(config: &Object<'_>, sink: &mut Sink) -> LogEncoding {
    let format = config.text("accessLogFormat").filter(|format| !format.value.is_empty());
    match (config.text("accessLogEncoding").map_or("TEXT", |text| text.value), format) {
        ("JSON", None) => LogEncoding::Json(default_json()),
        ("JSON", Some(text)) => LogEncoding::Json(json_format(&text, sink)),
        (_, None) => LogEncoding::Text(default_text()),
        (_, Some(text)) => LogEncoding::Text(text_line(&text, sink)),
    }
}

fn tracing(config: &Object<'_>, sink: &mut Sink) -> MeshTracing {
    let disabled = config.bool("enableTracing") == Some(false);
    let Some(settings) = config.object("defaultConfig").and_then(|proxy| proxy.object("tracing")) else {
        return MeshTracing { disabled, ..MeshTracing::default() };
    };
    MeshTracing {
        disabled,
        sampling: settings.float("sampling").filter(|percent| percent.value != 0.0),
        propagation: settings.object("zipkin").map(|zipkin| zipkin_propagation(&zipkin)),
        custom_tags: custom_tags(&settings, sink).unwrap_or_default(),
        max_path_length: length(&settings, "maxPathTagLength", sink),
        istio_tags: settings.bool("enableIstioTags"),
    }
}

/// True for a document that is the ConfigMap `istio`.
pub(crate) fn is_mesh_config_map(document: &Node) -> bool {
    let name = document.get("metadata").and_then(|metadata| metadata.get("name"));
    name.and_then(Node::text) == Some("istio")
        && document.get("data").is_some_and(|data| matches!(data.value, Value::Map(_)))
}
