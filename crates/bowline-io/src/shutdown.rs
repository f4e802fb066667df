//! Signals to a token that everything waits on.
//! Above: the servers' mains. Below: `tokio::signal`.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT or SIGTERM. A second one has its default effect
/// only after the caller has dropped the runtime.
///
/// # Errors
/// If the signals cannot be watched.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancels = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancels.cancel();
    });
    Ok(token)
}
