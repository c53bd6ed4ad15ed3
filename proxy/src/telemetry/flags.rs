//! Why a request went as it did: Envoy's response flags and response code details.

use std::{borrow::Cow, fmt};

/// Envoy's response flag, by its short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is Envoy's flag; `as_str` and `long_name` say which")]
pub enum Flag {
    NoHealthyUpstream,
    UpstreamConnectionFailure,
    UpstreamOverflow,
    NoRouteFound,
    NoClusterFound,
    DelayInjected,
    FaultInjected,
    UpstreamRetryLimitExceeded,
    UpstreamRequestTimeout,
    UpstreamConnectionTermination,
    UpstreamRemoteReset,
    LocalReset,
    DownstreamConnectionTermination,
    StreamIdleTimeout,
    DownstreamProtocolError,
    UpstreamProtocolError,
    OverloadManager,
    DurationTimeout,
}

impl Flag {
    /// The short name that logs and metrics carry: `UH`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::NoClusterFound => "NC",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamRemoteReset => "UR",
            Self::LocalReset => "LR",
            Self::DownstreamConnectionTermination => "DC",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::OverloadManager => "OM",
            Self::DurationTimeout => "DT",
        }
    }
}

/// Response flags in the order in which they were raised, at most [`Flags::MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags([Option<Flag>; Flags::MAX]);

impl Flags {
    /// More flags than one request can raise.
    pub const MAX: usize = 4;

    /// Raises a flag; one that is raised already keeps its place.
    pub fn raise(&mut self, flag: Flag) {
        for place in &mut self.0 {
            match place {
                Some(raised) if *raised == flag => return,
                Some(_) => {}
                None => {
                    *place = Some(flag);
                    return;
                }
            }
        }
        debug_assert!(false, "{flag:?} is one flag too many after {self}");
    }

    /// Whether a flag was raised.
    #[must_use]
    pub fn contains(self, flag: Flag) -> bool {
        self.0.contains(&Some(flag))
    }

    /// Whether no flag was raised.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == [None; Self::MAX]
    }

    /// The flags in order.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        self.0.into_iter().flatten()
    }
}

impl From<Flag> for Flags {
    fn from(flag: Flag) -> Self {
        let mut flags = Self::default();
        flags.raise(flag);
        flags
    }
}

/// `URX,UF`, or `-` for none, as in the log and in the label `response_flags`.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (at, flag) in self.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}

/// Envoy's response code details: `via_upstream`, `route_not_found`. Blanks become `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details(Cow<'static, str>);

impl Details {
    /// The answer came from the upstream.
    pub const VIA_UPSTREAM: Self = Self(Cow::Borrowed("via_upstream"));

    /// A text known at compile time; it must hold no blank.
    #[must_use]
    pub const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Details {
    fn from(mut text: String) -> Self {
        if text.contains(|c: char| c.is_whitespace()) {
            text = text.replace(|c: char| c.is_whitespace(), "_");
        }
        Self(Cow::Owned(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_show_in_the_order_they_were_raised_and_once() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.raise(Flag::UpstreamRetryLimitExceeded);
        flags.raise(Flag::UpstreamConnectionFailure);
        flags.raise(Flag::UpstreamRetryLimitExceeded);
        assert_eq!(flags.to_string(), "URX,UF");
        assert!(flags.contains(Flag::UpstreamConnectionFailure) && !flags.contains(Flag::NoRouteFound));
    }

    #[test]
    fn blanks_in_details_become_underscores() {
        let details = Details::from("reset{Connection refused}".to_owned());
        assert_eq!(details.as_str(), "reset{Connection_refused}");
    }
}
