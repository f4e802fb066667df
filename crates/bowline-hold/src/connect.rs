//! One connection: the ends of an exec to the holder of a directory, which is begun if there is
//! none.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::stdio::{stdin, stdout};

use crate::begin::launch;
use crate::directory::Directory;
use crate::error::HoldError;
use crate::handover::{TAKEN, give};
use crate::settings::Settings;

/// How often a holder that ends just then is followed by a new one.
const TRIES: u32 = 5;

/// Hands stdin and stdout to the holder, and waits until it has let go of them.
///
/// # Errors
/// If there is no holder, and none can be begun.
pub(crate) fn connect(
    path: &Path,
    settings: &Settings,
    invoked_as: &[&str],
) -> Result<(), HoldError> {
    let mut tries = 0;
    loop {
        let control = reach(path, settings, invoked_as)?;
        tries += 1;
        if give(&control, [stdin(), stdout()]).is_ok() && read(&control) == Some(TAKEN) {
            // What is said here after that is its end alone.
            while read(&control).is_some() {}
            return Ok(());
        }
        if tries == TRIES {
            return Err(HoldError::NotTaken);
        }
    }
}

/// The next byte of the holder's; `None` at the end.
fn read(control: &OwnedFd) -> Option<u8> {
    let mut byte = [0];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(control, &mut byte));
    if read == Ok(1) { Some(byte[0]) } else { None }
}

/// A socket to the holder.
fn reach(path: &Path, settings: &Settings, invoked_as: &[&str]) -> Result<OwnedFd, HoldError> {
    if let Some(control) = Directory::make(path)?.dial()? {
        return Ok(control);
    }
    // The last holder may have removed it meanwhile.
    let directory = Directory::make(path)?;
    let lock = directory.lock()?;
    if let Some(control) = directory.dial()? {
        return Ok(control);
    }
    let listener = directory.listen(&lock)?;
    launch(&directory, listener, settings, invoked_as)?;
    directory.dial()?.ok_or(HoldError::NotTaken)
}
