//! The contracts between a protocol, as a machine, and its driver.

use core::task::{Context, Poll};
use core::time::Duration;

use bytes::BytesMut;

use crate::outbox::Outbox;
use crate::time::Time;

/// What a machine returns when it is polled.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<E> {
    /// Something happened. Poll again.
    Event(E),
    /// Nothing happens before the next input, or before this deadline if there is one. Poll again
    /// then.
    Idle(Option<Time>),
    /// The session is over, and everything that had to be was written and read. Drop the socket.
    Done,
}

/// A protocol as a value; see the [four rules](crate#the-four-rules-of-a-machine).
pub trait Machine {
    /// What the machine tells its owner.
    type Event;

    /// Takes the next bytes of the peer. They are parsed by [`poll`](Self::poll).
    fn receive(&mut self, now: Time, input: BytesMut);

    /// Records that the peer sends nothing more: its direction ended, or the connection broke. May
    /// be called again.
    fn receive_end(&mut self, now: Time);

    /// Returns the next event. After every input and every deadline, poll until the machine is idle
    /// or done.
    fn poll(&mut self, now: Time) -> Next<Self::Event>;

    /// The bytes that wait to be written, in order.
    fn outbox(&mut self) -> &mut Outbox;

    /// Whether the driver should read the socket now. False is backpressure: the peer feels it as a
    /// full TCP window.
    fn wants_read(&self) -> bool;

    /// Records that the driver stopped reading the socket, or reads again: while it does not read,
    /// no peer counts as silent. A machine that judges no silence need not implement this.
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

/// A machine between two sockets. Methods that [`Machine`] has as well mean the same, for one of
/// the sockets.
pub trait Intermediary {
    /// How the machine ended; given once.
    type Ending;

    /// Takes bytes from one of the sockets.
    fn receive(&mut self, now: Time, leg: Leg, input: BytesMut);

    /// Records that a socket gives no more bytes. `broken` says that the connection failed rather
    /// than that its peer ended its direction.
    fn receive_end(&mut self, now: Time, leg: Leg, broken: bool);

    /// Moves what can be moved. Returns the ending once, then is idle until both sides have what
    /// waits for them.
    fn poll(&mut self, now: Time) -> Next<Self::Ending>;

    /// The bytes that wait to be written to a socket.
    fn outbox(&mut self, leg: Leg) -> &mut Outbox;

    /// Whether to read a socket now: only while the other one takes what comes from this one.
    fn wants_read(&mut self, leg: Leg) -> bool;

    /// Ready while whoever looks at what passes has room for more. While pending, neither socket is
    /// read; the task is woken once there is room.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Records whether a socket is being read.
    fn reading(&mut self, _now: Time, _leg: Leg, _reading: bool) {}

    /// Returns when something passed last that is none of the carriers' own, such as a ping; `None`
    /// where that cannot be told.
    fn last_used(&self) -> Option<Time> {
        None
    }

    /// Whether this leg has nothing left to do: its socket can be dropped while the other goes on.
    fn is_done(&self, _leg: Leg) -> bool {
        false
    }

    /// Whether the peer of this leg got less than everything and cannot tell so from what it got.
    fn is_cut(&self, _leg: Leg) -> bool {
        false
    }

    /// How long a client that has ended its direction, while it is not read, still counts as there
    /// though nothing of what it sent is taken. Zero where that end can only mean that it has gone.
    fn client_grace(&self) -> Duration;

    /// Records that the client has gone; what it sent last will not be read.
    fn client_gone(&mut self, now: Time);

    /// Ends both sides from here, for example because the gateway shuts down.
    fn abort(&mut self, now: Time, why: &str);
}
