//! One port-forward, whatever carries it: many forwarded connections, each to a port of a pod.

pub mod over_spdy;
pub mod over_websocket;
mod window;

use alloc::string::String;

use bytes::{Bytes, BytesMut};

pub use over_spdy::OverSpdy;
pub use over_websocket::OverWebSocket;

use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Loss, Side};
use crate::time::Time;

/// The number of one connection of a forward. No number is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

impl Id {
    /// Returns the number, which is 0 for the first connection.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What a forward tells its owner. After [`Lost`](Self::Lost) no event follows, and every
/// connection that is left has ended without an end of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// At a server: the client wants a connection to this port.
    Requested(Id, u16),
    /// At a client: the server took the connection. Bytes may flow.
    Connected(Id),
    /// Bytes of the peer; never empty.
    Data(Id, Bytes),
    /// The peer's direction ended in good order.
    Eof(Id),
    /// The peer reset the connection, in both directions. It is gone.
    Reset(Id),
    /// At a client: the connection failed, for this reason. The text is the server's and not
    /// sanitized. The connection is gone.
    Failed(Id, String),
    /// More may be sent on this connection than before.
    Room(Id),
    /// The forward has ended without having been left.
    Lost(Loss),
}

/// One end of a port-forward, over one upgraded connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Forward {
    /// Connections as pairs of SPDY streams, bare or in a tunnel.
    Spdy(OverSpdy),
    /// Connections in numbered WebSocket channels; servers only.
    WebSocket(OverWebSocket),
}

macro_rules! each {
    ($forward:expr, $inner:ident => $body:expr) => {
        match $forward {
            Forward::Spdy($inner) => $body,
            Forward::WebSocket($inner) => $body,
        }
    };
}

impl Forward {
    /// At a client: asks for a connection to `port`, which [`Event::Connected`] or
    /// [`Event::Failed`] answers. Returns `None` once the forward is over or has used all numbers.
    pub fn connect(&mut self, now: Time, port: u16) -> Option<Id> {
        match self {
            Forward::Spdy(spdy) => spdy.connect(now, port),
            Forward::WebSocket(_) => None,
        }
    }

    /// How many bytes the peer takes on a connection now. [`Event::Room`] says when it takes more.
    #[must_use]
    pub fn room(&self, id: Id) -> usize {
        each!(self, inner => inner.room(id))
    }

    /// Sends bytes, unless the connection is finished or gone. Nothing else is dropped, so the
    /// owner has to heed [`room`](Self::room) and [`unsent`](Self::unsent).
    pub fn send(&mut self, id: Id, bytes: Bytes) {
        each!(self, inner => inner.send(id, bytes));
    }

    /// Ends our direction of a connection. Once the peer has ended the other one, it is gone.
    pub fn finish(&mut self, now: Time, id: Id) {
        each!(self, inner => inner.finish(now, id));
    }

    /// Resets a connection, in both directions: what was sent may be incomplete.
    pub fn reset(&mut self, now: Time, id: Id) {
        each!(self, inner => inner.reset(now, id));
    }

    /// At a server: ends a connection that could not be made, or that failed in a way the user has
    /// to know of. kubectl then ends the whole forward.
    pub fn fail(&mut self, now: Time, id: Id, why: &str) {
        each!(self, inner => inner.fail(now, id, why));
    }

    /// At a server: refuses a connection for which there is no room, if possible in a way that does
    /// not make kubectl end the whole forward.
    pub fn refuse(&mut self, now: Time, id: Id, why: &str) {
        match self {
            Forward::Spdy(spdy) => spdy.refuse(now, id, why),
            Forward::WebSocket(channels) => channels.fail(now, id, why),
        }
    }

    /// Whether a peer that ends its direction of the socket has gone, so that nothing it sent
    /// before matters any more. That is so of a client over SPDY only: a server may end its
    /// direction behind data, and so does a client with numbered channels.
    #[must_use]
    pub fn is_over_with_its_direction(&self) -> bool {
        match self {
            Forward::Spdy(spdy) => spdy.side() == Side::Server,
            Forward::WebSocket(_) => false,
        }
    }

    /// Records that a connection's local end took `bytes` of what came: the peer may send as many
    /// more.
    pub fn taken(&mut self, id: Id, bytes: usize) {
        if let Forward::Spdy(spdy) = self {
            spdy.taken(id, bytes);
        }
    }

    /// How many bytes wait for the socket.
    #[must_use]
    pub fn unsent(&self) -> usize {
        each!(self, inner => inner.unsent())
    }

    /// How many forwarded connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        each!(self, inner => inner.connections())
    }

    /// Ends the forward from this end; no event follows. The peer is told `why` where the carrier
    /// can.
    pub fn leave(&mut self, now: Time, why: &str) {
        each!(self, inner => inner.leave(now, why));
    }
}

impl Machine for Forward {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        each!(self, inner => inner.receive(now, input));
    }

    fn receive_end(&mut self, now: Time) {
        each!(self, inner => inner.receive_end(now));
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        each!(self, inner => inner.poll(now))
    }

    fn outbox(&mut self) -> &mut Outbox {
        each!(self, inner => inner.outbox())
    }

    fn wants_read(&self) -> bool {
        each!(self, inner => inner.wants_read())
    }

    fn reading(&mut self, now: Time, reading: bool) {
        each!(self, inner => inner.reading(now, reading));
    }
}
