//! One remote command, whatever carries it: the same events and the same commands on both sides.

pub(crate) mod base64_pieces;
mod channel;
pub mod over_spdy;
pub mod over_websocket;
pub mod protocol;
mod resize;
mod status;

use alloc::string::String;
use core::fmt;

use bytes::{Bytes, BytesMut};

pub use channel::{Channel, Size, Wants};
pub use over_spdy::OverSpdy;
pub use over_websocket::OverWebSocket;
pub use protocol::Protocol;
pub use resize::{SIZES, Sizes};
pub use status::{BadStatus, Outcome, Status};

use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::time::Time;

/// How the reason of a loss begins, on the error channel. In versions without JSON nothing else
/// tells it from a command's failure.
const LOST: &str = "session lost: ";

/// Which end of the session this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one who asked for the command: sends stdin and sizes, gets output and the Status.
    Client,
    /// The one who runs it, or stands in for that one.
    Server,
}

/// What a session tells its owner. After `Status` or `Lost` no event follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All channels are there. Over WebSocket at once, over SPDY once every stream was opened (at a
    /// server) or answered (at a client). A server starts its process now.
    Ready,
    /// Bytes of stdin at a server; of stdout or stderr at a client. Never empty.
    Data(Channel, Bytes),
    /// No more bytes come on this channel.
    Eof(Channel),
    /// At a server: the client's terminal has this size.
    Resize(Size),
    /// At a client: how the command ended. All output came before.
    Status(Status),
    /// The session ended without a Status. At a server: the client is gone.
    Lost(Loss),
}

/// Why a session ended with its outcome unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What kind of end it was.
    pub cause: Cause,
    /// What the peer or the protocol said, bounded and in one line; may be empty.
    pub detail: String,
}

/// The kinds of ends without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The connection ended without a goodbye.
    Cut,
    /// The peer closed in good order, but gave no Status.
    NoStatus,
    /// The peer closed and gave a reason.
    Closed,
    /// A Status came that cannot be understood.
    BadStatus,
    /// The peer was asked and stayed silent.
    Silent,
    /// The peer broke the protocol.
    Fault,
    /// The peer did not open or answer the session's streams in time.
    Streams,
}

impl Loss {
    /// A loss with what is known about it.
    pub fn new(cause: Cause, detail: impl Into<String>) -> Loss {
        Loss { cause, detail: detail.into() }
    }
}

impl core::error::Error for Loss {}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.cause {
            Cause::Cut => "the connection was cut",
            Cause::NoStatus => "the connection was closed without a status",
            Cause::Closed => "the connection was closed by the other side",
            Cause::BadStatus => "the status cannot be understood",
            Cause::Silent => "the other side fell silent",
            Cause::Fault => "the other side broke the protocol",
            Cause::Streams => "the session's streams were not set up in time",
        })?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// One session over one upgraded connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Session {
    /// In WebSocket messages.
    WebSocket(OverWebSocket),
    /// In SPDY streams.
    Spdy(OverSpdy),
}

macro_rules! each {
    ($session:expr, $inner:ident => $body:expr) => {
        match $session {
            Session::WebSocket($inner) => $body,
            Session::Spdy($inner) => $body,
        }
    };
}

impl Session {
    /// The session that a negotiated `protocol` gives, right after the 101. `seed` feeds the masks
    /// of a WebSocket client and must come from a cryptographic source.
    #[must_use]
    pub fn new(side: Side, protocol: &'static Protocol, wants: Wants, seed: [u8; 32]) -> Session {
        match protocol.carrier {
            protocol::Carrier::WebSocket => {
                Session::WebSocket(OverWebSocket::new(side, protocol, wants, seed))
            }
            protocol::Carrier::Spdy => Session::Spdy(OverSpdy::new(side, protocol, wants)),
        }
    }

    /// What is spoken.
    #[must_use]
    pub fn protocol(&self) -> &'static Protocol {
        each!(self, inner => inner.protocol())
    }

    /// Client: opens the channels. The command starts once they are there, so whoever passes its
    /// output on must be ready to.
    pub fn begin(&mut self, now: Time) {
        each!(self, inner => inner.begin(now));
    }

    /// Sends bytes: stdin from a client, stdout or stderr from a server. Ignored on a channel that
    /// was not wanted or is finished. Keep an eye on `outbox().len()`: nothing is dropped.
    pub fn send(&mut self, channel: Channel, bytes: Bytes) {
        each!(self, inner => inner.send(channel, bytes));
    }

    /// No more bytes follow on this channel. Where the carrier has no word for that, nothing is
    /// sent; see [`Protocol::half_closes`].
    pub fn finish(&mut self, channel: Channel) {
        each!(self, inner => inner.finish(channel));
    }

    /// Client: the terminal has this size now.
    pub fn resize(&mut self, size: Size) {
        each!(self, inner => inner.resize(size));
    }

    /// Server: all output was sent; this is how it ended. Then the session closes in order.
    pub fn status(&mut self, now: Time, status: &Status) {
        each!(self, inner => inner.status(now, status));
    }

    /// Server: the outcome is not known. Ends the session without a Status, so that no client can
    /// take it for success, and says why where the carrier can.
    pub fn lose(&mut self, now: Time, why: &str) {
        each!(self, inner => inner.lose(now, why));
    }

    /// Client: walks away. The server's process is to be ended.
    pub fn leave(&mut self, now: Time) {
        each!(self, inner => inner.leave(now));
    }
}

impl Machine for Session {
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
