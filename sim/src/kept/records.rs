//! What happened, as one number and as lines, and the first promise that was broken.

use std::fmt::{Arguments, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};

use bowline_proto::Time;

use crate::promises::{Broken, Promise};

/// One run's records.
#[derive(Debug, Default)]
pub(super) struct Records {
    keeps_lines: bool,
    pub(super) lines: Vec<String>,
    line: String,
    hash: DefaultHasher,
    pub(super) steps: u64,
    pub(super) broken: Option<Broken>,
}

impl Records {
    pub(super) fn new(keeps_lines: bool) -> Records {
        Records { keeps_lines, ..Records::default() }
    }

    /// Notes a step.
    pub(super) fn note(&mut self, now: Time, what: Arguments<'_>) {
        self.steps += 1;
        self.line.clear();
        let _ = write!(self.line, "{:>12} {what}", now.as_micros());
        self.line.hash(&mut self.hash);
        if self.keeps_lines {
            self.lines.push(self.line.clone());
        }
    }

    /// Notes a broken promise; the first counts.
    pub(super) fn broke(&mut self, promise: Promise, how: String) {
        self.broken.get_or_insert(Broken { promise, how });
    }

    /// All steps in one number.
    pub(super) fn fingerprint(&self) -> u64 {
        self.hash.finish()
    }

    /// What the lines hold.
    pub(super) fn lines_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.capacity() + size_of::<String>()).sum()
    }
}
