//! A descriptor with what it is watched for, and what poll(2) said of it.
//!
//! A pipe tells of every write to it and, once it was full, of every read. What moves in small
//! pieces, one right after the other, is not watched but looked at again after a pause; what comes
//! by itself, as an echo, never waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bowline_proto::time::Time;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

/// What means that a descriptor can be read, if only its end.
const READABLE: PollFlags = PollFlags::IN.union(PollFlags::HUP).union(PollFlags::ERR);
/// So many pieces, each so soon after the last, are a flow.
const PIECES: u32 = 16;
const SOON: Duration = Duration::from_millis(4);
/// The pause in a flow, and what a pipe has to have room for in it. More would be taken from what
/// the system allows a user's pipes.
const PAUSE: Duration = Duration::from_millis(1);
const PIPE_BYTES: usize = 256 * 1024;

/// One descriptor of a loop.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    /// What it is watched for; `None` is not at all, and no flag is errors alone.
    pub wants: Option<PollFlags>,
    /// What was said of it last.
    pub ready: PollFlags,
    /// How many pieces were moved, each soon after the one before, and when the last was.
    pieces: u32,
    last: Time,
    /// In a flow, until when it is not looked at.
    paused_until: Option<Time>,
    /// It is no pipe, or cannot be big enough.
    never_pauses: bool,
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
        Ok(Watched {
            fd,
            wants: None,
            ready: PollFlags::empty(),
            pieces: 0,
            last: Time::ZERO,
            paused_until: None,
            never_pauses: false,
        })
    }

    /// Whether a read brings something.
    pub(crate) fn is_readable(&self) -> bool {
        self.ready.intersects(READABLE)
    }

    /// Whether the other side is gone.
    pub(crate) fn is_broken(&self) -> bool {
        self.ready.intersects(PollFlags::ERR | PollFlags::NVAL)
    }

    /// Until when it is not looked at, if it is wanted at all.
    pub(crate) fn pause(&self) -> Option<Time> {
        self.paused_until.filter(|_| self.wants.is_some())
    }

    /// What poll(2) is asked of it.
    pub(crate) fn asked(&self) -> Option<PollFlags> {
        self.wants.filter(|_| self.paused_until.is_none())
    }

    /// Takes what poll(2) said, if it was asked. The end of a pause is as good as a word.
    pub(crate) fn told(&mut self, now: Time, said: PollFlags) {
        self.ready = said;
        if self.paused_until.is_some_and(|until| now >= until) {
            self.paused_until = None;
            self.ready = self.wants.unwrap_or(PollFlags::empty());
        }
    }

    /// Reads what is there.
    pub(crate) fn read(&mut self, now: Time, buffer: &mut [u8]) -> Moved {
        let result = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer));
        let moved = self.moved(now, result);
        if matches!(moved, Moved::Bytes(_)) && self.flows() {
            self.paused_until = Some(now + PAUSE);
        }
        moved
    }

    /// Writes what is taken.
    pub(crate) fn write(&mut self, now: Time, slices: &[io::IoSlice<'_>]) -> Moved {
        if self.paused_until.is_some() {
            return Moved::Later;
        }
        let result = rustix::io::retry_on_intr(|| rustix::io::writev(&self.fd, slices));
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let is_full = result.is_ok_and(|written| written < offered) || result == Err(Errno::AGAIN);
        let moved = self.moved(now, result);
        if is_full && self.flows() {
            self.paused_until = Some(now + PAUSE);
        }
        moved
    }

    fn moved(&mut self, now: Time, result: Result<usize, Errno>) -> Moved {
        match result {
            Ok(0) => Moved::Over,
            Ok(bytes) => {
                let is_soon = now.since(self.last) <= SOON;
                self.pieces = if is_soon { self.pieces.saturating_add(1) } else { 0 };
                self.last = now;
                Moved::Bytes(bytes)
            }
            Err(Errno::AGAIN) => Moved::Later,
            // Linux says EIO of a terminal whose other side nobody holds: that is its end.
            Err(_) => Moved::Over,
        }
    }

    /// Whether pieces keep coming, or going, and a pause does no harm.
    fn flows(&mut self) -> bool {
        if self.pieces < PIECES || self.never_pauses {
            return false;
        }
        if self.pieces == PIECES {
            let size = fcntl_getpipe_size(&self.fd).unwrap_or(0);
            self.never_pauses =
                size < PIPE_BYTES && fcntl_setpipe_size(&self.fd, PIPE_BYTES).is_err();
        }
        !self.never_pauses
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
