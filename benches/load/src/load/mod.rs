//! The load generator. Every answer is checked; what is wrong with one is counted and said.

pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod open;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{Outcome, door::Door};

/// Sessions that the load belongs to.
pub(crate) const SESSIONS: usize = 512;
/// So many failures say enough.
const FAILURES: u64 = 100;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Connections of HTTP/1.1 that send one GET after the other.
    H1 { connections: usize },
    /// A new connection of HTTP/1.1 for each GET.
    Churn { connections: usize },
    /// Streams over connections of HTTP/2 that send one request after the other.
    H2 { connections: usize, streams: usize, call: h2::Call },
    /// Requests of HTTP/1.1 that arrive by chance, so many a second.
    OpenH1 { rate: u32 },
    /// The same with unary gRPC calls.
    OpenGrpc { rate: u32 },
}

/// What has come back so far.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Requests that may still begin.
    left: Cell<u64>,
    answered: Cell<u64>,
    failed: Cell<u64>,
    failure: RefCell<Option<String>>,
    /// Microseconds from the arrival of a request to the end of its answer; open loops alone write them.
    latencies: RefCell<Vec<u32>>,
}

impl Tally {
    /// Lets so many requests begin.
    pub(crate) fn new(requests: u64) -> Rc<Self> {
        Rc::new(Self {
            left: Cell::new(requests),
            answered: Cell::new(0),
            failed: Cell::new(0),
            failure: RefCell::new(None),
            latencies: RefCell::default(),
        })
    }

    /// Whether one more request may begin.
    fn begin(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0 && self.failed.get() < FAILURES
    }

    /// Lets no request begin any more.
    pub(crate) fn stop(&self) {
        self.left.set(0);
    }

    fn count<T>(&self, outcome: Outcome<T>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.answered.set(self.answered.get() + 1);
                Some(value)
            }
            Err(error) => {
                self.failed.set(self.failed.get() + 1);
                self.failure.borrow_mut().get_or_insert_with(|| error.to_string());
                None
            }
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.get()
    }

    /// The latencies since they were last taken.
    pub(crate) fn take_latencies(&self) -> Vec<u32> {
        self.latencies.take()
    }

    /// How many requests failed, and how the first one did.
    pub(crate) fn failure(&self) -> Option<String> {
        let failure = self.failure.borrow().clone()?;
        Some(format!("{} requests failed, the first one: {failure}", self.failed.get()))
    }
}

/// Load that runs.
pub(crate) struct Running {
    tasks: JoinSet<()>,
}

impl Running {
    /// Sends a load to the port of its protocol.
    pub(crate) async fn start(
        load: Load,
        h1: &Door,
        h2: &Door,
        seed: u64,
        tally: &Rc<Tally>,
    ) -> Outcome<Self> {
        let mut tasks = JoinSet::new();
        match load {
            Load::H1 { connections } => h1::keep_alive(h1, connections, tally, &mut tasks),
            Load::Churn { connections } => h1::churn(h1, connections, tally, &mut tasks),
            Load::H2 { connections, streams, call } => {
                h2::closed(h2, connections, streams, call, tally, &mut tasks).await?;
            }
            Load::OpenH1 { rate } => open::h1(h1, rate, seed, tally, &mut tasks).await?,
            Load::OpenGrpc { rate } => open::grpc(h2, rate, seed, tally, &mut tasks).await?,
        }
        Ok(Self { tasks })
    }

    /// Waits until every request that began has ended.
    pub(crate) async fn end(mut self, patience: Duration) -> Outcome<()> {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(patience, all).await.map_err(|_| "requests are still without an answer".into())
    }
}
