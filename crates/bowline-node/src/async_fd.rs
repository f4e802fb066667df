//! A descriptor to one that a task can wait for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the runtime for as long as the value lives, to be read and written.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    register_for(fd, Interest::READABLE | Interest::WRITABLE)
}

/// As [`register`], for `interest` alone.
#[allow(unsafe_code, reason = "the registration needs a promise about the descriptor")]
pub(crate) fn register_for(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the promise is that the descriptor stays the same and open while it is registered. An
    // `OwnedFd` never changes its descriptor and closes it only when dropped, which `AsyncFd` does
    // after it has taken the registration back.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
