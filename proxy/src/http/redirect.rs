//! Answers that a route gives by itself, with the `location` that Envoy gives them: Istio `redirect`, `directResponse`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_config::{
    decide::{RequestView, location},
    snapshot::{DirectResponse, PathRewrite, Redirect, Route},
};

use super::{client::ConnInfo, context::RequestContext, reply::Reply, rewrite, trace::operation};
use crate::telemetry::Record;

/// The answer of a `redirect`.
pub(crate) fn redirect(to: &Redirect, request: &RequestView<'_>) -> Reply {
    Reply { location: header(location(request, Some(to))), ..Reply::direct(to.status, Bytes::new()) }
}

/// The answer of a `directResponse`. Envoy says where a created or moved thing is: at the request's own URL.
pub(crate) fn direct(response: &DirectResponse, request: &RequestView<'_>) -> Reply {
    let located = response.status == StatusCode::CREATED || response.status.is_redirection();
    Reply {
        location: if located { header(location(request, None)) } else { None },
        ..Reply::direct(response.status, response.body.clone())
    }
}

/// A replaced prefix counts for header operations and the log, as in Envoy; a whole new path is the client's business,
/// and so is one that no request can have.
pub(crate) fn rewrite(to: &Redirect, record: &mut Record, headers: &mut HeaderMap) {
    if let Some(prefix @ PathRewrite::Prefix { .. }) = &to.path {
        let _ = rewrite::path(prefix, record, headers);
    }
}

/// What the record says of a request that goes no further.
pub(crate) fn settle(conn: &ConnInfo, context: &mut RequestContext, route: &Route, headers: &mut HeaderMap) {
    let record = context.record();
    record.route = Some(Arc::clone(&route.name));
    if record.span.is_some() {
        record.operation = operation::of_request(conn.direction(), route.operation.as_ref(), headers).name;
    }
    context.sending(headers);
}

fn header(location: String) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from(location)).ok()
}
