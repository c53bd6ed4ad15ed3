//! From the workers to one writer: bounded in lines and bytes.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvError, SyncSender, sync_channel},
    },
    time::Duration,
};

use tracing::warn;

/// Lines that may wait.
const MAX_LINES: usize = 1024;
/// Bytes that may wait.
const MAX_BYTES: usize = 4 << 20;
/// Lines that come within this time share one write.
const GATHER: Duration = Duration::from_millis(5);
/// Bytes of one write.
const BATCH: usize = 64 << 10;

/// The workers' end: never waits.
#[derive(Debug, Clone)]
pub struct LogQueue {
    lines: SyncSender<Line>,
    shared: Arc<Shared>,
}

/// The writer's end; [`run`](Self::run) is for a thread of its own, since a pipe may block.
#[derive(Debug)]
pub struct LogWriter {
    lines: Receiver<Line>,
    shared: Arc<Shared>,
}

/// Counts the lines of a queue; unlike the queue it does not keep the writer running.
#[derive(Debug, Clone)]
pub struct LogCounts(Arc<Shared>);

#[derive(Debug)]
struct Line {
    path: Arc<str>,
    bytes: Box<[u8]>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    dropped: AtomicU64,
    written: AtomicU64,
}

impl LogQueue {
    /// A queue and its writer.
    #[must_use]
    pub fn new() -> (Self, LogWriter) {
        let (sender, receiver) = sync_channel(MAX_LINES);
        let shared = Arc::<Shared>::default();
        (Self { lines: sender, shared: Arc::clone(&shared) }, LogWriter { lines: receiver, shared })
    }

    /// Queues a line for the file at `path`, or drops and counts it.
    pub(in crate::telemetry) fn send(&self, path: &Arc<str>, line: &[u8]) {
        let waiting = self.shared.waiting.fetch_add(line.len(), Relaxed) + line.len();
        let fits = waiting <= MAX_BYTES;
        if !fits || self.lines.try_send(Line { path: Arc::clone(path), bytes: line.into() }).is_err() {
            self.shared.waiting.fetch_sub(line.len(), Relaxed);
            self.shared.dropped.fetch_add(1, Relaxed);
        }
    }

    /// What became of the lines.
    #[must_use]
    pub fn counts(&self) -> LogCounts {
        LogCounts(Arc::clone(&self.shared))
    }
}

impl LogCounts {
    /// Lines that were lost because the queue was full or the file could not be written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Lines that were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.0.written.load(Relaxed)
    }
}

impl LogWriter {
    /// Writes until every [`LogQueue`] is gone and all lines are out.
    pub fn run(self) {
        let mut outputs = HashMap::new();
        let mut batch = Vec::new();
        while let Ok(first) = self.lines.recv() {
            // Under load the senders find the writer awake and need not wake it for each line.
            std::thread::park_timeout(GATHER);
            let mut next = Ok(first);
            while let Ok(line) = next {
                next = self.write_run(line, &mut outputs, &mut batch);
            }
        }
    }

    /// Writes `line` and those that wait behind it for the same file; yields the first one that is not written.
    fn write_run(
        &self,
        line: Line,
        outputs: &mut HashMap<Arc<str>, Output>,
        batch: &mut Vec<u8>,
    ) -> Result<Line, RecvError> {
        batch.clear();
        let path = line.path;
        batch.extend_from_slice(&line.bytes);
        let mut lines = 1;
        let next = loop {
            match self.lines.try_recv() {
                Ok(next) if batch.len() < BATCH && next.path == path => {
                    batch.extend_from_slice(&next.bytes);
                    lines += 1;
                }
                Ok(next) => break Ok(next),
                Err(_) => break Err(RecvError),
            }
        };
        self.shared.waiting.fetch_sub(batch.len(), Relaxed);
        let output = outputs.entry(path).or_insert_with_key(|path| Output::open(path));
        match output.write(batch) {
            Ok(()) => self.shared.written.fetch_add(lines, Relaxed),
            Err(_) => self.shared.dropped.fetch_add(lines, Relaxed),
        };
        next
    }
}

/// Where lines end up.
#[derive(Debug)]
enum Output {
    Stdout,
    Stderr,
    File(File),
    /// Said once; its lines are counted as dropped.
    Unusable,
}

impl Output {
    fn open(path: &str) -> Self {
        match path {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            _ => match OpenOptions::new().append(true).create(true).open(path) {
                Ok(file) => Self::File(file),
                Err(error) => {
                    warn!(%path, %error, "cannot open the access log; its lines are dropped");
                    Self::Unusable
                }
            },
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File(file) => file.write_all(bytes),
            Self::Unusable => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_their_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<Arc<str>> =
            ["a", "b"].map(|name| folder.path().join(name).to_str().unwrap().into()).into();
        let (queue, writer) = LogQueue::new();
        for (at, path) in [0, 0, 1, 0].into_iter().map(|at| &paths[at]).enumerate() {
            queue.send(path, format!("{at}\n").as_bytes());
        }
        let counts = queue.counts();
        drop(queue);
        writer.run();
        assert_eq!((counts.written(), counts.dropped()), (4, 0));
        let [first, second] = [0, 1].map(|at: usize| std::fs::read_to_string(&*paths[at]).unwrap());
        assert_eq!((first.as_str(), second.as_str()), ("0\n1\n3\n", "2\n"));
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, writer) = LogQueue::new();
        let path: Arc<str> = "/dev/stdout".into();
        for _ in 0..=MAX_LINES {
            queue.send(&path, b"x\n");
        }
        assert_eq!(queue.counts().dropped(), 1);
        drop(writer);

        let (queue, _writer) = LogQueue::new();
        queue.send(&path, &vec![b'x'; MAX_BYTES]);
        queue.send(&path, b"x");
        assert_eq!(queue.counts().dropped(), 1, "bytes are bounded as well");
    }

    #[test]
    fn a_file_that_cannot_be_opened_counts_its_lines_as_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (queue, writer) = LogQueue::new();
        let path: Arc<str> = folder.path().join("missing/log").to_str().unwrap().into();
        queue.send(&path, b"x\n");
        let counts = queue.counts();
        drop(queue);
        writer.run();
        assert_eq!((counts.dropped(), counts.written()), (1, 0));
    }
}
