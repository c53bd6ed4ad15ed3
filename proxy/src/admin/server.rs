//! What the process tells of itself: uptime, memory, processor time, configuration, log.

use std::{
    fs,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use tokio::time::Instant;

use crate::{
    app::ConfigStatus,
    drain::{Drain, Phase},
    net::listen::Workers,
    overload::{Level, Overload},
    telemetry::{Kind, LogCounts, Sample},
    upstream::stats,
    worker::WorkerStats,
};

/// Linux counts processor time in hundredths of a second on every architecture it exposes to programs (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the numbers of the process stand.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) drain: Arc<Drain>,
    pub(crate) config: Arc<ConfigStatus>,
    pub(crate) log: LogCounts,
    pub(crate) connections: Workers,
    pub(crate) overload: Arc<Overload>,
    pub(crate) workers: Arc<WorkerStats>,
    pub(crate) concurrency: usize,
}

/// Samples of the whole process.
pub(crate) fn server_samples(server: Server) -> impl Fn() -> Vec<Sample> + Send + Sync + 'static {
    let Server { drain, config, log, connections, overload, workers, concurrency } = server;
    let started = Instant::now();
    let start_time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    move || {
        let serving = drain.phase() == Phase::Serving;
        let resident = memory("VmRSS:");
        let build = Sample {
            labels: vec![("component", "proxy".into()), ("tag", env!("CARGO_PKG_VERSION").into())],
            ..gauge("istio_build", "Version of this proxy", 1.0)
        };
        let mut samples = vec![
            build,
            gauge("envoy_server_uptime", "Seconds since the start", whole(started.elapsed().as_secs())),
            gauge("envoy_server_live", "1 unless draining", f64::from(u8::from(serving))),
            gauge("envoy_server_state", "0 live, 1 draining", f64::from(u8::from(!serving))),
            gauge("envoy_server_concurrency", "Worker threads", whole(concurrency as u64)),
            gauge(
                "envoy_server_total_connections",
                "Open connections of clients",
                whole(connections.live() as u64),
            ),
            gauge("envoy_server_memory_allocated", "Resident bytes of the process", resident),
            gauge("envoy_server_memory_heap_size", "Bytes of data segment and heap", memory("VmData:")),
            counter("outrigger_config_applied_total", "Configurations that were taken", config.applied()),
            counter(
                "outrigger_config_rejected_total",
                "Configurations that were refused, the last good one being kept",
                config.rejected(),
            ),
            counter("outrigger_access_log_written_total", "Lines that were written", log.written()),
            counter("outrigger_access_log_dropped_total", "Lines that were lost", log.dropped()),
            counter(
                "outrigger_connections_refused_total",
                "Connections that were closed because too many were open",
                connections.refused() as u64,
            ),
            counter(
                "outrigger_accept_failures_total",
                "Times that the system could not accept a connection, for want of descriptors or memory",
                connections.failed() as u64,
            ),
            counter(
                "outrigger_capture_refused_total",
                "Connections that were closed because following them would have led back to the proxy",
                connections.astray() as u64,
            ),
            counter(
                "outrigger_protocol_detection_timeouts_total",
                "Captured connections that passed as bytes because the client said too little in time",
                workers.unclear.load(Relaxed),
            ),
            counter(
                "outrigger_worker_panics_total",
                "Requests and connections that ended in a panic",
                workers.panics.load(Relaxed),
            ),
            gauge("process_resident_memory_bytes", "Resident memory", resident),
            gauge("process_virtual_memory_bytes", "Virtual memory", memory("VmSize:")),
            gauge("process_start_time_seconds", "Start since the epoch", start_time.as_secs_f64()),
            gauge("process_open_fds", "Open file descriptors", open_files()),
            Sample {
                kind: Kind::Counter,
                ..gauge("process_cpu_seconds_total", "Processor time", processor_seconds())
            },
        ];
        samples.push(counter(
            "outrigger_plaintext_refused_total",
            "Connections of clients that spoke plain text where mutual TLS alone is taken",
            workers.plaintext_refused.load(Relaxed),
        ));
        samples.push(gauge(
            "envoy_overload_envoy_resource_monitors_cgroup_memory_pressure",
            "Used memory in percent of the limit of the control group, 0 without a limit",
            f64::from(overload.percent()),
        ));
        let level = overload.level();
        for (action, at) in [
            ("envoy_overload_envoy_overload_actions_disable_http_keepalive_active", Level::Shedding),
            ("envoy_overload_envoy_overload_actions_stop_accepting_requests_active", Level::Shedding),
            ("envoy_overload_envoy_overload_actions_stop_accepting_connections_active", Level::Refusing),
        ] {
            let active = f64::from(u8::from(level >= at));
            samples.push(gauge(
                action,
                "1 while memory is so short that Envoy's action of this name is taken",
                active,
            ));
        }
        let mut envoys = |area: &str, stat: &str, kind: stats::Kind, value: u64| {
            samples.push(Sample {
                name: format!("envoy_{area}_{stat}").into(),
                help: "Envoy's statistic of this name",
                kind: kind.into(),
                labels: Vec::new(),
                value: whole(value),
            });
        };
        workers.filters.each(|stat, kind, value| envoys("http", stat, kind, value));
        workers.tls.each(|stat, kind, value| envoys("listener", stat, kind, value));
        samples
    }
}

pub(super) fn gauge(name: &'static str, help: &'static str, value: f64) -> Sample {
    Sample { name: name.into(), help, kind: Kind::Gauge, labels: Vec::new(), value }
}

pub(super) fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
    Sample { name: name.into(), help, kind: Kind::Counter, labels: Vec::new(), value: whole(value) }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
pub(super) fn whole(value: u64) -> f64 {
    value as f64
}

/// A line of `/proc/self/status` in bytes; 0 where there is no such file.
fn memory(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|text| text.strip_prefix(line))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    whole(kilobytes.unwrap_or_default() * 1024)
}

fn open_files() -> f64 {
    whole(fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64))
}

/// User and system time; the program's name before them may hold anything, a closing parenthesis ends it.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    whole(ticks) / TICKS_PER_SECOND
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_memory_files_and_time() {
        assert!(memory("VmRSS:") > 100_000.0);
        assert!(open_files() >= 3.0);
        let mut busy = 0_u64;
        while processor_seconds() < 0.02 {
            busy = std::hint::black_box(busy.wrapping_add(1));
        }
    }
}
