//! The process as a model: it does its acts, as far as its pipes let it.

use bowline_proto::Time;
use bowline_proto::kept::Stream;
use bytes::Bytes;

use super::scenario::{Act, Scenario};

/// The one process of a session.
#[derive(Debug)]
pub(super) struct Process {
    acts: Vec<Act>,
    next: usize,
    code: u8,
    pipe_bytes: usize,
    sleeps_until: Option<Time>,
    /// In the pipe, not read by the host, for each output.
    piped: [usize; 2],
    /// What the host has read of each output.
    pub(super) read: [u64; 2],
    closed: [bool; 2],
    /// The host knows that it is closed.
    pub(super) told: [bool; 2],
    /// What came from the host and was not read.
    pub(super) input: usize,
    pub(super) input_over: bool,
    pub(super) exit: Option<u8>,
}

/// The byte at an offset of somebody's stream: no two places near each other look the same.
pub(super) fn byte(whose: u64, offset: u64) -> u8 {
    let mixed = (offset ^ (whose << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// Bytes of somebody's stream.
pub(super) fn bytes(whose: u64, from: u64, length: usize) -> Bytes {
    (from..).take(length).map(|offset| byte(whose, offset)).collect()
}

/// An output as its own of [`byte`].
pub(super) const fn whose(stream: Stream) -> u64 {
    stream.number() as u64
}

/// Its place among the outputs.
pub(super) fn lane(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

impl Process {
    pub(super) fn new(scenario: &Scenario) -> Process {
        Process {
            acts: scenario.acts.clone(),
            next: 0,
            code: scenario.code,
            pipe_bytes: scenario.pipe_bytes,
            sleeps_until: None,
            piped: [0; 2],
            read: [0; 2],
            closed: [false; 2],
            told: [false; 2],
            input: 0,
            input_over: false,
            exit: None,
        }
    }

    /// Goes on by one act or a part of one; whether it could. `took` is told what it has read.
    pub(super) fn go_on(&mut self, now: Time, took: &mut usize) -> bool {
        if self.exit.is_some() || self.sleeps_until.is_some_and(|until| now < until) {
            return false;
        }
        let act = self.acts.get_mut(self.next);
        let (moved, is_done) = match act {
            None => {
                self.exit = Some(self.code);
                return true;
            }
            Some(Act::Write(stream, left)) => {
                let at = lane(*stream);
                if self.closed[at] {
                    *left = 0;
                }
                let write = (self.pipe_bytes - self.piped[at]).min(*left);
                self.piped[at] += write;
                *left -= write;
                (write > 0, *left == 0)
            }
            Some(Act::Read(left)) => {
                let read = self.input.min(*left);
                self.input -= read;
                *left -= read;
                *took += read;
                (read > 0, *left == 0 || (self.input_over && self.input == 0))
            }
            Some(Act::Sleep(pause)) if self.sleeps_until.is_none() => {
                self.sleeps_until = Some(now + *pause);
                (true, false)
            }
            Some(Act::Sleep(_)) => {
                self.sleeps_until = None;
                (true, true)
            }
            Some(Act::Close(stream)) => {
                self.closed[lane(*stream)] = true;
                (true, true)
            }
        };
        self.next += usize::from(is_done);
        moved || is_done
    }

    /// What the host reads of an output, at most so much.
    pub(super) fn output(&mut self, stream: Stream, most: usize) -> Bytes {
        let at = lane(stream);
        let length = self.piped[at].min(most);
        let read = bytes(whose(stream), self.read[at], length);
        self.piped[at] -= length;
        self.read[at] += length as u64;
        read
    }

    /// Whether an output has ended, and all of it was read.
    pub(super) fn is_over(&self, stream: Stream) -> bool {
        let at = lane(stream);
        self.piped[at] == 0 && (self.closed[at] || self.exit.is_some())
    }

    /// It is ended by its host. What nobody has read of it is gone.
    pub(super) fn hang_up(&mut self) {
        self.exit.get_or_insert(129);
        self.piped = [0; 2];
    }

    pub(super) fn has_output(&self, stream: Stream) -> bool {
        self.piped[lane(stream)] > 0
    }

    /// When it goes on by itself.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.sleeps_until.filter(|_| self.exit.is_none())
    }
}
