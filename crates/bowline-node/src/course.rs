//! The course of one command, from before its start to its Status, whoever its client is and
//! however that one is connected.

use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::drive::WriteQueue;
use bowline_io::record::End;
use bowline_proto::session::{Channel, Loss, Size, Status, Wants};
use bowline_proto::{Time, limits};
use bytes::Bytes;
use tracing::warn;

use crate::runtime::{Act, Command, Drain, ExitStatus, Process, StartError};

/// With a terminal, how long the first size may take before the process starts without one. A
/// program that asks at once must not be told 0 by 0.
const FIRST_SIZE_PATIENCE: Duration = Duration::from_millis(500);

/// Where the output of a command goes, and how it ended.
pub(crate) trait Sink {
    /// The time now.
    fn now(&self) -> Time;

    /// Takes output.
    fn send(&mut self, channel: Channel, bytes: Bytes);

    /// Ends an output.
    fn finish(&mut self, channel: Channel);

    /// Takes the outcome. Nothing follows.
    fn status(&mut self, status: &Status);

    /// Takes why there is no outcome. Nothing follows.
    fn lose(&mut self, why: &str);
}

/// A command, what of its input has not been taken, and how far it has come.
pub(crate) struct Course<C: Command> {
    command: C,
    wants: Wants,
    /// Input that the process has not taken yet.
    stdin: WriteQueue,
    drain: Drain,
    size: Option<Size>,
    state: State<C::Process>,
    /// How it ended, once it has given its last event or was given its Status.
    end: Option<End>,
    /// The process's stderr has come to its end.
    err_ended: bool,
}

enum State<P> {
    /// Its client has not opened all of its streams.
    Setup,
    /// Everything is there but the terminal's size, which is waited for until this time.
    Size(Time),
    /// The process runs.
    Process(Box<P>),
    /// The process has ended; what it wrote is still to be read.
    Drain(Draining<P>),
    /// Nothing is left to run.
    Over,
}

/// A process that has ended. What it wrote is in its pipes, and is read until they are empty,
/// however slow the client is. Then whoever else holds them is waited for, until a deadline where
/// there is one.
struct Draining<P> {
    process: Box<P>,
    exit: ExitStatus,
    until: Option<Time>,
    /// How many bytes were read since the process ended.
    read: usize,
    /// All that the process itself wrote was read.
    drained: bool,
}

/// What the command did.
pub(crate) enum Acted {
    Act(Act),
    Ended(ExitStatus),
    /// All that the process itself wrote was read: from here on only others are waited for.
    Drained,
}

impl<C: Command> Course<C> {
    /// A command that nothing was done for yet. `wants` are the channels that its client wants.
    pub(crate) fn new(command: C, wants: Wants) -> Course<C> {
        Course {
            drain: command.drain(),
            command,
            wants,
            stdin: WriteQueue::default(),
            size: None,
            state: State::Setup,
            end: None,
            err_ended: false,
        }
    }

    /// Input that the process has not taken yet.
    pub(crate) fn stdin(&mut self) -> &mut WriteQueue {
        &mut self.stdin
    }

    /// How many bytes of the input the process has not taken yet; none once it takes no more.
    pub(crate) fn untaken(&self) -> usize {
        if self.takes_input() { self.stdin.len() } else { 0 }
    }

    /// Whether there may still be somebody who takes input.
    fn takes_input(&self) -> bool {
        !matches!(self.state, State::Drain(_) | State::Over)
    }

    /// How it ended.
    pub(crate) fn ending(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether input is taken in: the process has room for it, or nobody wants it any more.
    pub(crate) fn has_room(&self) -> bool {
        !self.takes_input() || self.stdin.len() < limits::STDIN_BYTES
    }

    /// How much input waits, if the process runs and takes none.
    pub(crate) fn blocked(&self) -> Option<usize> {
        let is_blocked = matches!(self.state, State::Process(_)) && !self.has_room();
        is_blocked.then(|| self.stdin.len())
    }

    /// The client has opened all of its streams.
    pub(crate) fn ready(&mut self, sink: &mut impl Sink) {
        if self.wants.tty && self.size.is_none() {
            self.state = State::Size(sink.now() + FIRST_SIZE_PATIENCE);
        } else {
            self.start(sink);
        }
    }

    /// Takes input.
    pub(crate) fn input(&mut self, sink: &mut impl Sink, bytes: Bytes) {
        // What has ended takes no more.
        if self.takes_input() {
            self.stdin.push(bytes);
        }
        // Input means that the client is there: no size is waited for.
        if matches!(self.state, State::Size(_)) {
            self.start(sink);
        }
    }

    /// Takes the terminal's size.
    pub(crate) fn resize(&mut self, sink: &mut impl Sink, size: Size) {
        self.size = Some(size);
        match &self.state {
            State::Size(_) => self.start(sink),
            State::Process(process) => process.resize(size),
            _ => {}
        }
    }

    fn start(&mut self, sink: &mut impl Sink) {
        let size = self.size.filter(|_| self.wants.tty);
        match self.command.start(size) {
            Ok(process) => self.state = State::Process(Box::new(process)),
            Err(error) => self.not_started(sink, &error),
        }
    }

    fn not_started(&mut self, sink: &mut impl Sink, error: &StartError) {
        warn!("{error}");
        self.conclude_with(sink, &Status::failed(&error.to_string()));
    }

    fn conclude_with(&mut self, sink: &mut impl Sink, status: &Status) {
        sink.status(status);
        self.end = Some(End::Outcome(status.outcome().clone()));
        self.state = State::Over;
    }

    /// When [`deadline_passed`](Self::deadline_passed) is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Size(until) => Some(*until),
            State::Drain(drain) => drain.until,
            State::Setup | State::Process(_) | State::Over => None,
        }
    }

    pub(crate) fn deadline_passed(&mut self, sink: &mut impl Sink) {
        match &self.state {
            State::Size(_) => self.start(sink),
            State::Drain(_) => self.conclude(sink),
            State::Setup | State::Process(_) | State::Over => {}
        }
    }

    /// Polls what the command does, with the bytes that it wrote. Its output is read only while
    /// there is `room`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, room: bool) -> Poll<(Acted, usize)> {
        let process = match &mut self.state {
            State::Process(process) => process,
            // What comes behind all that the pipes can hold was written by others.
            State::Drain(drain) if !drain.drained && drain.read > self.drain.held_bytes => {
                return Poll::Ready((Acted::Drained, 0));
            }
            State::Drain(drain) => &mut drain.process,
            State::Setup | State::Size(_) | State::Over => return Poll::Pending,
        };
        if let Poll::Ready(act) = process.poll(cx, &mut self.stdin, room) {
            let bytes =
                if let Act::Stdout(bytes) | Act::Stderr(bytes) = &act { bytes.len() } else { 0 };
            return Poll::Ready((Acted::Act(act), bytes));
        }
        match &self.state {
            State::Drain(drain) if room && !drain.drained => Poll::Ready((Acted::Drained, 0)),
            _ => Poll::Pending,
        }
    }

    /// Polls for the end of the process: after everything else, so that what it wrote comes first.
    pub(crate) fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<(Acted, usize)> {
        let State::Process(process) = &mut self.state else { return Poll::Pending };
        process.poll_exit(cx).map(|exit| (Acted::Ended(exit), 0))
    }

    /// Carries out what was polled.
    pub(crate) fn acted(&mut self, sink: &mut impl Sink, acted: Acted) {
        match acted {
            Acted::Act(act) => self.act(sink, act),
            Acted::Ended(exit) => self.drain(exit),
            Acted::Drained => self.drained(sink.now()),
        }
    }

    fn act(&mut self, sink: &mut impl Sink, act: Act) {
        if let (State::Drain(drain), Act::Stdout(bytes) | Act::Stderr(bytes)) =
            (&mut self.state, &act)
        {
            drain.read += bytes.len();
        }
        match act {
            Act::Stdout(bytes) => sink.send(Channel::Stdout, bytes),
            Act::Stderr(bytes) => sink.send(Channel::Stderr, bytes),
            Act::StdoutEnded => sink.finish(Channel::Stdout),
            Act::StderrEnded => {
                self.err_ended = true;
                sink.finish(Channel::Stderr);
            }
            Act::TookInput => {}
            Act::Broken(why) => {
                warn!("{}: {why}", self.command);
                self.conclude_with(sink, &Status::failed(&why));
            }
            Act::NotStarted(error) => self.not_started(sink, &error),
            Act::Lost(why) => {
                warn!("{}: {why}", self.command);
                sink.lose(&why);
                self.end = Some(End::Lost(why));
                self.state = State::Over;
            }
        }
    }

    fn drain(&mut self, exit: ExitStatus) {
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Process(process) => {
                State::Drain(Draining { process, exit, until: None, read: 0, drained: false })
            }
            other => other,
        };
    }

    fn drained(&mut self, now: Time) {
        if let State::Drain(drain) = &mut self.state {
            drain.drained = true;
            drain.until = self.drain.patience.map(|patience| now + patience);
        }
    }

    /// Gives the outcome, once the process has ended and all of its output was read. To be called
    /// after each step.
    pub(crate) fn settle(&mut self, sink: &mut impl Sink) {
        if matches!(&self.state, State::Drain(drain) if drain.process.output_ended()) {
            self.conclude(sink);
        }
    }

    fn conclude(&mut self, sink: &mut impl Sink) {
        let State::Drain(drain) = &mut self.state else { return };
        let (code, is_cut) = (drain.exit.code(), !drain.process.output_ended());
        drain.process.release();
        if is_cut && !self.say_cut(sink) {
            return;
        }
        let why = format!("error executing command [{}], exit code {code}", self.words());
        self.conclude_with(sink, &Status::exited(code, &why));
    }

    /// Says that the output ends while others still hold it: to the terminal or on stderr. Without
    /// either the session fails, and this returns `false`: nobody shall take what came for all of
    /// it.
    fn say_cut(&mut self, sink: &mut impl Sink) -> bool {
        let patience = self.drain.patience.unwrap_or_default();
        let why = format!(
            "the output is cut off: processes that the command left behind still hold it after \
             {patience:?}"
        );
        warn!("{}: {why}", self.command);
        if self.wants.tty && self.wants.stdout {
            sink.send(Channel::Stdout, format!("\r\n{why}\r\n").into());
        } else if self.wants.stderr && !self.err_ended {
            sink.send(Channel::Stderr, format!("{why}\n").into());
        } else {
            self.conclude_with(sink, &Status::failed(&why));
            return false;
        }
        true
    }

    fn words(&self) -> String {
        bowline_io::text::sanitized(&self.command.words().join(" "), limits::REASON_BYTES)
            .into_owned()
    }

    /// Ends it because its client is gone. Dropping the process hangs it up.
    pub(crate) fn lost(&mut self, loss: &Loss) {
        self.end.get_or_insert_with(|| End::ClientGone(loss.to_string()));
        self.state = State::Over;
    }

    /// Ends it because the node shuts down: its outcome will not be known.
    pub(crate) fn abandon(&mut self) {
        self.end = Some(End::Shutdown);
        self.state = State::Over;
    }
}
