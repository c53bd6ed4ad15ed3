//! What the kernel knows of a process: its CPU time and its memory.

use std::{collections::BTreeMap, fs, time::Duration};

use tokio::time::{Instant, sleep};

use crate::Outcome;

/// CPU time of all threads at one moment.
#[derive(Debug, Clone)]
pub(crate) struct CpuTime {
    /// Nanoseconds on a CPU, by thread.
    threads: BTreeMap<u32, u64>,
    user_ticks: u64,
    system_ticks: u64,
}

/// What was spent between two moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// By the scheduler's clock.
    pub(crate) micros: f64,
    /// The part of it outside the kernel, from the ticks.
    pub(crate) user_share: f64,
}

impl CpuTime {
    pub(crate) fn read(pid: u32) -> Outcome<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let thread = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            // A thread that ends meanwhile has no file any more.
            let nanos = fs::read_to_string(path.join("schedstat")).ok();
            let nanos =
                nanos.as_deref().and_then(|text| text.split(' ').next()).and_then(|text| text.parse().ok());
            if let (Some(thread), Some(nanos)) = (thread, nanos) {
                threads.insert(thread, nanos);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name of the program stands in parentheses and may hold anything.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self { threads, user_ticks: ticks(), system_ticks: ticks() })
    }

    pub(crate) fn since(&self, before: &Self) -> Spent {
        let spent = self
            .threads
            .iter()
            .map(|(thread, nanos)| nanos.saturating_sub(before.threads.get(thread).copied().unwrap_or(0)));
        let mut micros = spent.sum::<u64>() as f64 / 1000.0;
        let user = self.user_ticks.saturating_sub(before.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(before.system_ticks) as f64;
        if before.threads.keys().any(|thread| !self.threads.contains_key(thread)) {
            // What a thread spent before it ended is in the coarser clock of the process alone.
            let tick = 1e6 / rustix::param::clock_ticks_per_second() as f64;
            micros = micros.max((user + system) * tick);
        }
        Spent { micros, user_share: if user + system > 0.0 { user / (user + system) } else { 0.0 } }
    }
}

/// Resident memory in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    /// The part that is neither the binary nor another file.
    pub(crate) anonymous: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of_this_process() -> Outcome<Self> {
        Self::read(std::process::id())
    }

    fn read(pid: u32) -> Outcome<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.split_whitespace().next())
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        Ok(Self { rss: field("VmRSS:"), anonymous: field("RssAnon:"), peak: field("VmHWM:") })
    }

    /// Memory once it has not changed for `quiet`, or after five seconds.
    pub(crate) async fn settled(pid: u32, quiet: Duration) -> Outcome<Self> {
        let began = Instant::now();
        let (mut last, mut since) = (Self::read(pid)?, began);
        while since.elapsed() < quiet && began.elapsed() < Duration::from_secs(5) {
            sleep(Duration::from_millis(10)).await;
            let now = Self::read(pid)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}
