//! The system's limit of open descriptors, which a server raises for itself only.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit that this program was started with, if it has raised it.
static ORIGINAL: OnceLock<Rlimit> = OnceLock::new();

/// Raises the soft limit to the hard one. The soft one is for programs that use `select`, which
/// does not go beyond 1,024.
///
/// # Errors
/// If the system refuses. The limit then stays as it was.
pub fn raise_limit() -> io::Result<()> {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    if original.current != raised.current {
        setrlimit(Resource::Nofile, raised)?;
        let _ = ORIGINAL.set(original);
    }
    Ok(())
}

/// Returns the limit before it was raised, for commands that are started; `None` if it was not.
#[must_use]
pub fn original_limit() -> Option<Rlimit> {
    ORIGINAL.get().cloned()
}

/// How many descriptors this program may have open at once.
#[must_use]
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}
