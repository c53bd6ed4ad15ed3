//! Metrics as OTLP's data points, cumulative or as deltas. What was exported before is remembered by series.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{
    histogram::{BOUNDS, Merged},
    wire::{self, Any, attribute},
};

/// Points of one message; the rest of a family goes into the next.
const CHUNK: usize = 1_000;

/// All points of one name.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: Cow<'static, str>,
    pub(super) help: &'static str,
    pub(super) unit: &'static str,
    pub(super) kind: FamilyKind,
    pub(super) points: Vec<(Labels, Value)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyKind {
    /// A monotonic sum.
    Sum,
    Gauge,
    Histogram,
}

/// Names and values of attributes.
pub(super) type Labels = Vec<(&'static str, Arc<str>)>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
    Histogram(Box<Merged>),
}

type Key = (Cow<'static, str>, Labels);

/// Turns totals into points.
#[derive(Debug)]
pub struct Temporal {
    delta: bool,
    known: HashMap<Key, Known>,
    /// Nanoseconds since the epoch: series that turn up later began behind it.
    collected: u64,
}

#[derive(Debug)]
struct Known {
    start: u64,
    last: Value,
    at: u64,
}

/// Some points, as they are sent together.
#[derive(Debug)]
pub struct Points {
    /// Encoded fields `metrics` of a `ScopeMetrics`.
    pub metrics: Vec<u8>,
    /// How many points these are.
    pub count: u64,
    totals: Vec<(Key, Value)>,
    at: u64,
}

impl Temporal {
    /// Totals count from `started`, in nanoseconds since the epoch.
    #[must_use]
    pub fn new(delta: bool, started: u64) -> Self {
        Self { delta, known: HashMap::new(), collected: started }
    }

    /// Points of the totals at `now`, in parts. Deltas are those since the last part that was [delivered](Self::delivered).
    pub(super) fn collect(&mut self, families: Vec<Family>, now: u64) -> Vec<Points> {
        let mut parts = Vec::new();
        let mut seen = HashMap::with_capacity(self.known.len());
        let mut part = Points { metrics: Vec::new(), count: 0, totals: Vec::new(), at: now };
        for family in families {
            let mut points = family.points.into_iter().peekable();
            while points.peek().is_some() {
                let mut encoded = Vec::new();
                let room = CHUNK - usize::try_from(part.count).unwrap_or(CHUNK);
                for (labels, total) in points.by_ref().take(room) {
                    let key = (family.name.clone(), labels);
                    let known = self.recall(&key, &total, family.kind, now);
                    if let Some((start, value)) = self.told(&known, &total, family.kind) {
                        let field = if family.kind == FamilyKind::Gauge { None } else { Some(start) };
                        wire::message(1, &mut encoded, |out| point(&key.1, &value, field, now, out));
                        part.count += 1;
                        part.totals.push((key.clone(), total));
                    }
                    seen.insert(key, known);
                }
                if !encoded.is_empty() {
                    wire::message(2, &mut part.metrics, |out| {
                        wire::text(1, &family.name, out);
                        wire::text(2, family.help, out);
                        wire::text(3, family.unit, out);
                        self.wrap(family.kind, &encoded, out);
                    });
                }
                if part.count >= CHUNK as u64 {
                    let full = std::mem::replace(
                        &mut part,
                        Points { metrics: Vec::new(), count: 0, totals: Vec::new(), at: now },
                    );
                    parts.push(full);
                }
            }
        }
        if part.count > 0 {
            parts.push(part);
        }
        // Series that are gone are forgotten.
        self.known = seen;
        self.collected = now;
        parts
    }

    /// A receiver took these points: the next deltas begin here.
    pub fn delivered(&mut self, points: Points) {
        for (key, last) in points.totals {
            if let Some(known) = self.known.get_mut(&key) {
                known.last = last;
                known.at = points.at;
            }
        }
    }

    /// What is known of a series; one that counts less than before began anew.
    fn recall(&mut self, key: &Key, total: &Value, kind: FamilyKind, now: u64) -> Known {
        match self.known.remove(key) {
            Some(known) if kind == FamilyKind::Gauge || !total.is_below(&known.last) => match self.delta {
                true => known,
                false => Known { last: total.clone(), at: now, ..known },
            },
            Some(known) => Known { start: known.at, last: total.zero(), at: known.at },
            None => Known { start: self.collected, last: total.zero(), at: self.collected },
        }
    }

    /// Start and value of the point; a delta of nothing is not told.
    fn told(&self, known: &Known, total: &Value, kind: FamilyKind) -> Option<(u64, Value)> {
        if kind == FamilyKind::Gauge || !self.delta {
            return Some((known.start, total.clone()));
        }
        let delta = total.minus(&known.last);
        (delta != delta.zero()).then_some((known.at, delta))
    }

    fn wrap(&self, kind: FamilyKind, points: &[u8], out: &mut Vec<u8>) {
        let temporality = if self.delta { 1 } else { 2 };
        match kind {
            FamilyKind::Gauge => wire::bytes(5, points, out),
            FamilyKind::Sum => wire::message(7, out, |out| {
                out.extend_from_slice(points);
                wire::uint(2, temporality, out);
                wire::uint(3, 1, out);
            }),
            FamilyKind::Histogram => wire::message(9, out, |out| {
                out.extend_from_slice(points);
                wire::uint(2, temporality, out);
            }),
        }
    }
}

/// `NumberDataPoint` or `HistogramDataPoint`, which number their fields alike but for the attributes.
fn point(labels: &Labels, value: &Value, start: Option<u64>, now: u64, out: &mut Vec<u8>) {
    let field = if matches!(value, Value::Histogram(_)) { 9 } else { 7 };
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        attribute(field, name, Any::Text(value), out);
    }
    if let Some(start) = start {
        wire::fixed64(2, start, out);
    }
    wire::fixed64(3, now, out);
    match value {
        Value::Count(count) => wire::fixed64(6, *count, out),
        Value::Number(number) => wire::double(4, *number, out),
        Value::Histogram(merged) => {
            wire::fixed64(4, merged.count(), out);
            wire::double(5, merged.sum(), out);
            let counts: Vec<u8> =
                merged.buckets().into_iter().flat_map(|(_, count)| count.to_le_bytes()).collect();
            wire::bytes(6, &counts, out);
            let bounds: Vec<u8> = BOUNDS.iter().flat_map(|bound| bound.to_le_bytes()).collect();
            wire::bytes(7, &bounds, out);
        }
    }
}

impl Value {
    fn zero(&self) -> Self {
        match self {
            Self::Count(_) => Self::Count(0),
            Self::Number(_) => Self::Number(0.0),
            Self::Histogram(_) => Self::Histogram(Box::default()),
        }
    }

    fn is_below(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Count(now), Self::Count(before)) => now < before,
            (Self::Number(now), Self::Number(before)) => now < before,
            (Self::Histogram(now), Self::Histogram(before)) => now.count() < before.count(),
            _ => true,
        }
    }

    fn minus(&self, before: &Self) -> Self {
        match (self, before) {
            (Self::Count(now), Self::Count(before)) => Self::Count(now.saturating_sub(*before)),
            (Self::Number(now), Self::Number(before)) => Self::Number(now - before),
            (Self::Histogram(now), Self::Histogram(before)) => Self::Histogram(Box::new(now.since(before))),
            _ => self.clone(),
        }
    }
}
