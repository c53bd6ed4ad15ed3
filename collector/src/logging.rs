//! Logs as JSON lines on stdout: `{"ts":…,"level":"info","msg":…,…}`.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Sends events at `level` and above to stdout. In a process that logs already, nothing changes.
pub(crate) fn start(level: Level) {
    let layer = JsonLines.with_filter(LevelFilter::from_level(level));
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

/// Writes one line whatever the level is set to: what scripts wait for.
pub(crate) fn line(level: &str, message: &str, fields: &[(&str, String)]) {
    let fields =
        fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
    write(level, message, fields);
}

fn write(level: &str, message: &str, fields: Map<String, Value>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut text =
        format!("{{\"ts\":{now:.3},\"level\":{},\"msg\":{}", Value::from(level), Value::from(message));
    for (name, value) in fields {
        text.push_str(&format!(",{}:{value}", Value::from(name)));
    }
    text.push_str("}\n");
    // A reader that has gone away is no reason to fail.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_lowercase();
        write(&level, &fields.message, fields.others);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}
