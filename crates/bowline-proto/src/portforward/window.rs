//! Counts bytes that were sent and taken, to know what each end of a connection may still send.

use core::mem;

use crate::limits::WINDOW_BYTES;

/// How many bytes have to be taken before the peer is told of them.
const TOLD_BYTES: u32 = WINDOW_BYTES / 4;

/// The windows of both directions of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// How many bytes we may still send.
    open: usize,
    /// How many bytes the peer may still send.
    given: usize,
    /// How many bytes were taken that the peer was not told of.
    untold: u32,
}

impl Window {
    /// Lets us send `open` bytes, and the peer [`WINDOW_BYTES`].
    pub(super) fn new(open: usize) -> Window {
        Window { open, given: WINDOW_BYTES as usize, untold: 0 }
    }

    pub(super) fn open(self) -> usize {
        self.open
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.open = self.open.saturating_sub(bytes);
    }

    /// Records that the peer took so many bytes more.
    pub(super) fn opened(&mut self, bytes: u32) {
        self.open = self.open.saturating_add(bytes as usize);
    }

    /// Records bytes that came; false if they exceed what the peer may send.
    #[must_use]
    pub(super) fn came(&mut self, bytes: usize) -> bool {
        let left = self.given.checked_sub(bytes);
        self.given = left.unwrap_or(self.given);
        left.is_some()
    }

    /// Records bytes that were taken; returns how many the peer is to be told of now.
    #[must_use]
    pub(super) fn taken(&mut self, bytes: usize) -> Option<u32> {
        self.untold = self.untold.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.untold < TOLD_BYTES {
            return None;
        }
        let told = mem::take(&mut self.untold);
        self.given = self.given.saturating_add(told as usize);
        Some(told)
    }
}
