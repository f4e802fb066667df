//! A machine with one socket, beside the ends of its role: a process, a terminal, local sockets.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Time};

use super::{Alarm, Socket, SocketEvent, take_turns};
use crate::clock::Clock;
use crate::liveness::{Blocked, Liveness, PeerState};
use crate::stream::{Connection, Upgraded};

/// What a machine's role has at its own side, as the driver sees it.
///
/// The machine is at hand wherever an end has to know what there is room for; what it is told goes
/// through the loop, as a [`Step`].
pub trait Ends<M: Machine> {
    /// What comes of them.
    type Act;

    /// What is done before the socket has its turn. Ready with an act and the bytes that it moved
    /// towards the peer.
    fn poll(&mut self, cx: &mut Context<'_>, machine: &mut M) -> Poll<(Self::Act, usize)>;

    /// What is done when neither [`poll`](Self::poll) nor the socket has anything.
    fn poll_last(&mut self, _cx: &mut Context<'_>, _machine: &mut M) -> Poll<(Self::Act, usize)> {
        Poll::Pending
    }

    /// Whether they take what the peer says. Without room the socket is not read.
    fn has_room(&self) -> bool;

    /// So many bytes were read from the socket at once, before the machine gives them out.
    fn came(&mut self, _bytes: usize) {}

    /// A moment at which the loop wants its [`Step::Deadline`].
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// While the socket is not read: how a peer that has gone is told from one that waits. `None`
    /// where nobody waits for that to be found out.
    fn blocked(&self, _machine: &M) -> Option<Blocked> {
        None
    }
}

/// What the loop of a role has to know of.
#[derive(Debug)]
pub enum Step<E, A> {
    /// The machine says this.
    Event(E),
    /// The ends have done this.
    Act(A),
    /// The deadline of the ends has come. It has to be another one from here on.
    Deadline,
    /// The peer has gone while it was not read; the machine was told that nothing more comes.
    Gone,
    /// The machine is done. Told once; what follows is of the ends alone.
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
    /// Moved at once, with others yet to have their turn.
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
        Driver {
            clock: Clock::start(),
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

    /// The machine's time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Whether [`Step::Done`] was told.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes that were read from the socket.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that the ends gave for the peer.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Goes on until the loop has to know of something. Nothing is lost if it is dropped before.
    pub async fn next<N: Ends<M>>(&mut self, ends: &mut N) -> Step<M::Event, N::Act> {
        loop {
            take_turns(std::mem::take(&mut self.moved)).await;
            let now = self.clock.now();
            let mut deadline = None;
            if !self.done {
                self.socket.look_after(self.machine.outbox());
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
                match self.liveness.look(now, &self.socket, blocked) {
                    PeerState::Present(look) => deadline = earlier(deadline, look),
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
                // Told although the ends may have none left by now: they wait for it.
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
            if let Poll::Ready(moment) = self.socket.poll(cx, self.machine.outbox(), is_read) {
                return Poll::Ready(Wake::Socket(moment));
            }
        }
        if let Poll::Ready((act, bytes)) = ends.poll_last(cx, &mut self.machine) {
            return Poll::Ready(Wake::Act(act, bytes));
        }
        self.alarm.poll(cx).map(|()| Wake::Deadline)
    }

    /// Writes what waits, as far as that goes without waiting: the last words of a loop that ends.
    pub async fn flush_now(&mut self) {
        poll_fn(|cx| {
            let _ = self.socket.poll(cx, self.machine.outbox(), false);
            Poll::Ready(())
        })
        .await;
    }
}
