//! What goes upstream instead of what the client asked: header operations, another authority, another path (Istio
//! `headers`, `rewrite`). What the new path is, `outrigger-config` decides.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};
use outrigger_config::{
    decide::rewritten,
    snapshot::{Forward, PathRewrite, Route, WeightedCluster},
};

use super::{format::Facts, headers, reply::Failure};
use crate::telemetry::Record;

pub(crate) const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// Envoy `finalizeRequestHeaders`: each step sees what the one before left. The destination's operations, its authority,
/// the route's operations, its authority, the path. The record has the authority and the path as they go upstream.
///
/// # Errors
/// The new path is none that a request can have.
pub(crate) fn finalize(
    route: &Route,
    forward: &Forward,
    destination: &WeightedCluster,
    record: &mut Record,
    headers: &mut HeaderMap,
) -> Result<(), Failure> {
    headers::apply(&destination.request_headers, headers, &Facts { record, request: None });
    if let Some(authority) = &destination.authority {
        // Only the route's own rewrite tells the original.
        record.authority = Some(authority.clone());
    }
    headers::apply(&route.request_headers, headers, &Facts { record, request: None });
    if let Some(authority) = &forward.authority
        && let Some(original) = record.authority.replace(authority.clone())
    {
        headers.insert(X_ENVOY_ORIGINAL_HOST, original);
    }
    match &forward.rewrite {
        Some(rewrite) => path(rewrite, record, headers),
        None => Ok(()),
    }
}

/// Rewrites the record's path, and tells the original in the headers: the log and the span show that one.
///
/// # Errors
/// The new path is none that a request can have.
pub(crate) fn path(
    rewrite: &PathRewrite,
    record: &mut Record,
    headers: &mut HeaderMap,
) -> Result<(), Failure> {
    let Some(asked) = &record.path else { return Ok(()) };
    let Some(new) = rewritten(rewrite, asked.as_str()) else { return Ok(()) };
    let original = HeaderValue::from_bytes(asked.as_str().as_bytes()).map_err(|_| Failure::BadPath)?;
    if let Cow::Owned(new) = new {
        record.path = Some(parsed(new)?);
    }
    headers.insert(X_ENVOY_ORIGINAL_PATH, original);
    Ok(())
}

/// Envoy forwards what is no path of a request (`x/y`, `/a b`), for the upstream to refuse.
fn parsed(new: String) -> Result<PathAndQuery, Failure> {
    let length = new.len();
    let path = PathAndQuery::try_from(new).map_err(|_| Failure::BadPath)?;
    // A fragment is cut off in silence.
    let whole = path.as_str().len() == length && path.as_str().starts_with('/');
    whole.then_some(path).ok_or(Failure::BadPath)
}
