//! What signals ask for.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

use super::{Command, Control, Ending};

/// SIGTERM and SIGINT drain (a second one ends at once), SIGHUP reloads. Holds from the return of this on, also for
/// process 1, for which the system has no default action.
pub(super) fn watch_signals(control: &Control) -> io::Result<()> {
    for (kind, command) in [
        (SignalKind::terminate(), Command::End(Ending::Drain)),
        (SignalKind::interrupt(), Command::End(Ending::Drain)),
        (SignalKind::hangup(), Command::Reload),
    ] {
        let mut signals = signal(kind)?;
        let control = control.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                // A full queue is waited for: a signal must not be lost.
                control.tell(command).await;
            }
        });
    }
    Ok(())
}
