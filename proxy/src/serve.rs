//! One worker at work: a plain future on a thread of its own. Threads and runtimes are the business of the application.

#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc, time::Duration};

use outrigger_config::snapshot::{Carried, Chain, Silent};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use crate::{
    drain::Phase,
    http::conn,
    net::{
        detect::{Spoken, TlsEnded, detect},
        listen::Accepted,
    },
    tcp,
    upstream::Published,
    worker::Worker,
};

/// Serves connections until no more can come and the last has ended, or until the drain is forced: then what is open
/// is dropped. Must run where `spawn_local` works.
pub async fn serve(mut sockets: mpsc::Receiver<Accepted>, worker: Rc<Worker>) {
    let mut connections = JoinSet::new();
    let mut sniffed = JoinSet::new();
    let mut drain = worker.drain().clone();
    let mut forced = std::pin::pin!(drain.reached(Phase::Forced));
    let mut open = true;
    while open || !connections.is_empty() || !sniffed.is_empty() {
        tokio::select! {
            biased;
            accepted = sockets.recv(), if open => match accepted {
                // Tasks of their own rather than one for all: a connection of each kind is to be as small as it can be.
                Some(accepted) => match kind(&accepted, &worker) {
                    Kind::Requests => drop(connections.spawn_local(conn::serve(accepted, Rc::clone(&worker)))),
                    Kind::Bytes(published) => {
                        drop(connections.spawn_local(tcp::serve(accepted, published, false, Rc::clone(&worker))));
                    }
                    Kind::Sniffed(limit, silent) => {
                        drop(sniffed.spawn_local(sniff(accepted, limit, silent, Rc::clone(&worker))));
                    }
                },
                None => open = false,
            },
            Some(told) = sniffed.join_next() => match told {
                Ok(Some((accepted, Spoken::Requests))) => {
                    drop(connections.spawn_local(conn::serve(accepted, Rc::clone(&worker))));
                }
                Ok(Some((accepted, spoken))) => {
                    let published = worker.published_for(&accepted.listener);
                    let silent = spoken == Spoken::Unclear;
                    drop(connections.spawn_local(tcp::serve(accepted, published, silent, Rc::clone(&worker))));
                }
                Ok(None) => {}
                Err(ended) => count_panic(&worker, &ended),
            },
            Some(ended) = connections.join_next() => {
                if let Err(ended) = ended {
                    count_panic(&worker, &ended);
                }
            }
            () = &mut forced => return,
        }
    }
}

fn count_panic(worker: &Worker, ended: &tokio::task::JoinError) {
    if ended.is_panic() {
        worker.count_panic();
    }
}

/// What a connection is served as.
enum Kind {
    Requests,
    /// By this configuration.
    Bytes(Arc<Published>),
    /// Its first bytes tell, within this time.
    Sniffed(Option<Duration>, Silent),
}

/// By the listener, or where the client was going. A listener that no configuration has is left to whoever answers
/// requests: they say so.
fn kind(accepted: &Accepted, worker: &Worker) -> Kind {
    let published = worker.published_for(&accepted.listener);
    let name = &accepted.listener.name;
    let listener = published.snapshot.listeners.iter().find(|known| known.name == *name);
    match listener.map(|listener| &listener.carried) {
        Some(Carried::Http(_)) | None => Kind::Requests,
        Some(Carried::Tcp(_)) => Kind::Bytes(published),
        Some(Carried::Captured(captured)) => match captured.chain(accepted.going_to()) {
            Chain::Requests(_) => Kind::Requests,
            Chain::Bytes(_) => Kind::Bytes(published),
            Chain::Sniffed { silent, .. } => Kind::Sniffed(captured.detection, *silent),
        },
    }
}

/// `None` where the client or the proxy has given up.
async fn sniff(
    mut accepted: Accepted,
    limit: Option<Duration>,
    silent: Silent,
    worker: Rc<Worker>,
) -> Option<(Accepted, Spoken)> {
    let ended = match worker.inbound(&accepted.listener, accepted.going_to().port()) {
        None => TlsEnded::No,
        Some(inbound) if inbound.plaintext => TlsEnded::OfMesh,
        Some(_) => TlsEnded::All,
    };
    let stream = TcpStream::from_std(accepted.stream).ok()?;
    let idle = worker.settings().idle_timeout;
    let mut drain = worker.drain().clone();
    let mut spoken = tokio::select! {
        biased;
        spoken = detect(&stream, limit.unwrap_or(idle), ended, worker.relay_buffer()) => spoken.ok()?,
        () = drain.reached(Phase::Closing) => return None,
    };
    match spoken {
        Spoken::Nothing => return None,
        Spoken::Unclear if limit.is_none() => return None,
        Spoken::Unclear => match silent {
            Silent::Requests => spoken = Spoken::Requests,
            Silent::Bytes => worker.count_unclear(),
        },
        Spoken::Requests | Spoken::Bytes => {}
    }
    accepted.stream = stream.into_std().ok()?;
    Some((accepted, spoken))
}
