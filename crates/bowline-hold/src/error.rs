//! What can go wrong before a session is there, as words and exit codes.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why the program fails.
#[derive(Debug, Error)]
pub(crate) enum HoldError {
    /// The words make no sense.
    #[error("{0} (see bowline-hold help)")]
    Usage(String),
    /// The directory is none, or not this user's alone.
    #[error("{}: {why}", path.display())]
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no holder, where one is wanted and none is begun.
    #[error("{}: nothing is held here", .0.display())]
    NoHolder(PathBuf),
    /// The holder ended, or will not have this connection.
    #[error("the holder did not take the connection")]
    NotTaken,
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl HoldError {
    /// An error of the system's.
    pub(crate) fn system(what: impl Into<String>, error: impl Into<io::Error>) -> HoldError {
        HoldError::System { what: what.into(), error: error.into() }
    }

    /// The exit code. Those of shells for programs that are not there (126, 127) and those above
    /// mean other things, as does 1.
    pub(crate) fn code(&self) -> u8 {
        match self {
            HoldError::Usage(_) => 2,
            HoldError::Directory { .. } => 3,
            HoldError::NoHolder(_) => 4,
            HoldError::NotTaken => 5,
            HoldError::System { .. } => 6,
        }
    }
}
