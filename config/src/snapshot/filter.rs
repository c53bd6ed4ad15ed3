//! What happens to a request before its route's action: faults and cross-origin rules (Envoy's filters `fault` and
//! `cors`, in this order).

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::route::ValueMatch;

/// A share of requests in millionths, Envoy's finest resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// All requests.
    pub const ALL: Self = Self(1_000_000);
    /// No request.
    pub const NONE: Self = Self(0);

    /// `percent` of the requests, 0 to 100; `None` outside.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    pub fn percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self((percent * 10_000.0) as u32))
    }

    /// Millionths.
    #[must_use]
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether a request belongs to it; `draw` is a uniform 64-bit value.
    #[must_use]
    pub fn hits(self, draw: u64) -> bool {
        draw % 1_000_000 < u64::from(self.0)
    }
}

/// Istio `VirtualService.http.fault`: both parts are drawn for independently, the delay comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Holds a request back.
    pub delay: Option<FaultDelay>,
    /// Answers it with an error.
    pub abort: Option<FaultAbort>,
}

/// Istio `fault.delay`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultDelay {
    /// How many of the requests.
    pub share: Share,
    /// For how long, a millisecond or more.
    pub duration: Duration,
}

/// Istio `fault.abort`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAbort {
    /// How many of the requests.
    pub share: Share,
    /// With what.
    pub status: AbortStatus,
}

/// What an aborted request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// 200 to 600.
    Http(StatusCode),
    /// A gRPC status; a plain client gets a 200.
    Grpc(u32),
}

/// Istio `VirtualService.http.corsPolicy`
#[derive(Debug, Clone)]
pub struct Cors {
    /// Origins that are allowed; one match is enough, and [`ValueMatch::Present`] is all of them.
    pub allow_origins: Box<[ValueMatch]>,
    /// `access-control-allow-methods`, joined as it is sent.
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age` in whole seconds.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`; `false` is not said.
    pub allow_credentials: bool,
    /// A preflight of a foreign origin goes upstream (the default), or is answered here without leave.
    pub forward_unmatched_preflights: bool,
}
