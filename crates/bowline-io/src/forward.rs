//! Joins one port-forward with its local connections: everything that both of its ends have in
//! common.
//! Above: the node's and the client's port-forward. Below: [`crowd`](crate::crowd),
//! [`drive`](crate::drive), `bowline_proto::portforward`.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_proto::portforward::{Event, Forward, Id};
use bowline_proto::session::Loss;
use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Time, limits};

use crate::clock::Clock;
use crate::crowd::{Act, Crowd, Failure, Local};
use crate::drive::{Alarm, Moment, Socket, take_turns};
use crate::lookout::{Blocked, Lookout, Seen};
use crate::record::Traffic;
use crate::stream::{Connection, Upgraded};

/// Some pieces in one write cost less than one in each.
const GATHERED_BYTES: usize = 512 * 1024;

/// What a forward's owner has to know or to decide.
#[derive(Debug)]
pub enum Happening {
    /// At a node: a connection to this port is wanted. Answer with [`Pump::attach`] or
    /// [`Pump::fail`].
    Asked(Id, u16),
    /// The other side gave it up. The local end was told.
    Reset(Id),
    /// The local end broke. The other side was told.
    Broken(Id, std::io::Error),
    /// The forward was lost, and with it what was still connected.
    Lost(Loss),
}

/// A forward, its socket and its local connections.
pub struct Pump<S, L> {
    clock: Clock,
    socket: Socket<S>,
    forward: Forward,
    crowd: Crowd<L>,
    alarm: Alarm,
    lookout: Lookout,
    /// The forward has given its last event; local ends have until then to take some of what
    /// waits.
    lost: Option<Time>,
    done: bool,
    traffic: Traffic,
}

enum Wake {
    Socket(Moment),
    Local(Id, Act),
    Deadline,
}

impl<S: Connection, L: Local> Pump<S, L> {
    /// Joins `forward` over `connection`, right after the 101.
    #[must_use]
    pub fn new(forward: Forward, connection: Upgraded<S>) -> Pump<S, L> {
        Pump {
            clock: Clock::start(),
            socket: Socket::new(connection.stream, connection.early),
            forward,
            crowd: Crowd::default(),
            alarm: Alarm::default(),
            lookout: Lookout::default(),
            lost: None,
            done: false,
            traffic: Traffic::default(),
        }
    }

    /// At a client: asks for a connection to `port`, for `stream`. Gives it back where that cannot
    /// be had any more.
    ///
    /// # Errors
    /// The stream.
    pub fn connect(&mut self, port: u16, stream: L) -> Result<Id, L> {
        let Some(id) = self.forward.connect(self.clock.now(), port) else { return Err(stream) };
        self.crowd.expect(id);
        match self.crowd.attach(id, stream) {
            None => Ok(id),
            Some(stream) => Err(stream),
        }
    }

    /// At a node: the connection that was asked for.
    pub fn attach(&mut self, id: Id, stream: L) {
        // Given up meanwhile, it must not look like one that had nothing to say.
        if let Some(stream) = self.crowd.attach(id, stream) {
            stream.abort(Failure::Reset);
        }
    }

    /// At a node: the connection cannot be had.
    pub fn fail(&mut self, id: Id, why: &str) {
        self.forward.fail(self.clock.now(), id, why);
        self.crowd.abort(id, Failure::Refused(why.to_owned()));
    }

    /// At a node: there is no room for another connection.
    pub fn refuse(&mut self, id: Id, why: &str) {
        self.forward.refuse(self.clock.now(), id, why);
        self.crowd.abort(id, Failure::Refused(why.to_owned()));
    }

    /// How many connections there are, also such as are still being made, or have ended and have
    /// yet to take what waits for them.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.crowd.len()
    }

    /// At a node: what was read so far, from the client with all that carried it, and from the
    /// connections.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Goes on until something happens that its owner has to know of. `None` is the end. Nothing is
    /// lost if it is dropped before.
    pub async fn next(&mut self) -> Option<Happening> {
        loop {
            let now = self.clock.now();
            let deadline = loop {
                match self.forward.poll(now) {
                    Next::Event(event) => {
                        if let Some(happening) = self.event(now, event) {
                            return Some(happening);
                        }
                    }
                    Next::Idle(deadline) => break deadline,
                    Next::Done => {
                        self.done = true;
                        break None;
                    }
                }
            };
            if self.done && self.lost.is_none() {
                // All ended as it should, and the local ends have yet to take what waits.
                self.crowd.end_all();
                self.lost = Some(now + limits::CLOSED_CLIENT_GRACE);
            }
            let patience = self.lost.filter(|_| !self.crowd.is_empty());
            let late = self.lost.is_some_and(|until| now >= until);
            if late {
                // What they had yet to get is lost to them, and they are told.
                self.crowd.abort_all();
            }
            if self.done && self.crowd.is_empty() {
                return None;
            }
            let Seen::Nothing(look) = self.look_after_peer(now) else {
                self.forward.receive_end(now);
                continue;
            };
            self.alarm.set(&self.clock, earlier(earlier(deadline, patience), look));
            let wake = poll_fn(|cx| self.poll(cx)).await;
            let now = self.clock.now();
            match wake {
                Wake::Socket(Moment::Read(bytes)) => {
                    let moved = bytes.len();
                    self.traffic.count(true, moved);
                    self.crowd.round();
                    self.forward.receive(now, bytes);
                    take_turns(moved).await;
                }
                Wake::Socket(Moment::Ended(_)) => self.forward.receive_end(now),
                Wake::Socket(Moment::Wrote) | Wake::Deadline => {}
                Wake::Local(id, act) => {
                    if let Some(happening) = self.act(now, id, act) {
                        return Some(happening);
                    }
                }
            }
        }
    }

    fn reads(&self) -> bool {
        self.forward.wants_read() && self.crowd.waiting() < limits::FORWARDED_BYTES
    }

    /// While the local ends take nothing, the other side is not read.
    fn look_after_peer(&mut self, now: Time) -> Seen {
        let is_blocked = !self.done && self.lost.is_none() && !self.reads();
        let waiting = self.crowd.waiting() + self.forward.unsent();
        let grace = if self.forward.is_over_with_its_direction() {
            Duration::ZERO
        } else {
            limits::CLOSED_CLIENT_GRACE
        };
        self.lookout.look(now, &self.socket, is_blocked.then_some(Blocked { waiting, grace }))
    }

    fn event(&mut self, now: Time, event: Event) -> Option<Happening> {
        match event {
            Event::Asked(id, port) => {
                self.crowd.expect(id);
                return Some(Happening::Asked(id, port));
            }
            Event::Data(id, bytes) => {
                self.crowd.push(id, bytes);
            }
            Event::Eof(id) => self.crowd.finish(id),
            Event::Connected(id) | Event::Room(id) => self.crowd.wake(id),
            Event::Reset(id) => {
                self.crowd.end(id, Failure::Reset);
                return Some(Happening::Reset(id));
            }
            Event::Failed(id, words) => self.crowd.abort(id, Failure::Refused(words)),
            Event::Lost(loss) => {
                self.crowd.end_all();
                self.lost = Some(now + limits::CLOSED_CLIENT_GRACE);
                return Some(Happening::Lost(loss));
            }
        }
        None
    }

    fn act(&mut self, now: Time, id: Id, act: Act) -> Option<Happening> {
        match act {
            Act::Read(bytes) => {
                self.traffic.count(false, bytes.len());
                self.forward.send(id, bytes.freeze());
            }
            Act::Ended => self.forward.finish(now, id),
            Act::Closed => {
                // All that it said, and then that it hears nothing more.
                self.forward.finish(now, id);
                self.forward.reset(now, id);
            }
            Act::Took(bytes) => {
                self.forward.taken(id, bytes);
                self.lost = self.lost.map(|_| now + limits::CLOSED_CLIENT_GRACE);
            }
            Act::Broken(error) => {
                self.forward.reset(now, id);
                return Some(Happening::Broken(id, error));
            }
        }
        None
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        let unsent = self.forward.unsent();
        let gathers = unsent < GATHERED_BYTES;
        if gathers && let Poll::Ready((id, act)) = self.poll_crowd(cx) {
            return Poll::Ready(Wake::Local(id, act));
        }
        if !self.done {
            let reads = self.reads();
            self.forward.reading(self.clock.now(), reads);
            if let Poll::Ready(moment) = self.socket.poll(cx, self.forward.outbox(), reads) {
                return Poll::Ready(Wake::Socket(moment));
            }
        }
        if !gathers && let Poll::Ready((id, act)) = self.poll_crowd(cx) {
            return Poll::Ready(Wake::Local(id, act));
        }
        self.alarm.poll(cx).map(|()| Wake::Deadline)
    }

    fn poll_crowd(&mut self, cx: &mut Context<'_>) -> Poll<(Id, Act)> {
        let forward = &self.forward;
        let reads = forward.unsent() < limits::OUTBOX_BYTES;
        self.crowd.poll(cx, reads, |id| forward.room(id))
    }

    /// Ends it from here: says so to both sides, as far as that goes without waiting.
    pub async fn leave(&mut self, why: &str) {
        self.forward.leave(self.clock.now(), why);
        self.crowd.end_all();
        poll_fn(|cx| {
            while self.poll_crowd(cx).is_ready() {}
            let _ = self.socket.poll(cx, self.forward.outbox(), false);
            Poll::Ready(())
        })
        .await;
        self.crowd.abort_all();
    }
}
