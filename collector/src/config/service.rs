//! The whole document: sections, processors, extensions, and the pipelines that tie names together.

use super::expand::Environment;
use super::fields::{Fields, nearest};
use super::model::{Batch, Config, Exporter, Pipeline, Receiver, Shutdown};
use super::report::{Place, Report};
use super::yaml::{Entry, Node};
use super::{exporters, receivers};
use crate::signal::Signal;

/// Reads the tree; `None` or errors in the report mean that it cannot run.
pub(super) fn read(root: &Node, environment: &Environment, report: &mut Report) -> Option<Config> {
    let mut fields = Fields::open(root, "", report);
    let receivers: Vec<Receiver> = fields
        .named("receivers", report)
        .iter()
        .filter_map(|entry| {
            if kind(entry) == "otlp" {
                return Some(receivers::read(entry, report));
            }
            let path = format!("receivers.{}", entry.key);
            report.error(&entry.place, &path, "unknown receiver", nearest(kind(entry), ["otlp"].into_iter()));
            None
        })
        .collect();
    let exporter_entries = fields.named("exporters", report);
    let mut exporters: Vec<Exporter> =
        exporter_entries.iter().filter_map(|entry| exporters::read(entry, environment, report)).collect();
    let processors: Vec<(&str, Processor)> = fields
        .named("processors", report)
        .iter()
        .filter_map(|entry| Some((entry.key.as_str(), processor(entry, report)?)))
        .collect();
    let (health, extension_names) = extensions(&mut fields, report);
    let Some(mut service) = fields.fields("service", report) else {
        report.error(
            &root.place,
            "service",
            "is required",
            Some("it says what the pipelines are".to_owned()),
        );
        fields.finish(report);
        return None;
    };
    fields.finish(report);
    for (name, place) in service.names("extensions", report) {
        if !extension_names.contains(&name.as_str()) {
            let hint = nearest(&name, extension_names.iter().copied());
            report.error(
                &place,
                &service.at("extensions"),
                format!("{name} is not among the extensions"),
                hint,
            );
        }
    }
    let (metrics, log_level) = telemetry(&mut service, report);
    let shutdown = shutdown(&mut service, report);
    let mut memory_limit = None;
    let mut pipelines = Vec::new();
    for entry in service.named("pipelines", report) {
        let mut names = Names { receivers: &receivers, exporters: &mut exporters, processors: &processors };
        pipelines.extend(pipeline(entry, &mut names, &mut memory_limit, report));
    }
    if pipelines.is_empty() && report.errors.is_empty() {
        report.error(&service.place, &service.at("pipelines"), "there are none", None);
    }
    service.finish(report);
    warn_unused(&receivers, &exporters, &pipelines, &root.place, report);
    Some(Config {
        receivers,
        exporters,
        pipelines,
        memory_limit: memory_limit.unwrap_or_else(|| (memory_of_machine() / 2).min(512 << 20)),
        metrics,
        health,
        log_level,
        shutdown,
    })
}

/// A processor, mapped to what does its work here.
enum Processor {
    MemoryLimiter(usize),
    Batch(Batch),
}

fn processor(entry: &Entry, report: &mut Report) -> Option<Processor> {
    let path = format!("processors.{}", entry.key);
    let mut fields = Fields::open(&entry.node, &path, report);
    match kind(entry) {
        "memory_limiter" => {
            fields.duration("check_interval", report);
            let mib = |value: Option<u64>| value.and_then(|mib| usize::try_from(mib << 20).ok());
            let limit = mib(fields.number("limit_mib", report));
            let spike = mib(fields.number("spike_limit_mib", report));
            let percent = |value: u64| (memory_of_machine() / 100).saturating_mul(value.min(100) as usize);
            let limit_share = fields.number("limit_percentage", report).map(percent);
            let spike_share = fields.number("spike_limit_percentage", report).map(percent);
            fields.finish(report);
            let Some(limit) = limit.or(limit_share).filter(|limit| *limit > 0) else {
                report.error(&entry.place, &path, "limit_mib or limit_percentage is required", None);
                return None;
            };
            let spike = spike.or(spike_share).unwrap_or(limit / 5);
            Some(Processor::MemoryLimiter(limit.saturating_sub(spike).max(1)))
        }
        "batch" => {
            let mut batch = Batch::default();
            if let Some(size) = fields.number("send_batch_size", report) {
                batch.min_items = size;
            }
            if let Some(size) = fields.number("send_batch_max_size", report) {
                batch.max_items = size;
            }
            if let Some(timeout) = fields.duration("timeout", report) {
                batch.flush_timeout = timeout;
            }
            fields.finish(report);
            Some(Processor::Batch(batch))
        }
        "resource" | "attributes" | "filter" | "probabilistic_sampler" | "tail_sampling" | "transform" => {
            report.error(&entry.place, &path, "this processor is not built yet", None);
            None
        }
        unknown => {
            let hint = nearest(unknown, ["memory_limiter", "batch"].into_iter());
            report.error(&entry.place, &path, "unknown processor", hint);
            None
        }
    }
}

/// Returns where to serve health, and the names of all.
fn extensions<'a>(fields: &mut Fields<'a>, report: &mut Report) -> (String, Vec<&'a str>) {
    let mut health = "0.0.0.0:8080".to_owned();
    let entries = fields.named("extensions", report);
    for entry in entries {
        let path = format!("extensions.{}", entry.key);
        match kind(entry) {
            "health_check" => {
                let mut fields = Fields::open(&entry.node, &path, report);
                health = receivers::endpoint(&mut fields, "0.0.0.0:8080", report);
                fields.finish(report);
            }
            "file_storage" | "zpages" | "pprof" => {
                report.error(&entry.place, &path, "this extension is not built yet", None);
            }
            unknown => {
                let hint = nearest(unknown, ["health_check"].into_iter());
                report.error(&entry.place, &path, "unknown extension", hint);
            }
        }
    }
    (health, entries.iter().map(|entry| entry.key.as_str()).collect())
}

fn telemetry(service: &mut Fields<'_>, report: &mut Report) -> (String, tracing::Level) {
    let (mut address, mut level) = ("0.0.0.0:8888".to_owned(), tracing::Level::INFO);
    if let Some(mut telemetry) = service.fields("telemetry", report) {
        if let Some(mut metrics) = telemetry.fields("metrics", report) {
            if let Some(text) = metrics.text("address", report) {
                address = text;
            }
            metrics.choice("level", &[("basic", ()), ("normal", ()), ("detailed", ())], report);
            metrics.finish(report);
        }
        if let Some(mut logs) = telemetry.fields("logs", report) {
            let levels = [
                ("debug", tracing::Level::DEBUG),
                ("info", tracing::Level::INFO),
                ("warn", tracing::Level::WARN),
                ("error", tracing::Level::ERROR),
            ];
            level = logs.choice("level", &levels, report).unwrap_or(level);
            logs.finish(report);
        }
        telemetry.finish(report);
    }
    (address, level)
}

fn shutdown(service: &mut Fields<'_>, report: &mut Report) -> Shutdown {
    let mut shutdown = Shutdown::default();
    if let Some(mut fields) = service.fields("shutdown", report) {
        shutdown.delay = fields.duration("delay", report).unwrap_or(shutdown.delay);
        shutdown.in_flight = fields.duration("in_flight_timeout", report).unwrap_or(shutdown.in_flight);
        shutdown.flush = fields.duration("flush_timeout", report).unwrap_or(shutdown.flush);
        fields.finish(report);
    }
    shutdown
}

struct Names<'a> {
    receivers: &'a [Receiver],
    exporters: &'a mut [Exporter],
    processors: &'a [(&'a str, Processor)],
}

fn pipeline(
    entry: &Entry,
    names: &mut Names<'_>,
    memory_limit: &mut Option<usize>,
    report: &mut Report,
) -> Option<Pipeline> {
    let path = format!("service.pipelines.{}", entry.key);
    let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == kind(entry)) else {
        let hint = nearest(kind(entry), Signal::ALL.iter().map(|signal| signal.name()));
        report.error(&entry.place, &path, "unknown signal", hint);
        return None;
    };
    let mut fields = Fields::open(&entry.node, &path, report);
    let mut resolve = |key: &'static str, known: &[&str], required: bool| {
        let wanted = fields.names(key, report);
        if wanted.is_empty() && required {
            report.error(&fields.place, &fields.at(key), "at least one is required", None);
        }
        let mut found = Vec::new();
        for (name, place) in wanted {
            match known.iter().position(|known| *known == name) {
                Some(index) => found.push(index),
                None if value_exists(report, &format!("{key}.{name}")) => {}
                None => {
                    let hint = nearest(&name, known.iter().copied());
                    report.error(&place, &fields.at(key), format!("{name} is not among the {key}"), hint);
                }
            }
        }
        found
    };
    let known: Vec<&str> = names.receivers.iter().map(|receiver| receiver.name.as_str()).collect();
    let receivers = resolve("receivers", &known, true);
    let known: Vec<&str> = names.processors.iter().map(|(name, _)| *name).collect();
    let processors = resolve("processors", &known, false);
    let known: Vec<&str> = names.exporters.iter().map(|exporter| exporter.name.as_str()).collect();
    let exporters = resolve("exporters", &known, true);
    fields.finish(report);
    for (_, processor) in processors.iter().filter_map(|index| names.processors.get(*index)) {
        match processor {
            Processor::MemoryLimiter(limit) => {
                *memory_limit = Some(memory_limit.map_or(*limit, |least| least.min(*limit)));
            }
            // An exporter that has its own settings keeps them.
            Processor::Batch(batch) => {
                for index in &exporters {
                    if let Some(exporter) = names.exporters.get_mut(*index) {
                        exporter.queue.batch.get_or_insert_with(|| batch.clone());
                    }
                }
            }
        }
    }
    Some(Pipeline { signal, receivers, exporters })
}

/// Whether a component was named but could not be read: that has been reported already.
fn value_exists(report: &Report, path: &str) -> bool {
    report.errors.iter().any(|error| {
        error.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn warn_unused(
    receivers: &[Receiver],
    exporters: &[Exporter],
    pipelines: &[Pipeline],
    place: &Place,
    report: &mut Report,
) {
    for (index, receiver) in receivers.iter().enumerate() {
        if !pipelines.iter().any(|pipeline| pipeline.receivers.contains(&index)) {
            report.warn(
                place,
                &format!("receivers.{}", receiver.name),
                "no pipeline uses it: it will not listen",
            );
        }
    }
    for (index, exporter) in exporters.iter().enumerate() {
        if !pipelines.iter().any(|pipeline| pipeline.exporters.contains(&index)) {
            report.warn(place, &format!("exporters.{}", exporter.name), "no pipeline uses it");
        }
    }
}

/// `otlp/second` is of the kind `otlp`.
fn kind(entry: &Entry) -> &str {
    entry.key.split('/').next().unwrap_or_default()
}

/// What the container may use, or else what the machine has.
fn memory_of_machine() -> usize {
    let number = |text: String| text.trim().parse::<usize>().ok();
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(number);
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib << 10)
    });
    let known = [container, machine].into_iter().flatten().min();
    known.unwrap_or(1 << 30)
}
