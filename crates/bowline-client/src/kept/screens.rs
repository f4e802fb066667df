//! What is written to a terminal without being part of its stream.

use std::collections::VecDeque;

/// How many screens wait to be written. A host that sends more has them passed over: what they are
/// for comes with the next one as well.
const WAITING: usize = 4;

/// Which of the bytes that wait for stdout count for the stream.
#[derive(Debug, Default)]
pub(super) struct Screens {
    /// How many bytes were queued, and written, of both kinds.
    queued: u64,
    written: u64,
    /// Where screens begin and end among them.
    screens: VecDeque<(u64, u64)>,
}

impl Screens {
    /// Records that bytes of the stream were queued.
    pub(super) fn queued(&mut self, bytes: usize) {
        self.queued += bytes as u64;
    }

    /// Whether a screen may be queued; it is recorded.
    pub(super) fn queue_screen(&mut self, bytes: usize) -> bool {
        let is_taken = self.screens.len() < WAITING;
        if is_taken {
            let begin = self.queued;
            self.queued += bytes as u64;
            self.screens.push_back((begin, self.queued));
        }
        is_taken
    }

    /// Records that so many bytes were written; returns how many of them are the stream's.
    pub(super) fn wrote(&mut self, bytes: usize) -> usize {
        let from = self.written;
        self.written += bytes as u64;
        let mut of_screens = 0;
        while let Some(&(begin, end)) = self.screens.front() {
            of_screens += end.min(self.written).saturating_sub(begin.max(from));
            if end > self.written {
                break;
            }
            self.screens.pop_front();
        }
        bytes - usize::try_from(of_screens).unwrap_or(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_counts_for_nothing_however_it_is_written() {
        for step in 1..30 {
            let mut screens = Screens::default();
            screens.queued(5);
            assert!(screens.queue_screen(10));
            screens.queued(3);
            assert!(screens.queue_screen(4));
            assert!(screens.queue_screen(2));
            assert!(screens.queue_screen(1));
            assert!(!screens.queue_screen(4), "too many wait");
            screens.queued(2);
            let (mut left, mut counted) = (27, 0);
            while left > 0 {
                let bytes = step.min(left);
                counted += screens.wrote(bytes);
                left -= bytes;
            }
            assert_eq!(counted, 10);
            assert!(screens.queue_screen(4));
        }
    }
}
