//! A machine between two sockets, in one task.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bowline_proto::time::earlier;
use bowline_proto::{Intermediary, Leg, Next, Time};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Alarm, Socket, SocketEvent, take_turns};
use crate::clock::Clock;
use crate::liveness::{Blocked, Liveness, PeerState};
use crate::record::Traffic;
use crate::serve::GOODBYE_PATIENCE;
use crate::stream::{Connection, Upgraded};

/// Joins a client's connection and a node's until both have ended, or `end`; `why` is what they are
/// told then. Gives how it ended, if it came to that, and how many bytes were read.
pub fn join<S: Connection, I: Intermediary>(
    near: Upgraded<S>,
    far: Upgraded<S>,
    machine: I,
    end: CancellationToken,
    why: &'static str,
) -> impl Future<Output = (Option<I::Ending>, Traffic)> {
    // Made outside of the future: what is moved inside of one has its place in it twice.
    let mut joined = Joined {
        clock: Clock::start(),
        near: Some(Socket::new(near.stream, near.early)),
        far: Some(Socket::new(far.stream, far.early)),
        machine,
        liveness: Liveness::default(),
        has_room: true,
        ending: None,
        traffic: Traffic::default(),
    };
    async move {
        let ended = tokio::select! {
            biased;
            () = joined.run() => true,
            () = end.cancelled() => false,
        };
        if ended {
            joined.break_off();
        } else {
            joined.abort(why).await;
        }
        (joined.ending, joined.traffic)
    }
}

struct Joined<S, I: Intermediary> {
    clock: Clock,
    /// Dropped as soon as its leg has nothing left to do.
    near: Option<Socket<S>>,
    far: Option<Socket<S>>,
    machine: I,
    liveness: Liveness,
    /// Whether whoever looks at what passes had room for more when that was asked last.
    has_room: bool,
    ending: Option<I::Ending>,
    traffic: Traffic,
}

enum Wake {
    Socket(Leg, SocketEvent),
    Deadline,
}

impl<S: Connection, I: Intermediary> Joined<S, I> {
    async fn run(&mut self) {
        let mut alarm = Alarm::default();
        loop {
            let now = self.clock.now();
            for (leg, socket) in [(Leg::Near, &self.near), (Leg::Far, &self.far)] {
                if let Some(socket) = socket {
                    socket.look_after(self.machine.outbox(leg));
                }
            }
            let deadline = loop {
                match self.machine.poll(now) {
                    Next::Event(ending) => self.ending = Some(ending),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => return,
                }
            };
            for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
                if self.machine.is_done(leg) {
                    *socket = None;
                }
            }
            let PeerState::Present(look) = self.look_after_client(now) else {
                self.machine.client_gone(now);
                // A node that takes nothing hears of it none the less.
                self.break_off();
                continue;
            };
            alarm.set(&self.clock, earlier(deadline, look));
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await;
            let now = self.clock.now();
            match wake {
                Wake::Socket(leg, SocketEvent::Read(bytes)) => {
                    let moved = bytes.len();
                    self.traffic.count(leg == Leg::Near, moved);
                    self.machine.receive(now, leg, bytes);
                    take_turns(moved).await;
                }
                Wake::Socket(leg, SocketEvent::Ended(error)) => {
                    self.machine.receive_end(now, leg, error.is_some());
                }
                Wake::Socket(_, SocketEvent::Wrote) | Wake::Deadline => {}
            }
        }
    }

    /// While the node takes no input, the client is not read. A node that goes while the client
    /// takes no output has said all that it will, and waits for nothing.
    fn look_after_client(&mut self, now: Time) -> PeerState {
        let Some(near) = &self.near else { return PeerState::Present(None) };
        let grace = self.machine.client_grace();
        // What a client said that has only ended its direction may wait for a tap for any time.
        let may_look = self.has_room || grace.is_zero();
        let is_read = self.has_room && self.machine.wants_read(Leg::Near);
        let is_blocked = self.ending.is_none() && may_look && !is_read;
        let waiting = self.machine.outbox(Leg::Far).len();
        self.liveness.look(now, near, is_blocked.then_some(Blocked { waiting, grace }))
    }

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Wake> {
        let now = self.clock.now();
        let has_room = self.machine.poll_room(cx).is_ready();
        if has_room != std::mem::replace(&mut self.has_room, has_room) && !has_room {
            // Clients that are not read have to be looked after from now on.
            return Poll::Ready(Wake::Deadline);
        }
        for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
            let Some(socket) = socket else { continue };
            let is_read = has_room && self.machine.wants_read(leg);
            self.machine.reading(now, leg, is_read);
            if let Poll::Ready(moment) = socket.poll(cx, self.machine.outbox(leg), is_read) {
                return Poll::Ready(Wake::Socket(leg, moment));
            }
        }
        alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// Says why to both sides, to the client behind what waits for it. One that is cut off without
    /// a word may take what it has for all of it.
    async fn abort(&mut self, why: &str) {
        self.machine.abort(self.clock.now(), why);
        let _ = timeout(GOODBYE_PATIENCE, self.run()).await;
    }

    /// Nobody must take for a good end what is none, nor wait for the rest.
    fn break_off(&mut self) {
        for (leg, socket) in [(Leg::Near, &self.near), (Leg::Far, &self.far)] {
            if let Some(socket) = socket
                && self.machine.is_cut(leg)
            {
                socket.stream().break_off();
            }
        }
    }
}
