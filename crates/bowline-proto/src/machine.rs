//! What every protocol looks like from outside: the contract between a machine and its driver.
//! Above: `bowline-io::drive`, the relay. Below: [`Outbox`], [`Time`].

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
}
