//! Forwarded connections in numbered WebSocket channels, as clients other than kubectl have them:
//! one connection for each port of the request. There is a server's side only.
//!
//! The n-th port has channel 2n for its bytes and 2n + 1 for what went wrong
//! (docs/protocols/port-forward.md, 2.10). One direction cannot be ended except by a v5 client:
//! whoever has nothing more to send closes.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};

use super::{Event, Id};
use crate::limits;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::base64_pieces::Base64Pieces;
use crate::session::protocol::{Encoding, Protocol};
use crate::session::{Cause, Loss};
use crate::time::Time;
use crate::websocket::{Chunk, Closed, Config, Connection, Continuation, Event as Frame};
use crate::websocket::{Kind, Role};

/// The channel whose messages name another channel that ends (v5).
const SIGNAL: u8 = 255;
/// The most ports of one forward: two channels each, and one channel for the signal.
pub const PORTS: usize = 127;
/// Close codes (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const BAD_PAYLOAD: u16 = 1007;
const INTERNAL_ERROR: u16 = 1011;

/// The server's end of a forward in numbered channels.
#[derive(Debug)]
pub struct OverWebSocket {
    protocol: &'static Protocol,
    websocket: Connection,
    events: VecDeque<Event>,
    ports: Vec<Port>,
    destination: Destination,
    base64: Base64Pieces,
    state: State,
}

/// Which directions of one port's connection have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Port {
    peer_ended: bool,
    we_ended: bool,
}

/// Where the bytes of the current message belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Start,
    Data(Id),
    Signal,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// We have closed; the client has until this time to do so.
    Closing(Time),
    /// Both have closed; what waits has until this time to be written.
    Flushing(Time),
    Over,
}

impl OverWebSocket {
    /// The server's end of a forward to the first [`PORTS`] of these ports, right after the 101.
    #[must_use]
    pub fn new(protocol: &'static Protocol, ports: &[u16]) -> OverWebSocket {
        let config = Config { role: Role::Server, continuation: Continuation::Join };
        let mut forward = OverWebSocket {
            protocol,
            websocket: Connection::new(config, [0; 32]),
            events: VecDeque::new(),
            ports: Vec::new(),
            destination: Destination::Start,
            base64: Base64Pieces::default(),
            state: State::Open,
        };
        for (index, port) in (0u8..).zip(ports.iter().take(PORTS)) {
            // Every channel begins with its port, which clients take off
            // (docs/protocols/port-forward.md, 2.10).
            for channel in [2 * index, 2 * index + 1] {
                forward.message(channel, Bytes::copy_from_slice(&port.to_le_bytes()));
            }
            forward.ports.push(Port::default());
            forward.events.push_back(Event::Requested(Id(index.into()), *port));
        }
        forward
    }

    fn message(&mut self, channel: u8, payload: Bytes) {
        match self.protocol.encoding {
            Encoding::Binary => self.websocket.message(Kind::Binary, &[channel], payload),
            Encoding::Base64 => {
                let text = STANDARD.encode(&payload);
                self.websocket.message(Kind::Text, &[b'0'.wrapping_add(channel)], text.into());
            }
        }
    }

    fn port(&mut self, id: Id) -> Option<&mut Port> {
        self.ports.get_mut(id.0 as usize)
    }

    /// See [`Forward::room`](super::Forward::room).
    #[must_use]
    pub fn room(&self, id: Id) -> usize {
        let open = self.ports.get(id.0 as usize).is_some_and(|port| !port.we_ended);
        if open && self.state == State::Open { usize::MAX } else { 0 }
    }

    /// See [`Forward::send`](super::Forward::send).
    pub fn send(&mut self, id: Id, mut bytes: Bytes) {
        if self.room(id) == 0 {
            return;
        }
        let most = self.protocol.encoding.payload_bytes();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(most));
            self.message(2 * id.0 as u8, piece);
        }
    }

    /// See [`Forward::finish`](super::Forward::finish). The client only learns of it once all ports
    /// have finished.
    pub fn finish(&mut self, now: Time, id: Id) {
        if let Some(port) = self.port(id) {
            port.we_ended = true;
        }
        if self.state == State::Open && self.ports.iter().all(|port| port.we_ended) {
            self.websocket.close(NORMAL, "");
            self.state = State::Closing(now + limits::CLOSING_PATIENCE);
        }
    }

    /// See [`Forward::reset`](super::Forward::reset).
    pub fn reset(&mut self, now: Time, id: Id) {
        self.fail(now, id, "the connection was reset");
    }

    /// See [`Forward::fail`](super::Forward::fail).
    pub fn fail(&mut self, now: Time, id: Id, why: &str) {
        if self.room(id) == 0 {
            return;
        }
        self.message(2 * id.0 as u8 + 1, Bytes::copy_from_slice(why.as_bytes()));
        if let Some(port) = self.port(id) {
            port.peer_ended = true;
        }
        self.finish(now, id);
    }

    /// See [`Forward::unsent`](super::Forward::unsent).
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.websocket.unsent()
    }

    /// See [`Forward::connections`](super::Forward::connections).
    #[must_use]
    pub fn connections(&self) -> usize {
        self.ports.iter().filter(|port| !(port.we_ended && port.peer_ended)).count()
    }

    /// See [`Forward::leave`](super::Forward::leave).
    pub fn leave(&mut self, now: Time, why: &str) {
        self.events.clear();
        if self.state == State::Open {
            self.websocket.close(INTERNAL_ERROR, why);
            self.state = State::Closing(now + limits::CLOSING_PATIENCE);
        }
    }

    // ---- what came ----

    fn chunk(&mut self, now: Time, chunk: Chunk) {
        if matches!(self.state, State::Flushing(_) | State::Over) {
            return;
        }
        let Chunk { first, last, mut payload, .. } = chunk;
        if first {
            self.destination = Destination::Start;
            self.base64 = Base64Pieces::default();
        }
        if self.destination == Destination::Start && payload.has_remaining() {
            self.destination = self.destination_of(payload.get_u8());
        }
        match self.destination {
            Destination::Data(id) => self.bytes(now, id, payload, last),
            Destination::Signal if payload.has_remaining() => {
                let number = payload.get_u8();
                self.destination = Destination::Nothing;
                if number % 2 == 0 {
                    self.ended(Id((number / 2).into()));
                }
            }
            Destination::Start | Destination::Signal | Destination::Nothing => {}
        }
    }

    fn destination_of(&self, byte: u8) -> Destination {
        let number = match self.protocol.encoding {
            Encoding::Binary => byte,
            Encoding::Base64 => byte.wrapping_sub(b'0'),
        };
        if number == SIGNAL && self.protocol.half_closes {
            return Destination::Signal;
        }
        let id = Id((number / 2).into());
        // Nobody reads what a client says on an error channel, or on one that does not exist.
        let exists = self.ports.get(id.0 as usize).is_some_and(|port| !port.peer_ended);
        if number % 2 == 0 && exists { Destination::Data(id) } else { Destination::Nothing }
    }

    fn bytes(&mut self, now: Time, id: Id, payload: Bytes, last: bool) {
        let payload = match self.protocol.encoding {
            Encoding::Binary => payload,
            Encoding::Base64 => match self.base64.push(&payload, last) {
                Some(bytes) => bytes,
                None => {
                    self.websocket.close(BAD_PAYLOAD, "a message is not base64");
                    let loss = Loss::new(Cause::Fault, "a message is not base64");
                    self.events.push_back(Event::Lost(loss));
                    self.state = State::Flushing(now + limits::CLOSING_PATIENCE);
                    return;
                }
            },
        };
        if !payload.is_empty() {
            self.events.push_back(Event::Data(id, payload));
        }
    }

    fn ended(&mut self, id: Id) {
        if let Some(port) = self.port(id).filter(|port| !port.peer_ended) {
            port.peer_ended = true;
            self.events.push_back(Event::Eof(id));
        }
    }

    fn closed(&mut self, now: Time, closed: &Closed) {
        if matches!(self.state, State::Flushing(_) | State::Over) {
            return;
        }
        let was_open = self.state == State::Open;
        let orderly = matches!(closed, Closed::CloseFrame { code: None | Some(NORMAL | 1001), .. });
        if orderly {
            for index in (0u32..).take(self.ports.len()) {
                self.ended(Id(index));
            }
        }
        if was_open || !orderly {
            let loss = match closed {
                Closed::Cut => Loss::new(Cause::Cut, ""),
                Closed::Fault(fault) => Loss::new(Cause::Fault, fault.to_string()),
                Closed::CloseFrame { code: Some(code), .. } if !orderly => {
                    Loss::new(Cause::Closed, format!("code {code}"))
                }
                Closed::CloseFrame { .. } => Loss::new(Cause::Closed, ""),
            };
            self.events.push_back(Event::Lost(loss));
        }
        self.state = match closed {
            Closed::Cut => State::Over,
            _ => State::Flushing(now + limits::CLOSING_PATIENCE),
        };
    }

    fn tick(&mut self, now: Time) -> Option<Time> {
        match self.state {
            State::Open | State::Over => None,
            // A slow reader gets the rest, however long it takes.
            State::Closing(_) if self.websocket.is_undelivered() => {
                self.state = State::Closing(now + limits::CLOSING_PATIENCE);
                Some(now + limits::CLOSING_PATIENCE)
            }
            State::Closing(deadline) | State::Flushing(deadline) if now >= deadline => {
                self.state = State::Over;
                None
            }
            State::Flushing(_) if self.websocket.unsent() == 0 => {
                self.state = State::Over;
                None
            }
            State::Closing(deadline) | State::Flushing(deadline) => Some(deadline),
        }
    }
}

impl Machine for OverWebSocket {
    type Event = Event;

    fn receive(&mut self, _now: Time, input: BytesMut) {
        self.websocket.receive(input);
    }

    fn receive_end(&mut self, _now: Time) {
        self.websocket.receive_end();
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Next::Event(event);
            }
            match self.websocket.poll() {
                Some(Frame::Chunk(chunk)) => self.chunk(now, chunk),
                Some(Frame::Pong(_)) => {}
                Some(Frame::Closed(closed)) => self.closed(now, &closed),
                None => {
                    let deadline = self.tick(now);
                    if self.state == State::Over {
                        return Next::Done;
                    }
                    return Next::Idle(deadline);
                }
            }
        }
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.websocket.outbox()
    }

    fn wants_read(&self) -> bool {
        true
    }
}
