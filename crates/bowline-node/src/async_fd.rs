//! A descriptor to one that a task can wait for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers `fd` with the runtime for as long as the value lives.
#[allow(unsafe_code, reason = "the registration needs a promise about the descriptor")]
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the promise is that the descriptor stays the same and open while it is registered. An
    // `OwnedFd` never changes its descriptor and closes it only when dropped, which `AsyncFd` does
    // after it has taken the registration back.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
