//! One worker at work: a plain future on a thread of its own. Threads and runtimes are the business of the application.

use std::rc::Rc;

use tokio::{sync::mpsc, task::JoinSet};

use crate::{drain::Phase, http::conn, net::listen::Accepted, tcp, worker::Worker};

/// Serves connections until no more can come and the last has ended, or until the drain is forced: then what is open
/// is dropped. Must run where `spawn_local` works.
pub async fn serve(mut sockets: mpsc::Receiver<Accepted>, worker: Rc<Worker>) {
    let mut connections = JoinSet::new();
    let mut drain = worker.drain().clone();
    let mut forced = std::pin::pin!(drain.reached(Phase::Forced));
    let mut open = true;
    while open || !connections.is_empty() {
        tokio::select! {
            biased;
            accepted = sockets.recv(), if open => match accepted {
                // Two tasks rather than one for both: a connection of either kind is to be as small as it can be.
                Some(accepted) => match tcp::configuration(&accepted, &worker) {
                    Some(published) => {
                        drop(connections.spawn_local(tcp::serve(accepted, published, Rc::clone(&worker))));
                    }
                    None => drop(connections.spawn_local(conn::serve(accepted, Rc::clone(&worker)))),
                },
                None => open = false,
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    worker.count_panic();
                }
            }
            () = &mut forced => return,
        }
    }
}
