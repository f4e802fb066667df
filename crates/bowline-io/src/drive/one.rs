//! Drives a machine with one socket, beside the ends of its role: a process, a terminal, local
//! sockets.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Time};

use super::{Alarm, Socket, SocketEvent, take_turns};
use crate::clock::Clock;
use crate::liveness::{Blocked, Liveness, PeerState};
use crate::stream::{Connection, Upgraded};

/// The ends of a role on its own side, as the driver sees them.
///
/// An end gets the machine to see how much room it has. What is to be done with it goes through the
/// role's loop, as a [`Step`].
pub trait Ends<M: Machine> {
    /// What the ends do that the role's loop has to know of.
    type Act;

    /// Polls the ends before the socket. Ready with an act, and how many bytes it moved towards the
    /// peer.
    fn poll(&mut self, cx: &mut Context<'_>, machine: &mut M) -> Poll<(Self::Act, usize)>;

    /// Polls the ends once more when neither [`poll`](Self::poll) nor the socket was ready.
    fn poll_last(&mut self, _cx: &mut Context<'_>, _machine: &mut M) -> Poll<(Self::Act, usize)> {
        Poll::Pending
    }

    /// Whether the ends have room for what the peer sends. Without room the socket is not read.
    fn has_room(&self) -> bool;

    /// Called with the size of each read of the socket, before the machine gives its bytes.
    fn came(&mut self, _bytes: usize) {}

    /// The time of the next [`Step::Deadline`], if the loop wants one.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// How to tell, while the socket is not read, whether its peer has gone. `None` if that need
    /// not be found out.
    fn blocked(&self, _machine: &M) -> Option<Blocked> {
        None
    }
}

/// What the loop of a role has to handle.
#[derive(Debug)]
pub enum Step<E, A> {
    /// An event of the machine.
    Event(E),
    /// An act of the ends.
    Act(A),
    /// The deadline of the ends has come. They have to give a later one from here on, or none.
    Deadline,
    /// The peer has gone while it was not read. The machine knows that nothing more comes.
    Gone,
    /// The machine is done. Given once; what follows comes from the ends alone.
    Done,
}

/// A machine and its socket.
#[derive(Debug)]
pub struct Driver<S, M> {
    clock: Clock,
    socket: Socket<S>,
    machine: M,
    alarm: Alarm,
    liveness: Liveness,
    done: bool,
    /// How many bytes the last step moved, for [`take_turns`].
    moved: usize,
    received: u64,
    sent: u64,
}

enum Wake<A> {
    Socket(SocketEvent),
    Act(A, usize),
    Deadline,
}

impl<S: Connection, M: Machine> Driver<S, M> {
    /// Drives `machine` over `connection`, right after the 101.
    #[must_use]
    pub fn new(connection: Upgraded<S>, machine: M) -> Driver<S, M> {
        Driver::by(Clock::start(), connection, machine)
    }

    /// Drives a machine that has lived before the connection, by the clock that it knows.
    #[must_use]
    pub fn by(clock: Clock, connection: Upgraded<S>, machine: M) -> Driver<S, M> {
        Driver {
            clock,
            socket: Socket::new(connection.stream, connection.early),
            machine,
            alarm: Alarm::default(),
            liveness: Liveness::default(),
            done: false,
            moved: 0,
            received: 0,
            sent: 0,
        }
    }

    /// The machine's time now.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The machine, for one that lives on; the connection is dropped.
    #[must_use]
    pub fn into_machine(self) -> M {
        self.machine
    }

    /// Whether [`Step::Done`] was given.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// How many bytes were read from the socket.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes the ends moved towards the peer.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Goes on until there is something that the loop has to handle.
    ///
    /// Cancel safe: nothing is lost if the future is dropped.
    pub async fn next<N: Ends<M>>(&mut self, ends: &mut N) -> Step<M::Event, N::Act> {
        loop {
            take_turns(std::mem::take(&mut self.moved)).await;
            let now = self.clock.now();
            let mut deadline = None;
            if !self.done {
                self.socket.update_undelivered(self.machine.outbox());
                match self.machine.poll(now) {
                    Next::Event(event) => return Step::Event(event),
                    Next::Done => {
                        self.done = true;
                        return Step::Done;
                    }
                    Next::Idle(at) => deadline = at,
                }
                let is_read = ends.has_room() && self.machine.wants_read();
                let blocked = (!is_read).then(|| ends.blocked(&self.machine)).flatten();
                match self.liveness.check(now, &self.socket, blocked) {
                    PeerState::Present(next_check) => deadline = earlier(deadline, next_check),
                    PeerState::Gone => {
                        self.machine.receive_end(now);
                        return Step::Gone;
                    }
                }
            }
            let own = ends.deadline();
            if own.is_some_and(|at| now >= at) {
                return Step::Deadline;
            }
            self.alarm.set(&self.clock, earlier(deadline, own));
            match poll_fn(|cx| self.poll(cx, ends)).await {
                Wake::Socket(SocketEvent::Read(bytes)) => {
                    self.moved = bytes.len();
                    self.received += bytes.len() as u64;
                    ends.came(bytes.len());
                    self.machine.receive(self.clock.now(), bytes);
                }
                Wake::Socket(SocketEvent::Ended(_)) => self.machine.receive_end(self.clock.now()),
                // Given even if the ends have no deadline left by now, as they wait for it.
                Wake::Deadline if own.is_some_and(|at| self.clock.now() >= at) => {
                    return Step::Deadline;
                }
                Wake::Socket(SocketEvent::Wrote) | Wake::Deadline => {}
                Wake::Act(act, bytes) => {
                    self.moved = bytes;
                    self.sent += bytes as u64;
                    return Step::Act(act);
                }
            }
        }
    }

    fn poll<N: Ends<M>>(&mut self, cx: &mut Context<'_>, ends: &mut N) -> Poll<Wake<N::Act>> {
        if let Poll::Ready((act, bytes)) = ends.poll(cx, &mut self.machine) {
            return Poll::Ready(Wake::Act(act, bytes));
        }
        if !self.done {
            let is_read = ends.has_room() && self.machine.wants_read();
            self.machine.reading(self.clock.now(), is_read);
            if let Poll::Ready(event) = self.socket.poll(cx, self.machine.outbox(), is_read) {
                return Poll::Ready(Wake::Socket(event));
            }
        }
        if let Poll::Ready((act, bytes)) = ends.poll_last(cx, &mut self.machine) {
            return Poll::Ready(Wake::Act(act, bytes));
        }
        self.alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// Writes what waits, as far as the socket takes it at once. For a loop that ends.
    pub async fn flush_now(&mut self) {
        poll_fn(|cx| {
            let _ = self.socket.poll(cx, self.machine.outbox(), false);
            Poll::Ready(())
        })
        .await;
    }

    /// Writes everything that waits, and the end of our direction if that was said; nothing is
    /// read. Returns early if the connection ends.
    ///
    /// Cancel safe: what was not written waits on.
    pub async fn flush(&mut self) {
        poll_fn(|cx| {
            loop {
                let outbox = self.machine.outbox();
                let is_last = outbox.is_empty();
                match self.socket.poll(cx, outbox, false) {
                    Poll::Pending if is_last => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(SocketEvent::Ended(_)) => return Poll::Ready(()),
                    Poll::Ready(SocketEvent::Wrote | SocketEvent::Read(_)) => {}
                }
            }
        })
        .await;
    }

    /// Writes what waits and reads on, without the role's ends, until `is_done` says so of the
    /// machine or the connection has ended. Events are passed over. Returns what `is_done` says.
    ///
    /// Cancel safe: what was not written waits on.
    pub async fn settle(&mut self, mut is_done: impl FnMut(&M) -> bool) -> bool {
        loop {
            while let Next::Event(_) = self.machine.poll(self.clock.now()) {}
            if is_done(&self.machine) {
                return true;
            }
            match poll_fn(|cx| self.socket.poll(cx, self.machine.outbox(), true)).await {
                SocketEvent::Read(bytes) => self.machine.receive(self.clock.now(), bytes),
                SocketEvent::Wrote => {}
                SocketEvent::Ended(_) => {
                    self.machine.receive_end(self.clock.now());
                    while let Next::Event(_) = self.machine.poll(self.clock.now()) {}
                    return is_done(&self.machine);
                }
            }
        }
    }
}
