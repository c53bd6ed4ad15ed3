//! How much of the traffic each priority gets: Envoy's arithmetic, in whole percent.
//!
//! A priority counts as whole while 1 / 1.4 of its hosts are healthy; what it cannot take spills over to the next.

/// The hosts of one priority.
#[derive(Debug, Clone, Copy)]
pub(super) struct Level {
    pub(super) hosts: usize,
    pub(super) healthy: usize,
}

/// What one priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) percent: u32,
    /// Too few are healthy: all of them are used.
    pub(super) panic: bool,
}

/// Envoy's default, and Istio's; in percent.
pub(super) const OVERPROVISIONING: u32 = 140;

/// The loads add up to 100, or are all 0 where no host takes requests.
pub(super) fn loads(levels: &[Level], panic_threshold: u8) -> Vec<Load> {
    let available: Vec<u32> = levels.iter().map(availability).collect();
    let total = available.iter().sum::<u32>().min(100);
    // Never in panic while the priorities together can take everything.
    let panics = |level: &Level| {
        let healthy = 100.0 * level.healthy as f64 / level.hosts.max(1) as f64;
        total < 100 && healthy < f64::from(panic_threshold)
    };
    let panic: Vec<bool> = levels.iter().map(panics).collect();
    let percent = if panic.iter().all(|panic| *panic) {
        by_hosts(levels)
    } else if total == 0 {
        vec![0; levels.len()]
    } else {
        shared(&available, total)
    };
    percent.into_iter().zip(panic).map(|(percent, panic)| Load { percent, panic }).collect()
}

fn availability(level: &Level) -> u32 {
    let share = level.healthy * OVERPROVISIONING as usize / level.hosts.max(1);
    u32::try_from(share).unwrap_or(100).min(100)
}

/// Each as much as it can take of what is left; what rounding leaves goes to the first.
fn shared(available: &[u32], total: u32) -> Vec<u32> {
    let mut left = 100;
    let mut percent: Vec<u32> = Vec::with_capacity(available.len());
    for availability in available {
        let load = (availability * 100 / total).min(left);
        left -= load;
        percent.push(load);
    }
    give(&mut percent, left, |index| available.get(index).is_some_and(|availability| *availability > 0));
    percent
}

/// With every priority in panic health does not count.
fn by_hosts(levels: &[Level]) -> Vec<u32> {
    let all = levels.iter().map(|level| level.hosts).sum::<usize>().max(1);
    let part = |level: &Level| u32::try_from(100 * level.hosts / all).unwrap_or(100);
    let mut percent: Vec<u32> = levels.iter().map(part).collect();
    let left = 100 - percent.iter().sum::<u32>();
    give(&mut percent, left, |index| levels.get(index).is_some_and(|level| level.hosts > 0));
    percent
}

fn give(percent: &mut [u32], left: u32, takes: impl Fn(usize) -> bool) {
    if let Some((_, first)) = percent.iter_mut().enumerate().find(|(index, _)| takes(*index)) {
        *first += left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(levels: &[(usize, usize)], panic_threshold: u8) -> Vec<(u32, bool)> {
        let levels: Vec<_> =
            levels.iter().map(|(healthy, hosts)| Level { hosts: *hosts, healthy: *healthy }).collect();
        loads(&levels, panic_threshold).iter().map(|load| (load.percent, load.panic)).collect()
    }

    /// As observed with Envoy.
    #[test]
    fn a_priority_spills_over_when_it_is_short_of_hosts() {
        let of_four = |healthy| percent(&[(healthy, 4), (4, 4)], 0);
        assert_eq!(of_four(4), [(100, false), (0, false)]);
        assert_eq!(of_four(3), [(100, false), (0, false)]);
        assert_eq!(of_four(2), [(70, false), (30, false)]);
        assert_eq!(of_four(1), [(35, false), (65, false)]);
        assert_eq!(of_four(0), [(0, false), (100, false)]);
        assert_eq!(percent(&[(1, 4), (1, 4)], 0), [(50, false), (50, false)], "normalised");
        assert_eq!(percent(&[(1, 2), (1, 3), (1, 1)], 0), [(70, false), (30, false), (0, false)]);
        assert_eq!(percent(&[(0, 4), (0, 4)], 0), [(0, false), (0, false)], "nobody");
        assert_eq!(percent(&[(1, 3), (0, 2), (1, 3)], 0), [(50, false), (0, false), (50, false)]);
        assert_eq!(percent(&[(1, 5), (1, 5), (1, 5)], 0)[0], (34, false), "what rounding leaves");
    }

    #[test]
    fn priorities_panic_only_when_they_cannot_take_everything_together() {
        assert_eq!(percent(&[(3, 4)], 80), [(100, false)], "105 % of what is needed");
        assert_eq!(percent(&[(2, 4)], 80), [(100, true)]);
        assert_eq!(percent(&[(2, 4)], 50), [(100, false)], "less than the threshold, not equal");
        assert_eq!(percent(&[(0, 4), (2, 2)], 50), [(0, false), (100, false)]);
        assert_eq!(percent(&[(1, 4), (1, 4)], 50), [(50, true), (50, true)]);
        assert_eq!(percent(&[(0, 2), (0, 1)], 50), [(67, true), (33, true)]);
    }
}
