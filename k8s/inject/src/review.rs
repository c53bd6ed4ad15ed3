//! The webhook's side: the answer to an `AdmissionReview` (admission.k8s.io/v1) of a pod that is being made.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    options::Options,
    pod::{self, Outcome},
    problem::{Path, Problem},
    record::{Injected, STATUS},
    value::{Map, Value},
    workload::Workload,
};

/// Each value costs some kilobytes while the pod is changed, so that a body of many small ones would cost a thousand
/// times its length. The largest pods have some thousands.
const MAX_VALUES: usize = 50_000;

/// What becomes of a pod that cannot be injected as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It is made without a sidecar, and the user is warned.
    Allow,
    /// It is refused with the reason.
    Deny,
}

/// A body that is no `AdmissionReview`.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON.
    #[error("the body is no JSON: {0}")]
    Json(serde_json::Error),
    /// A field is missing.
    #[error("the body is no AdmissionReview of admission.k8s.io/v1: it has no {0}")]
    Field(&'static str),
}

/// The answer, and what to log of it.
#[derive(Debug)]
pub struct Answer {
    /// The body, JSON.
    pub body: String,
    /// `default/web-5d9-: injected`, for people.
    pub summary: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    code: u16,
    message: String,
}

/// As much of a review as an answer needs; the rest is passed over and not kept.
#[derive(Debug, Deserialize)]
struct Envelope {
    request: Option<RequestId>,
}

#[derive(Debug, Deserialize)]
struct RequestId {
    uid: Option<String>,
}

/// Answers a review: a patch that puts the sidecar in, or why there is none. A pod that has the sidecar already is left
/// as it is, whatever the options.
///
/// # Errors
/// The body is no review, so that there is no request to answer.
pub fn review(body: &[u8], options: &Options, on_failure: OnFailure) -> Result<Answer, Malformed> {
    if has_more_values_than(MAX_VALUES, body) {
        return too_many_values(body, on_failure);
    }
    let review: Value = serde_json::from_slice(body).map_err(Malformed::Json)?;
    let request = review.get("request").ok_or(Malformed::Field("request"))?;
    let text = |key: &str| request.get(key).and_then(Value::text);
    let uid = text("uid").ok_or(Malformed::Field("request.uid"))?.to_owned();
    let kind = request.get("kind").and_then(|kind| kind.get("kind")).and_then(Value::text);
    let mut response = Response { uid, allowed: true, ..Response::default() };
    let summary = match request.get("object").and_then(Value::map) {
        Some(object) if kind == Some("Pod") && text("operation") == Some("CREATE") => {
            answer_pod(object, text("namespace"), options, on_failure, &mut response)
        }
        _ => "not a pod that is being made".to_owned(),
    };
    Ok(Answer { body: response.into_json(), summary })
}

/// Whether the JSON holds more values, by the signs before them: nothing is built.
fn has_more_values_than(most: usize, json: &[u8]) -> bool {
    let (mut in_text, mut escaped, mut values) = (false, false, 0);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values > most
}

/// The answer to a review that is not looked into.
fn too_many_values(body: &[u8], on_failure: OnFailure) -> Result<Answer, Malformed> {
    let envelope: Envelope = serde_json::from_slice(body).map_err(Malformed::Json)?;
    let request = envelope.request.ok_or(Malformed::Field("request"))?;
    let uid = request.uid.ok_or(Malformed::Field("request.uid"))?;
    let mut response = Response { uid, allowed: true, ..Response::default() };
    let reason = format!("the review has more than {MAX_VALUES} values");
    response.fail(on_failure, &reason);
    Ok(Answer { body: response.into_json(), summary: format!("not injected, {reason}") })
}

impl Response {
    /// There is no sidecar, for this reason.
    fn fail(&mut self, on_failure: OnFailure, reason: &str) {
        match on_failure {
            OnFailure::Allow => self.warnings.push(format!("no sidecar: {reason}")),
            OnFailure::Deny => {
                self.allowed = false;
                self.status = Some(Status { code: 400, message: format!("no sidecar: {reason}") });
            }
        }
    }

    /// The whole answer.
    fn into_json(self) -> String {
        let review = Review { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response: self };
        // Names and texts only: it cannot fail.
        serde_json::to_string(&review).unwrap_or_default()
    }
}

fn answer_pod(
    object: &Map,
    namespace: Option<&str>,
    options: &Options,
    on_failure: OnFailure,
    response: &mut Response,
) -> String {
    let workload = Workload::of(object, namespace);
    let name = format!("{}/{}", workload.namespace.as_deref().unwrap_or("default"), workload.name);
    let mut pod = object.clone();
    let outcome = match Injected::find(object, &Path::default()) {
        Ok(Some(_)) => return format!("{name}: left as it is, it has {STATUS}"),
        Ok(None) => pod::inject(&mut pod, &Path::default(), &workload, options),
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(Outcome::Injected { notes }) => {
            response.patch_type = Some("JSONPatch");
            response.patch = Some(STANDARD.encode(patch(object, &pod)));
            response.warnings = notes;
            format!("{name}: injected")
        }
        Ok(Outcome::Skipped(skip)) => format!("{name}: skipped, {skip}"),
        Ok(Outcome::Removed | Outcome::NotInjected) => format!("{name}: left as it is"),
        Err(Problem { path, message, help }) => {
            let reason = format!("{path}: {message} ({help})");
            let summary = format!("{name}: not injected, {reason}");
            response.fail(on_failure, &reason);
            summary
        }
    }
}

/// RFC 6902, from the one to the other.
fn patch(before: &Map, after: &Map) -> String {
    // Keys are strings and numbers are finite: it cannot fail.
    let json = |map: &Map| serde_json::to_value(map).unwrap_or_default();
    serde_json::to_string(&json_patch::diff(&json(before), &json(after))).unwrap_or_default()
}
