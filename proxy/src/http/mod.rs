//! The request path: one async function that calls the stages in order.
//!
//! Each stage is a file: `limits` and `headers` make the request fit to be routed, the decision is the pure one of
//! `outrigger-config`, `fault` and `cors` may answer before any upstream does, `retry` and `forward` get an answer, `reply` makes one where there is none, `body`
//! carries it to its true end; `mirror` sends copies beside it. Connections begin and end in `conn`, which calls `handle`.

mod body;
mod client;
mod client_body;
pub(crate) mod conn;
mod context;
mod cors;
pub(crate) mod explain;
mod fault;
mod format;
mod forward;
mod headers;
mod http1;
mod limits;
mod mirror;
mod redirect;
pub(crate) mod replay;
mod reply;
mod request_id;
mod retry;
mod rewrite;
mod service;
mod tap;
mod timeout;
pub mod trace;
pub(crate) mod upload;

use std::{borrow::Cow, cell::RefCell, rc::Rc, sync::Arc};

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, SET_COOKIE},
    request::Parts,
    uri::PathAndQuery,
};
use hyper::body::Incoming;
use outrigger_config::{
    decide::{Decision, Peers, RequestView, decide, hash_key, normalize_path},
    snapshot::{ClusterRef, Direction, HeaderOps, PathNormalization},
};
use rand::Rng;

use crate::{
    net::tls::Secured,
    telemetry::{Details, Record},
    upstream::{Published, pool::Sent},
    worker::Worker,
};
use body::{ResponseBody, Source};
use client::ConnInfo;
use client_body::ClientBody;
use context::RequestContext;
use cors::{Leave, Verdict};
use format::Facts;
use forward::Outbound;
use mirror::Terms;
use reply::{Failure, Reply};
use timeout::Deadline;
use trace::operation::{self, Operation};
use upload::{RequestBody, Upload};

/// Answers one request. It takes the configuration once and keeps it to its end.
pub(crate) async fn handle(
    worker: &Rc<Worker>,
    conn: &Rc<ConnInfo>,
    parts: Box<Parts>,
    incoming: Incoming,
) -> Result<Response<ResponseBody>, Aborted> {
    let published = conn.published(worker);
    let method = parts.method.clone();
    let mut context = RequestContext::begin(worker, conn, &published, &parts);
    let mut leave = None;
    match outcome(worker, conn, &published, &mut context, &mut leave, parts, incoming).await {
        Ok(Outcome::Answer(answer)) => Ok(relay(worker, context, answer, leave)),
        Ok(Outcome::Direct { reply, request, ops }) => {
            Ok(reply_with(worker, context, &reply, &method, Some((ops, &request)), None))
        }
        Ok(Outcome::Preflight(headers)) => {
            context.record().details = Some(Details::fixed("cors_response"));
            Ok(respond(worker, context, StatusCode::OK, headers, Source::Empty, None, false))
        }
        // Dropped unfinished, the context says what happened.
        Err(Failure::ClientLeft) => Err(Aborted),
        Err(failure) => {
            let reply = Reply::to(&failure, context.record().attempts > 1);
            if matches!(failure, Failure::Overloaded | Failure::Starved) {
                worker.stats().filters.downstream_rq_overload_close.inc();
            }
            // An answer would have the rest of the body read, for which there is no memory.
            if matches!(failure, Failure::ResetStream | Failure::Starved) {
                context.refuse(&reply);
                return Err(Aborted);
            }
            Ok(reply_with(worker, context, &reply, &method, None, leave))
        }
    }
}

/// The request gets no answer: its HTTP/2 stream is reset, its HTTP/1 connection closed.
#[derive(Debug, thiserror::Error)]
#[error("request aborted")]
pub(crate) struct Aborted;

/// What becomes of a request that does not fail.
enum Outcome<'p> {
    Answer(Answer<'p>),
    Direct {
        reply: Box<Reply>,
        request: HeaderMap,
        ops: &'p HeaderOps,
    },
    /// Answered by the route's cross-origin rules.
    Preflight(HeaderMap),
}

/// An upstream's answer with what its way back needs.
struct Answer<'p> {
    sent: Box<Sent<RequestBody>>,
    deadline: Option<Deadline>,
    upload: Rc<Upload>,
    request: HeaderMap,
    /// The destination's, then the route's.
    ops: [&'p HeaderOps; 2],
    cookies: Vec<HeaderValue>,
    traced: bool,
    /// What the caller has not told.
    operation: Option<HeaderValue>,
}

/// `leave` is what the answer, whichever it is, has to tell an allowed origin.
async fn outcome<'p>(
    worker: &Rc<Worker>,
    conn: &ConnInfo,
    published: &'p Published,
    context: &mut RequestContext,
    leave: &mut Option<Leave<'p>>,
    mut parts: Box<Parts>,
    incoming: Incoming,
) -> Result<Outcome<'p>, Failure> {
    let target = accept(conn, context, &mut parts, published.snapshot.paths)?;
    if worker.is_shedding() {
        context.sending(&parts.headers);
        return Err(Failure::Overloaded);
    }
    let tracing = &published.snapshot.observation(conn.direction()).tracing;
    request_id::ensure(&mut parts.headers, &mut worker.rng());
    let trace = trace::begin(tracing, &mut parts.headers, &mut worker.rng());
    context.record().span = trace.map(|trace| trace.span);

    // `published` still has the listener, also when it has left the configuration since.
    let table = conn.routes(&published.snapshot).ok_or(Failure::NoRoute)?;
    let (route, forward, destination) =
        match decide(&published.snapshot[table], &target.view(&parts), || worker.rng().next_u64()) {
            Decision::NoRoute => {
                context.sending(&parts.headers);
                return Err(Failure::NoRoute);
            }
            Decision::Direct { route, response } => {
                let reply = Box::new(redirect::direct(response, &target.view(&parts)));
                redirect::settle(conn, context, route, &mut parts.headers);
                return Ok(Outcome::Direct { reply, request: parts.headers, ops: &route.response_headers });
            }
            Decision::Redirect { route, redirect } => {
                let reply = Box::new(redirect::redirect(redirect, &target.view(&parts)));
                redirect::rewrite(redirect, context.record(), &mut parts.headers);
                redirect::settle(conn, context, route, &mut parts.headers);
                return Ok(Outcome::Direct { reply, request: parts.headers, ops: &route.response_headers });
            }
            Decision::Forward { route, forward, destination } => (route, forward, destination),
        };
    context.record().route = Some(Arc::clone(&route.name));
    let cluster = match destination.cluster {
        ClusterRef::Known(cluster) => Some(published.cluster(cluster)),
        ClusterRef::Missing(_) => None,
    };
    context.choose(cluster);
    if let Some(fault) = &route.fault {
        context.sending(&parts.headers);
        // Boxed, so that requests without a fault have no room for one.
        Box::pin(fault::inject(worker, context, fault)).await?;
    }
    if let Some(policy) = &route.cors {
        match cors::judge(policy, &parts.method, &parts.headers, &worker.stats().filters) {
            Verdict::Silent => {}
            Verdict::Allowed(allowed) => *leave = Some(allowed),
            Verdict::Preflight(headers) => {
                context.sending(&parts.headers);
                return Ok(Outcome::Preflight(headers));
            }
        }
    }
    let Some(cluster) = cluster else {
        context.sending(&parts.headers);
        return Err(Failure::NoCluster);
    };
    context.assign(cluster);
    let peers = Peers { remote: conn.peer(), local: conn.local() };
    let hashed = hash_key(&forward.hash, &target.view(&parts), peers);

    let grpc = context.record().grpc;
    let limits = timeout::limits(forward, &parts.headers, grpc);
    limits.announce(&mut parts.headers, grpc);
    parts.headers.insert(headers::X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
    if let Err(failure) = rewrite::finalize(route, forward, destination, context.record(), &mut parts.headers)
    {
        context.sending(&parts.headers);
        return Err(failure);
    }
    let mut operation = Operation::default();
    if let Some(trace) = trace {
        trace.inject(tracing.propagation, &mut parts.headers);
        operation = operation::of_request(conn.direction(), route.operation.as_ref(), &mut parts.headers);
        context.record().operation = operation.name;
    }
    context.sending(&parts.headers);

    let retry = forward.retry.as_ref();
    let body = ClientBody::new(incoming, Rc::clone(worker.allowance()));
    let upload = Upload::new(body, retry.is_some(), Rc::clone(worker.replay()));
    context.receive(&upload);
    // As the rewrites left them.
    let (authority, path) = (context.record().authority.clone(), context.record().path.clone());
    let mut outbound = Outbound {
        wire: forward::wire(cluster.protocol(), parts.version),
        cluster: Arc::clone(cluster),
        original: conn.original(),
        method: parts.method,
        authority: authority.unwrap_or(target.authority),
        path: path.unwrap_or(target.path),
        headers: parts.headers,
        upload,
        per_try_timeout: limits.per_try,
        busy: RefCell::default(),
    };
    let copies = if forward.mirrors.is_empty() {
        None
    } else {
        let terms = Terms {
            mirrors: &forward.mirrors,
            version: parts.version,
            timeout: limits.overall,
            trace: trace.map(|trace| (trace, tracing.propagation)),
        };
        mirror::start(worker, conn, published, &outbound, &terms)
    };
    let result = retry::run(worker, context.record(), &mut outbound, retry, hashed.key, limits.overall).await;
    if let (Some(copies), Err(failure)) = (copies, &result) {
        copies.outlive(failure);
    }
    let (sent, deadline) = result?;
    context.record().details = Some(Details::VIA_UPSTREAM);
    Ok(Outcome::Answer(Answer {
        sent,
        deadline,
        upload: outbound.upload,
        request: outbound.headers,
        ops: [&destination.response_headers, &route.response_headers],
        cookies: hashed.cookies,
        traced: trace.is_some(),
        operation: operation.answer,
    }))
}

/// Where a request wants to go, normalised.
struct Target {
    authority: HeaderValue,
    path: PathAndQuery,
    scheme: &'static str,
}

impl Target {
    /// Cleans the headers, adds the first of ours, and normalises the path.
    fn of(
        parts: &mut Parts,
        authority: HeaderValue,
        mode: PathNormalization,
        secured: Option<&Secured>,
    ) -> Result<Self, Failure> {
        let headers = &mut parts.headers;
        let forwarded = secured.and_then(|secured| headers::forwarded_certificates(headers, secured));
        headers::clean_request(headers);
        if let Some(forwarded) = forwarded {
            headers.insert(headers::X_FORWARDED_CLIENT_CERT, forwarded);
        }
        if parts.version == Version::HTTP_2 {
            headers::join_cookies(headers);
        }
        let path = normalized(parts.uri.path_and_query(), mode)?;
        if !headers.contains_key(headers::X_FORWARDED_PROTO) {
            let proto = if secured.is_some() { "https" } else { "http" };
            headers.insert(headers::X_FORWARDED_PROTO, HeaderValue::from_static(proto));
        }
        let https = match parts.version {
            Version::HTTP_2 => parts.uri.scheme_str() == Some("https"),
            _ => headers.get(headers::X_FORWARDED_PROTO).is_some_and(|proto| proto == "https"),
        };
        Ok(Self { authority, path, scheme: if https { "https" } else { "http" } })
    }

    fn view<'a>(&'a self, parts: &'a Parts) -> RequestView<'a> {
        RequestView {
            method: &parts.method,
            scheme: self.scheme,
            authority: self.authority.to_str().unwrap_or_default(),
            path_and_query: self.path.as_str(),
            headers: &parts.headers,
        }
    }
}

/// Checks the request and makes it fit to be routed.
fn accept(
    conn: &ConnInfo,
    context: &mut RequestContext,
    parts: &mut Parts,
    mode: PathNormalization,
) -> Result<Target, Failure> {
    if let Some(violation) = conn.next_violation() {
        return Err(Failure::Refused(violation));
    }
    let checked = limits::check(parts);
    context.accept(parts, checked.as_ref().ok());
    let target = Target::of(parts, checked?, mode, conn.secured().map(|secured| &**secured))?;
    context.record().path = Some(target.path.clone());
    Ok(target)
}

/// What is matched is what is forwarded; a path that is normal already is taken as it is.
fn normalized(asked: Option<&PathAndQuery>, mode: PathNormalization) -> Result<PathAndQuery, Failure> {
    let Some(asked) = asked else { return Ok(PathAndQuery::from_static("/")) };
    match normalize_path(asked.as_str(), mode).map_err(|_| Failure::BadPath)? {
        Cow::Borrowed(_) => Ok(asked.clone()),
        Cow::Owned(path) => path.parse().map_err(|_| Failure::BadPath),
    }
}

/// Passes an upstream's answer on. (hyper drops the `content-length` of a 304, which Envoy keeps; RFC 9110 allows both.)
fn relay(
    worker: &Worker,
    mut context: RequestContext,
    answer: Answer<'_>,
    leave: Option<Leave<'_>>,
) -> Response<ResponseBody> {
    let (mut head, body) = answer.sent.response.into_parts();
    headers::clean_response(&mut head.headers);
    if answer.traced {
        rename(context.record(), answer.operation, &mut head.headers);
    }
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_LENGTH);
    }
    let service_time = answer.upload.ended().map_or(0, |ended| ended.elapsed().as_millis());
    let service_time = u64::try_from(service_time).unwrap_or(u64::MAX);
    head.headers.insert(headers::X_ENVOY_UPSTREAM_SERVICE_TIME, service_time.into());
    context.record().status = head.status.as_u16();
    for ops in answer.ops {
        let facts = Facts { record: context.record(), request: Some(&answer.request) };
        headers::apply(ops, &mut head.headers, &facts);
    }
    for cookie in answer.cookies {
        head.headers.append(SET_COOKIE, cookie);
    }
    if let Some(leave) = leave {
        leave.tell(&mut head.headers);
    }
    let source = Source::Upstream(body);
    respond(worker, context, head.status, head.headers, source, answer.deadline, false)
}

/// The span of a client is called as the server says; the server says so where it was not told.
fn rename(record: &mut Record, answer: Option<HeaderValue>, headers: &mut HeaderMap) {
    if record.direction == Direction::Outbound {
        record.operation = operation::of_answer(headers).or(record.operation.take());
    } else if let Some(answer) = answer {
        operation::tell(answer, headers);
    }
}

/// Answers in the place of an upstream.
fn reply_with(
    worker: &Worker,
    mut context: RequestContext,
    reply: &Reply,
    method: &Method,
    ops: Option<(&HeaderOps, &HeaderMap)>,
    leave: Option<Leave<'_>>,
) -> Response<ResponseBody> {
    let record = context.record();
    if let Some(flag) = reply.flag {
        record.flags.raise(flag);
    }
    record.details = Some(reply.details.clone());
    let mut headers = reply.begin();
    if let Some((ops, request)) = ops {
        headers::apply(ops, &mut headers, &Facts { record, request: Some(request) });
    }
    let (status, text) = reply.finish(&mut headers, record.grpc);
    record.status = status.as_u16();
    if let Some(leave) = leave {
        leave.tell(&mut headers);
    }
    let silent = *method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let source = if silent { Source::Empty } else { Source::Text(text) };
    respond(worker, context, status, headers, source, None, reply.close)
}

/// Adds what every answer carries, and sends it off.
fn respond(
    worker: &Worker,
    mut context: RequestContext,
    status: StatusCode,
    mut headers: HeaderMap,
    source: Source,
    deadline: Option<Deadline>,
    close: bool,
) -> Response<ResponseBody> {
    let http1 = context.is_http1();
    headers.entry(DATE).or_insert_with(|| worker.date());
    headers::set_server(&mut headers, context.record().direction);
    if http1 && (close || worker.drain().is_draining() || worker.is_shedding()) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    } else if worker.is_shedding() {
        context.dismiss();
    }
    context.answering(status, &headers);
    let mut response = Response::new(ResponseBody::new(source, context, deadline, http1));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests;
