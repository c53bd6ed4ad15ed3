//! `google.rpc.Status`: the body of every refusal, with its details, in protobuf and in JSON.
//!
//! One value holds what both transports need, so that gRPC and HTTP never disagree about the same refusal.

use std::time::Duration;

use prost::Message;

/// The gRPC codes that OTLP uses, here as numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// The request is malformed; sending it again will not help.
    InvalidArgument = 3,
    /// The caller's deadline passed.
    DeadlineExceeded = 4,
    /// No such path.
    NotFound = 5,
    /// Too large, for good.
    ResourceExhausted = 8,
    /// Unknown method or encoding.
    Unimplemented = 12,
    /// No room now; try again.
    Unavailable = 14,
}

/// A refusal, ready to be rendered for either transport.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The HTTP status.
    pub http: http::StatusCode,
    /// For people.
    pub message: String,
    /// When to try again, for passing states only.
    pub retry_after: Option<Duration>,
    /// The field at fault, for malformed requests.
    pub field: Option<String>,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: Code, http: http::StatusCode, message: impl Into<String>) -> Self {
        Self { code, http, message: message.into(), retry_after: None, field: None }
    }

    /// The request cannot be understood.
    pub fn malformed(message: impl Into<String>, field: String) -> Self {
        let refusal = Self::new(Code::InvalidArgument, http::StatusCode::BAD_REQUEST, message);
        Self { field: Some(field), ..refusal }
    }

    /// The request is over the size limit; it will never fit.
    pub fn too_large(limit: usize) -> Self {
        let message =
            format!("the request is larger than {limit} bytes after decompression; send smaller batches");
        Self::new(Code::ResourceExhausted, http::StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// There is no room at the moment.
    pub fn overloaded(message: impl Into<String>) -> Self {
        let refusal = Self::new(Code::Unavailable, http::StatusCode::SERVICE_UNAVAILABLE, message);
        Self { retry_after: Some(RETRY_DELAY), ..refusal }
    }

    /// The status message as protobuf.
    pub fn protobuf(&self) -> Vec<u8> {
        let mut details = Vec::new();
        if let Some(delay) = self.retry_after {
            details
                .push(Any { type_url: RETRY_INFO.to_owned(), value: RetryInfo::new(delay).encode_to_vec() });
        }
        if let Some(field) = &self.field {
            let violation = FieldViolation { field: field.clone(), description: self.message.clone() };
            let value = BadRequest { field_violations: vec![violation] }.encode_to_vec();
            details.push(Any { type_url: BAD_REQUEST.to_owned(), value });
        }
        Status { code: self.code as i32, message: self.message.clone(), details }.encode_to_vec()
    }

    /// The status message as JSON.
    pub fn json(&self) -> Vec<u8> {
        let mut details = Vec::new();
        if let Some(delay) = self.retry_after {
            let delay = format!("{}s", delay.as_secs_f64());
            details.push(serde_json::json!({ "@type": RETRY_INFO, "retryDelay": delay }));
        }
        if let Some(field) = &self.field {
            let violation = serde_json::json!({ "field": field, "description": self.message });
            details.push(serde_json::json!({ "@type": BAD_REQUEST, "fieldViolations": [violation] }));
        }
        let status =
            serde_json::json!({ "code": self.code as i32, "message": self.message, "details": details });
        status.to_string().into_bytes()
    }

    /// `google.rpc.RetryInfo` alone, as some clients read it from the trailing metadata.
    pub fn retry_info(&self) -> Option<Vec<u8>> {
        self.retry_after.map(|delay| RetryInfo::new(delay).encode_to_vec())
    }
}

/// The delay that a `RetryInfo` in an encoded status asks for.
pub fn retry_delay(status: &[u8]) -> Option<Duration> {
    let status = Status::decode(status).ok()?;
    let detail = status.details.iter().find(|detail| detail.type_url.ends_with("google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(detail.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    Duration::try_from(delay).ok()
}

/// The message of an encoded status, if it has one.
pub fn status_message(status: &[u8]) -> Option<String> {
    Status::decode(status).ok().map(|status| status.message).filter(|message| !message.is_empty())
}

/// How many items an encoded export response says were refused, and why.
pub fn partial_success(response: &[u8]) -> Option<(u64, String)> {
    let partial = ExportResponse::decode(response).ok()?.partial_success?;
    Some((u64::try_from(partial.rejected).unwrap_or(0), partial.error_message))
}

/// Short, because SDKs give up when the delay is longer than what is left of their own deadline.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// All three signals have this shape.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

impl RetryInfo {
    fn new(delay: Duration) -> Self {
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        Self { retry_delay: Some(Delay { seconds, nanos: delay.subsec_nanos() as i32 }) }
    }
}

impl TryFrom<Delay> for Duration {
    type Error = std::num::TryFromIntError;

    fn try_from(delay: Delay) -> Result<Self, Self::Error> {
        Ok(Self::from_secs(u64::try_from(delay.seconds)?) + Self::from_nanos(u64::try_from(delay.nanos)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_says_when_to_come_back() {
        let refusal = Refusal::overloaded("full");
        assert_eq!(retry_delay(&refusal.protobuf()), Some(Duration::from_secs(1)));
        let json: serde_json::Value = serde_json::from_slice(&refusal.json()).unwrap();
        assert_eq!(json["code"], 14);
        assert_eq!(json["details"][0]["retryDelay"], "1s");
    }

    #[test]
    fn too_large_is_for_good() {
        let refusal = Refusal::too_large(5);
        assert_eq!(refusal.code, Code::ResourceExhausted);
        assert_eq!(retry_delay(&refusal.protobuf()), None);
        assert_eq!(refusal.retry_info(), None);
    }
}
