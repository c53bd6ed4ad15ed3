//! The access log: a compiled format, rendered by the worker, written by one thread.
//!
//! A line is one line whatever a client sends: control bytes, quotes and backslashes are escaped. A full queue loses
//! lines and counts them; it never delays a request.

mod queue;
mod render;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_config::{
    format::{Format, Operator, Part, RequestField},
    snapshot::{AccessLog, LogEncoding, LogSink, Node},
};

use super::Record;
pub use queue::{LogCounts, LogQueue, LogWriter};

/// A log format with its header names resolved to slots, so that only what it shows is kept of a request.
#[derive(Debug)]
pub(super) struct LogPlan {
    path: Arc<str>,
    /// What the operator `%HOSTNAME%` yields.
    hostname: Arc<str>,
    /// Slots in this order: request, response, trailers.
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    trailers: Vec<HeaderName>,
    encoding: Encoding,
}

#[derive(Debug)]
enum Encoding {
    Text(Box<[Step]>),
    /// Sorted by key.
    Json(Box<[Field]>),
}

/// One member of the JSON object.
#[derive(Debug)]
struct Field {
    key: Arc<str>,
    steps: Box<[Step]>,
}

#[derive(Debug)]
enum Step {
    Literal(Box<str>),
    Value { value: Value, max_length: Option<usize> },
}

#[derive(Debug)]
enum Value {
    /// The first one that is there.
    FirstOf(Source, Option<Source>),
    Operator(Operator),
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Method,
    Path,
    Authority,
    Scheme,
    Request(usize),
    Response(usize),
    Trailer(usize),
}

impl LogPlan {
    pub(super) fn new(log: &AccessLog, node: &Node) -> Self {
        let mut plan = Self {
            path: match &log.to {
                LogSink::File(path) => Arc::clone(path),
                LogSink::Otlp { .. } => "/dev/null".into(),
            },
            hostname: Arc::clone(&node.name),
            request: Vec::new(),
            response: Vec::new(),
            trailers: Vec::new(),
            encoding: Encoding::Text(Box::default()),
        };
        plan.encoding = match &log.encoding {
            LogEncoding::Text(format) => Encoding::Text(plan.steps(format)),
            LogEncoding::Json(fields) => {
                let field = |(key, format): &(Arc<str>, Format)| Field {
                    key: Arc::clone(key),
                    steps: plan.steps(format),
                };
                let mut fields: Vec<_> = fields.iter().map(field).collect();
                fields.sort_by(|left, right| left.key.cmp(&right.key));
                Encoding::Json(fields.into())
            }
        };
        plan
    }

    /// Where the lines go.
    pub(super) fn path(&self) -> &Arc<str> {
        &self.path
    }

    pub(super) fn capture_request(&self, record: &mut Record, headers: &HeaderMap) {
        self.capture(record, 0, &self.request, headers);
    }

    pub(super) fn capture_response(&self, record: &mut Record, headers: &HeaderMap) {
        self.capture(record, self.request.len(), &self.response, headers);
    }

    pub(super) fn capture_trailers(&self, record: &mut Record, headers: &HeaderMap) {
        self.capture(record, self.request.len() + self.response.len(), &self.trailers, headers);
    }

    fn capture(&self, record: &mut Record, from: usize, names: &[HeaderName], headers: &HeaderMap) {
        if names.is_empty() {
            return;
        }
        record.captured.resize(self.request.len() + self.response.len() + self.trailers.len(), None);
        for (slot, name) in record.captured.iter_mut().skip(from).zip(names) {
            *slot = headers.get(name).cloned();
        }
    }

    fn captured<'r>(&self, record: &'r Record, source: Source) -> Option<&'r HeaderValue> {
        let slot = match source {
            Source::Request(at) => at,
            Source::Response(at) => self.request.len() + at,
            Source::Trailer(at) => self.request.len() + self.response.len() + at,
            Source::Method | Source::Path | Source::Authority | Source::Scheme => return None,
        };
        record.captured.get(slot)?.as_ref()
    }

    fn steps(&mut self, format: &Format) -> Box<[Step]> {
        format
            .parts()
            .iter()
            .map(|part| match part {
                Part::Literal(text) => Step::Literal(text.clone()),
                Part::Operator { operator, max_length } => {
                    Step::Value { value: self.value(operator), max_length: *max_length }
                }
            })
            .collect()
    }

    fn value(&mut self, operator: &Operator) -> Value {
        match operator {
            Operator::Request(first, second) => {
                let mut source = |field: &RequestField| match field {
                    RequestField::Method => Source::Method,
                    RequestField::Path => Source::Path,
                    RequestField::Authority => Source::Authority,
                    RequestField::Scheme => Source::Scheme,
                    RequestField::Header(name) => Source::Request(slot(&mut self.request, name)),
                };
                Value::FirstOf(source(first), second.as_ref().map(source))
            }
            Operator::Response(first, second) => {
                let mut source = |name| Source::Response(slot(&mut self.response, name));
                Value::FirstOf(source(first), second.as_ref().map(source))
            }
            Operator::Trailer(name) => Value::FirstOf(Source::Trailer(slot(&mut self.trailers, name)), None),
            other => Value::Operator(other.clone()),
        }
    }
}

fn slot(names: &mut Vec<HeaderName>, name: &HeaderName) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.clone());
        names.len() - 1
    })
}
