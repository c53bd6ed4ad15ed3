//! Header values that outlive their headers: only those that a log or a span of the plan shows.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Which headers a value stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Request,
    Response,
    Trailers,
}

/// Place of a value in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// What is kept of a request, in the order in which it was asked for: the logs' values, then those that only spans
/// show.
#[derive(Debug, Default)]
pub(super) struct Captures {
    kept: Vec<(Part, HeaderName)>,
    /// Slots behind these are filled for spans only.
    logged: usize,
}

/// The values of one record, by slots; empty until the first one is kept.
#[derive(Debug, Default)]
pub(super) struct Captured(Vec<Option<HeaderValue>>);

impl Captures {
    /// The slot of a header; equal ones share it.
    pub(super) fn slot(&mut self, part: Part, name: &HeaderName) -> Slot {
        let known = self.kept.iter().position(|(of, kept)| *of == part && kept == name);
        Slot(known.unwrap_or_else(|| {
            self.kept.push((part, name.clone()));
            self.kept.len() - 1
        }))
    }

    /// Slots from here on are for spans.
    pub(super) fn end_of_logs(&mut self) {
        self.logged = self.kept.len();
    }

    /// Keeps the values of `part`; a record without a span needs fewer.
    pub(super) fn keep(&self, part: Part, headers: &HeaderMap, spans: bool, values: &mut Captured) {
        let wanted = if spans { self.kept.len() } else { self.logged };
        for (slot, (of, name)) in self.kept.iter().take(wanted).enumerate() {
            if *of != part {
                continue;
            }
            if values.0.is_empty() {
                values.0.resize(wanted, None);
            }
            if let Some(place) = values.0.get_mut(slot) {
                *place = headers.get(name).cloned();
            }
        }
    }
}

impl Captured {
    pub(super) fn get(&self, slot: Slot) -> Option<&HeaderValue> {
        self.0.get(slot.0)?.as_ref()
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> Vec<&HeaderValue> {
        self.0.iter().flatten().collect()
    }
}
