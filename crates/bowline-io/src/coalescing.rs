//! Finds out whether something comes in small pieces, one right behind the other. Then it is
//! cheaper for everybody on its way to read it after a pause than to be woken for each piece.

use std::time::Duration;

use tokio::time::Instant;

/// How long a flow is not read: as short as a timer can be, and too short to notice.
pub const PAUSE: Duration = Duration::from_millis(1);
/// How soon a piece has to follow another to be part of a flow.
pub const QUICK: Duration = Duration::from_millis(2);
/// How many pieces in a row are a flow.
pub const PIECES: u32 = 16;

/// Counts pieces, where a piece is what can be moved before there is nothing to move.
#[derive(Debug, Default)]
pub struct Coalescing {
    /// How many bytes the current piece has so far.
    piece: u32,
    /// When the latest piece ended.
    latest: Option<Instant>,
    /// How many pieces in a row came quickly.
    quick: u32,
}

impl Coalescing {
    /// Adds bytes that were moved to the current piece.
    pub fn moved(&mut self, bytes: usize) {
        self.piece = self.piece.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Ends the current piece, as nothing more can be moved now; returns its number of bytes.
    pub fn take_piece(&mut self) -> u32 {
        std::mem::take(&mut self.piece)
    }

    /// Counts a piece that has ended; true if the latest ones are a flow. A piece of more than
    /// `most` bytes ends a flow.
    pub fn count_piece(&mut self, piece: u32, most: u32) -> bool {
        let now = Instant::now();
        let quick = self.latest.is_some_and(|latest| now - latest < QUICK);
        self.latest = Some(now);
        self.quick = if quick && piece <= most { self.quick.saturating_add(1) } else { 0 };
        self.is_flow()
    }

    /// Whether the latest pieces are a flow.
    pub fn is_flow(&self) -> bool {
        self.quick >= PIECES
    }

    /// Ends a flow, because something was sent: what comes next may be its answer, which must not
    /// be delayed.
    pub fn reset(&mut self) {
        self.quick = 0;
    }
}
