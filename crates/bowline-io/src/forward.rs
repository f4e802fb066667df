//! Joins one port-forward with its local connections: everything that both of its ends have in
//! common.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_proto::portforward::{Event, Forward, Id};
use bowline_proto::session::Loss;
use bowline_proto::{Time, limits};

use crate::drive::{Driver, Ends, Step};
use crate::liveness::Blocked;
use crate::local_sockets::{Act, Failure, Local, LocalSockets};
use crate::record::Traffic;
use crate::stream::{Connection, Upgraded};

/// Some pieces in one write cost less than one in each.
const GATHERED_BYTES: usize = 512 * 1024;

/// What a forward's owner has to know or to decide.
#[derive(Debug)]
pub enum ForwardEvent {
    /// At a node: a connection to this port is wanted. Answer with [`ForwardDriver::attach`] or
    /// [`ForwardDriver::fail`].
    Requested(Id, u16),
    /// The other side gave it up. The local end was told.
    Reset(Id),
    /// The local end broke. The other side was told.
    Broken(Id, std::io::Error),
    /// The forward was lost, and with it what was still connected.
    Lost(Loss),
}

/// A forward, its socket and its local connections.
pub struct ForwardDriver<S, L> {
    driver: Driver<S, Forward>,
    locals: Locals<L>,
}

struct Locals<L> {
    sockets: LocalSockets<L>,
    /// The forward has given its last event; local ends have until then to take some of what
    /// waits.
    lost: Option<Time>,
}

impl<L: Local> Ends<Forward> for Locals<L> {
    type Act = (Id, Act);

    fn poll(&mut self, cx: &mut Context<'_>, forward: &mut Forward) -> Poll<((Id, Act), usize)> {
        if forward.unsent() >= GATHERED_BYTES {
            return Poll::Pending;
        }
        self.poll_sockets(cx, forward)
    }

    fn poll_last(
        &mut self,
        cx: &mut Context<'_>,
        forward: &mut Forward,
    ) -> Poll<((Id, Act), usize)> {
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

    /// While the local ends take nothing, the other side is not read.
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
    ) -> Poll<((Id, Act), usize)> {
        let reads = forward.unsent() < limits::OUTBOX_BYTES;
        self.sockets.poll(cx, reads, |id| forward.room(id)).map(|(id, act)| {
            let bytes = if let Act::Read(bytes) = &act { bytes.len() } else { 0 };
            ((id, act), bytes)
        })
    }

    /// The forward is over. What waits for local ends is theirs, as long as they take it.
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

    /// At a client: asks for a connection to `port`, for `stream`. Gives it back where that cannot
    /// be had any more.
    ///
    /// # Errors
    /// The stream.
    pub fn connect(&mut self, port: u16, stream: L) -> Result<Id, L> {
        let now = self.driver.now();
        let Some(id) = self.driver.machine().connect(now, port) else { return Err(stream) };
        self.locals.sockets.expect(id);
        match self.locals.sockets.attach(id, stream) {
            None => Ok(id),
            Some(stream) => Err(stream),
        }
    }

    /// At a node: the connection that was asked for.
    pub fn attach(&mut self, id: Id, stream: L) {
        // Given up meanwhile, it must not look like one that had nothing to say.
        if let Some(stream) = self.locals.sockets.attach(id, stream) {
            stream.abort(Failure::Reset);
        }
    }

    /// At a node: the connection cannot be had.
    pub fn fail(&mut self, id: Id, why: &str) {
        let now = self.driver.now();
        self.driver.machine().fail(now, id, why);
        self.locals.sockets.abort(id, Failure::Refused(why.to_owned()));
    }

    /// At a node: there is no room for another connection.
    pub fn refuse(&mut self, id: Id, why: &str) {
        let now = self.driver.now();
        self.driver.machine().refuse(now, id, why);
        self.locals.sockets.abort(id, Failure::Refused(why.to_owned()));
    }

    /// How many connections there are, also such as are still being made, or have ended and have
    /// yet to take what waits for them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.locals.sockets.len()
    }

    /// At a node: what was read so far, from the client with all that carried it, and from the
    /// connections.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic { from_client: self.driver.received(), to_client: self.driver.sent() }
    }

    /// Goes on until something happens that its owner has to know of. `None` is the end. Nothing is
    /// lost if it is dropped before.
    pub async fn next(&mut self) -> Option<ForwardEvent> {
        loop {
            if self.driver.is_done() && self.locals.sockets.is_empty() {
                return None;
            }
            let step = self.driver.next(&mut self.locals).await;
            let now = self.driver.now();
            let happening = match step {
                Step::Event(event) => self.event(now, event),
                Step::Act((id, act)) => self.act(now, id, act),
                // What they had yet to get is lost to them, and they are told.
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
            if happening.is_some() {
                return happening;
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

    fn act(&mut self, now: Time, id: Id, act: Act) -> Option<ForwardEvent> {
        let forward = self.driver.machine();
        match act {
            Act::Read(bytes) => forward.send(id, bytes.freeze()),
            Act::Ended => forward.finish(now, id),
            Act::Closed => {
                // All that it said, and then that it hears nothing more.
                forward.finish(now, id);
                forward.reset(now, id);
            }
            Act::Took(bytes) => {
                forward.taken(id, bytes);
                self.locals.lost = self.locals.lost.map(|_| now + limits::CLOSED_CLIENT_GRACE);
            }
            Act::Broken(error) => {
                forward.reset(now, id);
                return Some(ForwardEvent::Broken(id, error));
            }
        }
        None
    }

    /// Ends it from here: says so to both sides, as far as that goes without waiting.
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
