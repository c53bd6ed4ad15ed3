//! Admission: one request into the queue of every exporter that its pipelines lead to, or into none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::queue::{Frame, Queue, Room};
use crate::status::Refusal;

/// Where the requests of one signal from one receiver go.
#[derive(Clone, Debug)]
pub struct Route {
    /// In the order of the configuration.
    pub queues: Vec<Arc<Queue>>,
}

impl Route {
    /// Waits a moment for room everywhere; then the frame is everywhere, or it is refused and nowhere.
    pub async fn admit(&self, frame: Frame, at_most: Option<Duration>) -> Result<(), Refusal> {
        let rooms = self.rooms(frame.payload.len(), at_most).await?;
        for (queue, room) in self.queues.iter().zip(rooms) {
            queue.push(room, frame.clone()).map_err(|_| stopping())?;
        }
        Ok(())
    }

    /// One room in every queue, in their order. Whoever waits for one queue holds room in no other: so one slow
    /// destination does not fill the queues of the rest, and nobody waits in a circle.
    async fn rooms(&self, bytes: usize, at_most: Option<Duration>) -> Result<Vec<Room>, Refusal> {
        let started = Instant::now();
        let mut awaited = None;
        loop {
            let rooms = self.queues.iter().enumerate().map(|(index, queue)| {
                awaited
                    .take_if(|(waited, _)| *waited == index)
                    .map(|(_, room)| room)
                    .or_else(|| queue.try_reserve(bytes))
                    .ok_or((index, queue))
            });
            let (index, queue) = match rooms.collect() {
                Ok(rooms) => return Ok(rooms),
                Err(full) => full,
            };
            // Given back before the wait.
            drop(awaited.take());
            let wait = queue.settings().block_for;
            let wait = at_most.map_or(wait, |limit| wait.min(limit));
            let room = timeout_at(started + wait, queue.reserve(bytes))
                .await
                .map_err(|_| Refusal::overloaded("the queue is full; try again"))?
                .map_err(|_| stopping())?;
            awaited = Some((index, room));
        }
    }
}

/// The last thing a sender hears from a collector that goes.
pub fn stopping() -> Refusal {
    Refusal::overloaded("this collector is stopping; try another one")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::budget::Budget;
    use crate::config;
    use crate::metrics::Metrics;
    use crate::queue::Queued;
    use crate::signal::Signal;

    fn queue(max_requests: usize) -> (Arc<Queue>, mpsc::Receiver<Queued>) {
        let metrics = Metrics::new().exporter("test", max_requests);
        let (queue, frames) =
            Queue::new(&config::Queue { max_requests, ..config::Queue::default() }, &metrics);
        (Arc::new(queue), frames)
    }

    fn frame() -> Frame {
        let charge = Arc::new(Budget::new(1024).open());
        let (signal, payload) = (Signal::Traces, Bytes::from_static(b"x"));
        Frame { signal, items: 1, received: SystemTime::UNIX_EPOCH, payload, charge }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_one_queue_holds_no_room_in_another() {
        // Whichever of the two is full, and wherever it stands in the order.
        for full_first in [false, true] {
            let (open, mut opened) = queue(1);
            let (full, mut filled) = queue(1);
            Route { queues: vec![Arc::clone(&full)] }.admit(frame(), None).await.unwrap();
            let mut queues = vec![Arc::clone(&open), Arc::clone(&full)];
            if full_first {
                queues.reverse();
            }
            let both = tokio::spawn(async move { Route { queues }.admit(frame(), None).await });
            tokio::task::yield_now().await;
            // The one that waits stays without room here while there is none, and takes it when there is.
            Route { queues: vec![open] }.admit(frame(), Some(Duration::ZERO)).await.unwrap();
            drop(filled.recv().await.unwrap());
            tokio::task::yield_now().await;
            assert!(!both.is_finished());
            // It found room here, found none in the other, and gave this one back.
            assert!(full.try_reserve(1).is_some());
            drop(opened.recv().await.unwrap());
            both.await.unwrap().unwrap();
            assert!(opened.try_recv().is_ok() && filled.try_recv().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_room_ends_with_nothing_held() {
        let (open, mut opened) = queue(1);
        let (full, _filled) = queue(1);
        let started = Instant::now();
        Route { queues: vec![Arc::clone(&full)] }.admit(frame(), None).await.unwrap();
        let route = Route { queues: vec![Arc::clone(&open), full] };
        route.admit(frame(), None).await.unwrap_err();
        assert_eq!(started.elapsed(), config::Queue::default().block_for);
        assert!(opened.try_recv().is_err() && open.try_reserve(1).is_some());
    }
}
