//! What a child does between fork and exec: a session of its own, and nothing inherited by
//! accident.

#![allow(unsafe_code, reason = "std has no safe way to run anything between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use bowline_io::descriptors;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The highest number of a signal on Linux.
const LAST_SIGNAL: i32 = 64;

/// Lets `command` begin a session and process group; its stdin becomes the session's terminal if
/// that is asked for. Signals act as by default, only the standard descriptors stay open, and the
/// limit of descriptors is the one that the node found, whatever the node itself was started with.
pub(super) fn begin_session(command: &mut Command, terminal: bool) {
    let limit = descriptors::original_limit();
    // SAFETY: the closure runs in the forked child of a program with threads, where only
    // async-signal-safe calls are allowed. `prepare` makes system calls alone: it allocates
    // nothing, takes no lock, and cannot unwind.
    unsafe {
        command.pre_exec(move || prepare(terminal, limit));
    }
}

fn prepare(terminal: bool, limit: Option<Rlimit>) -> io::Result<()> {
    rustix::process::setsid()?;
    if let Some(limit) = limit {
        setrlimit(Resource::Nofile, limit)?;
    }
    if terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    default_signals();
    close_on_exec();
    Ok(())
}

/// A shell starts its background jobs with SIGINT and SIGQUIT ignored, `nohup` with SIGHUP, and
/// exec hands that on. A node that was started so must still have processes that Ctrl-C can stop.
fn default_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: signal(2) with SIG_DFL installs no code. It refuses SIGKILL, SIGSTOP and what
        // libc keeps for itself, which is as well.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Keeps descriptors that the node inherited, or that a library opened, from the new program.
fn close_on_exec() {
    // SAFETY: no descriptor is closed here; those above the standard ones are marked for exec to
    // close. A kernel before 5.11 refuses the flag, and then the marks they have must do.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}
