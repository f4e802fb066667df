//! Turns signals into a token that everything waits on.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Watches for SIGHUP: the terminal of this process was closed.
#[derive(Debug)]
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Watches for the signal, unless the process was started with it ignored, as by nohup.
    ///
    /// # Errors
    /// If the signal cannot be watched.
    pub fn watch() -> io::Result<Hangup> {
        let watched = (!is_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Hangup(watched.transpose()?))
    }

    /// Waits for the signal; for ever if it is ignored.
    ///
    /// Cancel safe: no signal is lost if the future is dropped.
    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Whether SIGHUP is ignored; false where there is no /proc to tell.
fn is_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Whether a process's status says that SIGHUP is ignored: it is the lowest bit of a mask.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// Returns a token that is cancelled by the first SIGINT, SIGTERM, or SIGHUP if that is not
/// ignored. Further ones have no effect while the runtime runs.
///
/// # Errors
/// If the signals cannot be watched.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = Hangup::watch()?;
    let token = CancellationToken::new();
    let cancels = token.clone();
    #[expect(clippy::disallowed_methods, reason = "it waits for the whole run")]
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = hangup.recv() => {}
        }
        cancels.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_hangups_are_ignored() {
        assert!(ignores_hangup("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}
