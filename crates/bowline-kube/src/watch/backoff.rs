//! Failures one after another to pauses that grow, with client-go's numbers.

use std::time::Duration;

use tokio::time::sleep;

/// The first pause.
const FIRST: Duration = Duration::from_millis(800);
/// The longest, before chance makes it longer.
const LONGEST: Duration = Duration::from_secs(30);

/// How long to wait after the next failure.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { next: FIRST }
    }

    /// Waits, and longer the next time. Up to twice as long by chance, so that not all who lost the
    /// same server come back at once.
    pub(super) async fn pause(&mut self) {
        sleep(self.next.mul_f64(rand::random_range(1.0..2.0))).await;
        self.next = (self.next * 2).min(LONGEST);
    }

    /// Begins anew.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}
