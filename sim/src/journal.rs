//! What happened, as the promises need it, and as a trace to read.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_client::{EndError, Ended};
use bowline_proto::session::{Channel, Size};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::promises::{Broken, Promise};

/// One run's records, shared by all who take part.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Mutex<Records>>);

/// The records.
#[derive(Debug)]
pub struct Records {
    began: Instant,
    /// Whether lines are kept; their hash always is.
    keeps_lines: bool,
    lines: Vec<String>,
    line: String,
    hash: DefaultHasher,
    /// How many lines there were.
    pub steps: u64,
    /// The first promise that was broken.
    pub broken: Option<Broken>,
    /// Input: bytes that the client has read.
    pub stdin_given: u64,
    /// The client has read the end of its input.
    pub stdin_given_end: bool,
    /// Input: bytes that the process has read.
    pub stdin_taken: u64,
    /// The process may still read: what comes is kept for it.
    pub stdin_open: bool,
    /// What the process wrote before it ended, by channel.
    pub written: [u64; 2],
    /// What the process's children wrote after it.
    pub written_late: [u64; 2],
    /// What a node of others has sent of that, by channel,
    pub sent: [u64; 2],
    /// and the code that the runtime, or that node, has reported.
    pub said: Option<u8>,
    /// What the client's user has got, by channel.
    pub received: [u64; 2],
    /// Sizes that the user's terminal had.
    pub sizes_given: Vec<Size>,
    /// How many of them the process knows to be past.
    pub sizes_seen: usize,
    /// The process was started, and when.
    pub started: Option<Duration>,
    /// The process has ended by itself.
    pub ended: bool,
    /// The process, or what was left of it, was dropped.
    pub dropped: Option<Duration>,
    /// How the client's session ended.
    pub client: Option<Result<Ended, EndError>>,
    /// When the client ended.
    pub client_at: Option<Duration>,
    /// When the first fault struck.
    pub fault_at: Option<Duration>,
    /// Connections' ends that somebody holds.
    pub open_ends: usize,
    /// The most that may be under way, a direction.
    pub most_bytes: u64,
    /// Who waits for which step.
    pub waiting: Vec<(u64, Arc<Notify>)>,
}

/// The index of an output channel in the counts.
#[must_use]
pub fn lane(channel: Channel) -> usize {
    usize::from(channel == Channel::Stderr)
}

/// The byte at an offset of a channel: no two places near each other look the same.
#[must_use]
pub fn byte(channel: Channel, offset: u64) -> u8 {
    let mixed = (offset ^ (u64::from(channel.number()) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

impl Journal {
    /// An empty one, from now on.
    #[must_use]
    pub fn new(keeps_lines: bool) -> Journal {
        Journal(Arc::new(Mutex::new(Records {
            began: Instant::now(),
            keeps_lines,
            lines: Vec::new(),
            line: String::new(),
            hash: DefaultHasher::new(),
            steps: 0,
            broken: None,
            stdin_given: 0,
            stdin_given_end: false,
            stdin_taken: 0,
            stdin_open: true,
            written: [0; 2],
            written_late: [0; 2],
            sent: [0; 2],
            said: None,
            received: [0; 2],
            sizes_given: Vec::new(),
            sizes_seen: 0,
            started: None,
            ended: false,
            dropped: None,
            client: None,
            client_at: None,
            fault_at: None,
            open_ends: 0,
            most_bytes: u64::MAX,
            waiting: Vec::new(),
        })))
    }

    /// The records.
    pub fn open(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a step.
    pub fn note(&self, line: std::fmt::Arguments<'_>) {
        self.open().note(line);
    }
}

impl Records {
    /// Since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes a step.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.steps += 1;
        self.line.clear();
        let _ = write!(self.line, "{:>12.6} {line}", self.elapsed().as_secs_f64());
        self.line.hash(&mut self.hash);
        if self.keeps_lines {
            self.lines.push(self.line.clone());
        }
        for (_, notify) in self.waiting.extract_if(.., |&mut (step, _)| step <= self.steps) {
            notify.notify_one();
        }
    }

    /// Notes a broken promise; the first counts.
    pub fn broke(&mut self, promise: Promise, how: String) {
        if self.broken.is_none() {
            self.note(format_args!("BROKEN: {promise}: {how}"));
            self.broken = Some(Broken { promise, how });
        }
    }

    /// Notes that the first fault strikes now.
    pub fn fault(&mut self, what: std::fmt::Arguments<'_>) {
        self.note(format_args!("fault: {what}"));
        let now = self.elapsed();
        self.fault_at.get_or_insert(now);
    }

    /// Checks bytes of a channel that arrived at `offset`.
    pub fn check(&mut self, channel: Channel, offset: u64, bytes: &[u8]) {
        let wrong = (offset..).zip(bytes).find(|&(at, &seen)| seen != byte(channel, at));
        if let Some((at, _)) = wrong {
            let how = format!("byte {at} of {channel:?} is another one's");
            self.broke(Promise::OnceAndInOrder, how);
        }
    }

    /// All steps in one number: two runs of one seed must agree.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.hash.finish()
    }

    /// What the lines that were kept hold.
    #[must_use]
    pub fn lines_bytes(&self) -> usize {
        self.lines.iter().map(|line| line.capacity() + size_of::<String>()).sum()
    }

    /// The lines that were kept.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
