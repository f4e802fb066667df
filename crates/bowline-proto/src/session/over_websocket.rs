//! A remote command over WebSocket: each message is a channel's number and bytes.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};

use super::base64_pieces::Base64Pieces;
use super::channel::{Channel, Size, Wants};
use super::protocol::{Encoding, Protocol};
use super::resize::{self, Sizes};
use super::status::Status;
use super::{Cause, Event, LOST, Loss, Side};
use crate::heartbeat::{Heartbeat, KeepAlive};
use crate::limits;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::time::{Time, earlier};
use crate::websocket::{Chunk, Closed, Config, Connection, Continuation, Kind, Role};

/// The channel whose messages name another channel that ends (v5).
const SIGNAL: u8 = 255;
/// Close codes (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
const BAD_PAYLOAD: u16 = 1007;
const VIOLATION: u16 = 1008;
const INTERNAL: u16 = 1011;
/// The longest reason that fits a Close frame behind its code.
const CLOSE_REASON_BYTES: usize = limits::WEBSOCKET_CONTROL_BYTES - 2;

/// One end of a remote command over WebSocket.
#[derive(Debug)]
pub struct OverWebSocket {
    side: Side,
    protocol: &'static Protocol,
    wants: Wants,
    websocket: Connection,
    events: VecDeque<Event>,
    destination: Destination,
    base64: Base64Pieces,
    sizes: Sizes,
    /// The bytes that came on the error channel.
    error: Vec<u8>,
    /// The client has ended stdin.
    stdin_ended: bool,
    heartbeat: Heartbeat,
    /// At a server.
    keep_alive: Option<KeepAlive>,
    /// How many pings were sent.
    pings: u32,
    input_ended: bool,
    state: State,
}

/// Where the bytes of the current message belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    /// The channel's number has yet to come.
    Start,
    Channel(Channel),
    /// The message ends the channel that its second byte names, if that has come.
    Signal(Option<u8>),
    /// The message is ignored.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// At a client: a whole Status came; the server has until this time to close.
    Outcome(Time),
    /// At a server: the client has closed, which in its protocol is the only way to end stdin. The
    /// process has until this time to end.
    ClosedClient(Time),
    /// We sent a Close; the peer has until this time to answer it.
    Closing(Time),
    /// Both sent a Close; what waits has until this time to be written.
    Flushing(Time),
    Over,
}

impl OverWebSocket {
    /// One end of a session, right after the 101.
    #[must_use]
    pub fn new(side: Side, protocol: &'static Protocol, wants: Wants, seed: [u8; 32]) -> Self {
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        let mut session = OverWebSocket {
            side,
            protocol,
            wants,
            websocket: Connection::new(Config { role, continuation: Continuation::Join }, seed),
            events: VecDeque::from([Event::Ready]),
            destination: Destination::Start,
            base64: Base64Pieces::default(),
            sizes: Sizes::default(),
            error: Vec::new(),
            stdin_ended: false,
            heartbeat: Heartbeat::new(Time::ZERO, limits::PING_EVERY, limits::SILENCE_PATIENCE),
            keep_alive: None,
            pings: 0,
            input_ended: false,
            state: State::Open,
        };
        if side == Side::Server {
            session.send_initial();
        }
        session
    }

    /// Sends an empty message on the first channel to the client, as Kubernetes' servers do:
    /// clients may wait for it.
    fn send_initial(&mut self) {
        let first = [Channel::Stdout, Channel::Stderr]
            .into_iter()
            .find(|&channel| self.wants.has(channel))
            .unwrap_or(Channel::Error);
        self.message(first, Bytes::new());
    }

    /// See [`Session::protocol`](super::Session::protocol).
    #[must_use]
    pub fn protocol(&self) -> &'static Protocol {
        self.protocol
    }

    /// See [`Session::keep_alive`](super::Session::keep_alive).
    pub fn keep_alive(&mut self, every: Duration) {
        self.keep_alive = Some(KeepAlive::new(every));
    }

    /// See [`Session::begin`](super::Session::begin). Over WebSocket the channels are open from the
    /// beginning.
    pub fn begin(&mut self, _now: Time) {}

    /// See [`Session::send`](super::Session::send).
    pub fn send(&mut self, channel: Channel, mut bytes: Bytes) {
        let ours = channel.is_from_client() == (self.side == Side::Client);
        let ended = channel == Channel::Stdin && self.stdin_ended;
        if !ours || ended || !self.wants.has(channel) || !self.is_sending() {
            return;
        }
        if channel == Channel::Stdin {
            self.heartbeat.sent_bulk();
        }
        while !bytes.is_empty() {
            let most = self.protocol.encoding.payload_bytes();
            let piece = bytes.split_to(bytes.len().min(most));
            self.message(channel, piece);
        }
    }

    /// See [`Session::finish`](super::Session::finish).
    pub fn finish(&mut self, channel: Channel) {
        let signals = self.side == Side::Client && self.protocol.half_closes;
        if channel == Channel::Stdin && self.wants.stdin && signals && !self.stdin_ended {
            self.stdin_ended = true;
            self.websocket.message(Kind::Binary, &[SIGNAL, channel.number()], Bytes::new());
        }
    }

    /// See [`Session::resize`](super::Session::resize).
    pub fn resize(&mut self, size: Size) {
        // Without a terminal nobody reads sizes, and a stock server would wedge (trap T9 in
        // docs/protocols/traps.md).
        if self.side == Side::Client && self.wants.tty && self.is_sending() {
            self.message(Channel::Resize, resize::encode(size));
        }
    }

    /// See [`Session::status`](super::Session::status).
    pub fn status(&mut self, now: Time, status: &Status) {
        if self.state != State::Open {
            self.over_if_client_closed();
            return;
        }
        if self.protocol.json_status {
            self.message(Channel::Error, status.json().clone());
        } else {
            let text = status.text();
            if !text.is_empty() {
                self.message(Channel::Error, text.into());
            }
        }
        self.send_close(now, NORMAL, "");
    }

    /// See [`Session::lose`](super::Session::lose). Without JSON, silence on the error channel is
    /// success, and some clients look at nothing else.
    pub fn lose(&mut self, now: Time, why: &str) {
        if self.state == State::Open {
            if !self.protocol.json_status {
                self.message(Channel::Error, format!("{LOST}{why}").into());
            }
            self.send_close(now, INTERNAL, why);
        } else {
            self.over_if_client_closed();
        }
    }

    /// See [`Session::leave`](super::Session::leave).
    pub fn leave(&mut self, now: Time) {
        if matches!(self.state, State::Open | State::Outcome(_)) {
            self.send_close(now, NORMAL, "");
        }
        self.events.clear();
    }

    /// Renews the deadline of a server that has sent its Status: output that still comes, or that
    /// we do not read, must not be cut off.
    fn extend_outcome(&mut self, now: Time) {
        if let State::Outcome(deadline) = &mut self.state {
            *deadline = now + limits::CLOSING_PATIENCE;
        }
    }

    fn is_sending(&self) -> bool {
        matches!(self.state, State::Open)
    }

    fn over_if_client_closed(&mut self) {
        if matches!(self.state, State::ClosedClient(_)) {
            self.state = State::Over;
        }
    }

    fn message(&mut self, channel: Channel, payload: Bytes) {
        match self.protocol.encoding {
            Encoding::Binary => {
                self.websocket.message(Kind::Binary, &[channel.number()], payload);
            }
            Encoding::Base64 => {
                let text = STANDARD.encode(&payload);
                self.websocket.message(Kind::Text, &[b'0' + channel.number()], text.into());
            }
        }
    }

    fn send_close(&mut self, now: Time, code: u16, reason: &str) {
        let mut end = reason.len().min(CLOSE_REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        self.websocket.close(code, &reason[..end]);
        self.state = State::Closing(now + limits::CLOSING_PATIENCE);
    }

    // ---- what came ----

    fn chunk(&mut self, now: Time, chunk: Chunk) {
        if !matches!(self.state, State::Open | State::Outcome(_)) {
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
            Destination::Channel(channel) => self.bytes(now, channel, payload, last),
            Destination::Signal(_) => self.signal(now, &payload, last),
            Destination::Start | Destination::Nothing => {}
        }
    }

    fn destination_of(&self, byte: u8) -> Destination {
        let number = match self.protocol.encoding {
            Encoding::Binary => byte,
            Encoding::Base64 => byte.wrapping_sub(b'0'),
        };
        if number == SIGNAL && self.protocol.half_closes && self.side == Side::Server {
            return Destination::Signal(None);
        }
        // Unknown channels, and those of the other direction, are passed over as Kubernetes does.
        match Channel::from_number(number) {
            Some(channel) if channel.is_from_client() == (self.side == Side::Server) => {
                Destination::Channel(channel)
            }
            _ => Destination::Nothing,
        }
    }

    fn bytes(&mut self, now: Time, channel: Channel, payload: Bytes, last: bool) {
        let payload = match self.protocol.encoding {
            Encoding::Binary => payload,
            Encoding::Base64 => match self.base64.push(&payload, last) {
                Some(bytes) => bytes,
                None => return self.fault(now, BAD_PAYLOAD, "a message is not base64"),
            },
        };
        match channel {
            Channel::Resize => {
                let sizes = self.sizes.push(&payload);
                self.events.extend(sizes.into_iter().map(Event::Resize));
            }
            Channel::Error => self.error_bytes(now, &payload, last),
            Channel::Stdin if self.stdin_ended => {}
            _ if payload.is_empty() || !self.wants.has(channel) => {}
            _ => {
                self.extend_outcome(now);
                self.events.push_back(Event::Data(channel, payload));
            }
        }
    }

    fn error_bytes(&mut self, now: Time, payload: &[u8], last: bool) {
        if self.error.len() + payload.len() > limits::STATUS_BYTES {
            return self.lost(now, Cause::BadStatus, "it is too long");
        }
        self.error.extend_from_slice(payload);
        if last && self.protocol.json_status && !self.error.is_empty() {
            // A server that never closes after its Status must not keep its client for ever.
            self.state = State::Outcome(now + limits::CLOSING_PATIENCE);
        }
    }

    /// Takes a part of a message that ends a channel. It must have exactly one more byte, the
    /// number of one of the five channels (docs/protocols/remote-command.md, 2.8).
    fn signal(&mut self, now: Time, payload: &[u8], last: bool) {
        let Destination::Signal(seen) = self.destination else { return };
        let number = match (seen, payload) {
            (seen, []) => seen,
            (None, [number]) => Some(*number),
            _ => return self.fault(now, VIOLATION, "the end of a channel is named in one byte"),
        };
        self.destination = Destination::Signal(number);
        if !last {
            return;
        }
        match number.and_then(Channel::from_number) {
            None => self.fault(now, VIOLATION, "there is no such channel to end"),
            Some(Channel::Stdin) => self.end_stdin(),
            Some(_) => {}
        }
    }

    fn end_stdin(&mut self) {
        if !self.stdin_ended {
            self.stdin_ended = true;
            if self.wants.stdin {
                self.events.push_back(Event::Eof(Channel::Stdin));
            }
        }
    }

    fn fault(&mut self, now: Time, code: u16, why: &str) {
        self.events.push_back(Event::Lost(Loss::new(Cause::Fault, why)));
        self.send_close(now, code, why);
    }

    fn lost(&mut self, now: Time, cause: Cause, why: &str) {
        self.events.push_back(Event::Lost(Loss::new(cause, why)));
        self.send_close(now, NORMAL, "");
    }

    fn closed(&mut self, now: Time, closed: Closed) {
        let ended = matches!(self.state, State::Closing(_));
        let deadline = now + limits::CLOSING_PATIENCE;
        self.state = match closed {
            Closed::CloseFrame { .. } => State::Flushing(deadline),
            // A Close was queued. It must not be lost to a reset because of unread bytes.
            Closed::Fault(_) => State::Closing(deadline),
            Closed::Cut => State::Over,
        };
        if ended {
            return;
        }
        if self.side == Side::Client {
            return self.closed_by_server(&closed);
        }
        let by_close_frame = matches!(closed, Closed::CloseFrame { .. });
        if by_close_frame && !self.protocol.half_closes && self.wants.stdin {
            self.end_stdin();
            self.state = State::ClosedClient(now + limits::CLOSED_CLIENT_GRACE);
        } else {
            self.events.push_back(Event::Lost(loss(&closed)));
        }
    }

    fn closed_by_server(&mut self, closed: &Closed) {
        let orderly = matches!(closed, Closed::CloseFrame { code: None | Some(NORMAL), .. });
        let error = Bytes::from(core::mem::take(&mut self.error));
        let status = match (self.protocol.json_status, error.is_empty()) {
            (true, false) => Status::parse(error).map_err(Some),
            (false, empty) if orderly => Ok(if empty {
                Status::success()
            } else {
                Status::from_text(&String::from_utf8_lossy(&error))
            }),
            _ => Err(None),
        };
        match status {
            Ok(status) => self.outcome(status),
            Err(Some(bad)) if orderly => {
                let loss = Loss::new(Cause::BadStatus, bad.to_string());
                self.events.push_back(Event::Lost(loss));
            }
            Err(_) => self.events.push_back(Event::Lost(loss(closed))),
        }
    }

    /// Ends all output with the session, as this carrier cannot end it before, and gives the
    /// Status.
    fn outcome(&mut self, status: Status) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            if self.wants.has(channel) {
                self.events.push_back(Event::Eof(channel));
            }
        }
        self.events.push_back(Event::Status(status));
    }

    // ---- what time brings ----

    /// Handles what is due; returns the next deadline.
    fn tick(&mut self, now: Time) -> Option<Time> {
        match self.state {
            State::Over => None,
            // A slow reader gets the rest of its output and its Status, however long it takes; the
            // patience begins when the other host has the last byte.
            State::Closing(_) if self.is_still_read() => {
                self.state = State::Closing(now + limits::CLOSING_PATIENCE);
                Some(now + limits::CLOSING_PATIENCE)
            }
            State::Closing(deadline) | State::Flushing(deadline) if now >= deadline => {
                self.state = State::Over;
                None
            }
            State::Closing(_) if self.input_ended => {
                self.state = State::Over;
                None
            }
            State::Flushing(_) if self.websocket.unsent() == 0 => {
                self.state = State::Over;
                None
            }
            State::Closing(deadline) | State::Flushing(deadline) => Some(deadline),
            State::ClosedClient(deadline) if now >= deadline => {
                self.events.push_back(Event::Lost(Loss::new(Cause::Closed, "")));
                self.state = State::Over;
                None
            }
            State::ClosedClient(deadline) => Some(deadline),
            State::Outcome(_) if self.heartbeat.is_paused() => self.beat(now),
            State::Outcome(deadline) if now >= deadline => {
                let closed = Closed::CloseFrame { code: Some(NORMAL), reason: String::new() };
                self.closed_by_server(&closed);
                self.send_close(now, NORMAL, "");
                None
            }
            State::Outcome(deadline) => earlier(Some(deadline), self.beat(now)),
            State::Open => self.beat(now),
        }
    }

    fn is_still_read(&self) -> bool {
        self.side == Side::Server && !self.input_ended && self.websocket.is_undelivered()
    }

    /// Records the answer to a ping of ours. A pong that answers none is no more than traffic.
    fn pong(&mut self, payload: &[u8]) {
        if let Some(number) = payload.first_chunk() {
            self.heartbeat.answered(u32::from_be_bytes(*number));
        }
    }

    /// Pings a client that is quiet, at a server that is to. Apart from the beat of a client, which
    /// comes with each message.
    #[cold]
    #[inline(never)]
    fn keep_alive_beat(&mut self, now: Time) -> Option<Time> {
        let is_empty = self.websocket.unsent() == 0;
        let heard = self.heartbeat.heard_at();
        let keep_alive = self.keep_alive.as_mut()?;
        Some(keep_alive.beat(now, heard, || {
            // One that waits already says as much.
            if is_empty {
                self.websocket.ping(&[]);
            }
        }))
    }

    /// Pings if that is due; returns the next deadline. Servers ping only to keep a
    /// connection: a client that does not read cannot answer, and is not dead for that. Hosts that
    /// are gone are found by the kernel.
    fn beat(&mut self, now: Time) -> Option<Time> {
        if self.side == Side::Server {
            return self.keep_alive_beat(now);
        }
        let has_room = self.websocket.unsent() < limits::OUTBOX_BYTES;
        let ping = || {
            has_room.then(|| {
                self.pings += 1;
                self.websocket.ping(&self.pings.to_be_bytes());
                self.pings
            })
        };
        let beat = self.heartbeat.beat(now, ping);
        beat.map_err(|Loss { cause, detail }| self.lost(now, cause, &detail)).ok()
    }
}

fn loss(closed: &Closed) -> Loss {
    match closed {
        Closed::Cut => Loss::new(Cause::Cut, ""),
        Closed::Fault(fault) => Loss::new(Cause::Fault, fault.to_string()),
        Closed::CloseFrame { code: None | Some(NORMAL), .. } => Loss::new(Cause::NoStatus, ""),
        Closed::CloseFrame { code: Some(code), reason } if reason.is_empty() => {
            Loss::new(Cause::Closed, format!("code {code}"))
        }
        Closed::CloseFrame { code: Some(code), reason } => {
            Loss::new(Cause::Closed, format!("code {code}, {reason}"))
        }
    }
}

impl Machine for OverWebSocket {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        self.heartbeat.heard(now);
        self.websocket.receive(input);
    }

    fn receive_end(&mut self, _now: Time) {
        self.input_ended = true;
        self.websocket.receive_end();
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        use crate::websocket::Event as Frame;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Next::Event(event);
            }
            match self.websocket.poll() {
                Some(Frame::Chunk(chunk)) => self.chunk(now, chunk),
                Some(Frame::Pong(payload)) => self.pong(&payload),
                Some(Frame::Closed(closed)) => self.closed(now, closed),
                None => {
                    let deadline = self.tick(now);
                    if !self.events.is_empty() {
                        continue;
                    }
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

    fn reading(&mut self, now: Time, reading: bool) {
        if reading && self.heartbeat.is_paused() {
            self.extend_outcome(now);
        }
        self.heartbeat.paused(now, !reading);
    }
}
