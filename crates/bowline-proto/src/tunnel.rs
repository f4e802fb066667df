//! A byte stream, bare or in WebSocket messages: what a port-forward's SPDY travels in.
//!
//! The boundaries of messages mean nothing (docs/protocols/port-forward.md, 2.11): Go's peers send
//! each field of a frame in a message of its own, some of them empty. Ours carry as much as there
//! is.

use alloc::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::limits::MESSAGE_BYTES;
use crate::outbox::Outbox;
use crate::websocket::{
    Closed, Config, Connection, Continuation, Event as Frame, Fault, Kind, Role,
};

/// How many bytes wait in messages before no more are put into some: an urgent frame can only
/// overtake bytes that are in no message yet.
const CARRIED_BYTES: usize = 256 * 1024;
/// The same where nothing is urgent: what one write takes.
const CARRIED_IN_ORDER_BYTES: usize = 2 * CARRIED_BYTES;
/// RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;
const INTERNAL_ERROR: u16 = 1011;

/// A byte stream in both directions: the connection's own, or one in a tunnel.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one lives as long as its connection; a box would only add a step to every byte"
)]
pub enum Wire {
    /// The bytes are the connection's own.
    Plain {
        /// Bytes that came and were not given yet.
        inbox: VecDeque<Bytes>,
        /// No more bytes come.
        ended: bool,
        /// [`Incoming::Closed`] was given.
        closed: bool,
    },
    /// The bytes are in the binary messages of a WebSocket.
    Tunnel {
        /// The messages.
        websocket: Connection,
        /// How many bytes wait in them at most before no more are put into some.
        carried_bytes: usize,
    },
}

/// What the peer sent, from [`Wire::poll`].
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The next bytes; never empty.
    Bytes(Bytes),
    /// No more bytes come. Given once.
    Closed(Closed),
}

impl Wire {
    /// A bare connection.
    #[must_use]
    pub fn plain() -> Wire {
        Wire::Plain { inbox: VecDeque::new(), ended: false, closed: false }
    }

    /// A tunnel. `seed` makes the masks of a client and has to be random, see [`Connection::new`].
    #[must_use]
    pub fn tunnel(role: Role, seed: [u8; 32]) -> Wire {
        Wire::carrying(role, seed, CARRIED_BYTES)
    }

    /// A tunnel of a stream in which all goes in its order, so that larger writes hold up nothing.
    #[must_use]
    pub fn in_order(role: Role, seed: [u8; 32]) -> Wire {
        Wire::carrying(role, seed, CARRIED_IN_ORDER_BYTES)
    }

    fn carrying(role: Role, seed: [u8; 32], carried_bytes: usize) -> Wire {
        let config = Config { role, continuation: Continuation::Join };
        Wire::Tunnel { websocket: Connection::new(config, seed), carried_bytes }
    }

    /// Takes bytes that the socket gave.
    pub fn receive(&mut self, input: BytesMut) {
        match self {
            Wire::Plain { ended: false, inbox, .. } => inbox.push_back(input.freeze()),
            Wire::Plain { .. } => {}
            Wire::Tunnel { websocket, .. } => websocket.receive(input),
        }
    }

    /// Records that the socket gives no more bytes.
    pub fn receive_end(&mut self) {
        match self {
            Wire::Plain { ended, .. } => *ended = true,
            Wire::Tunnel { websocket, .. } => websocket.receive_end(),
        }
    }

    /// Returns what came next, if something did.
    pub fn poll(&mut self) -> Option<Incoming> {
        match self {
            Wire::Plain { inbox, ended, closed } => {
                if let Some(bytes) = inbox.pop_front() {
                    return Some(Incoming::Bytes(bytes));
                }
                let ends = *ended && !*closed;
                *closed |= ends;
                ends.then_some(Incoming::Closed(Closed::Cut))
            }
            Wire::Tunnel { websocket, .. } => loop {
                match websocket.poll()? {
                    Frame::Chunk(chunk) if chunk.kind == Kind::Text => {
                        return Some(Incoming::Closed(websocket.fail(Fault::TextInTunnel)));
                    }
                    Frame::Chunk(chunk) if chunk.payload.is_empty() => {}
                    Frame::Chunk(chunk) => return Some(Incoming::Bytes(chunk.payload)),
                    Frame::Pong(_) => {}
                    Frame::Closed(closed) => return Some(Incoming::Closed(closed)),
                }
            },
        }
    }

    /// Returns what waits for the socket, where `stream` holds our bytes of the byte stream. Once
    /// `stream` is finished and empty, the tunnel is closed.
    pub fn outbox<'a>(&'a mut self, stream: &'a mut Outbox) -> &'a mut Outbox {
        let Wire::Tunnel { websocket, carried_bytes } = self else { return stream };
        while !stream.is_empty() && websocket.unsent() < *carried_bytes && !websocket.is_closed() {
            websocket.message_in_pieces(stream.take(MESSAGE_BYTES));
        }
        if websocket.is_closed() {
            stream.discard();
        } else if stream.is_empty() && stream.is_finishing() {
            websocket.close(NORMAL, "");
        }
        websocket.outbox()
    }

    /// How many bytes wait for the socket beside those of the stream's own outbox.
    #[must_use]
    pub fn unsent(&self) -> usize {
        match self {
            Wire::Plain { .. } => 0,
            Wire::Tunnel { websocket, .. } => websocket.unsent(),
        }
    }

    /// Whether the peer's host is still to get something of `stream`, or of what carries it.
    #[must_use]
    pub fn is_undelivered(&self, stream: &Outbox) -> bool {
        let carried = match self {
            Wire::Plain { .. } => false,
            Wire::Tunnel { websocket, .. } => websocket.is_undelivered(),
        };
        carried || stream.is_undelivered()
    }

    /// Ends the stream after what waits in `stream`, with `reason` where it is in a tunnel.
    pub fn fail(&mut self, stream: &mut Outbox, reason: &str) {
        if let Wire::Tunnel { websocket, .. } = self
            && !websocket.is_closed()
        {
            while !stream.is_empty() {
                websocket.message_in_pieces(stream.take(MESSAGE_BYTES));
            }
            websocket.close(INTERNAL_ERROR, reason);
        }
        stream.finish();
    }
}
