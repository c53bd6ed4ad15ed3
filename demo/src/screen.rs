//! What a person sees: plain lines with the time, and on a terminal a line of progress below them.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

use tokio::time::Instant;

/// Standard output.
pub(crate) struct Screen {
    began: Instant,
    terminal: bool,
}

impl Screen {
    /// The clock starts now.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), terminal: stdout().is_terminal() }
    }

    /// A line with the time.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.write(&format!("[{seconds:5.1}s] {}\n", line.as_ref()));
    }

    /// A line that belongs to the one before.
    pub(crate) fn detail(&self, line: impl AsRef<str>) {
        self.write(&format!("         {}\n", line.as_ref()));
    }

    /// A line without indent.
    pub(crate) fn line(&self, line: impl AsRef<str>) {
        self.write(&format!("{}\n", line.as_ref()));
    }

    /// Overwritten by whatever comes next; nothing where the output is no terminal.
    pub(crate) fn progress(&self, text: &str) {
        if self.terminal {
            let seconds = self.began.elapsed().as_secs_f64();
            print!("\r\x1b[2K[{seconds:5.1}s] {text}");
            // A closed terminal is no reason to stop.
            let _ = stdout().flush();
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn write(&self, text: &str) {
        if self.terminal {
            print!("\r\x1b[2K");
        }
        print!("{text}");
        let _ = stdout().flush();
    }
}
