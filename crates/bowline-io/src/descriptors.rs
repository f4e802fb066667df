//! The system's limit of open descriptors: raised for a server, given back to what it runs.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that this program was started with, once it has raised its own.
static FOUND: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one. The soft one is for programs that cannot count beyond
/// 1,024 (`select`), which a server of ours can.
///
/// # Errors
/// If the system refuses; the limit is as it was.
pub fn raise() -> io::Result<()> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    if found.current != raised.current {
        setrlimit(Resource::Nofile, raised)?;
        let _ = FOUND.set(found);
    }
    Ok(())
}

/// What commands that are started get: the limit as it was found, if it was raised.
#[must_use]
pub fn found() -> Option<Rlimit> {
    FOUND.get().cloned()
}

/// How many this program may have at once.
#[must_use]
pub fn most() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
