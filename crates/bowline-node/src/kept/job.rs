//! A command, as a kept session has it: its output goes to the session's host, and what it takes of
//! its input is told there.

use std::fmt::{self, Debug, Formatter};
use std::task::{Context, Poll};

use bowline_io::record::End;
use bowline_proto::Time;
use bowline_proto::kept::{Host, Stream};
use bowline_proto::session::{Channel, Size, Status, Wants};
use bytes::Bytes;

use crate::course::{Acted, Course, Sink};
use crate::runtime::Command;

/// A command of any runtime, whose client can go and come back.
pub struct Job(Box<dyn Work>);

impl Job {
    /// A command that nothing was done for yet. `wants` are the channels that its client wants.
    pub(crate) fn new<C>(command: C, wants: Wants) -> Job
    where
        C: Command + Send + 'static,
        C::Process: Send,
    {
        Job(Box::new(Worked { course: Course::new(command, wants), given: 0 }))
    }

    pub(super) fn work(&mut self) -> &mut dyn Work {
        &mut *self.0
    }
}

impl Debug for Job {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// The host of a job's session, and what time it is.
pub(super) struct Owner<'a> {
    pub(super) host: &'a mut Host,
    pub(super) now: Time,
}

impl Sink for Owner<'_> {
    fn now(&self) -> Time {
        self.now
    }

    fn send(&mut self, channel: Channel, bytes: Bytes) {
        if let Some(stream) = stream(channel) {
            self.host.output(stream, bytes);
        }
    }

    fn finish(&mut self, channel: Channel) {
        if let Some(stream) = stream(channel) {
            self.host.finish(stream);
        }
    }

    fn status(&mut self, status: &Status) {
        self.host.ended(self.now, Ok(status.json().clone()));
    }

    fn lose(&mut self, why: &str) {
        self.host.ended(self.now, Err(why.to_owned()));
    }
}

fn stream(channel: Channel) -> Option<Stream> {
    match channel {
        Channel::Stdout => Some(Stream::Stdout),
        Channel::Stderr => Some(Stream::Stderr),
        _ => None,
    }
}

/// What a session's task does with its command.
pub(super) trait Work: Send {
    /// Starts it; with a terminal, once its size is known.
    fn begin(&mut self, owner: &mut Owner<'_>);
    /// Says that what is given from here on was read at once, with so many bytes.
    fn came(&mut self, bytes: usize);
    fn input(&mut self, owner: &mut Owner<'_>, bytes: Bytes);
    fn end_input(&mut self);
    fn resize(&mut self, owner: &mut Owner<'_>, size: Size);
    /// Lets it go on; ready with how many bytes it wrote.
    fn poll(&mut self, cx: &mut Context<'_>, owner: &mut Owner<'_>) -> Poll<usize>;
    /// Lets it end: to be polled once nothing else is ready.
    fn poll_last(&mut self, cx: &mut Context<'_>, owner: &mut Owner<'_>) -> Poll<()>;
    fn deadline(&self) -> Option<Time>;
    fn deadline_passed(&mut self, owner: &mut Owner<'_>);
    /// How it ended.
    fn ending(&self) -> Option<&End>;
}

struct Worked<C: Command> {
    course: Course<C>,
    /// How much of its input the host was not told of that it was taken.
    given: usize,
}

impl<C: Command> Worked<C> {
    /// To be called after each step: the outcome may be known, or more input taken.
    fn tell(&mut self, owner: &mut Owner<'_>) {
        self.course.settle(owner);
        // A terminal's end of input is more than was given.
        let untaken = self.course.untaken().min(self.given);
        if untaken < self.given {
            owner.host.took(owner.now, self.given - untaken);
            self.given = untaken;
        }
    }

    fn acted(&mut self, owner: &mut Owner<'_>, acted: Acted) {
        self.course.acted(owner, acted);
        self.tell(owner);
    }
}

impl<C> Work for Worked<C>
where
    C: Command + Send,
    C::Process: Send,
{
    fn begin(&mut self, owner: &mut Owner<'_>) {
        self.course.ready(owner);
        self.tell(owner);
    }

    fn came(&mut self, bytes: usize) {
        self.course.stdin().begin_read(bytes);
    }

    fn input(&mut self, owner: &mut Owner<'_>, bytes: Bytes) {
        self.given += bytes.len();
        self.course.input(owner, bytes);
        self.tell(owner);
    }

    fn end_input(&mut self) {
        self.course.stdin().end();
    }

    fn resize(&mut self, owner: &mut Owner<'_>, size: Size) {
        self.course.resize(owner, size);
        self.tell(owner);
    }

    fn poll(&mut self, cx: &mut Context<'_>, owner: &mut Owner<'_>) -> Poll<usize> {
        let room = owner.host.has_room(Stream::Stdout) && owner.host.has_room(Stream::Stderr);
        self.course.poll(cx, room).map(|(acted, bytes)| {
            self.acted(owner, acted);
            bytes
        })
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, owner: &mut Owner<'_>) -> Poll<()> {
        self.course.poll_last(cx).map(|(acted, _)| self.acted(owner, acted))
    }

    fn deadline(&self) -> Option<Time> {
        self.course.deadline()
    }

    fn deadline_passed(&mut self, owner: &mut Owner<'_>) {
        self.course.deadline_passed(owner);
        self.tell(owner);
    }

    fn ending(&self) -> Option<&End> {
        self.course.ending()
    }
}
