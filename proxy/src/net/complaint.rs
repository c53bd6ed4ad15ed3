//! A complaint that is made once a second at most, however often there is reason for it.

use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(1);

/// When it was made last.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    made: Option<Instant>,
    held_back: u64,
}

impl Complaint {
    /// If it is to be made now: how many were held back since the last one.
    pub(crate) fn due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.made.is_some_and(|made| now < made + EVERY) {
            self.held_back += 1;
            return None;
        }
        self.made = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_made_once_a_second_and_counts_the_others() {
        let mut complaint = Complaint::default();
        assert_eq!((complaint.due(), complaint.due(), complaint.due()), (Some(0), None, None));
        tokio::time::advance(EVERY).await;
        assert_eq!((complaint.due(), complaint.due()), (Some(2), None));
    }
}
