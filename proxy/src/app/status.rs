//! What the admin pages show of the process: bound addresses, and what became of configurations.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Addresses by listener.
#[derive(Debug, Default)]
pub(crate) struct Bound(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    address: SocketAddr,
    /// From the configuration, not one of our own pages.
    configured: bool,
}

impl Bound {
    pub(super) fn add(&self, name: Arc<str>, address: SocketAddr, configured: bool) {
        self.entries(|entries| entries.push(Entry { name, address, configured }));
    }

    pub(super) fn remove(&self, name: &str) {
        self.entries(|entries| entries.retain(|entry| &*entry.name != name));
    }

    /// Every listener, those of our own pages too.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.entries(|entries| entries.iter().map(|entry| (Arc::clone(&entry.name), entry.address)).collect())
    }

    /// The listeners of the configuration.
    pub(crate) fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let configured = |entry: &&Entry| entry.configured;
        self.entries(|entries| {
            entries.iter().filter(configured).map(|entry| (Arc::clone(&entry.name), entry.address)).collect()
        })
    }

    fn entries<T>(&self, with: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What became of the configurations so far.
#[derive(Debug, Default)]
pub(crate) struct ConfigStatus {
    applied: AtomicU64,
    rejected: AtomicU64,
    last_rejection: Mutex<Option<String>>,
}

impl ConfigStatus {
    pub(super) fn apply(&self) {
        self.applied.fetch_add(1, Relaxed);
        *self.last_rejection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn reject(&self, why: String) {
        self.rejected.fetch_add(1, Relaxed);
        *self.last_rejection.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    pub(crate) fn applied(&self) -> u64 {
        self.applied.load(Relaxed)
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// The findings for which the files as they stand were refused; `None` if they are in force.
    pub(crate) fn last_rejection(&self) -> Option<String> {
        self.last_rejection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
