//! When something comes in small pieces, one right behind the other: then it is cheaper, for
//! everybody on its way, to look at it after a pause than to be woken for each piece.

use std::time::Duration;

use tokio::time::Instant;

/// What a timer can do, and what nobody sees.
pub const PAUSE: Duration = Duration::from_millis(1);
/// Pieces that follow one another this quickly are a flow,
pub const QUICK: Duration = Duration::from_millis(2);
/// after so many of them.
pub const PIECES: u32 = 16;

/// Counts pieces. One is what can be moved before there is nothing to move.
#[derive(Debug, Default)]
pub struct Coalescing {
    /// Bytes of the one that is under way.
    piece: u32,
    /// When the latest one ended.
    latest: Option<Instant>,
    /// How many in a row came quickly.
    quick: u32,
}

impl Coalescing {
    /// So many bytes were moved.
    pub fn moved(&mut self, bytes: usize) {
        self.piece = self.piece.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Nothing more can be moved now. How many bytes were since it was said last.
    pub fn end_piece(&mut self) -> u32 {
        std::mem::take(&mut self.piece)
    }

    /// A piece has ended: whether they are a flow. A piece of more than `most` bytes is none.
    pub fn is_flow(&mut self, piece: u32, most: u32) -> bool {
        let now = Instant::now();
        let quick = self.latest.is_some_and(|latest| now - latest < QUICK);
        self.latest = Some(now);
        self.quick = if quick && piece <= most { self.quick.saturating_add(1) } else { 0 };
        self.flows()
    }

    /// Whether the latest pieces were a flow, and nothing was said since.
    pub fn flows(&self) -> bool {
        self.quick >= PIECES
    }

    /// Whoever was answered may have an answer: what comes next is not waited for.
    pub fn begin_again(&mut self) {
        self.quick = 0;
    }
}
