//! One remote command, with the same events and commands whatever carries it.

pub(crate) mod base64_pieces;
mod channel;
pub mod over_spdy;
pub mod over_websocket;
pub mod protocol;
mod resize;
mod status;

use alloc::string::String;
use core::fmt;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

pub use channel::{Channel, Size, Wants};
pub use over_spdy::OverSpdy;
pub use over_websocket::OverWebSocket;
pub use protocol::Protocol;
pub use resize::{SIZES_KEPT, Sizes};
pub use status::{BadStatus, Outcome, Status};

use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::time::Time;

/// The beginning of a loss's reason on the error channel. In versions without JSON nothing else
/// tells it from a command's failure.
const LOST: &str = "session lost: ";

/// Which end of the session this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that asked for the command: it sends stdin and sizes, and gets output and the
    /// Status.
    Client,
    /// The end that runs the command, or passes it on.
    Server,
}

/// What a session tells its owner. After [`Status`](Self::Status) or [`Lost`](Self::Lost) no event
/// follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All channels are open: over WebSocket from the beginning, over SPDY once every stream was
    /// opened (at a server) or answered (at a client). A server starts its process now.
    Ready,
    /// Bytes of stdin at a server; of stdout or stderr at a client. Never empty.
    Data(Channel, Bytes),
    /// No more bytes come on this channel.
    Eof(Channel),
    /// At a server: the client's terminal has this size.
    Resize(Size),
    /// At a client: how the command ended. It comes after all output.
    Status(Status),
    /// The session ended without a Status; at a server because the client has gone.
    Lost(Loss),
}

/// Why a session ended with its outcome unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What kind of end it was.
    pub cause: Cause,
    /// What the peer or the protocol said of it; may be empty. A peer's text is bounded and not
    /// sanitized.
    pub detail: String,
}

/// The kinds of ends without an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The connection ended without the protocol's close.
    Cut,
    /// The peer closed in good order, but gave no Status.
    NoStatus,
    /// The peer closed and gave a reason.
    Closed,
    /// A Status came that cannot be understood.
    BadStatus,
    /// The peer did not answer a ping.
    Silent,
    /// The peer broke the protocol.
    Fault,
    /// The peer did not open or answer the session's streams in time.
    Streams,
}

impl Loss {
    /// A loss of this kind, with what is known about it.
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

/// One end of a remote command, over one upgraded connection.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Session {
    /// Channels in WebSocket messages.
    WebSocket(OverWebSocket),
    /// Channels as SPDY streams.
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
    /// A session in the negotiated `protocol`, right after the 101. `seed` makes the masks of a
    /// WebSocket client and must come from a cryptographic source.
    #[must_use]
    pub fn new(side: Side, protocol: &'static Protocol, wants: Wants, seed: [u8; 32]) -> Session {
        match protocol.carrier {
            protocol::Carrier::WebSocket => {
                Session::WebSocket(OverWebSocket::new(side, protocol, wants, seed))
            }
            protocol::Carrier::Spdy => Session::Spdy(OverSpdy::new(side, protocol, wants)),
        }
    }

    /// The negotiated protocol.
    #[must_use]
    pub fn protocol(&self) -> &'static Protocol {
        each!(self, inner => inner.protocol())
    }

    /// At a server: pings a client that has been quiet for so long, so that nothing between the two
    /// closes the connection. Without this a server never pings.
    pub fn keep_alive(&mut self, every: Duration) {
        each!(self, inner => inner.keep_alive(every));
    }

    /// At a client: opens the channels. The command starts once they are open, so the owner must be
    /// ready for its output.
    pub fn begin(&mut self, now: Time) {
        each!(self, inner => inner.begin(now));
    }

    /// Sends bytes: stdin from a client, stdout or stderr from a server. Bytes for a channel that
    /// was not asked for or is finished are dropped, and no others, so the owner has to heed the
    /// length of the outbox.
    pub fn send(&mut self, channel: Channel, bytes: Bytes) {
        each!(self, inner => inner.send(channel, bytes));
    }

    /// Ends a channel of ours. Where the protocol cannot say so, nothing is sent: see
    /// [`Protocol::half_closes`].
    pub fn finish(&mut self, channel: Channel) {
        each!(self, inner => inner.finish(channel));
    }

    /// At a client: sends the size that the terminal has now.
    pub fn resize(&mut self, size: Size) {
        each!(self, inner => inner.resize(size));
    }

    /// At a server: sends how the command ended, after all output, and closes in order.
    pub fn status(&mut self, now: Time, status: &Status) {
        each!(self, inner => inner.status(now, status));
    }

    /// At a server: ends a session whose outcome is not known, in a way that no client can take for
    /// success. The client is told `why` where the carrier can.
    pub fn lose(&mut self, now: Time, why: &str) {
        each!(self, inner => inner.lose(now, why));
    }

    /// At a client: abandons the session, for the server to end its process.
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
