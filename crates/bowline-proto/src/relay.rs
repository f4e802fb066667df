//! Joins a near session, of which we are the server, and a far one, of which we are the client,
//! whatever carries them.
//!
//! Each event of one side becomes a command to the other, in one `match` arm. A side is read while
//! the other one's outbox has room.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::task::{Context, Poll};
use core::time::Duration;

use bytes::BytesMut;

use crate::limits::{CLOSED_CLIENT_GRACE, OUTBOX_BYTES};
use crate::machine::{Intermediary, Leg, Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Channel, Event, Loss, Outcome, Session};
use crate::time::{Time, earlier};

/// How a relayed session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The far side gave its Status, which was passed on as it came.
    Status(Outcome),
    /// The client went away first.
    ClientGone(Loss),
    /// The far side ended without a Status; the client was told so.
    Lost(Loss),
}

/// Sees what passes through a [`Relay`], for example to record it or to count it.
pub trait Tap {
    /// Called with each event of either side, in order, before it is passed on. What comes after
    /// the session's end is dropped without a call.
    fn event(&mut self, now: Time, leg: Leg, event: &Event);

    /// Ready while more may come; asked once both sides are set up, until the session's end. While
    /// pending, neither side is read, which holds back their peers and loses nothing; events of
    /// what was read before, one read at most, still come. The tap wakes the task once it has room
    /// again.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// Sees nothing.
impl Tap for () {
    fn event(&mut self, _: Time, _: Leg, _: &Event) {}
}

impl<T: Tap + ?Sized> Tap for Box<T> {
    fn event(&mut self, now: Time, leg: Leg, event: &Event) {
        (**self).event(now, leg, event);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_room(cx)
    }
}

/// Each of the taps sees all events, and each must have room.
impl<T: Tap> Tap for Vec<T> {
    fn event(&mut self, now: Time, leg: Leg, event: &Event) {
        self.iter_mut().for_each(|tap| tap.event(now, leg, event));
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waits = self.iter_mut().filter_map(|tap| tap.poll_room(cx).is_pending().then_some(()));
        if waits.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<T: Tap> Tap for Option<T> {
    fn event(&mut self, now: Time, leg: Leg, event: &Event) {
        if let Some(tap) = self {
            tap.event(now, leg, event);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.as_mut().map_or(Poll::Ready(()), |tap| tap.poll_room(cx))
    }
}

/// Two sessions as one machine with two sockets.
#[derive(Debug)]
pub struct Relay<T = ()> {
    near: Session,
    far: Session,
    /// The client has all of its channels. Before that, the command must not start.
    near_ready: bool,
    /// The node has all of its channels. Before that, no input of the client is read.
    far_ready: bool,
    ended: bool,
    near_done: bool,
    far_done: bool,
    /// When something of either side passed last.
    last_used: Time,
    tap: T,
    hop: &'static str,
}

impl Relay {
    /// Joins `near`, of which we are the server, and `far`, of which we are the client. Both must
    /// want the same channels.
    #[must_use]
    pub fn new(near: Session, far: Session) -> Relay {
        Relay::with_tap(near, far, ())
    }
}

impl<T: Tap> Relay<T> {
    /// As [`new`](Relay::new), with a `tap` that sees what passes.
    #[must_use]
    pub fn with_tap(near: Session, far: Session, tap: T) -> Relay<T> {
        Relay {
            near,
            far,
            near_ready: false,
            far_ready: false,
            ended: false,
            near_done: false,
            far_done: false,
            last_used: Time::ZERO,
            tap,
            hop: "gateway to node",
        }
    }

    /// Names the hop to the far side, for clients that are told of its loss. The default is
    /// `gateway to node`.
    #[must_use]
    pub fn with_hop(mut self, hop: &'static str) -> Relay<T> {
        self.hop = hop;
        self
    }
}

impl<T: Tap> Intermediary for Relay<T> {
    type Ending = Ending;

    fn receive(&mut self, now: Time, leg: Leg, input: BytesMut) {
        let other = match leg {
            Leg::Near => &mut self.far,
            Leg::Far => &mut self.near,
        };
        other.outbox().begin_read(input.len());
        self.session(leg).receive(now, input);
    }

    fn receive_end(&mut self, now: Time, leg: Leg, _broken: bool) {
        self.session(leg).receive_end(now);
    }

    fn outbox(&mut self, leg: Leg) -> &mut Outbox {
        self.session(leg).outbox()
    }

    /// Once the session has ended, what still comes is read to be dropped.
    fn wants_read(&mut self, leg: Leg) -> bool {
        let room = match leg {
            Leg::Near if !self.near_ready => true,
            Leg::Near => self.far_ready && self.far.outbox().len() < OUTBOX_BYTES,
            Leg::Far => self.near_ready && self.near.outbox().len() < OUTBOX_BYTES,
        };
        self.session(leg).wants_read() && (room || self.ended)
    }

    fn reading(&mut self, now: Time, leg: Leg, reading: bool) {
        self.session(leg).reading(now, reading);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Setting up carries no bytes, and has a deadline of its own on either side.
        let flows = self.near_ready && self.far_ready && !self.ended;
        if flows { self.tap.poll_room(cx) } else { Poll::Ready(()) }
    }

    fn last_used(&self) -> Option<Time> {
        Some(self.last_used)
    }

    fn is_done(&self, leg: Leg) -> bool {
        match leg {
            Leg::Near => self.near_done,
            Leg::Far => self.far_done,
        }
    }

    /// In protocols that cannot half-close, a client ends stdin by closing, and its input may have
    /// yet to be read.
    fn client_grace(&self) -> Duration {
        if self.near.protocol().half_closes { Duration::ZERO } else { CLOSED_CLIENT_GRACE }
    }

    fn client_gone(&mut self, now: Time) {
        self.near.receive_end(now);
    }

    fn abort(&mut self, now: Time, why: &str) {
        self.ended = true;
        self.near.lose(now, why);
        self.far.leave(now);
    }

    fn poll(&mut self, now: Time) -> Next<Ending> {
        let near = loop {
            match self.near.poll(now) {
                Next::Event(event) => {
                    if let Some(ending) = self.near_said(now, event) {
                        return Next::Event(ending);
                    }
                }
                Next::Idle(deadline) => break deadline,
                Next::Done => {
                    self.near_done = true;
                    break None;
                }
            }
        };
        let far = loop {
            match self.far.poll(now) {
                Next::Event(event) => {
                    if let Some(ending) = self.far_said(now, event) {
                        return Next::Event(ending);
                    }
                }
                Next::Idle(deadline) => break deadline,
                Next::Done => {
                    self.far_done = true;
                    break None;
                }
            }
        };
        if self.near_done && self.far_done {
            return Next::Done;
        }
        Next::Idle(earlier(near, far))
    }
}

impl<T: Tap> Relay<T> {
    fn near_said(&mut self, now: Time, event: Event) -> Option<Ending> {
        if self.ended {
            return None;
        }
        self.last_used = now;
        self.tap.event(now, Leg::Near, &event);
        match event {
            Event::Data(channel, bytes) => self.far.send(channel, bytes),
            Event::Eof(channel) => self.far.finish(channel),
            Event::Resize(size) => self.far.resize(size),
            Event::Lost(loss) => {
                self.ended = true;
                self.far.leave(now);
                return Some(Ending::ClientGone(loss));
            }
            Event::Ready => {
                self.near_ready = true;
                self.far.begin(now);
            }
            Event::Status(_) => {}
        }
        None
    }

    fn far_said(&mut self, now: Time, event: Event) -> Option<Ending> {
        if self.ended {
            return None;
        }
        self.last_used = now;
        self.tap.event(now, Leg::Far, &event);
        match event {
            Event::Ready => self.far_ready = true,
            Event::Data(channel, bytes) => self.near.send(channel, bytes),
            Event::Eof(channel @ (Channel::Stdout | Channel::Stderr)) => self.near.finish(channel),
            Event::Status(status) => {
                self.ended = true;
                self.near.status(now, &status);
                return Some(Ending::Status(status.outcome().clone()));
            }
            Event::Lost(loss) => {
                self.ended = true;
                self.near.lose(now, &format!("{}: {loss}", self.hop));
                return Some(Ending::Lost(loss));
            }
            Event::Eof(_) | Event::Resize(_) => {}
        }
        None
    }

    fn session(&mut self, leg: Leg) -> &mut Session {
        match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        }
    }
}
