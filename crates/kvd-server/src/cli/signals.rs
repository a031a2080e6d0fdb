//! Signals: the first one asks to stop, the second one insists.

use std::{io, process};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token at the first SIGTERM or SIGINT, and ends the process at the second.
///
/// # Errors
/// The system refuses to deliver signals.
pub(super) fn watch(stop: CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
                _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
            };
            if stop.is_cancelled() {
                exit_at_once(name, number);
            }
            tracing::info!("stopping on {name}; another one ends the process at once");
            stop.cancel();
        }
    });
    Ok(())
}

#[expect(clippy::exit, reason = "whoever signals twice wants the process gone, whatever it is still doing")]
fn exit_at_once(name: &str, number: i32) {
    tracing::warn!("ending at once on a second {name}");
    process::exit(128 + number);
}
