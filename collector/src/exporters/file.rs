//! A file of OTLP/JSON, one export request per line, written out before the batch counts as delivered.
//!
//! It appends and does not rotate. An error is retried like any other, so a full disk fills the queue.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Delivered, Failure, Request};
use crate::signal::Signal;

/// A file destination, opened on first use.
#[derive(Debug)]
pub struct File {
    writer: Arc<Mutex<Writer>>,
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: Option<fs::File>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { writer: Arc::new(Mutex::new(Writer { path, file: None })) }
    }

    pub(super) async fn prepare(signal: Signal, payload: Bytes) -> Result<Bytes, Failure> {
        let mut line = super::to_json(signal, payload).await?;
        line.push(b'\n');
        Ok(line.into())
    }

    pub(super) async fn send(&self, request: &Request) -> Result<Delivered, Failure> {
        let writer = Arc::clone(&self.writer);
        let line = request.body.clone();
        let write = move || match writer.lock() {
            Ok(mut writer) => writer.append(&line),
            Err(_) => Err(std::io::Error::other("an earlier write panicked")),
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => Ok(Delivered::default()),
            Ok(Err(error)) => Err(Failure::passing(error.to_string())),
            Err(error) => Err(Failure::passing(error.to_string())),
        }
    }
}

impl Writer {
    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        let mut file = match self.file.take() {
            // Someone may have moved the file away.
            Some(file) if self.path.exists() => file,
            _ => fs::OpenOptions::new().create(true).append(true).open(&self.path)?,
        };
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(line).and_then(|()| file.flush()) {
            // Half a line would spoil the next one.
            let _ = file.set_len(before);
            return Err(error);
        }
        self.file = Some(file);
        Ok(())
    }
}
