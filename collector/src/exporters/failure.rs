//! What an attempt can come to, and which failures are worth another attempt: OTLP's tables.

use std::time::{Duration, SystemTime};

use http::StatusCode;

/// It arrived, all or in part. What the destination refused of it is final.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Items that the destination did not take.
    pub rejected: u64,
    /// What it had to say.
    pub message: String,
}

/// It did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may, later.
    Retry {
        /// When the destination wants to be asked again.
        after: Option<Duration>,
        /// Why it failed.
        error: String,
    },
    /// It never will, as it is; smaller pieces of it might.
    Refused {
        /// Why.
        error: String,
    },
}

impl Failure {
    /// A failure before there was an answer: the connection, a timeout, the disk.
    pub fn passing(error: impl Into<String>) -> Self {
        Self::Retry { after: None, error: error.into() }
    }

    /// A failure that another attempt cannot mend.
    pub fn refused(error: impl Into<String>) -> Self {
        Self::Refused { error: error.into() }
    }

    /// By the gRPC status. RESOURCE_EXHAUSTED is passing only if the destination says when to come back.
    pub fn from_grpc(code: u32, message: &str, after: Option<Duration>) -> Self {
        let error = format!("gRPC status {code}: {message}");
        match code {
            1 | 4 | 10 | 11 | 14 | 15 => Self::Retry { after, error },
            8 if after.is_some() => Self::Retry { after, error },
            _ => Self::Refused { error },
        }
    }

    /// By the HTTP status.
    pub fn from_http(status: StatusCode, message: &str, after: Option<Duration>) -> Self {
        let error = format!("HTTP status {}: {message}", status.as_u16());
        match status.as_u16() {
            429 | 502 | 503 | 504 => Self::Retry { after, error },
            _ => Self::Refused { error },
        }
    }
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &http::HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retried(failure: &Failure) -> bool {
        matches!(failure, Failure::Retry { .. })
    }

    #[test]
    fn grpc_codes() {
        let retry: Vec<u32> = (1..=16).filter(|code| retried(&Failure::from_grpc(*code, "", None))).collect();
        assert_eq!(retry, [1, 4, 10, 11, 14, 15]);
        assert!(retried(&Failure::from_grpc(8, "", Some(Duration::from_secs(1)))));
    }

    #[test]
    fn http_statuses() {
        let retry: Vec<u16> = (300..600)
            .filter(|status| retried(&Failure::from_http(StatusCode::from_u16(*status).unwrap(), "", None)))
            .collect();
        assert_eq!(retry, [429, 502, 503, 504]);
    }

    #[test]
    fn retry_after_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let parse = |text| retry_after(&http::HeaderValue::from_static(text), now);
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
    }
}
