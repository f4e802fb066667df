//! A sum of the bytes of a stream. It finds mistakes, not forgers: TLS is against those.

use core::fmt;
use core::hash::Hasher;

use twox_hash::XxHash3_64;

/// XXH3 with 64 bits and the seed 0, as far as the bytes have come.
pub(super) struct Sum(XxHash3_64);

impl Sum {
    pub(super) fn new() -> Sum {
        Sum(XxHash3_64::with_seed(0))
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.finish()
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
