//! A sum of the bytes of a stream. It finds mistakes, not forgers: TLS is against those.

use core::fmt;
use core::hash::Hasher;

use twox_hash::XxHash3_64;

/// XXH3 with 64 bits and the seed 0, as far as the bytes have come.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all of them are running; a box would only add a step to every piece"
)]
pub(super) enum Sum {
    Running(XxHash3_64),
    /// Of bytes that are over, and not here.
    Known(u64),
}

impl Sum {
    pub(super) fn new() -> Sum {
        Sum::Running(XxHash3_64::with_seed(0))
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        if let Sum::Running(running) = self {
            running.write(bytes);
        }
    }

    pub(super) fn value(&self) -> u64 {
        match self {
            Sum::Running(running) => running.finish(),
            Sum::Known(sum) => *sum,
        }
    }
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sum({:016x})", self.value())
    }
}

/// The sum of all of these bytes.
#[must_use]
pub fn sum_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
