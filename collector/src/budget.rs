//! The bound on memory: every byte of a request is charged before it is kept, and given back when its last
//! destination has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Charges are counted in this many bytes.
const UNIT: usize = 1024;

/// Bytes that may be held at once.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    capacity: usize,
}

/// There is no room, and waiting did not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of memory budget")]
pub struct Full;

/// Bytes held by one request; dropping it gives them back.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    held: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of that many bytes.
    pub fn new(bytes: usize) -> Self {
        let capacity = (bytes / UNIT).clamp(1, u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(capacity)), capacity }
    }

    /// An empty charge.
    pub fn open(&self) -> Charge {
        Charge { budget: self.clone(), held: 0, permit: None }
    }

    /// Whatever is left, in bytes.
    pub fn free(&self) -> usize {
        self.units.available_permits() * UNIT
    }
}

impl Charge {
    /// Grows to that many bytes, if there is room now. One request can never need more than the whole budget.
    pub fn try_grow(&mut self, bytes: usize) -> Result<(), Full> {
        let more = self.missing(bytes);
        if more == 0 {
            return Ok(());
        }
        let permit = Arc::clone(&self.budget.units).try_acquire_many_owned(more).map_err(|_| Full)?;
        self.keep(permit, more);
        Ok(())
    }

    /// The same, waiting for room.
    pub async fn grow(&mut self, bytes: usize, wait: Duration) -> Result<(), Full> {
        let more = self.missing(bytes);
        if more == 0 {
            return Ok(());
        }
        let acquire = Arc::clone(&self.budget.units).acquire_many_owned(more);
        let permit = timeout(wait, acquire).await.map_err(|_| Full)?.map_err(|_| Full)?;
        self.keep(permit, more);
        Ok(())
    }

    /// Gives back what is held beyond that many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let wanted = bytes.div_ceil(UNIT).min(self.held);
        if let Some(permit) = &mut self.permit {
            drop(permit.split(self.held - wanted));
            self.held = wanted;
        }
    }

    fn missing(&self, bytes: usize) -> u32 {
        let wanted = bytes.div_ceil(UNIT).min(self.budget.capacity);
        u32::try_from(wanted.saturating_sub(self.held)).unwrap_or(u32::MAX)
    }

    fn keep(&mut self, permit: OwnedSemaphorePermit, units: u32) {
        self.held += units as usize;
        match &mut self.permit {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_comes_back() {
        let budget = Budget::new(10 * UNIT);
        let mut charge = budget.open();
        charge.try_grow(1).unwrap();
        charge.try_grow(4 * UNIT).unwrap();
        assert_eq!(budget.free(), 6 * UNIT);
        let mut other = budget.open();
        assert_eq!(other.try_grow(7 * UNIT), Err(Full));
        charge.shrink(UNIT);
        other.try_grow(7 * UNIT).unwrap();
        drop((charge, other));
        assert_eq!(budget.free(), 10 * UNIT);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let budget = Budget::new(UNIT);
        let mut charge = budget.open();
        charge.grow(50 * UNIT, Duration::from_secs(1)).await.unwrap();
        assert_eq!(budget.open().grow(1, Duration::from_secs(1)).await, Err(Full));
    }
}
