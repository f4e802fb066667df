//! A process as a model: a script, three pipes, perhaps a child that lives longer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::drive::WriteQueue;
use bowline_node::runtime::{Act as Done, Command, Drain, ExitStatus, Process, StartError};
use bowline_proto::session::{Channel, Size, Wants};
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::journal::{Journal, byte, lane};
use crate::promises::Promise;
use crate::scenario::{Act, Runtime, Scenario, Script};

/// What pipes of this system hold of a process that has ended.
const HELD_BYTES: usize = 2 * 1024 * 1024;
/// The most that one read takes of a pipe.
const READ_BYTES: usize = 64 * 1024;

/// A command that becomes a [`Model`].
#[derive(Debug)]
pub struct Scripted {
    script: Script,
    wants: Wants,
    /// Whether the end of input can reach it only if the user's input has ended.
    half_closes: bool,
    runtime: Runtime,
    seed: u64,
    words: Vec<String>,
    journal: Journal,
}

impl Scripted {
    /// The one of a scenario.
    #[must_use]
    pub fn new(scenario: &Scenario, journal: &Journal) -> Scripted {
        Scripted {
            script: scenario.script.clone(),
            wants: scenario.wants,
            half_closes: scenario.half_closes(),
            runtime: scenario.runtime,
            seed: scenario.seed,
            words: vec!["script".to_owned()],
            journal: journal.clone(),
        }
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the script")
    }
}

impl Command for Scripted {
    type Process = Model;

    fn start(&mut self, size: Option<Size>) -> Result<Model, StartError> {
        if !self.script.starts {
            self.journal.note(format_args!("process: cannot be started"));
            return Err(StartError("it cannot be started".to_owned()));
        }
        let mut records = self.journal.open();
        records.note(format_args!("process: starts, {size:?}"));
        let now = records.elapsed();
        if records.started.replace(now).is_some() {
            records.broke(Promise::OnceAndInOrder, "the process was started twice".into());
        }
        drop(records);
        let pipe = |open: bool| Pipe { open, ..Pipe::default() };
        let late = match self.runtime {
            Runtime::LateSize(late) => late,
            _ => Duration::ZERO,
        };
        let model = Model {
            journal: self.journal.clone(),
            half_closes: self.half_closes,
            runtime: self.runtime,
            sized_from: Instant::now() + late,
            sizes: RefCell::default(),
            random: ChaCha8Rng::seed_from_u64(self.seed ^ 0x70_72_6f_63),
            limit: self.script.pipe_bytes,
            acts: self.script.acts.iter().copied().collect(),
            code: self.script.code,
            child: self.script.child,
            stdin: pipe(self.wants.stdin),
            outs: [pipe(self.wants.stdout), pipe(self.wants.stderr)],
            told: [!self.wants.stdout, !self.wants.stderr],
            progress: 0,
            pause: None,
            state: State::Runs,
        };
        if let Some(size) = size {
            model.resize(size);
        }
        Ok(model)
    }

    fn words(&self) -> &[String] {
        &self.words
    }

    fn drain(&self) -> Drain {
        Drain { patience: None, held_bytes: HELD_BYTES }
    }
}

/// Bytes are only counted: what they are follows from where they stand.
#[derive(Debug, Default)]
struct Pipe {
    /// Somebody holds the end that is written to; for input, the end that is read from.
    open: bool,
    waiting: VecDeque<u8>,
    /// How many bytes went in.
    in_bytes: u64,
    /// For input: the writer has closed it.
    ended: bool,
    /// For input: the runtime has given it up.
    cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Runs,
    /// It has ended and nobody was told.
    Ended,
    /// It has ended, and was waited for.
    Reaped,
}

/// The process.
#[derive(Debug)]
pub struct Model {
    journal: Journal,
    half_closes: bool,
    runtime: Runtime,
    /// Its terminal takes no size before that; those that came wait.
    sized_from: Instant,
    sizes: RefCell<Vec<Size>>,
    random: ChaCha8Rng,
    limit: usize,
    acts: VecDeque<Act>,
    code: u8,
    child: Option<(Duration, u32)>,
    stdin: Pipe,
    outs: [Pipe; 2],
    /// By output: the session knows that it has ended.
    told: [bool; 2],
    /// How far the act that goes on has come.
    progress: u64,
    pause: Option<Pin<Box<Sleep>>>,
    state: State,
}

impl Model {
    /// Goes on until something blocks.
    fn advance(&mut self, cx: &mut Context<'_>) {
        while self.state == State::Runs {
            let Some(&act) = self.acts.front() else {
                self.end();
                break;
            };
            if !self.step(cx, act) {
                return;
            }
            self.acts.pop_front();
            self.progress = 0;
        }
        self.child_goes_on(cx);
    }

    /// Whether this act is done.
    fn step(&mut self, cx: &mut Context<'_>, act: Act) -> bool {
        match act {
            Act::Out(bytes) => self.write(Channel::Stdout, bytes.into()),
            Act::Err(bytes) => self.write(Channel::Stderr, bytes.into()),
            Act::Read(bytes) => self.read(Some(bytes.into())),
            Act::ReadAll => self.read(None),
            Act::Cat => self.copy(),
            Act::CloseIn => {
                self.close_stdin();
                true
            }
            Act::CloseOut => self.close(0),
            Act::CloseErr => self.close(1),
            Act::Sleep(pause) => {
                let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
                let over = pause.as_mut().poll(cx).is_ready();
                if over {
                    self.pause = None;
                }
                over
            }
        }
    }

    /// Closes an output; with some runtimes, that is the end of its input as well.
    fn close(&mut self, out: usize) -> bool {
        self.outs[out].open = false;
        if self.runtime == Runtime::DropsStdin {
            self.stdin.cut = true;
            self.stdin.waiting.clear();
            self.journal.open().stdin_open = false;
        }
        true
    }

    fn room(&self, channel: Channel) -> u64 {
        (self.limit - self.outs[lane(channel)].waiting.len().min(self.limit)) as u64
    }

    fn put(&mut self, channel: Channel, bytes: u64) {
        let pipe = &mut self.outs[lane(channel)];
        pipe.waiting.extend((pipe.in_bytes..pipe.in_bytes + bytes).map(|at| byte(channel, at)));
        pipe.in_bytes += bytes;
        let late = self.state != State::Runs;
        let mut records = self.journal.open();
        let counts = if late { &mut records.written_late } else { &mut records.written };
        counts[lane(channel)] += bytes;
        crate::world::check_bounds(&mut records);
    }

    fn write(&mut self, channel: Channel, bytes: u64) -> bool {
        if !self.outs[lane(channel)].open {
            return true;
        }
        let written = self.room(channel).min(bytes - self.progress);
        self.put(channel, written);
        self.progress += written;
        self.progress == bytes
    }

    fn read(&mut self, bytes: Option<u64>) -> bool {
        let wanted = bytes.map_or(u64::MAX, |bytes| bytes - self.progress);
        self.progress += self.take(wanted);
        bytes == Some(self.progress) || self.at_end()
    }

    fn copy(&mut self) -> bool {
        loop {
            let room = if self.outs[0].open { self.room(Channel::Stdout) } else { u64::MAX };
            let taken = self.take(room);
            if taken == 0 {
                return room > 0 && self.at_end();
            }
            if self.outs[0].open {
                self.put(Channel::Stdout, taken);
            }
        }
    }

    fn take(&mut self, most: u64) -> u64 {
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(self.stdin.waiting.len());
        let bytes: Vec<u8> = self.stdin.waiting.drain(..count).collect();
        let mut records = self.journal.open();
        let offset = records.stdin_taken;
        records.check(Channel::Stdin, offset, &bytes);
        records.stdin_taken += count as u64;
        count as u64
    }

    /// Whether the process sees the end of its input. It must be the user's.
    fn at_end(&mut self) -> bool {
        if !self.stdin.open || self.stdin.cut {
            return true;
        }
        if !self.stdin.ended || !self.stdin.waiting.is_empty() {
            return false;
        }
        let mut records = self.journal.open();
        let whole = records.stdin_given_end && records.stdin_taken == records.stdin_given;
        if self.half_closes && !whole {
            let how = format!(
                "the process saw the end of its input after {} of {} bytes, ended: {}",
                records.stdin_taken, records.stdin_given, records.stdin_given_end
            );
            records.broke(Promise::LanesApart, how);
        }
        true
    }

    fn close_stdin(&mut self) {
        self.stdin.open = false;
        self.stdin.waiting.clear();
        self.journal.open().stdin_open = false;
    }

    fn end(&mut self) {
        self.state = State::Ended;
        let mut records = self.journal.open();
        records.ended = true;
        records.note(format_args!("process: ends with {}", self.code));
        drop(records);
        self.close_stdin();
        if let Some((hold, _)) = self.child {
            self.pause = Some(Box::pin(sleep_until(Instant::now() + hold)));
        } else {
            self.outs.iter_mut().for_each(|pipe| pipe.open = false);
        }
    }

    fn child_goes_on(&mut self, cx: &mut Context<'_>) {
        let Some((_, bytes)) = self.child else { return };
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
        }
        for channel in [Channel::Stdout, Channel::Stderr] {
            if self.outs[lane(channel)].open {
                let written = self.room(channel).min(bytes.into());
                self.put(channel, written);
                self.outs[lane(channel)].open = false;
            }
        }
        self.child = None;
    }

    /// Some output of one of the pipes, or its end.
    fn poll_out(&mut self) -> Option<Done> {
        let first = usize::from(self.random.random::<bool>());
        for index in [first, 1 - first] {
            let pipe = &mut self.outs[index];
            let count = pipe.waiting.len().min(READ_BYTES);
            if count > 0 {
                let count = self.random.random_range(1..=count);
                let bytes: Bytes = pipe.waiting.drain(..count).collect();
                return Some(if index == 0 { Done::Stdout(bytes) } else { Done::Stderr(bytes) });
            }
            if !pipe.open && !self.told[index] {
                self.told[index] = true;
                return Some(if index == 0 { Done::StdoutEnded } else { Done::StderrEnded });
            }
        }
        None
    }

    fn poll_stdin(&mut self, cx: &mut Context<'_>, waiting: &mut WriteQueue) -> bool {
        if !self.stdin.open || self.stdin.cut {
            waiting.discard();
            return false;
        }
        if waiting.is_over() {
            let news = !self.stdin.ended;
            self.stdin.ended = true;
            return news;
        }
        let mut sink = Mouth { pipe: &mut self.stdin, limit: self.limit };
        waiting.poll_into(cx, &mut sink).is_ready()
    }
}

impl Process for Model {
    fn resize(&self, size: Size) {
        if Instant::now() < self.sized_from {
            return self.sizes.borrow_mut().push(size);
        }
        let mut records = self.journal.open();
        records.note(format_args!("process: {size:?}"));
        let from = records.sizes_seen;
        match records.sizes_given[from..].iter().position(|&given| given == size) {
            Some(index) => records.sizes_seen = from + index,
            None => records.broke(Promise::OnceAndInOrder, format!("{size:?} was not set")),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Done> {
        if Instant::now() >= self.sized_from {
            let late: Vec<Size> = self.sizes.borrow_mut().drain(..).collect();
            late.into_iter().for_each(|size| self.resize(size));
        }
        let took = self.poll_stdin(cx, stdin);
        self.advance(cx);
        // What it has read just now made room for more.
        if took || self.poll_stdin(cx, stdin) {
            return Poll::Ready(Done::TookInput);
        }
        let done = if room { self.poll_out() } else { None };
        match done {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }

    fn output_ended(&self) -> bool {
        self.told == [true, true]
    }

    fn poll_exit(&mut self, _cx: &mut Context<'_>) -> Poll<ExitStatus> {
        if self.state != State::Ended {
            return Poll::Pending;
        }
        self.state = State::Reaped;
        let code = if self.runtime == Runtime::HidesCrash { 0 } else { self.code };
        self.journal.open().said = Some(code);
        Poll::Ready(match code {
            code @ 129..=192 => ExitStatus::Signaled(code - 128),
            code => ExitStatus::Exited(code),
        })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let mut records = self.journal.open();
        let now = records.elapsed();
        records.dropped = Some(now);
        records.note(format_args!("process: dropped"));
    }
}

/// The end of input that is written to.
struct Mouth<'a> {
    pipe: &'a mut Pipe,
    limit: usize,
}

impl AsyncWrite for Mouth<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Mouth { pipe, limit } = self.get_mut();
        let room = limit.saturating_sub(pipe.waiting.len());
        if room == 0 {
            // Whoever makes room is polled by the same task.
            return Poll::Pending;
        }
        let taken = bytes.len().min(room);
        pipe.waiting.extend(&bytes[..taken]);
        pipe.in_bytes += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
