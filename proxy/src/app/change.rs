//! A change of the configuration: taken whole, or refused while the last good one stays in force.

use std::{sync::Arc, time::Duration};

use outrigger_config::{
    Loaded,
    report::{Diagnostic, Report, Severity},
};
use tokio::{sync::mpsc, time::Instant};

use super::{Command, Ending, control::Process};
use crate::reload::{Documents, Unreadable};

/// How long a configuration waits for the first answers about its names. Later ones count as soon as they come.
pub(super) const FIRST_ANSWERS: Duration = Duration::from_secs(2);
/// How often a configuration is tried again that was refused for an address in use.
const RETRY: Duration = Duration::from_secs(2);

impl Process {
    /// Takes a new configuration, or says why not and keeps the old one. `again` says that it was refused before, so
    /// that the same refusal is no news. If the process is to end, it does not wait for the change.
    pub(super) async fn change(
        &mut self,
        documents: Result<Documents, Unreadable>,
        again: bool,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<(), Ending> {
        self.retry_at = None;
        match self.compile(documents, commands).await? {
            Ok(loaded) => {
                let snapshot = Arc::new(loaded.snapshot);
                match self.listeners.prepare(&snapshot) {
                    Ok(prepared) => {
                        warn_of(&loaded.warnings);
                        let upstreams = Arc::clone(&self.upstreams);
                        self.meanwhile(commands, upstreams.prepare(&snapshot, FIRST_ANSWERS)).await?;
                        self.listeners.record_losses(&snapshot, &self.published.load());
                        let old = self.published.swap(self.upstreams.publish(Arc::clone(&snapshot)));
                        self.listeners.follow(prepared, &snapshot);
                        let pings = self.pings.clone();
                        tokio::spawn(async move {
                            pings.all_answer().await;
                            // Taken apart here, unless a request has it still: a large one takes milliseconds.
                            drop(old);
                        });
                        self.config.apply();
                        tracing::info!(version = %snapshot.version, "configuration applied");
                    }
                    Err(error) => {
                        self.retry_at = Some(Instant::now() + RETRY);
                        let error = error.to_string();
                        if !again || self.config.last_rejection().as_ref() != Some(&error) {
                            self.refuse(&error.clone(), error);
                        }
                    }
                }
            }
            Err((first, all)) => self.refuse(&first, all),
        }
        Ok(())
    }

    /// On an error: its first line, and all of it.
    async fn compile(
        &mut self,
        documents: Result<Documents, Unreadable>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<Result<Loaded, (String, String)>, Ending> {
        let documents = match documents {
            Ok(documents) => documents,
            Err(error) => return Ok(Err((error.to_string(), error.to_string()))),
        };
        let known = self.loader.take();
        let mut loader = known.unwrap_or_else(|| self.unread.afresh());
        let compiling = tokio::task::spawn_blocking(move || (documents.compile(&mut loader), loader));
        Ok(match self.meanwhile(commands, compiling).await? {
            Ok((result, loader)) => {
                self.loader = Some(loader);
                result.map_err(|report| (first_error(&report), report.to_string()))
            }
            Err(error) => Err((format!("the compiler failed: {error}"), error.to_string())),
        })
    }

    fn refuse(&self, first: &str, all: String) {
        tracing::error!(error = first, "configuration rejected, the last good one stays in force");
        self.config.reject(all);
    }
}

/// Notes are for who writes the configuration, not for who runs it.
pub(super) fn warn_of(warnings: &Report) {
    let counts = |diagnostic: &&Arc<Diagnostic>| diagnostic.severity() > Severity::Note;
    for diagnostic in warnings.diagnostics.iter().filter(counts) {
        let place = &diagnostic.place;
        tracing::warn!(
            code = %diagnostic.code,
            at = format_args!("{}:{}:{}", place.file, place.line, place.column),
            path = diagnostic.path,
            "{}", diagnostic.message
        );
    }
}

/// One line of a report.
fn first_error(report: &Report) -> String {
    let error = report.diagnostics.iter().find(|diagnostic| diagnostic.severity() == Severity::Error);
    error.map_or_else(String::new, |diagnostic| {
        let place = &diagnostic.place;
        format!("{}:{}:{}: {}", place.file, place.line, place.column, diagnostic.message)
    })
}
