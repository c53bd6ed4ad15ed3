//! What an explanation holds: the decision of one request, step by step, each step with the part of the snapshot that it
//! comes from.

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;

use super::Split;
use crate::{
    decide::Domain,
    snapshot::{
        AbortStatus, Cluster, Cors, DirectResponse, FaultAbort, FaultDelay, Forward, HashPolicy, InboundTls,
        Listener, Mirror, Redirect, Route, VirtualHost, WeightedCluster,
    },
};

/// The way of one request.
#[derive(Debug)]
pub struct Explanation<'s> {
    /// Where it came in.
    pub listener: &'s Listener,
    /// How the connection was taken there.
    pub tls: &'s InboundTls,
    /// The request as it was decided on.
    pub asked: Asked,
    /// The virtual host of its authority.
    pub host: Option<HostTrace<'s>>,
    /// What may have been meant, where no service has the host.
    pub hints: Vec<String>,
    /// The routes before the one that takes it.
    pub passed: Vec<RouteTrace<'s>>,
    /// The route that takes it.
    pub taken: Option<Taken<'s>>,
}

/// A request after normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// A virtual host and the domain by which it was found.
#[derive(Debug, Clone, Copy)]
pub struct HostTrace<'s> {
    /// The virtual host.
    pub virtual_host: &'s VirtualHost,
    /// Which of its domains fits.
    pub domain: Domain<'s>,
}

/// A route and the conditions that were looked at: all of them, or those up to the first that fails.
#[derive(Debug)]
pub struct RouteTrace<'s> {
    /// The route.
    pub route: &'s Route,
    /// None for a route that takes every request.
    pub checks: Vec<Check>,
}

/// One condition: what was asked for, and what the request has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// ``header `x` ``
    pub subject: String,
    /// ``begins with `a` ``
    pub expected: String,
    /// `` `b` ``, or `nothing`.
    pub found: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The route that takes the request, and what it does.
#[derive(Debug)]
pub struct Taken<'s> {
    /// The route with its conditions.
    pub trace: RouteTrace<'s>,
    /// Faults.
    pub fault: FaultTrace,
    /// Cross-origin rules.
    pub cors: Option<CorsTrace<'s>>,
    /// The rest.
    pub action: ActionTrace<'s>,
}

/// Faults and whether they were drawn; without a draw it is open.
#[derive(Debug, Default)]
pub struct FaultTrace {
    /// Held back.
    pub delay: Option<(FaultDelay, Option<bool>)>,
    /// Answered with an error.
    pub abort: Option<(FaultAbort, Option<bool>)>,
}

/// Cross-origin rules and what they say about the request.
#[derive(Debug)]
pub struct CorsTrace<'s> {
    /// The rules.
    pub cors: &'s Cors,
    /// Header `origin` of the request.
    pub origin: Option<String>,
    /// Whether the origin is one of those that are allowed.
    pub allowed: bool,
    /// Whether the request is a preflight.
    pub preflight: bool,
}

/// What a route does.
#[derive(Debug)]
pub enum ActionTrace<'s> {
    /// Answer.
    Direct(&'s DirectResponse),
    /// Send elsewhere.
    Redirect {
        /// What is other about the place.
        redirect: &'s Redirect,
        /// The place.
        location: String,
    },
    /// Forward.
    Forward(Box<ForwardTrace<'s>>),
}

/// A forwarding policy applied.
#[derive(Debug)]
pub struct ForwardTrace<'s> {
    /// The policy.
    pub forward: &'s Forward,
    /// Its destinations.
    pub split: Split<'s>,
    /// Each hash policy and its part of the key.
    pub hash: Vec<HashTrace<'s>>,
    /// The key for ring hash and Maglev.
    pub key: Option<u64>,
    /// For all tries together, the caller's wish included.
    pub timeout: Option<Duration>,
    /// For one try.
    pub per_try_timeout: Option<Duration>,
    /// Path and query that go upstream, where they are rewritten.
    pub new_path: Option<String>,
    /// Copies, and whether they were drawn.
    pub mirrors: Vec<MirrorTrace<'s>>,
}

/// A cluster, or why there is none.
#[derive(Debug)]
pub enum Place<'s> {
    /// It exists.
    Known(&'s Cluster),
    /// It does not.
    Missing {
        /// The name it would have.
        name: &'s str,
        /// What is not there.
        why: String,
    },
}

/// A hash policy with what it looked at.
#[derive(Debug)]
pub struct HashTrace<'s> {
    /// The policy.
    pub policy: &'s HashPolicy,
    /// What it looked at; `None` is absent.
    pub value: Option<String>,
    /// Its part of the key; `None`: it is passed over.
    pub hash: Option<u64>,
    /// The cookie that it makes for the client.
    pub set_cookie: Option<String>,
}

/// A mirror.
#[derive(Debug)]
pub struct MirrorTrace<'s> {
    /// The policy.
    pub mirror: &'s Mirror,
    /// Its cluster.
    pub place: Place<'s>,
    /// Whether this request is copied.
    pub hit: Option<bool>,
}

/// The choice of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// What came out.
    pub picked: Picked,
    /// By what it is chosen.
    pub how: &'static str,
    /// Too few endpoints are healthy: all of them are used.
    pub panic: bool,
    /// All endpoints of the cluster; none where it goes wherever a client was going.
    pub endpoints: Vec<Standing>,
}

/// The endpoint that a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Picked {
    /// This one.
    One(Arc<str>),
    /// Any of those that take requests: chance or the state of a worker decides.
    Open,
    /// There is none.
    Nobody,
}

/// An endpoint as the balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// `ip:port`
    pub address: Arc<str>,
    /// Its weight.
    pub weight: u32,
    /// Requests under way.
    pub active: u64,
    /// Why it is out, if it is ejected.
    pub ejected: Option<String>,
}

/// What becomes of the request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<'e> {
    /// 404, flag NR.
    NoRoute,
    /// 503, flag NC.
    NoCluster(&'e str),
    /// 503, flag UH.
    NoEndpoint(&'e str),
    /// An abort that was drawn.
    Aborted(AbortStatus),
    /// 200 with leave.
    Preflight,
    /// The answer of the route.
    Answer(StatusCode),
    /// A `location`.
    Redirect(StatusCode),
    /// It goes there.
    Forward {
        /// Cluster.
        cluster: &'e str,
        /// Endpoint, if it is settled.
        endpoint: Option<&'e str>,
    },
    /// To one of several, by weight.
    Split,
}

impl Explanation<'_> {
    /// The end of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict<'_> {
        let Some(taken) = &self.taken else { return Verdict::NoRoute };
        if let Some((abort, Some(true))) = taken.fault.abort {
            return Verdict::Aborted(abort.status);
        }
        if taken.cors.as_ref().is_some_and(CorsTrace::answers) {
            return Verdict::Preflight;
        }
        match &taken.action {
            ActionTrace::Direct(response) => Verdict::Answer(response.status),
            ActionTrace::Redirect { redirect, .. } => Verdict::Redirect(redirect.status),
            ActionTrace::Forward(forward) => match forward.split.taken() {
                Some(bucket) => bucket.verdict(),
                None => Verdict::Split,
            },
        }
    }
}

impl<'s> Explanation<'s> {
    /// How it is forwarded, if it is.
    pub fn forward_mut(&mut self) -> Option<&mut ForwardTrace<'s>> {
        match &mut self.taken.as_mut()?.action {
            ActionTrace::Forward(forward) => Some(forward),
            _ => None,
        }
    }
}

impl CorsTrace<'_> {
    /// Whether the proxy answers in the place of the upstream.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.preflight && (self.allowed || !self.cors.forward_unmatched_preflights)
    }
}

impl<'s> ForwardTrace<'s> {
    /// The destination with its header operations, if it is settled.
    pub(super) fn destination(&self) -> Option<&'s WeightedCluster> {
        let at = self.split.buckets.iter().position(|bucket| bucket.taken)?;
        self.forward.clusters.get(at)
    }
}

impl Place<'_> {
    /// Its name, whether it exists or not.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Known(cluster) => &cluster.name,
            Self::Missing { name, .. } => name,
        }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("404, flag NR: no route takes it"),
            Self::NoCluster(name) => write!(f, "503, flag NC: there is no cluster {name}"),
            Self::NoEndpoint(name) => write!(f, "503, flag UH: {name} has no endpoint to pick"),
            Self::Aborted(AbortStatus::Http(status)) => {
                write!(f, "{}, flag FI: a fault aborts it", status.as_u16())
            }
            Self::Aborted(AbortStatus::Grpc(status)) => {
                write!(f, "grpc-status {status}, flag FI: a fault aborts it")
            }
            Self::Preflight => f.write_str("200: the proxy answers the preflight"),
            Self::Answer(status) => write!(f, "{}: the route answers it", status.as_u16()),
            Self::Redirect(status) => write!(f, "{}: the route sends it elsewhere", status.as_u16()),
            Self::Forward { cluster, endpoint: Some(endpoint) } => write!(f, "{endpoint} of {cluster}"),
            Self::Forward { cluster, endpoint: None } => f.write_str(cluster),
            Self::Split => f.write_str("one of several clusters, by weight"),
        }
    }
}
