//! What the bench measures, by name and unit.

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    Cpu,
    User,
    System,
    Rate,
    Spans,
    Log,
    Median,
    P99,
    AddedMedian,
    Rss,
    Anonymous,
    Connection1000,
    Connection5000,
    Start,
    StartFilled,
    RssFilled,
}

impl Metric {
    /// Name and unit, for people and for the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU us/req",
            Self::User => "user us/req",
            Self::System => "system us/req",
            Self::Rate => "req/s",
            Self::Spans => "spans/req",
            Self::Log => "log B/req",
            Self::Median => "p50 us",
            Self::P99 => "p99 us",
            Self::AddedMedian => "added p50 us",
            Self::Rss => "idle RSS MiB",
            Self::Anonymous => "idle anonymous MiB",
            Self::Connection1000 => "KiB/conn at 1,000",
            Self::Connection5000 => "KiB/conn at 5,000",
            Self::Start => "start ms",
            Self::StartFilled => "start ms, 1,000 services",
            Self::RssFilled => "RSS MiB, 1,000 services",
        }
    }
}
