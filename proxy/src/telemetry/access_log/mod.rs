//! The access log: a compiled format, rendered by the worker, written to a file by one thread or exported as log
//! records.
//!
//! A line is one line whatever a client sends: control bytes, quotes and backslashes are escaped. A full queue loses
//! lines and counts them; it never delays a request.

mod queue;
mod records;
mod render;
mod write;

use std::{sync::Arc, time::Duration};

use outrigger_config::{
    format::{self, Format, Operator, RequestField},
    snapshot::{AccessLog, Destination, LogEncoding, LogSink, Node},
};

use super::{
    Outbox, Record, Target,
    capture::{Captures, Part, Slot},
};
pub use queue::{LogCounts, LogQueue, LogWriter};
pub(super) use write::{Clock, StartTime, ip};

/// What is known of a request only at its end.
#[derive(Debug)]
pub(super) struct End {
    pub(super) took: Duration,
    pub(super) started: StartTime,
}

/// One log: its format with header names resolved to slots, so that only what it shows is kept of a request.
#[derive(Debug)]
pub(super) struct Log {
    to: To,
    encoding: Encoding,
}

#[derive(Debug)]
enum To {
    /// Where the lines go.
    File(Arc<str>),
    Otlp {
        target: Arc<Target>,
        attributes: Box<[Field]>,
    },
}

#[derive(Debug)]
enum Encoding {
    Text(Steps),
    /// Sorted by key.
    Json(Box<[Field]>),
}

/// One member of the JSON object, or one attribute.
#[derive(Debug)]
struct Field {
    key: Arc<str>,
    steps: Steps,
}

/// A format, ready to be rendered.
#[derive(Debug)]
pub(super) struct Steps(Box<[Step]>);

#[derive(Debug)]
enum Step {
    Literal(Box<str>),
    Value { value: Value, max_length: Option<usize> },
}

#[derive(Debug)]
enum Value {
    /// The first one that is there.
    FirstOf(Source, Option<Source>),
    Hostname(Arc<str>),
    Operator(Operator),
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Method,
    Path,
    Authority,
    Scheme,
    Header(Slot),
}

impl Log {
    /// `target` makes the receiver of an exported log.
    pub(super) fn new(
        log: &AccessLog,
        node: &Node,
        captures: &mut Captures,
        target: impl FnOnce(&Arc<Destination>, Option<&str>) -> Arc<Target>,
    ) -> Self {
        let mut fields = |pairs: &[(Arc<str>, Format)]| {
            let field = |(key, format): &(Arc<str>, Format)| Field {
                key: Arc::clone(key),
                steps: Steps::new(format, node, captures),
            };
            let mut fields: Vec<_> = pairs.iter().map(field).collect();
            fields.sort_by(|left, right| left.key.cmp(&right.key));
            fields.into()
        };
        let to = match &log.to {
            LogSink::File(path) => To::File(Arc::clone(path)),
            LogSink::Otlp { to, log_name, attributes } => {
                To::Otlp { target: target(to, Some(log_name)), attributes: fields(attributes) }
            }
        };
        let encoding = match &log.encoding {
            LogEncoding::Json(pairs) => Encoding::Json(fields(pairs)),
            LogEncoding::Text(format) => Encoding::Text(Steps::new(format, node, captures)),
        };
        Self { to, encoding }
    }

    /// Renders a record that has ended, and sends it off. `line` and `message` are overwritten.
    pub(super) fn write(
        &self,
        record: &Record,
        end: &End,
        (line, message): (&mut Vec<u8>, &mut Vec<u8>),
        (file, otlp): (&LogQueue, &Outbox),
    ) {
        line.clear();
        match &self.to {
            To::File(path) => {
                self.encoding.render(record, end, line);
                file.send(path, line);
            }
            To::Otlp { target, attributes } => {
                self.encoding.render_body(record, end, line);
                message.clear();
                records::encode(record, line, message);
                records::encode_attributes(attributes, record, end, line, message);
                otlp.send(target, message);
            }
        }
    }
}

impl Steps {
    pub(super) fn new(format: &Format, node: &Node, captures: &mut Captures) -> Self {
        let step = |part: &format::Part| match part {
            format::Part::Literal(text) => Step::Literal(text.clone()),
            format::Part::Operator { operator, max_length } => {
                Step::Value { value: Value::new(operator, node, captures), max_length: *max_length }
            }
        };
        Self(format.parts().iter().map(step).collect())
    }
}

impl Value {
    fn new(operator: &Operator, node: &Node, captures: &mut Captures) -> Self {
        match operator {
            Operator::Request(first, second) => {
                let mut source = |field: &RequestField| match field {
                    RequestField::Method => Source::Method,
                    RequestField::Path => Source::Path,
                    RequestField::Authority => Source::Authority,
                    RequestField::Scheme => Source::Scheme,
                    RequestField::Header(name) => Source::Header(captures.slot(Part::Request, name)),
                };
                Self::FirstOf(source(first), second.as_ref().map(source))
            }
            Operator::Response(first, second) => {
                let mut source = |name| Source::Header(captures.slot(Part::Response, name));
                Self::FirstOf(source(first), second.as_ref().map(source))
            }
            Operator::Trailer(name) => {
                Self::FirstOf(Source::Header(captures.slot(Part::Trailers, name)), None)
            }
            Operator::Hostname => Self::Hostname(Arc::clone(&node.name)),
            other => Self::Operator(other.clone()),
        }
    }
}
