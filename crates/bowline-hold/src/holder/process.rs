//! A command that runs, with its ends: what it is given, what it writes, and how it ended.

use std::io::IoSlice;
use std::process::Child;
use std::time::Duration;

use bowline_proto::kept::Start;
use bowline_proto::outbox::Outbox;
use bowline_proto::session::Size;
use bowline_proto::time::{Time, earlier};
use bytes::Bytes;
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::group;
use super::session::Outside;
use super::spawn::{self, SpawnError, Spawned};
use super::terminal;
use crate::watched::{Moved, Watched};

/// How many slices are written at once.
const SLICES: usize = 64;
/// The most bytes that the command's pipes can hold when it ends. What comes behind them was
/// written by others.
const HELD_BYTES: usize = 2 * 1024 * 1024;
/// How often a group that was asked to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an output may be held, or not be taken, once the command's group was killed: who has
/// it then is in no group of ours.
const AFTER_KILL: Duration = Duration::from_secs(1);
/// The exit code of a command whose end the system does not tell.
const UNKNOWN: u8 = 255;

/// A command and its ends.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Also its group's and its session's id. As long as it was not waited for, that names nothing
    /// else.
    pid: Pid,
    has_terminal: bool,
    stdin: Option<Watched>,
    outputs: [Option<Watched>; 2],
    waiting: Outbox,
    gets_no_more: bool,
    /// What was written last is no whole line.
    line_begun: bool,
    /// The exit code.
    exit: Option<u8>,
    /// How much was read since the exit, and of which outputs nothing is left that it wrote itself.
    read: usize,
    drained: [bool; 2],
    /// An output is to be read again, of which nothing tells that there is no more.
    is_draining: bool,
    is_reaped: bool,
    grace: Duration,
    /// Its group was asked to end, and is killed then.
    kill_at: Option<Time>,
    is_killed: bool,
    /// When others have held an output for too long.
    cut_at: Option<Time>,
    /// Nothing of it is wanted any more.
    is_concluded: bool,
}

/// What a read of an output came to.
pub(super) enum Output {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Later,
    /// It has ended just now.
    Over,
}

/// A command that has ended and whose output was read.
pub(super) struct Conclusion {
    /// Its exit code; 128 and more for signals.
    pub code: u8,
    /// Others still hold an output.
    pub is_cut: bool,
}

impl Process {
    /// Starts what a client asks for.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub(super) fn start(start: &Start, outside: &Outside) -> Result<Process, SpawnError> {
        let Spawned { child, pid, stdin, outputs } = spawn::spawn(start, outside)?;
        let drained = [0, 1].map(|at: usize| outputs[at].is_none());
        Ok(Process {
            child,
            pid,
            has_terminal: start.wants.tty,
            stdin,
            outputs,
            waiting: Outbox::new(),
            gets_no_more: false,
            line_begun: false,
            exit: None,
            read: 0,
            drained,
            is_draining: false,
            is_reaped: false,
            grace: Duration::from_secs(outside.settings.grace),
            kill_at: None,
            is_killed: false,
            cut_at: None,
            is_concluded: false,
        })
    }

    /// All descriptors.
    pub(super) fn watched(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.stdin.iter_mut().chain(self.outputs.iter_mut().flatten())
    }

    /// Says what is wanted: outputs where there is room for them.
    pub(super) fn watch(&mut self, has_room: [bool; 2]) {
        let may_read = |at: usize| self.outputs[at].is_some() && has_room[at] && !self.drained[at];
        self.is_draining =
            self.exit.is_some() && !self.is_concluded && [0, 1].map(may_read) != [false; 2];
        if let Some(stdin) = &mut self.stdin {
            let waits = !self.waiting.is_empty() || self.gets_no_more;
            // A pipe whose reader is gone is seen with the next write; a terminal is always half
            // open.
            stdin.wants = waits.then_some(PollFlags::OUT);
        }
        for (output, has_room) in self.outputs.iter_mut().zip(has_room) {
            if let Some(output) = output {
                output.wants = has_room.then_some(PollFlags::IN);
            }
        }
    }

    /// Whether an output is still open.
    pub(super) fn is_open(&self, at: usize) -> bool {
        self.outputs[at].is_some()
    }

    /// Says that input from now on is cut from a new read. What waits holds no more than itself.
    pub(super) fn begin_read(&mut self, read: usize) {
        self.waiting.begin_read(read);
    }

    /// Input for it.
    pub(super) fn give(&mut self, bytes: Bytes) {
        self.waiting.frame(&[], bytes);
    }

    /// It gets no more input.
    pub(super) fn give_end(&mut self) {
        self.gets_no_more = true;
    }

    /// Writes what waits for it. Returns how many bytes it took, or will never take.
    pub(super) fn write(&mut self, now: Time) -> usize {
        let mut taken = 0;
        while let Some(stdin) = &mut self.stdin {
            if self.waiting.is_empty() {
                if self.gets_no_more {
                    self.end_stdin(now);
                }
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, bytes) in slices.iter_mut().zip(self.waiting.chunks()) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            match stdin.write(now, &slices[..count]) {
                Moved::Bytes(written) => {
                    taken += written;
                    self.wrote(written);
                }
                Moved::Later => break,
                Moved::Over => self.stdin = None,
            }
        }
        if self.stdin.is_none() {
            // It has closed its input. What else comes is for nobody; its output goes on.
            taken += self.waiting.len();
            self.waiting.discard();
        }
        taken
    }

    fn wrote(&mut self, written: usize) {
        let mut left = written;
        for chunk in self.waiting.chunks() {
            if let Some(last) = left.min(chunk.len()).checked_sub(1) {
                self.line_begun = chunk[last] != b'\n';
            }
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
        self.waiting.advance(written);
    }

    /// A pipe is closed. A terminal's end of input are bytes, and have to be written.
    fn end_stdin(&mut self, now: Time) {
        match &mut self.stdin {
            Some(terminal) if self.has_terminal => {
                let typed = terminal::end_of_input(&*terminal, self.line_begun);
                let written = terminal.write(now, &[IoSlice::new(&typed)]);
                self.gets_no_more = written == Moved::Later;
            }
            _ => (self.stdin, self.gets_no_more) = (None, false),
        }
    }

    /// Sets the size of its terminal.
    pub(super) fn resize(&self, size: Size) {
        if self.has_terminal
            && let Some(terminal) = self.outputs[0].as_ref().or(self.stdin.as_ref())
        {
            terminal::resize(terminal, size);
        }
    }

    /// Reads an output, if there is something or the command has ended.
    pub(super) fn read(&mut self, now: Time, at: usize, buffer: &mut [u8]) -> Output {
        let Some(output) = &mut self.outputs[at] else { return Output::Later };
        let is_last = self.exit.is_some() && !self.drained[at];
        if !output.is_readable() && !is_last {
            return Output::Later;
        }
        match output.read(now, buffer) {
            Moved::Bytes(read) => {
                if self.exit.is_some() {
                    self.read += read;
                }
                Output::Bytes(read)
            }
            Moved::Later => {
                self.drained[at] |= self.exit.is_some();
                Output::Later
            }
            Moved::Over => {
                self.outputs[at] = None;
                self.drained[at] = true;
                Output::Over
            }
        }
    }

    /// Looks whether it has ended. Its id still names nothing else then.
    pub(super) fn look_for_exit(&mut self) {
        if self.exit.is_some() {
            return;
        }
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        match waitid(WaitId::Pid(self.pid), flags) {
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Ok(Some(status)) => {
                let signal = status.terminating_signal().map(|signal| 128 + (signal & 0x7f));
                let code = status.exit_status().map(|code| code & 0xff).or(signal);
                self.exit = Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(UNKNOWN));
            }
            Err(_) => self.exit = Some(UNKNOWN),
        }
    }

    /// How it ended, once its output was read, or others have held that for too long. What was
    /// killed does not wait for somebody to take its output either.
    pub(super) fn conclude(&mut self, now: Time, patience: Option<Duration>) -> Option<Conclusion> {
        let code = self.exit.filter(|_| !self.is_concluded)?;
        let is_cut = self.outputs.iter().any(Option::is_some);
        if is_cut {
            if self.drained != [true; 2] && self.read <= HELD_BYTES && !self.is_killed {
                return None;
            }
            let patience = if self.is_killed { AFTER_KILL } else { patience? };
            if now < *self.cut_at.get_or_insert(now + patience) {
                return None;
            }
        }
        self.is_concluded = true;
        Some(Conclusion { code, is_cut })
    }

    /// Asks its group to end; it is killed after the grace.
    pub(super) fn hang_up(&mut self, now: Time) {
        if !self.is_reaped {
            let _ = kill_process_group(self.pid, Signal::HUP);
            self.kill_at.get_or_insert(now + self.grace);
        }
    }

    /// Does what is due; when something is due next.
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        if self.is_reaped {
            return None;
        }
        let mut look_at = None;
        if let Some(kill_at) = self.kill_at {
            if now >= kill_at {
                (self.kill_at, self.is_killed) = (None, true);
                let _ = kill_process_group(self.pid, Signal::KILL);
                // Nothing else may tell of the end of one that had ended before.
                self.cut_at = self.exit.map(|_| now + AFTER_KILL);
            } else if self.is_concluded {
                // The rest of its group has the grace as well.
                if group::has_ended(self.pid) {
                    self.kill_at = None;
                }
                look_at = Some(now + LOOK_EVERY);
            }
        }
        if self.is_draining {
            return Some(now);
        }
        if self.is_concluded && self.kill_at.is_none() {
            // What it left behind lives on.
            self.is_reaped = self.child.wait().is_ok() || self.exit.is_some();
            (self.stdin, self.outputs) = (None, [None, None]);
            return None;
        }
        let cut_at = self.cut_at.filter(|_| !self.is_concluded);
        earlier(earlier(self.kill_at, look_at), cut_at)
    }

    /// Whether it was waited for.
    pub(super) fn is_reaped(&self) -> bool {
        self.is_reaped
    }
}
