//! One port-forward, whatever carries it: many connections, each to a port of a pod.

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

/// One connection of a forward. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

impl Id {
    /// The number: 0 for the first.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What a forward tells its owner. After `Lost` no event follows, and every connection that is left
/// has ended without its peer's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// At a server: the client wants a connection to this port.
    Asked(Id, u16),
    /// At a client: the server took the connection. Bytes may flow.
    Connected(Id),
    /// Bytes; never empty.
    Data(Id, Bytes),
    /// The peer's direction ended in good order.
    Eof(Id),
    /// The peer gave the connection up, in both directions. It is gone.
    Reset(Id),
    /// At a client: the connection failed, with the server's words, harmless only once they are
    /// made so. It is gone.
    Failed(Id, String),
    /// More may be sent on this connection than before.
    Room(Id),
    /// The forward is over.
    Lost(Loss),
}

/// A forward over one upgraded connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Forward {
    /// In pairs of SPDY streams, bare or in a tunnel.
    Spdy(OverSpdy),
    /// In numbered WebSocket channels; servers only.
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
    /// Client: asks for a connection to `port`. `Connected` or `Failed` answers. `None` once no
    /// further connection can be had: the forward is over, or out of numbers.
    pub fn connect(&mut self, now: Time, port: u16) -> Option<Id> {
        match self {
            Forward::Spdy(spdy) => spdy.connect(now, port),
            Forward::WebSocket(_) => None,
        }
    }

    /// How many bytes may be sent on a connection now, as far as its peer is concerned. More follow
    /// after `Room`.
    #[must_use]
    pub fn room(&self, id: Id) -> usize {
        each!(self, inner => inner.room(id))
    }

    /// Sends bytes. Ignored on a connection that is finished or gone. Keep an eye on
    /// [`room`](Self::room) and [`unsent`](Self::unsent): nothing is dropped.
    pub fn send(&mut self, id: Id, bytes: Bytes) {
        each!(self, inner => inner.send(id, bytes));
    }

    /// No more bytes follow on this connection. Once the peer has finished as well, it is gone.
    pub fn finish(&mut self, now: Time, id: Id) {
        each!(self, inner => inner.finish(now, id));
    }

    /// Gives a connection up, in both directions: what was sent may be incomplete.
    pub fn reset(&mut self, now: Time, id: Id) {
        each!(self, inner => inner.reset(now, id));
    }

    /// Server: the connection could not be had, or failed in a way that the user has to know of.
    /// kubectl ends the whole forward for it.
    pub fn fail(&mut self, now: Time, id: Id, why: &str) {
        each!(self, inner => inner.fail(now, id, why));
    }

    /// Server: there is no room for another connection. Where the client can be told so without
    /// ending its whole forward for it, it is.
    pub fn refuse(&mut self, now: Time, id: Id, why: &str) {
        match self {
            Forward::Spdy(spdy) => spdy.refuse(now, id, why),
            Forward::WebSocket(channels) => channels.fail(now, id, why),
        }
    }

    /// Whether a peer that ends the connection's direction has gone, with nothing before that
    /// matters any more. A server may have ended it behind its last words, and so does a client in
    /// numbered channels.
    #[must_use]
    pub fn is_over_with_its_direction(&self) -> bool {
        match self {
            Forward::Spdy(spdy) => spdy.side() == Side::Server,
            Forward::WebSocket(_) => false,
        }
    }

    /// So many bytes that came for a connection were taken by its local end: the peer may send as
    /// many more.
    pub fn taken(&mut self, id: Id, bytes: usize) {
        if let Forward::Spdy(spdy) = self {
            spdy.taken(id, bytes);
        }
    }

    /// Bytes that wait for the socket.
    #[must_use]
    pub fn unsent(&self) -> usize {
        each!(self, inner => inner.unsent())
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        each!(self, inner => inner.connections())
    }

    /// Ends the forward from here; no event follows. `why` is told where the carrier can.
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
