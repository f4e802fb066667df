//! What every protocol looks like from outside: the contracts between a machine and its driver.

use core::task::{Context, Poll};
use core::time::Duration;

use bytes::BytesMut;

use crate::outbox::Outbox;
use crate::time::Time;

/// What a machine has to say after an input.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<E> {
    /// Something happened. Poll again.
    Event(E),
    /// Nothing more until the next input, or until this moment where there is one. At that moment,
    /// poll again.
    Idle(Option<Time>),
    /// The session is over, everything was written and read that had to be. Drop the socket.
    Done,
}

/// A protocol as a value. See the crate's four rules.
pub trait Machine {
    /// What the machine tells its owner.
    type Event;

    /// Takes bytes that came from the peer, in order. They are parsed by [`poll`](Self::poll).
    fn receive(&mut self, now: Time, input: BytesMut);

    /// The peer sends nothing more: end of stream, or a broken connection. Also said when a write
    /// failed. Repeating it is harmless.
    fn receive_end(&mut self, now: Time);

    /// The next event. Drain it after every input and every deadline.
    fn poll(&mut self, now: Time) -> Next<Self::Event>;

    /// The bytes that wait to be written, in order.
    fn outbox(&mut self) -> &mut Outbox;

    /// Whether the driver should read the socket now. False is backpressure: the peer feels it as a
    /// full TCP window.
    fn wants_read(&self) -> bool;

    /// The owner stopped reading the socket, or reads again. A peer is not called silent for what
    /// nobody read; a machine that judges no silence need not know.
    fn reading(&mut self, _now: Time, _reading: bool) {}
}

/// One of the two sockets of an [`Intermediary`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// Faces the client.
    Near,
    /// Faces the node.
    Far,
}

/// A machine between two sockets. What each method means is said at [`Machine`].
pub trait Intermediary {
    /// How it ended; told once.
    type Ending;

    /// Takes bytes from one of the sockets.
    fn receive(&mut self, now: Time, leg: Leg, input: BytesMut);

    /// One of the sockets gives no more bytes; `broken` says that this was not its peer's word.
    fn receive_end(&mut self, now: Time, leg: Leg, broken: bool);

    /// Moves what can be moved. Gives the ending once, then idles until both sides have what waits
    /// for them.
    fn poll(&mut self, now: Time) -> Next<Self::Ending>;

    /// What waits to be written to a socket.
    fn outbox(&mut self, leg: Leg) -> &mut Outbox;

    /// Whether to read a socket now: only while the other one takes what comes from it.
    fn wants_read(&mut self, leg: Leg) -> bool;

    /// Whether whoever looks at what passes has room for more; else the sockets are not read, and
    /// the task is woken once it has.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Says whether a socket is being read.
    fn reading(&mut self, _now: Time, _leg: Leg, _reading: bool) {}

    /// Whether this leg has nothing left to do: its socket can be dropped while the other goes on.
    fn is_done(&self, _leg: Leg) -> bool {
        false
    }

    /// Whether the peer of this leg has got less than all, and would not know it by what it got.
    fn is_cut(&self, _leg: Leg) -> bool {
        false
    }

    /// For a client that has ended its direction while it was not read: how long nothing of what it
    /// said may be taken before it counts as gone. None where that end has only one meaning.
    fn client_grace(&self) -> Duration;

    /// The client has gone, and what it said last will not be read.
    fn client_gone(&mut self, now: Time);

    /// Ends both sides from here, for example because the gateway shuts down.
    fn abort(&mut self, now: Time, why: &str);
}
