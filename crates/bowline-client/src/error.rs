//! Why there is no outcome.

use bowline_proto::session::Loss;
use thiserror::Error;

use crate::session::EndError;
use crate::upgrade::UpgradeError;

/// Why it is not known how a command ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No session came about: the command did not run.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The server does not give the lines of the log that were asked for.
    #[error("the server cannot replay: it is not Bowline's")]
    NoReplay,
    /// One of the caller's ends failed, and the session was left.
    #[error(transparent)]
    End(#[from] EndError),
    /// The session ended without a word about the command, which may have ended in any way, or
    /// still run.
    #[error("{loss} after {received_bytes} bytes of output")]
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// How many bytes of output came before, and were written.
        received_bytes: u64,
        /// The output that was kept, if any was to be.
        stdout: Vec<u8>,
        /// The errors that were kept, if any were to be.
        stderr: Vec<u8>,
    },
}
