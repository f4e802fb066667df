//! Signals to a token that everything waits on.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// SIGHUP: the terminal of this process was closed.
#[derive(Debug)]
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Watches for it, unless the process was started with the wish to outlive its terminal, as
    /// nohup does.
    ///
    /// # Errors
    /// If the signal cannot be watched.
    pub fn watch() -> io::Result<Hangup> {
        let watched = (!is_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Hangup(watched.transpose()?))
    }

    /// Resolves when the signal comes; never where it is ignored. May be dropped and called again
    /// without a loss.
    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Whether SIGHUP is ignored. Where no /proc says so, it is not.
fn is_ignored() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Reads that from a process's status: a mask, whose lowest bit is signal 1, which is SIGHUP.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 == 1)
}

/// A token that is cancelled by the first SIGINT, SIGTERM or SIGHUP that is not ignored. A second
/// one has its default effect only after the caller has dropped the runtime.
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
