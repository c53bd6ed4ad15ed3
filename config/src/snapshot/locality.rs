//! Where a workload runs: region, zone and sub-zone.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Parts that are not known are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `us-east1`
    pub region: Arc<str>,
    /// `us-east1-b`
    pub zone: Arc<str>,
    /// Istio's own level below the zone.
    pub sub_zone: Arc<str>,
}

impl Locality {
    /// Labels that say where a workload runs: region, zone and sub-zone.
    pub const LABELS: [&str; 3] =
        ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

    /// Reads `region/zone/subzone`, with parts left out from the right.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(Arc::from);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), sub_zone: next() }
    }

    /// Reads the label `istio-locality`, whose value has dots for slashes unless it has slashes.
    #[must_use]
    pub fn of_label(value: &str) -> Self {
        if value.contains('/') { Self::parse(value) } else { Self::parse(&value.replace('.', "/")) }
    }

    /// Of a pod: Istio's own label wins over those that Kubernetes copies from the node.
    #[must_use]
    pub fn of_labels(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Self {
        let part = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let [region, zone, sub_zone] = Self::LABELS;
        match labels.get("istio-locality") {
            Some(label) => Self::of_label(label),
            None => Self { region: part(region), zone: part(zone), sub_zone: part(sub_zone) },
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        [&self.region, &self.zone, &self.sub_zone].iter().all(|part| part.is_empty())
    }

    /// How far away the other is, as Istio counts: 0 the same sub-zone, 1 the same zone, 2 the same region, 3 elsewhere.
    #[must_use]
    pub fn distance(&self, other: &Self) -> u32 {
        match () {
            () if self.region != other.region => 3,
            () if self.zone != other.zone => 2,
            () if self.sub_zone != other.sub_zone => 1,
            () => 0,
        }
    }

    /// Whether it lies within a pattern such as `us-east1/*`: a part that is `*` or absent is any.
    #[must_use]
    pub fn is_within(&self, pattern: &Self) -> bool {
        let fits = |part: &str, own: &str| part == "*" || part == own;
        let below = |part: &str, own: &str| part.is_empty() || fits(part, own);
        fits(&pattern.region, &self.region)
            && below(&pattern.zone, &self.zone)
            && below(&pattern.sub_zone, &self.sub_zone)
    }
}

/// `region/zone/subzone` without what is empty at the right.
impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, zone, sub_zone } = self;
        match (&**zone, &**sub_zone) {
            ("", "") => f.write_str(region),
            (zone, "") => write!(f, "{region}/{zone}"),
            (zone, sub_zone) => write!(f, "{region}/{zone}/{sub_zone}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities_are_read_and_written() {
        for text in ["", "r", "r/z", "r/z/s", "r//s"] {
            assert_eq!(Locality::parse(text).to_string(), text);
        }
        assert_eq!(&*Locality::parse("r/z/s/t").sub_zone, "s/t");
        assert_eq!(Locality::of_label("r.z.s"), Locality::parse("r/z/s"));
        assert_eq!(Locality::of_label("r.1/z"), Locality::parse("r.1/z"));
    }

    #[test]
    fn distance_counts_from_the_sub_zone_up() {
        let here = Locality::parse("r/z/s");
        let distances =
            ["r/z/s", "r/z/t", "r/y/s", "q/z/s", ""].map(|other| here.distance(&Locality::parse(other)));
        assert_eq!(distances, [0, 1, 2, 3, 3]);
    }

    #[test]
    fn a_pattern_covers_what_it_leaves_open() {
        let here = Locality::parse("r/z/s");
        for (pattern, expected) in [
            ("*", true),
            ("r", true),
            ("r/*", true),
            ("r/z/*", true),
            ("r/z/s", true),
            ("r/y/*", false),
            ("q", false),
        ] {
            assert_eq!(here.is_within(&Locality::parse(pattern)), expected, "{pattern}");
        }
    }
}
