//! How much memory is left, and what that is enough for. Who asks the kernel is `memory`.

/// From here on no new requests.
const SHED: Pressure = Pressure(920);
/// From here on no new connections, and nothing more of bodies.
const REFUSE: Pressure = Pressure(950);

/// Bytes in use, and how many there may be; without a limit that is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) limit: u64,
}

/// Used memory in thousandths of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Pressure(pub(super) u32);

/// What a look finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) pressure: Pressure,
    pub(super) level: Level,
    /// Bytes that may come into use before nothing is accepted; negative if nothing is.
    pub(super) room: i64,
}

impl Default for Look {
    /// Without a limit.
    fn default() -> Self {
        Usage::default().look()
    }
}

impl Look {
    /// The worse of both in each.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            pressure: self.pressure.max(other.pressure),
            level: self.level.max(other.level),
            room: self.room.min(other.room),
        }
    }
}

/// How much is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    Normal,
    /// New requests.
    Shedding,
    /// New connections too, and the rest of bodies waits.
    Refusing,
}

impl Usage {
    fn pressure(self) -> Pressure {
        let thousandths = (u128::from(self.used) * 1000).checked_div(self.limit.into()).unwrap_or_default();
        Pressure(u32::try_from(thousandths).unwrap_or(u32::MAX))
    }

    fn level(self) -> Level {
        match self.pressure() {
            pressure if pressure >= REFUSE => Level::Refusing,
            pressure if pressure >= SHED => Level::Shedding,
            _ => Level::Normal,
        }
    }

    fn room(self) -> i64 {
        let most = i128::from(self.limit) * i128::from(REFUSE.0) / 1000;
        match self.limit {
            0 => i64::MAX,
            _ => i64::try_from(most - i128::from(self.used)).unwrap_or(i64::MIN),
        }
    }

    pub(super) fn look(self) -> Look {
        Look { pressure: self.pressure(), level: self.level(), room: self.room() }
    }

    /// Of a large limit, with so much room.
    #[cfg(test)]
    pub(super) fn with_room(bytes: u64) -> Self {
        let limit = 1_000_000_000;
        Self { used: limit / 1000 * u64::from(REFUSE.0) - bytes, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_limit_says_what_is_refused() {
        let levels = [0, 919, 920, 949, 950, 1001].map(|used| Usage { used, limit: 1000 }.look().level);
        use Level::{Normal, Refusing, Shedding};
        assert_eq!(levels, [Normal, Normal, Shedding, Shedding, Refusing, Refusing]);
        assert_eq!(Usage { used: 1000, limit: 0 }.look().level, Normal, "no limit");
    }

    #[test]
    fn there_is_room_until_nothing_is_accepted() {
        let rooms = [0, 949, 950, 1001].map(|used| Usage { used, limit: 1000 }.look().room);
        assert_eq!(rooms, [950, 1, 0, -51]);
    }
}
