//! What is loaded of the files that the configuration names, followed as they change.
//!
//! A change counts by content, and once two looks in a row have seen the same. New connections use it at once, open ones
//! are left alone. What cannot be used keeps what was there before; without that, connections fail with the reason.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, Guard};
use outrigger_config::snapshot::{Credentials, ServerTls, Trust};
use twox_hash::XxHash64;

use super::{
    CertificateFile, Identity,
    files::{Files, stamp},
    ready::{Ready, Wanted},
};

/// All credentials in use, each loaded once. Belongs to the control thread.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    identity: Option<Identity>,
    known: Mutex<Known>,
    loaded: AtomicU64,
    rejected: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    secrets: HashMap<Wanted, Weak<Secret>>,
    /// Of the last look at the files, and whether they are still to be read.
    stamp: u64,
    pending: bool,
}

/// One set of credentials, as it is now.
#[derive(Debug)]
pub(crate) struct Secret {
    id: u64,
    wanted: Wanted,
    state: ArcSwap<State>,
    /// Of the content that was tried last.
    tried: Mutex<Option<u64>>,
}

type State = Result<Ready, Arc<str>>;

impl Secrets {
    /// For a proxy with this identity, or none.
    pub(crate) fn new(identity: Option<Identity>) -> Self {
        Self { identity, ..Self::default() }
    }

    pub(crate) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// What is loaded of these credentials; it is read now if nobody has asked before.
    pub(crate) fn of(&self, wanted: &Credentials) -> Arc<Secret> {
        self.shared(Wanted::Credentials(wanted.clone()))
    }

    /// The same for a port that has TLS of its own.
    pub(crate) fn of_server(&self, wanted: &ServerTls) -> Arc<Secret> {
        self.shared(Wanted::Server(wanted.clone()))
    }

    fn shared(&self, wanted: Wanted) -> Arc<Secret> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut known = self.known();
        if let Some(secret) = known.secrets.get(&wanted).and_then(Weak::upgrade) {
            return secret;
        }
        let secret = Arc::new(Secret {
            id: NEXT.fetch_add(1, Relaxed),
            wanted: wanted.clone(),
            state: ArcSwap::from_pointee(Err("not loaded yet".into())),
            tried: Mutex::default(),
        });
        self.load(&secret);
        known.secrets.insert(wanted, Arc::downgrade(&secret));
        secret
    }

    /// Looks at the files, and loads what has changed and settled.
    pub(crate) fn poll(&self) {
        let mut known = self.known();
        known.secrets.retain(|_, secret| secret.strong_count() > 0);
        let secrets: Vec<_> = known.secrets.values().filter_map(Weak::upgrade).collect();
        let mut hasher = XxHash64::with_seed(0);
        for secret in &secrets {
            stamp(&Files::watched(secret.wanted.credentials(), self.identity.as_ref()), &mut hasher);
        }
        let stamp = hasher.finish();
        if stamp != known.stamp {
            known.stamp = stamp;
            known.pending = true;
        } else if std::mem::take(&mut known.pending) {
            drop(known);
            secrets.iter().for_each(|secret| self.load(secret));
        }
    }

    /// How often credentials were loaded, and how often they were found to be unusable.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.loaded.load(Relaxed), self.rejected.load(Relaxed))
    }

    /// Every file in use, once.
    pub(crate) fn certificates(&self) -> Vec<CertificateFile> {
        let secrets: Vec<_> = self.known().secrets.values().filter_map(Weak::upgrade).collect();
        let mut all: Vec<CertificateFile> = Vec::new();
        for secret in secrets {
            if let Ok(ready) = &**secret.state.load() {
                all.extend(ready.shown.iter().cloned());
            }
        }
        all.sort_by(|a, b| (a.authority, &a.path).cmp(&(b.authority, &b.path)));
        all.dedup_by(|a, b| a.path == b.path && a.authority == b.authority);
        all
    }

    /// Why those cannot be used that were never loaded.
    pub(crate) fn unusable(&self) -> Vec<Arc<str>> {
        let secrets: Vec<_> = self.known().secrets.values().filter_map(Weak::upgrade).collect();
        let mut all: Vec<_> = secrets.iter().filter_map(|secret| secret.unusable()).collect();
        all.sort();
        all
    }

    fn load(&self, secret: &Secret) {
        let read =
            Files::of(secret.wanted.credentials(), self.identity.as_ref()).and_then(|files| files.read());
        let mut hasher = XxHash64::with_seed(0);
        read.hash(&mut hasher);
        let content = Some(hasher.finish());
        let mut tried = secret.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *tried, content) == content {
            return;
        }
        match read.and_then(|content| Ready::new(&secret.wanted, &content)) {
            Ok(ready) => {
                self.loaded.fetch_add(1, Relaxed);
                let paths: Vec<_> = ready.shown.iter().map(|file| file.path.display().to_string()).collect();
                tracing::info!(files = paths.join(" "), "certificates loaded");
                secret.state.store(Arc::new(Ok(ready)));
            }
            Err(why) => {
                self.rejected.fetch_add(1, Relaxed);
                if secret.state.load().is_ok() {
                    tracing::error!(error = %why, "certificates rejected, the last good ones stay in use");
                } else {
                    tracing::error!(error = %why, "TLS is not possible, connections that need it fail");
                    secret.state.store(Arc::new(Err(why)));
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Secret {
    /// Tells credentials apart; a rotation changes nothing in it.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the mesh vouches for the peer.
    pub(super) fn is_of_mesh(&self) -> bool {
        matches!(self.wanted.credentials().trust, Trust::Mesh(_))
    }

    /// Why they cannot be used, if they were never loaded.
    pub(crate) fn unusable(&self) -> Option<Arc<str>> {
        self.state.load().as_ref().as_ref().err().cloned()
    }

    /// Whether they can be used now.
    pub(super) fn state(&self) -> Guard<Arc<State>> {
        self.state.load()
    }
}
