//! Drives a machine between two sockets, in one task.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bowline_proto::time::earlier;
use bowline_proto::{Intermediary, Leg, Next, Time};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bounds::{Bounds, Exceeded, Watch};
use super::{Alarm, Socket, SocketEvent};
use crate::clock::Clock;
use crate::liveness::{Blocked, Liveness, PeerState};
use crate::record::Traffic;
use crate::serve::CLOSE_PATIENCE;
use crate::stream::{Connection, Upgraded};

/// How many bytes are moved without a wait before other tasks have their turn.
const TURN_BYTES: usize = 256 * 1024;

/// How two joined sockets ended.
#[derive(Debug)]
pub struct Joint<E> {
    /// The machine's ending, if it did.
    pub ending: Option<E>,
    /// The bound that was reached before.
    pub exceeded: Option<Exceeded>,
    /// How many bytes were read.
    pub traffic: Traffic,
}

/// Joins a client's connection and a node's until both have ended, or until `end`; then both are
/// told `why`. Returns how the machine ended, if it did, and how many bytes were read.
pub fn join<S: Connection, I: Intermediary>(
    near: Upgraded<S>,
    far: Upgraded<S>,
    machine: I,
    end: CancellationToken,
    why: &'static str,
) -> impl Future<Output = (Option<I::Ending>, Traffic)> {
    let joined = Joined::new(near, far, machine, Bounds::default());
    async move {
        let Joint { ending, traffic, .. } = joined.until(end, why).await;
        (ending, traffic)
    }
}

/// As [`join`], within bounds: at one that is reached both sides are told which one.
pub fn join_within<S: Connection, I: Intermediary>(
    bounds: Bounds,
    near: Upgraded<S>,
    far: Upgraded<S>,
    machine: I,
    end: CancellationToken,
    why: &'static str,
) -> impl Future<Output = Joint<I::Ending>> {
    let joined = Joined::new(near, far, machine, bounds);
    joined.until(end, why)
}

struct Joined<S, I: Intermediary> {
    clock: Clock,
    /// Dropped as soon as its leg has nothing left to do.
    near: Option<Socket<S>>,
    far: Option<Socket<S>>,
    machine: I,
    liveness: Liveness,
    /// Whether the machine's tap had room when it was last polled.
    has_room: bool,
    /// How many bytes were read since the task last waited.
    moved: usize,
    ending: Option<I::Ending>,
    watch: Watch,
    /// When something was read last.
    last_read: Time,
    traffic: Traffic,
}

enum Wake {
    Socket(Leg, SocketEvent),
    Deadline,
}

impl<S: Connection, I: Intermediary> Joined<S, I> {
    fn new(near: Upgraded<S>, far: Upgraded<S>, machine: I, bounds: Bounds) -> Joined<S, I> {
        let socket = |leg: Upgraded<S>| {
            Some(Socket::new(leg.stream, leg.early).reading_at_most(Watch::read_bytes(&bounds)))
        };
        Joined {
            clock: Clock::start(),
            near: socket(near),
            far: socket(far),
            machine,
            liveness: Liveness::default(),
            has_room: true,
            moved: 0,
            ending: None,
            watch: Watch::new(bounds),
            last_read: Time::ZERO,
            traffic: Traffic::default(),
        }
    }

    // Made outside of the future: what is moved inside of one takes its space twice.
    async fn until(mut self, end: CancellationToken, why: &'static str) -> Joint<I::Ending> {
        let exceeded = tokio::select! {
            biased;
            exceeded = self.run() => Some(exceeded),
            () = end.cancelled() => None,
        };
        match exceeded {
            Some(None) => self.reset_cut_legs(),
            Some(Some(exceeded)) => self.abort(&exceeded.to_string()).await,
            None => self.abort(why).await,
        }
        Joint { ending: self.ending, exceeded: exceeded.flatten(), traffic: self.traffic }
    }

    /// Runs until both sides have ended, or a bound is reached before the machine's ending.
    async fn run(&mut self) -> Option<Exceeded> {
        let mut alarm = Alarm::default();
        // Looked at once for each wake: what follows takes no time that matters to a machine.
        let mut now = self.clock.now();
        loop {
            for (leg, socket) in [(Leg::Near, &self.near), (Leg::Far, &self.far)] {
                if let Some(socket) = socket {
                    socket.update_undelivered(self.machine.outbox(leg));
                }
            }
            let deadline = loop {
                match self.machine.poll(now) {
                    Next::Event(ending) => self.ending = Some(ending),
                    Next::Idle(deadline) => break deadline,
                    Next::Done => return None,
                }
            };
            let bound = match self.bound(now) {
                Ok(bound) => bound,
                Err(exceeded) => return Some(exceeded),
            };
            for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
                if self.machine.is_done(leg) {
                    *socket = None;
                }
            }
            let PeerState::Present(next_check) = self.check_client(now) else {
                self.machine.client_gone(now);
                // A node that takes nothing learns of it by a reset.
                self.reset_cut_legs();
                continue;
            };
            alarm.set(&self.clock, earlier(earlier(deadline, next_check), bound));
            let mut is_first = true;
            let wake = poll_fn(|cx| {
                if !std::mem::take(&mut is_first) {
                    now = self.clock.now();
                }
                self.poll(cx, now, &mut alarm)
            });
            match wake.await {
                Wake::Socket(leg, SocketEvent::Read(bytes)) => {
                    self.moved += bytes.len();
                    self.traffic.count(leg == Leg::Near, bytes.len());
                    self.last_read = now;
                    self.watch.read(now, leg, bytes.len());
                    self.machine.receive(now, leg, bytes);
                    // Tokio's budget counts reads, not their bytes.
                    if self.moved >= TURN_BYTES {
                        self.moved = 0;
                        yield_now().await;
                        now = self.clock.now();
                    }
                }
                Wake::Socket(leg, SocketEvent::Ended(error)) => {
                    self.machine.receive_end(now, leg, error.is_some());
                }
                Wake::Socket(_, SocketEvent::Wrote) => {}
                // It may have come since the clock was looked at.
                Wake::Deadline => now = self.clock.now(),
            }
        }
    }

    /// Returns when the next bound may be reached. Behind its ending a session has other deadlines.
    fn bound(&mut self, now: Time) -> Result<Option<Time>, Exceeded> {
        if self.ending.is_some() {
            return Ok(None);
        }
        let listens = self.has_room && self.machine.wants_read(Leg::Near);
        if !listens {
            self.watch.not_listening(now);
        }
        self.watch.check(now, self.machine.last_used().unwrap_or(self.last_read))
    }

    /// Checks the client while it is not read because the node takes no input. The node needs no
    /// check: one that goes while the client takes no output has sent all that it will.
    fn check_client(&mut self, now: Time) -> PeerState {
        let Some(near) = &self.near else { return PeerState::Present(None) };
        let grace = self.machine.client_grace();
        // A client that has only ended its direction stays however long the tap has no room.
        let may_check = self.has_room || grace.is_zero();
        let is_read = self.has_room && self.machine.wants_read(Leg::Near);
        let is_blocked = self.ending.is_none() && may_check && !is_read;
        let waiting = self.machine.outbox(Leg::Far).len();
        self.liveness.check(now, near, is_blocked.then_some(Blocked { waiting, grace }))
    }

    fn poll(&mut self, cx: &mut Context<'_>, now: Time, alarm: &mut Alarm) -> Poll<Wake> {
        let has_room = self.machine.poll_room(cx).is_ready();
        if has_room != std::mem::replace(&mut self.has_room, has_room) && !has_room {
            // A client that is not read has to be checked from now on.
            return Poll::Ready(Wake::Deadline);
        }
        let has_ended = self.ending.is_some();
        for (leg, socket) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
            let Some(socket) = socket else { continue };
            let is_read = has_room && self.machine.wants_read(leg);
            let is_read = is_read && (has_ended || self.watch.may_read(now, leg));
            self.machine.reading(now, leg, is_read);
            if let Poll::Ready(event) = socket.poll(cx, self.machine.outbox(leg), is_read) {
                return Poll::Ready(Wake::Socket(leg, event));
            }
        }
        if alarm.poll(cx).is_ready() {
            return Poll::Ready(Wake::Deadline);
        }
        self.moved = 0;
        Poll::Pending
    }

    /// Tells both sides why, the client behind what waits for it: one that is cut off without a
    /// reason may take what it has for all of it.
    async fn abort(&mut self, why: &str) {
        self.watch = Watch::new(Bounds::default());
        self.machine.abort(self.clock.now(), why);
        let _ = timeout(CLOSE_PATIENCE, self.run()).await;
    }

    /// Resets what was cut off, so that no peer takes it for a good end or waits for the rest.
    fn reset_cut_legs(&mut self) {
        for (leg, socket) in [(Leg::Near, &self.near), (Leg::Far, &self.far)] {
            if let Some(socket) = socket
                && self.machine.is_cut(leg)
            {
                socket.stream().reset_on_drop();
            }
        }
    }
}
