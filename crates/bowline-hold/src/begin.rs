//! A holder is begun: a process of its own session, whose parent is gone and which has nothing of
//! what the one that began it was given.
//!
//! The socket listens before, so that whoever comes next is not too early; the holder gets it as
//! stdin. Between the two is a process that ends at once: what hangs up on a command looks for its
//! descendants, and the holder must be none.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::directory::Directory;
use crate::error::HoldError;
use crate::settings::Settings;
use crate::system;

/// Begins a holder that listens at this socket.
pub(crate) fn launch(
    directory: &Directory,
    listener: OwnedFd,
    settings: &Settings,
    invoked_as: &[&str],
) -> Result<(), HoldError> {
    let fail = |error| HoldError::system("begin a holder", error);
    let mut child =
        again("begin", directory.path(), listener.into(), settings, invoked_as).map_err(fail)?;
    match child.wait().map_err(fail)? {
        status if status.success() => Ok(()),
        _ => Err(HoldError::NotTaken),
    }
}

/// Is the process in between.
///
/// # Errors
/// If the holder cannot be started.
pub(crate) fn begin(
    path: &Path,
    settings: &Settings,
    invoked_as: &[&str],
) -> Result<(), HoldError> {
    let fail = |error| HoldError::system("begin a holder", error);
    rustix::process::setsid().map_err(|error| fail(error.into()))?;
    again("serve", path, Stdio::inherit(), settings, invoked_as).map_err(fail)?;
    Ok(())
}

/// Starts this program again. Only `stdin` is passed on.
fn again(
    command: &str,
    path: &Path,
    stdin: Stdio,
    settings: &Settings,
    invoked_as: &[&str],
) -> std::io::Result<Child> {
    system::close_on_exec();
    // Also where the file was removed, or the path leads elsewhere by now.
    #[expect(clippy::disallowed_methods, reason = "the holder is this program")]
    let mut again = Command::new("/proc/self/exe");
    again.arg0("bowline-hold").args(invoked_as).arg(command).arg(path).args(settings.words());
    again.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
