//! How much memory is left, and what that is enough for. Who asks the kernel is `memory`.

/// Left for what was accepted, which goes on to take memory: below the first no new requests, below the second no new
/// connections.
const SHED: Margin = Margin { thousandths: 80, least: 12 << 20, part: 4 };
const REFUSE: Margin = Margin { thousandths: 50, least: 8 << 20, part: 6 };

/// So much of the limit, and so many bytes at least; but of a small limit no more than one part of so many.
#[derive(Debug, Clone, Copy)]
struct Margin {
    thousandths: u64,
    least: u64,
    part: u64,
}

impl Margin {
    fn of(self, limit: u64) -> u64 {
        (limit / 1000 * self.thousandths).max(self.least).min(limit / self.part)
    }
}

/// Bytes in use, and how many there may be; without a limit that is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) limit: u64,
}

/// Used memory in thousandths of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Pressure(pub(super) u32);

/// How much is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    Normal,
    /// New requests.
    Shedding,
    /// New connections too.
    Refusing,
}

impl Usage {
    pub(super) fn pressure(self) -> Pressure {
        let thousandths = (u128::from(self.used) * 1000).checked_div(self.limit.into()).unwrap_or_default();
        Pressure(u32::try_from(thousandths).unwrap_or(u32::MAX))
    }

    pub(super) fn level(self) -> Level {
        let left = self.limit.saturating_sub(self.used);
        match self.limit {
            0 => Level::Normal,
            limit if left <= REFUSE.of(limit) => Level::Refusing,
            limit if left <= SHED.of(limit) => Level::Shedding,
            _ => Level::Normal,
        }
    }

    /// What may come into use before requests are refused; negative if they are.
    pub(super) fn room(self) -> i64 {
        let bytes = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        match self.limit {
            0 => i64::MAX,
            limit => bytes(limit - SHED.of(limit)) - bytes(self.used),
        }
    }

    /// Of a large limit, with so much room.
    #[cfg(test)]
    pub(super) fn with_room(bytes: u64) -> Self {
        let limit = 1 << 30;
        Self { used: limit - SHED.of(limit) - bytes, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn level(used: u64, limit: u64) -> Level {
        Usage { used: used * MIB, limit: limit * MIB }.level()
    }

    #[test]
    fn of_a_large_limit_some_percent_are_left() {
        let levels = [0, 919, 920, 949, 950, 1001].map(|used| level(used, 1000));
        use Level::{Normal, Refusing, Shedding};
        assert_eq!(levels, [Normal, Normal, Shedding, Shedding, Refusing, Refusing]);
        assert_eq!(level(1000, 0), Normal, "no limit");
    }

    #[test]
    fn of_a_small_limit_some_mebibytes_are_left() {
        let levels = [51, 52, 55, 56].map(|used| level(used, 64));
        use Level::{Normal, Refusing, Shedding};
        assert_eq!(levels, [Normal, Shedding, Shedding, Refusing]);
        let tiny = [14, 15, 16, 17].map(|used| level(used, 20));
        assert_eq!(tiny, [Normal, Shedding, Shedding, Refusing]);
    }
}
