//! A descriptor with what it is watched for, and what poll(2) said of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;

/// What means that a descriptor can be read, if only its end.
const READABLE: PollFlags = PollFlags::IN.union(PollFlags::HUP).union(PollFlags::ERR);

/// One descriptor of a loop.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    /// What it is watched for; `None` is not at all, and no flag is errors alone.
    pub wants: Option<PollFlags>,
    /// What was said of it last.
    pub ready: PollFlags,
}

/// What a read or a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes; never zero.
    Bytes(usize),
    /// Nothing for now.
    Later,
    /// There will be nothing more.
    Over,
}

impl Watched {
    /// A descriptor, which does not block from now on.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Watched> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Watched { fd, wants: None, ready: PollFlags::empty() })
    }

    /// Whether a read brings something.
    pub(crate) fn is_readable(&self) -> bool {
        self.ready.intersects(READABLE)
    }

    /// Whether the other side is gone.
    pub(crate) fn is_broken(&self) -> bool {
        self.ready.intersects(PollFlags::ERR | PollFlags::NVAL)
    }

    /// Reads what is there.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Moved {
        moved(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer)))
    }

    /// Writes what is taken.
    pub(crate) fn write(&self, slices: &[io::IoSlice<'_>]) -> Moved {
        moved(rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, slices)))
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Linux says EIO of a terminal whose other side nobody holds: that is its end.
fn moved(result: Result<usize, Errno>) -> Moved {
    match result {
        Ok(0) => Moved::Over,
        Ok(bytes) => Moved::Bytes(bytes),
        Err(Errno::AGAIN) => Moved::Later,
        Err(_) => Moved::Over,
    }
}
