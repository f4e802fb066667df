//! Joins one port-forward with its local sockets, for client and node alike.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_proto::portforward::{Event, Forward, Id};
use bowline_proto::session::Loss;
use bowline_proto::{Time, limits};

use crate::drive::{Driver, Ends, Step};
use crate::liveness::Blocked;
use crate::local_sockets::{Failure, Local, LocalEvent, LocalSockets};
use crate::record::Traffic;
use crate::stream::{Connection, Upgraded};

/// How many bytes of a forward may wait before the socket has its turn: several pieces in one write
/// cost less than one write for each.
const GATHERED_BYTES: usize = 512 * 1024;

/// What a forward's owner has to handle.
#[derive(Debug)]
pub enum ForwardEvent {
    /// At a node: the client wants a connection to this port. Answer with
    /// [`ForwardDriver::attach`], [`ForwardDriver::fail`] or [`ForwardDriver::refuse`].
    Requested(Id, u16),
    /// The other side reset the connection. The local end was told.
    Reset(Id),
    /// The connection's local end broke. The other side was told.
    Broken(Id, std::io::Error),
    /// The forward was lost, and with it the connections that were left.
    Lost(Loss),
}

/// A forward, its socket and its local sockets.
pub struct ForwardDriver<S, L> {
    driver: Driver<S, Forward>,
    locals: Locals<L>,
}

struct Locals<L> {
    sockets: LocalSockets<L>,
    /// Once the forward has given its last event: until when local ends have to take some of what
    /// waits for them.
    lost: Option<Time>,
}

impl<L: Local> Ends<Forward> for Locals<L> {
    type Act = (Id, LocalEvent);

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        forward: &mut Forward,
    ) -> Poll<((Id, LocalEvent), usize)> {
        if forward.unsent() >= GATHERED_BYTES {
            return Poll::Pending;
        }
        self.poll_sockets(cx, forward)
    }

    fn poll_last(
        &mut self,
        cx: &mut Context<'_>,
        forward: &mut Forward,
    ) -> Poll<((Id, LocalEvent), usize)> {
        if forward.unsent() < GATHERED_BYTES {
            return Poll::Pending;
        }
        self.poll_sockets(cx, forward)
    }

    fn has_room(&self) -> bool {
        self.sockets.waiting() < limits::FORWARDED_BYTES
    }

    fn came(&mut self, _bytes: usize) {
        self.sockets.begin_read();
    }

    fn deadline(&self) -> Option<Time> {
        self.lost.filter(|_| !self.sockets.is_empty())
    }

    /// The other side is not read while the local ends take nothing.
    fn blocked(&self, forward: &Forward) -> Option<Blocked> {
        let waiting = self.sockets.waiting() + forward.unsent();
        let grace = if forward.is_over_with_its_direction() {
            Duration::ZERO
        } else {
            limits::CLOSED_CLIENT_GRACE
        };
        self.lost.is_none().then_some(Blocked { waiting, grace })
    }
}

impl<L: Local> Locals<L> {
    fn poll_sockets(
        &mut self,
        cx: &mut Context<'_>,
        forward: &Forward,
    ) -> Poll<((Id, LocalEvent), usize)> {
        let reads = forward.unsent() < limits::OUTBOX_BYTES;
        self.sockets.poll(cx, reads, |id| forward.room(id)).map(|(id, act)| {
            let bytes = if let LocalEvent::Read(bytes) = &act { bytes.len() } else { 0 };
            ((id, act), bytes)
        })
    }

    /// Ends all connections, as the forward is over. Local ends still get what waits for them, as
    /// long as they take it.
    fn end(&mut self, now: Time) {
        self.sockets.end_all();
        self.lost = Some(now + limits::CLOSED_CLIENT_GRACE);
    }
}

impl<S: Connection, L: Local> ForwardDriver<S, L> {
    /// Joins `forward` over `connection`, right after the 101.
    #[must_use]
    pub fn new(forward: Forward, connection: Upgraded<S>) -> ForwardDriver<S, L> {
        let locals = Locals { sockets: LocalSockets::default(), lost: None };
        ForwardDriver { driver: Driver::new(connection, forward), locals }
    }

    /// At a client: asks for a connection to `port`, for `stream`.
    ///
    /// # Errors
    /// The stream, if the forward is over or has used all numbers.
    pub fn connect(&mut self, port: u16, stream: L) -> Result<Id, L> {
        let now = self.driver.now();
        let Some(id) = self.driver.machine().connect(now, port) else { return Err(stream) };
        self.locals.sockets.expect(id);
        match self.locals.sockets.attach(id, stream) {
            None => Ok(id),
            Some(stream) => Err(stream),
        }
    }

    /// At a node: gives the local end of a connection that was requested.
    pub fn attach(&mut self, id: Id, stream: L) {
        // It was given up meanwhile, which its peer must not take for a good end.
        if let Some(stream) = self.locals.sockets.attach(id, stream) {
            stream.abort(Failure::Reset);
        }
    }

    /// At a node: answers that a requested connection cannot be made, or ends one that failed.
    pub fn fail(&mut self, id: Id, why: &str) {
        let now = self.driver.now();
        self.driver.machine().fail(now, id, why);
        self.locals.sockets.abort(id, Failure::Refused(why.to_owned()));
    }

    /// At a node: answers that there is no room for a requested connection.
    pub fn refuse(&mut self, id: Id, why: &str) {
        let now = self.driver.now();
        self.driver.machine().refuse(now, id, why);
        self.locals.sockets.abort(id, Failure::Refused(why.to_owned()));
    }

    /// How many connections there are, including those that are still being made, and those that
    /// have ended and have yet to take what waits for them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.locals.sockets.len()
    }

    /// At a node: how many bytes were read so far, from the client's socket and from the local
    /// sockets.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic { from_client: self.driver.received(), to_client: self.driver.sent() }
    }

    /// Goes on until there is something that the owner has to handle; `None` is the end.
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<ForwardEvent> {
        loop {
            if self.driver.is_done() && self.locals.sockets.is_empty() {
                return None;
            }
            let step = self.driver.next(&mut self.locals).await;
            let now = self.driver.now();
            let event = match step {
                Step::Event(event) => self.event(now, event),
                Step::Act((id, act)) => self.local_event(now, id, act),
                // What waits for the local ends is lost, so they are reset.
                Step::Deadline => {
                    self.locals.sockets.abort_all();
                    None
                }
                Step::Gone => None,
                Step::Done => {
                    if self.locals.lost.is_none() {
                        self.locals.end(now);
                    }
                    None
                }
            };
            if event.is_some() {
                return event;
            }
        }
    }

    fn event(&mut self, now: Time, event: Event) -> Option<ForwardEvent> {
        let sockets = &mut self.locals.sockets;
        match event {
            Event::Requested(id, port) => {
                sockets.expect(id);
                return Some(ForwardEvent::Requested(id, port));
            }
            Event::Data(id, bytes) => {
                sockets.push(id, bytes);
            }
            Event::Eof(id) => sockets.finish(id),
            Event::Connected(id) | Event::Room(id) => sockets.wake(id),
            Event::Reset(id) => {
                sockets.end(id, Failure::Reset);
                return Some(ForwardEvent::Reset(id));
            }
            Event::Failed(id, words) => sockets.abort(id, Failure::Refused(words)),
            Event::Lost(loss) => {
                self.locals.end(now);
                return Some(ForwardEvent::Lost(loss));
            }
        }
        None
    }

    fn local_event(&mut self, now: Time, id: Id, event: LocalEvent) -> Option<ForwardEvent> {
        let forward = self.driver.machine();
        match event {
            LocalEvent::Read(bytes) => forward.send(id, bytes.freeze()),
            LocalEvent::Ended => forward.finish(now, id),
            LocalEvent::Closed => {
                // The other side gets all that was read, and then learns that nothing is taken.
                forward.finish(now, id);
                forward.reset(now, id);
            }
            LocalEvent::Took(bytes) => {
                forward.taken(id, bytes);
                self.locals.lost = self.locals.lost.map(|_| now + limits::CLOSED_CLIENT_GRACE);
            }
            LocalEvent::Broken(error) => {
                forward.reset(now, id);
                return Some(ForwardEvent::Broken(id, error));
            }
        }
        None
    }

    /// Ends the forward from this end, and tells both sides as far as that goes without waiting.
    pub async fn leave(&mut self, why: &str) {
        let now = self.driver.now();
        let forward = self.driver.machine();
        forward.leave(now, why);
        self.locals.sockets.end_all();
        poll_fn(|cx| {
            while self.locals.poll_sockets(cx, forward).is_ready() {}
            Poll::Ready(())
        })
        .await;
        self.driver.flush_now().await;
        self.locals.sockets.abort_all();
    }
}
