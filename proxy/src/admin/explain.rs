//! `POST /explain`: where a request would go now, by the configuration in force and the present state of its endpoints.
//!
//! The question is text (a request line with a whole URL, then lines of headers) or JSON with the same in fields, and the
//! answer is of the same kind.

use std::net::{IpAddr, SocketAddr};

use arc_swap::ArcSwap;
use axum::response::Response;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{json, text};
use crate::{
    app::Bound,
    http::explain::{CLIENT, Question, explain},
    upstream::Published,
};

/// A longer question is refused: no request has as many headers.
const MAX_QUESTION: usize = 128 << 10;

pub(super) async fn answer(
    published: &ArcSwap<Published>,
    bound: &Bound,
    body: Incoming,
    as_json: bool,
) -> Response {
    #[expect(clippy::disallowed_methods, reason = "limited")]
    let read = Limited::new(body, MAX_QUESTION).collect().await;
    let bytes = match read {
        Ok(body) => body.to_bytes(),
        Err(error) => return refuse(&format!("the question cannot be read: {error}")),
    };
    let Ok(written) = std::str::from_utf8(&bytes) else { return refuse("the question is not UTF-8") };
    let is_json = written.trim_start().starts_with('{');
    let question = if is_json { from_json(written) } else { from_text(written) };
    let published = published.load();
    match question.and_then(|question| {
        explain(&published, &bound.listeners(), &question).map_err(|error| error.to_string())
    }) {
        Ok(explained) if is_json || as_json => json(&explained.to_json()),
        Ok(explained) => text(StatusCode::OK, explained.to_string()),
        Err(error) => refuse(&error),
    }
}

fn refuse(why: &str) -> Response {
    text(StatusCode::BAD_REQUEST, format!("{why}\n"))
}

fn from_text(written: &str) -> Result<Question, String> {
    let mut lines = written.lines().map(str::trim).filter(|line| !line.is_empty());
    let request = lines.next().unwrap_or_default();
    Question::read(request, lines).map_err(|error| error.to_string())
}

/// `method` and `headers` may be left out, as may `http2`, `client`, `listener` and `seed`.
fn from_json(written: &str) -> Result<Question, String> {
    let value: Value = serde_json::from_str(written).map_err(|error| format!("no JSON: {error}"))?;
    let fields = value.as_object().ok_or("no JSON object")?;
    const KNOWN: [&str; 7] = ["method", "url", "headers", "http2", "client", "listener", "seed"];
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("the field `{unknown}` is unknown; there are {}", KNOWN.join(", ")));
    }
    let wrong = |field: &str, wanted: &str| format!("`{field}` has to be {wanted}");
    let string = |field: &'static str| match fields.get(field) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| wrong(field, "a string")),
    };
    let url = string("url")?.ok_or("`url` is missing")?;
    let request = format!("{} {url}", string("method")?.unwrap_or("GET"));
    let mut question = Question::read(&request, []).map_err(|error| error.to_string())?;
    if let Some(value) = fields.get("headers") {
        let wanted = || wrong("headers", "an object of strings, or of lists of strings");
        for (name, value) in value.as_object().ok_or_else(wanted)? {
            append(&mut question.headers, name, value).ok_or_else(wanted)?;
        }
    }
    if let Some(value) = fields.get("http2") {
        question.http2 = value.as_bool().ok_or_else(|| wrong("http2", "true or false"))?;
    }
    if let Some(value) = string("client")? {
        let ip: IpAddr = value.parse().map_err(|_| wrong("client", "an IP address"))?;
        question.client = SocketAddr::new(ip, CLIENT.port());
    }
    question.listener = string("listener")?.map(str::to_owned);
    if let Some(value) = fields.get("seed") {
        question.seed = Some(value.as_u64().ok_or_else(|| wrong("seed", "a number without sign"))?);
    }
    Ok(question)
}

fn append(headers: &mut HeaderMap, name: &str, value: &Value) -> Option<()> {
    let name: HeaderName = name.parse().ok()?;
    let lines = match value {
        Value::Array(lines) => lines.as_slice(),
        line => std::slice::from_ref(line),
    };
    for line in lines {
        headers.append(name.clone(), line.as_str()?.parse().ok()?);
    }
    Some(())
}
