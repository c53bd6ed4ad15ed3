//! An explanation for people: a label on the left, what was found on the right, and where it is written.

use std::{fmt, fmt::Write as _, time::Duration};

use super::{
    ActionTrace, Explanation, ForwardTrace, Pick, Picked, Place, RouteTrace, Split, Taken, tls,
    words::{self, quoted},
};
use crate::{
    decide::Domain,
    dump::action::{percent, retry_on},
    snapshot::{AbortStatus, Direction, Discovery, HashPolicy, HeaderOps, Origin, PathRewrite, Share},
};

/// Endpoints beyond these are counted only.
const ENDPOINTS: usize = 12;

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = &self.asked;
        writeln!(f, "{} {}://{}{}", asked.method, asked.scheme, asked.authority, asked.path)?;
        writeln!(f, "-> {}\n", self.verdict())?;
        let mut out = Lines(f);
        let direction = direction(self.listener.direction);
        out.line("listener", &format!("{}, {direction}", self.listener.name))?;
        out.place(&self.listener.origin)?;
        if let Some(text) = tls::inbound(self.tls) {
            out.line("tls", &text)?;
        }
        match self.host {
            None => out.line("virtual host", &format!("none has {}", quoted(&asked.authority)))?,
            Some(host) => {
                let by = match host.domain {
                    Domain::Exact(name) => format!("by the name {}", quoted(name)),
                    Domain::Suffix(suffix) => format!("by the wildcard {}", quoted(&format!("*{suffix}"))),
                    Domain::Prefix(prefix) => format!("by the wildcard {}", quoted(&format!("{prefix}*"))),
                    Domain::Any => "which takes what no other host takes".to_owned(),
                };
                out.line("virtual host", &format!("{}, {by}", host.virtual_host.name))?;
                out.place(&host.virtual_host.origin)?;
            }
        }
        for hint in &self.hints {
            out.more(hint)?;
        }
        for passed in &self.passed {
            out.route("passed over", passed)?;
        }
        match &self.taken {
            None => out.line("route", "none takes it"),
            Some(taken) => out.taken(taken),
        }
    }
}

pub(super) struct Lines<'a, 'f>(pub(super) &'a mut fmt::Formatter<'f>);

impl Lines<'_, '_> {
    pub(super) fn line(&mut self, label: &str, text: &str) -> fmt::Result {
        writeln!(self.0, "{label:<14}{text}")
    }

    fn more(&mut self, text: &str) -> fmt::Result {
        self.line("", text)
    }

    pub(super) fn place(&mut self, origin: &Origin) -> fmt::Result {
        self.more(&origin.to_string())
    }

    fn route(&mut self, label: &str, trace: &RouteTrace<'_>) -> fmt::Result {
        let name = if trace.route.name.is_empty() { "unnamed" } else { &trace.route.name };
        self.line(label, name)?;
        self.place(&trace.route.origin)?;
        for check in &trace.checks {
            let mark = if check.holds { "yes" } else { "NO " };
            self.more(&format!("  {mark} {} {}, found {}", check.subject, check.expected, check.found))?;
        }
        if trace.checks.is_empty() {
            self.more("  yes it takes every request")?;
        }
        Ok(())
    }

    fn taken(&mut self, taken: &Taken<'_>) -> fmt::Result {
        self.route("route", &taken.trace)?;
        if let Some((delay, hit)) = taken.fault.delay {
            self.line("fault", &format!("{:?} of delay for {}", delay.duration, share(delay.share, hit)))?;
        }
        if let Some((abort, hit)) = taken.fault.abort {
            let status = match abort.status {
                AbortStatus::Http(status) => format!("status {}", status.as_u16()),
                AbortStatus::Grpc(status) => format!("grpc-status {status}"),
            };
            self.line("fault", &format!("abort with {status} for {}", share(abort.share, hit)))?;
        }
        if let Some(cors) = &taken.cors {
            let origin = match (&cors.origin, cors.allowed) {
                (None, _) => "no origin header, so it does not apply".to_owned(),
                (Some(origin), true) => format!("the origin {} is allowed", quoted(origin)),
                (Some(origin), false) => {
                    let allowed = cors.cors.allow_origins.iter().map(|origin| words::of_value(origin, false));
                    let allowed: Vec<_> = allowed.collect();
                    format!(
                        "the origin {} is not allowed; one that {}",
                        quoted(origin),
                        allowed.join(", or ")
                    )
                }
            };
            let preflight = match (cors.preflight, cors.answers()) {
                (false, _) => "",
                (true, true) => "; the preflight is answered here",
                (true, false) => "; the preflight goes on",
            };
            self.line("cross-origin", &format!("{origin}{preflight}"))?;
        }
        match &taken.action {
            ActionTrace::Direct(response) => {
                let bytes = response.body.len();
                self.line("answer", &format!("{} with {bytes} bytes", response.status.as_u16()))?;
            }
            ActionTrace::Redirect { redirect, location } => {
                let text = format!("{} to {}", redirect.status.as_u16(), quoted(location));
                self.line("redirect", &text)?;
            }
            ActionTrace::Forward(forward) => return self.forward(forward, taken),
        }
        self.operations("response", "route", &taken.trace.route.response_headers)
    }

    fn forward(&mut self, trace: &ForwardTrace<'_>, taken: &Taken<'_>) -> fmt::Result {
        self.drawn(&trace.split)?;
        for hash in &trace.hash {
            let (subject, absent) = match hash.policy {
                HashPolicy::Header(name) => (format!("header `{name}`"), "absent"),
                HashPolicy::Cookie(cookie) => (format!("cookie `{}`", cookie.name), "absent"),
                HashPolicy::SourceIp => ("client address".to_owned(), "unknown"),
                HashPolicy::Query(name) => (format!("query parameter `{name}`"), "absent"),
            };
            let value = hash.value.as_deref().map_or_else(|| absent.to_owned(), quoted);
            let key = match (hash.hash, &hash.set_cookie) {
                (None, _) => "passed over".to_owned(),
                (Some(hash), None) => format!("hash {hash}"),
                (Some(hash), Some(line)) => format!("hash {hash}, the client gets {}", quoted(line)),
            };
            self.line("hash", &format!("{subject}: {value}, {key}"))?;
        }
        if let Some(key) = trace.key {
            self.line("hash key", &key.to_string())?;
        }
        self.destinations(&trace.split)?;
        let limits: Vec<_> = [("all tries", trace.timeout), ("one try", trace.per_try_timeout)]
            .into_iter()
            .filter_map(|(what, limit): (_, Option<Duration>)| Some(format!("{what} {:?}", limit?)))
            .collect();
        self.line("timeout", if limits.is_empty() { "none".to_owned() } else { limits.join(", ") }.as_str())?;
        match &trace.forward.retry {
            None => self.line("retries", "none")?,
            Some(retry) => {
                let same = if retry.avoid_previous_hosts {
                    "other endpoints first"
                } else {
                    "no endpoint is avoided"
                };
                let text = format!("{} on {}", retry.attempts, retry_on(&retry.on));
                self.line("retries", &format!("{text}; back-off from {:?}; {same}", retry.backoff))?;
            }
        }
        if let Some(authority) = &trace.forward.authority {
            self.line("authority", &format!("becomes {}", quoted(&words::readable(authority))))?;
        }
        if let Some(rewrite) = &trace.forward.rewrite {
            let new = trace.new_path.as_deref().map_or_else(|| "stays".to_owned(), quoted);
            self.line("path", &format!("{new}: {}", path(rewrite)))?;
        }
        let route = taken.trace.route;
        let destination = trace.destination();
        if let Some(entry) = destination {
            self.operations("request", "destination", &entry.request_headers)?;
        }
        self.operations("request", "route", &route.request_headers)?;
        if let Some(entry) = destination {
            self.operations("response", "destination", &entry.response_headers)?;
        }
        self.operations("response", "route", &route.response_headers)?;
        for mirror in &trace.mirrors {
            self.line(
                "mirror",
                &format!("{} gets {}", mirror.place.name(), share(mirror.mirror.share, mirror.hit)),
            )?;
            self.target(&mirror.place)?;
        }
        Ok(())
    }

    pub(super) fn drawn(&mut self, split: &Split<'_>) -> fmt::Result {
        match split.drawn {
            Some(drawn) => self.line("drawn", &format!("{drawn} of {}", split.total)),
            None => Ok(()),
        }
    }

    pub(super) fn destinations(&mut self, split: &Split<'_>) -> fmt::Result {
        for bucket in &split.buckets {
            let name = bucket.place.name();
            match &*split.buckets {
                [_] => self.line("cluster", name)?,
                _ => {
                    let mark = if bucket.taken { ", taken" } else { "" };
                    let (weight, total, from) = (bucket.weight, split.total, bucket.from);
                    let last = from + u64::from(weight);
                    let text = format!("{name} (weight {weight} of {total}, draws {from}..{last}{mark})");
                    self.line("cluster", &text)?;
                }
            }
            self.destination(&bucket.place, bucket.pick.as_ref())?;
        }
        Ok(())
    }

    fn destination(&mut self, place: &Place<'_>, pick: Option<&Pick>) -> fmt::Result {
        self.target(place)?;
        if let Place::Known(cluster) = place
            && cluster.discovery == Discovery::OriginalDestination
        {
            self.more("it is for where the client was going, which an explicit listener does not know")?;
        }
        if let Place::Known(cluster) = place
            && let Discovery::Dns(dns) = &cluster.discovery
        {
            self.more(&words::of_dns(dns))?;
        }
        match pick {
            Some(pick) => self.pick(pick),
            None => Ok(()),
        }
    }

    fn target(&mut self, place: &Place<'_>) -> fmt::Result {
        match place {
            Place::Known(cluster) => {
                self.place(&cluster.origin)?;
                match tls::upstream(cluster) {
                    Some(text) => self.line("tls", &text),
                    None => Ok(()),
                }
            }
            Place::Missing { why, .. } => self.more(&format!("MISSING: {why}")),
        }
    }

    fn pick(&mut self, pick: &Pick) -> fmt::Result {
        let count = pick.endpoints.len();
        let panic = if pick.panic { ", in panic" } else { "" };
        let text = match &pick.picked {
            // It was not chosen among several.
            Picked::One(address) if count == 0 => format!("{address}, {}", pick.how),
            Picked::Open if count == 0 => pick.how.to_owned(),
            Picked::One(address) => format!("{address}, by {} from {count}{panic}", pick.how),
            Picked::Open => format!("one of {count}, by {}{panic}", pick.how),
            Picked::Nobody => format!("none of {count} takes requests"),
        };
        self.line("endpoint", &text)?;
        for standing in pick.endpoints.iter().take(ENDPOINTS) {
            let mut line = format!("  {} weight {}", standing.address, standing.weight);
            // Writing to a string cannot fail.
            if standing.active > 0 {
                let _ = write!(line, ", {} active", standing.active);
            }
            if let Some(why) = &standing.ejected {
                let _ = write!(line, ", EJECTED: {why}");
            }
            self.more(&line)?;
        }
        match count.checked_sub(ENDPOINTS) {
            Some(more @ 1..) => self.more(&format!("  and {more} more")),
            _ => Ok(()),
        }
    }

    fn operations(&mut self, whose: &str, level: &str, ops: &HeaderOps) -> fmt::Result {
        let removed = ops.remove.iter().map(|name| format!("remove {name}"));
        let set = ops.set.iter().map(|(name, value)| format!("set {name}: {value}"));
        let added = ops.add.iter().map(|(name, value)| format!("add {name}: {value}"));
        for operation in removed.chain(set).chain(added) {
            self.line("header", &format!("{whose}: {operation} ({level})"))?;
        }
        Ok(())
    }
}

pub(super) fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

fn share(share: Share, hit: Option<bool>) -> String {
    let drawn = match hit {
        _ if share == Share::ALL => ", so this one too",
        Some(true) => ", this one too",
        Some(false) => ", not this one",
        None => "",
    };
    format!("{} % of the requests{drawn}", percent(share))
}

fn path(rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Prefix { matched, value } => {
            format!("its first {matched} bytes become {}", quoted(value))
        }
        PathRewrite::Full(value) => format!("becomes {}", quoted(value)),
        PathRewrite::Regex { pattern, substitution } => {
            format!("what fits {} becomes {}", quoted(pattern.as_str()), quoted(substitution))
        }
    }
}
