//! Bytes that were sent and taken to what each end of a counted connection may still send.

use core::mem;

use crate::limits::WINDOW_BYTES;

/// What was taken is told in pieces of at least this.
const TOLD_BYTES: u32 = WINDOW_BYTES / 4;

/// Both directions of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// What may still be sent.
    open: usize,
    /// What the peer may still send.
    given: usize,
    /// What was taken and not told.
    untold: u32,
}

impl Window {
    /// Where the peer lets us send so much ahead, as we let it send [`WINDOW_BYTES`].
    pub(super) fn new(open: usize) -> Window {
        Window { open, given: WINDOW_BYTES as usize, untold: 0 }
    }

    pub(super) fn open(self) -> usize {
        self.open
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.open = self.open.saturating_sub(bytes);
    }

    /// The peer has taken so many bytes more.
    pub(super) fn opened(&mut self, bytes: u32) {
        self.open = self.open.saturating_add(bytes as usize);
    }

    /// Bytes came; false if they are more than the peer was given.
    #[must_use]
    pub(super) fn came(&mut self, bytes: usize) -> bool {
        let left = self.given.checked_sub(bytes);
        self.given = left.unwrap_or(self.given);
        left.is_some()
    }

    /// Bytes were taken; gives what is to be told now.
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
