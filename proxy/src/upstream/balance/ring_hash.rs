//! Envoy's ketama ring (`ring_hash`): each host has points on a circle of 64-bit hashes in proportion to its weight, and
//! a request goes to the first point at or after its own hash.

use twox_hash::XxHash64;

#[derive(Debug)]
pub(crate) struct Ring {
    /// Hash and host index, ascending by hash.
    points: Box<[(u64, u32)]>,
}

impl Ring {
    /// `hosts` are key and share in order of the endpoints. At least `minimum` points, so many that the lightest host
    /// has a whole number of them, but at most `maximum`.
    pub(super) fn new(hosts: &[(&str, f64)], minimum: u64, maximum: u64) -> Self {
        let scale = Self::size(hosts, minimum, maximum);

        let mut points = Vec::with_capacity(scale as usize + 1);
        let (mut current, mut target) = (0.0, 0.0);
        let mut name = String::new();
        for (index, (key, share)) in hosts.iter().enumerate() {
            name.clear();
            name.push_str(key);
            name.push('_');
            let stem = name.len();
            target += scale * share;
            let mut number = itoa::Buffer::new();
            let mut j = 0_u64;
            while current < target {
                name.truncate(stem);
                name.push_str(number.format(j));
                points.push((XxHash64::oneshot(0, name.as_bytes()), index as u32));
                j += 1;
                current += 1.0;
            }
        }
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// How many points there will be, about.
    pub(super) fn size(hosts: &[(&str, f64)], minimum: u64, maximum: u64) -> f64 {
        let least = hosts.iter().map(|(_, share)| *share).fold(1.0, f64::min);
        ((least * minimum as f64).ceil() / least).min(maximum as f64)
    }

    /// Index of the host; each further attempt moves one point on.
    pub(super) fn pick(&self, hash: u64, attempt: u64) -> usize {
        let size = self.points.len().max(1);
        let first = self.points.partition_point(|(point, _)| *point < hash);
        let index = (first as u64).wrapping_add(attempt) % size as u64;
        self.points.get(index as usize).map_or(0, |(_, host)| *host as usize)
    }

    #[cfg(test)]
    pub(super) fn points(&self) -> &[(u64, u32)] {
        &self.points
    }
}
