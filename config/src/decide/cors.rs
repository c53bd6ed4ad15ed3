//! Which cross-origin request a policy is asked about, and whether it allows the origin (Envoy's filter `cors`).

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use crate::snapshot::Cors;

/// A request that came from a web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossOrigin<'r> {
    /// Where the page is from.
    pub origin: &'r HeaderValue,
    /// Whether the policy allows it.
    pub allowed: bool,
    /// An OPTIONS that names the method to come.
    pub preflight: bool,
}

/// `None` for a request without an origin.
#[must_use]
pub fn cross_origin<'r>(policy: &Cors, method: &Method, headers: &'r HeaderMap) -> Option<CrossOrigin<'r>> {
    let origin = headers.get(ORIGIN).filter(|origin| !origin.is_empty())?;
    let asked = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    // A request has one origin: two lines are none that a policy could know.
    let lone = headers.get_all(ORIGIN).iter().nth(1).is_none();
    let text = str::from_utf8(origin.as_bytes()).ok().filter(|_| lone);
    Some(CrossOrigin {
        origin,
        allowed: text.is_some_and(|text| policy.allow_origins.iter().any(|matcher| matcher.matches(text))),
        preflight: *method == Method::OPTIONS && asked.is_some_and(|asked| !asked.is_empty()),
    })
}
