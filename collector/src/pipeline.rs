//! Admission: one request into the queue of every exporter that its pipelines lead to, or into none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::queue::{Frame, Queue};
use crate::status::Refusal;

/// Where the requests of one signal from one receiver go.
#[derive(Clone, Debug)]
pub struct Route {
    /// In the order of the configuration; every route takes its rooms in that order, so none waits in a circle.
    pub queues: Vec<Arc<Queue>>,
}

impl Route {
    /// Waits a moment for room everywhere; then the frame is everywhere, or it is refused and nowhere.
    pub async fn admit(&self, frame: Frame, at_most: Option<Duration>) -> Result<(), Refusal> {
        let started = Instant::now();
        let mut rooms = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            let wait = queue.settings().block_for;
            let wait = at_most.map_or(wait, |limit| wait.min(limit));
            let room = timeout_at(started + wait, queue.reserve(frame.payload.len()))
                .await
                .map_err(|_| Refusal::overloaded("the queue is full; try again"))?
                .map_err(|_| stopping())?;
            rooms.push((queue, room));
        }
        for (queue, room) in rooms {
            queue.push(room, frame.clone()).map_err(|_| stopping())?;
        }
        Ok(())
    }
}

/// The last thing a sender hears from a collector that goes.
pub fn stopping() -> Refusal {
    Refusal::overloaded("this collector is stopping; try another one")
}
