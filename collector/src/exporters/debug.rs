//! The log as a destination: a line per batch, and its content if asked for.

use bytes::Bytes;

use super::{Delivered, Failure, Request};
use crate::signal::Signal;

/// Writes to the log.
#[derive(Debug)]
pub struct Debug {
    pub(super) name: String,
    pub(super) detailed: bool,
}

impl Debug {
    pub(super) async fn prepare(&self, signal: Signal, payload: Bytes) -> Result<Bytes, Failure> {
        if !self.detailed {
            return Ok(payload);
        }
        super::to_json(signal, payload).await.map(Bytes::from)
    }

    pub(super) fn send(&self, request: &Request) -> Delivered {
        let (exporter, signal, items) = (self.name.as_str(), request.signal.name(), request.items);
        if self.detailed {
            let content = String::from_utf8_lossy(&request.body);
            tracing::info!(exporter, signal, items, %content, "batch");
        } else {
            tracing::info!(exporter, signal, items, bytes = request.body.len(), "batch");
        }
        Delivered::default()
    }
}
