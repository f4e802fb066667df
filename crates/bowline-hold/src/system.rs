//! What neither std nor rustix has a safe way for: signals, and what a child does before exec.

#![allow(unsafe_code, reason = "each use says why it is sound")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit};

/// The highest number of a signal on Linux.
const LAST_SIGNAL: i32 = 64;

/// Keeps all descriptors but the standard ones from programs that are started from now on.
pub(crate) fn close_on_exec() {
    // SAFETY: no descriptor is closed here; those above the standard ones are marked for exec to
    // close.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if marked == 0 {
        return;
    }
    // A kernel before 5.11, or a sandbox that does not know the call.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number: &i32| *number > 2) {
        // SAFETY: as above; one that was closed meanwhile is refused.
        unsafe {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Sets what signals do: nothing of what this process was started with counts, a pipe without a
/// reader is an error of the write, and the end of a child makes the descriptor readable that is
/// returned.
///
/// # Errors
/// If the system has no descriptor left.
pub(crate) fn child_exits() -> io::Result<OwnedFd> {
    default_signals();
    // SAFETY: signal(2) with SIG_IGN installs no code. The set is made by sigemptyset before it is
    // read, and the process has one thread, so that its mask is the whole process's. signalfd
    // returns a new descriptor that nobody else owns, or -1, which is not taken.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Lets `command` begin a session; its stdin becomes the session's terminal if that is asked for.
/// Signals act as by default, and the limit of descriptors and the umask are those.
pub(crate) fn begin_session(command: &mut Command, terminal: bool, limit: Rlimit, umask: Mode) {
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed.
    // `prepare` makes system calls alone: it allocates nothing, takes no lock, and cannot unwind.
    unsafe {
        command.pre_exec(move || prepare(terminal, limit, umask));
    }
}

fn prepare(terminal: bool, limit: Rlimit, umask: Mode) -> io::Result<()> {
    rustix::process::setsid()?;
    setrlimit(Resource::Nofile, limit)?;
    rustix::process::umask(umask);
    if terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    default_signals();
    Ok(())
}

/// A process that was started with signals ignored, or blocked, would hand that on.
fn default_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: signal(2) with SIG_DFL installs no code. It refuses SIGKILL, SIGSTOP and what
        // libc keeps for itself, which is as well.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    // SAFETY: the set is made by sigemptyset before it is read; there is one thread.
    unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut());
    }
}
