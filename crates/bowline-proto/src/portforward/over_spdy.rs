//! Forwarded connections as pairs of SPDY streams: one for the bytes, one for what went wrong.
//!
//! SPDY in Kubernetes has no windows, so that one connection whose local end takes nothing would
//! hold up all others. Two ends of Bowline agree on counting bytes, by a header that Go's library
//! ignores: the client opens its data stream with `window: N`, and a server that replies with a
//! `window` of its own sends no more than N bytes until WINDOW_UPDATE allows it more; so does the
//! client. Such a server ends its direction only when the pod did, and resets what failed. Of any
//! other server, the end of the data is believed only once the error stream has ended empty.

mod received;
mod timers;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use bytes::{Bytes, BytesMut};

use super::window::Window;
use super::{Event, Id};
use crate::extension::WINDOW;
use crate::heartbeat::Heartbeat;
use crate::limits;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Cause, Loss, Side};
use crate::spdy::{self, Connection, Role, StreamId};
use crate::time::Time;
use crate::tunnel::Wire;

/// RST_STREAM and GOAWAY codes (SPDY/3.1 §2.6.3, §2.6.6).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;
const GOAWAY_OK: u32 = 0;

/// A forward over SPDY, on either side.
#[derive(Debug)]
pub struct OverSpdy {
    side: Side,
    wire: Wire,
    spdy: Connection,
    events: VecDeque<Event>,
    pairs: BTreeMap<Id, Pair>,
    /// The connection that a stream belongs to.
    streams: BTreeMap<StreamId, (Id, StreamType)>,
    /// At a server: the pairs that are not complete, by their request id.
    requests: BTreeMap<String, Id>,
    /// Until when pairs that are awaited have to go on.
    deadlines: BTreeSet<(Time, Id)>,
    /// How many bytes came for pairs that are not complete.
    early_bytes: usize,
    next: u32,
    heartbeat: Heartbeat,
    input_ended: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamType {
    Error,
    Data,
}

/// The two streams of one connection.
#[derive(Debug, Default)]
struct Pair {
    /// At a server: the request id, by which the client names the pair.
    request: String,
    port: u16,
    error: Option<StreamId>,
    data: Option<StreamId>,
    /// The owner was told of it: of the request at a server, of the connection at a client.
    announced: bool,
    /// At a server: bytes that came before it was announced.
    early: BytesMut,
    /// Until when the stream or the reply that is awaited has to come.
    deadline: Option<Time>,
    /// At a client: what the error stream said.
    error_text: Vec<u8>,
    /// At a client: the error stream has ended.
    error_ended: bool,
    peer_direction: PeerDirection,
    we_finished: bool,
    /// What may be sent, where both ends count.
    window: Option<Window>,
}

/// The state of the peer's direction of the data stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum PeerDirection {
    #[default]
    Open,
    /// It ended, but not yet known is whether in good order: that the error stream says.
    EndUnconfirmed,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The last event was given; the peer has until this time to close.
    Closing(Time),
    Over,
}

impl OverSpdy {
    /// One end of a forward, right after the 101.
    #[must_use]
    pub fn new(side: Side, wire: Wire) -> OverSpdy {
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        OverSpdy {
            side,
            wire,
            spdy: Connection::new(role),
            events: VecDeque::new(),
            pairs: BTreeMap::new(),
            streams: BTreeMap::new(),
            requests: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            early_bytes: 0,
            next: 0,
            heartbeat: Heartbeat::new(Time::ZERO, limits::PING_EVERY, limits::SILENCE_PATIENCE),
            input_ended: false,
            state: State::Open,
        }
    }

    /// Which end this is.
    #[must_use]
    pub fn side(&self) -> Side {
        self.side
    }

    /// See [`Forward::connect`](super::Forward::connect).
    pub fn connect(&mut self, now: Time, port: u16) -> Option<Id> {
        if self.side != Side::Client || self.state != State::Open {
            return None;
        }
        if self.spdy.is_out_of_ids() {
            self.lost(now, Loss::new(Cause::Streams, "all stream numbers were used"));
            return None;
        }
        let id = self.fresh_id();
        let (request, port_text) = (id.0.to_string(), port.to_string());
        let window = limits::WINDOW_BYTES.to_string();
        let [port_line, request_line] = [("port", &*port_text), ("requestid", &*request)];
        let error = self.spdy.open(&[("streamtype", "error"), port_line, request_line]);
        // Nobody writes to it (docs/protocols/port-forward.md, 5.1).
        self.spdy.finish(error);
        let kind = ("streamtype", "data");
        let data = self.spdy.open(&[kind, port_line, request_line, (WINDOW.asked, &window)]);
        self.streams.insert(error, (id, StreamType::Error));
        self.streams.insert(data, (id, StreamType::Data));
        let (error, data) = (Some(error), Some(data));
        self.pairs.insert(id, Pair { port, error, data, ..Pair::default() });
        self.await_more(now, id);
        Some(id)
    }

    /// Gives a pair a new deadline for the stream or the reply that is awaited.
    fn await_more(&mut self, now: Time, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let deadline = now + limits::PAIR_PATIENCE;
        if let Some(before) = pair.deadline.replace(deadline) {
            self.deadlines.remove(&(before, id));
        }
        self.deadlines.insert((deadline, id));
    }

    fn await_no_more(&mut self, id: Id) {
        let deadline = self.pairs.get_mut(&id).and_then(|pair| pair.deadline.take());
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, id));
        }
    }

    fn fresh_id(&mut self) -> Id {
        let id = Id(self.next);
        self.next = self.next.wrapping_add(1);
        id
    }

    /// See [`Forward::room`](super::Forward::room).
    #[must_use]
    pub fn room(&self, id: Id) -> usize {
        match self.pairs.get(&id) {
            Some(pair) if pair.announced && !pair.we_finished => {
                pair.window.map_or(usize::MAX, Window::open)
            }
            _ => 0,
        }
    }

    /// See [`Forward::send`](super::Forward::send).
    pub fn send(&mut self, id: Id, bytes: Bytes) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| !pair.we_finished) else { return };
        let Some(data) = pair.data.filter(|_| !bytes.is_empty()) else { return };
        if let Some(window) = &mut pair.window {
            window.sent(bytes.len());
        }
        self.heartbeat.sent_bulk();
        self.spdy.send(data, bytes);
    }

    /// See [`Forward::finish`](super::Forward::finish).
    pub fn finish(&mut self, _now: Time, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id).filter(|pair| !pair.we_finished) else { return };
        pair.we_finished = true;
        let Some(data) = pair.data else { return };
        // kubectl before 1.32 waits for the end of the error stream once the data has ended, and
        // only then ends its own direction; so the error stream ends first, as in Kubernetes. A
        // peer that counts takes the end of one direction for no more than that.
        let last = pair.peer_direction == PeerDirection::Ended || pair.window.is_none();
        if last && self.side == Side::Server {
            self.end_error(id);
        }
        self.spdy.finish(data);
        self.forget_if_over(id);
    }

    /// See [`Forward::reset`](super::Forward::reset).
    pub fn reset(&mut self, _now: Time, id: Id) {
        if let Some(data) = self.pairs.get(&id).and_then(|pair| pair.data) {
            self.spdy.reset(data, CANCEL);
        }
        self.forget(id);
    }

    /// See [`Forward::fail`](super::Forward::fail).
    pub fn fail(&mut self, _now: Time, id: Id, why: &str) {
        let Some(pair) = self.pairs.get(&id).filter(|_| self.side == Side::Server) else { return };
        let data = pair.data;
        if let Some(error) = pair.error {
            self.spdy.send(error, Bytes::copy_from_slice(why.as_bytes()));
            self.spdy.finish(error);
        }
        if let Some(data) = data {
            self.spdy.reset(data, CANCEL);
        }
        self.forget(id);
    }

    /// See [`Forward::refuse`](super::Forward::refuse).
    pub fn refuse(&mut self, now: Time, id: Id, why: &str) {
        let Some(pair) = self.pairs.get(&id).filter(|_| self.side == Side::Server) else { return };
        if pair.window.is_some() {
            return self.fail(now, id, why);
        }
        for stream in [pair.error, pair.data].into_iter().flatten() {
            self.spdy.reset(stream, REFUSED_STREAM);
        }
        self.forget(id);
    }

    /// See [`Forward::taken`](super::Forward::taken).
    pub fn taken(&mut self, id: Id, bytes: usize) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let (Some(window), Some(data)) = (&mut pair.window, pair.data) else { return };
        if let Some(told) = window.taken(bytes) {
            self.spdy.taken(data, told);
        }
    }

    /// See [`Forward::unsent`](super::Forward::unsent).
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.spdy.unsent() + self.wire.unsent()
    }

    /// See [`Forward::connections`](super::Forward::connections).
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pairs.len()
    }

    /// See [`Forward::leave`](super::Forward::leave).
    pub fn leave(&mut self, now: Time, why: &str) {
        self.events.clear();
        self.abandon(now, why);
    }

    fn abandon(&mut self, now: Time, why: &str) {
        if self.state != State::Open {
            return;
        }
        for stream in mem::take(&mut self.streams).into_keys() {
            self.spdy.reset(stream, CANCEL);
        }
        self.pairs.clear();
        self.requests.clear();
        self.deadlines.clear();
        self.early_bytes = 0;
        self.spdy.goaway(GOAWAY_OK);
        if !why.is_empty() {
            self.wire.fail(self.spdy.outbox(), why);
        }
        self.state = State::Closing(now + limits::CLOSING_PATIENCE);
    }

    fn lost(&mut self, now: Time, loss: Loss) {
        self.abandon(now, "");
        self.events.push_back(Event::Lost(loss));
    }

    /// Ends a pair's error stream in both directions, without waiting for the client.
    fn end_error(&mut self, id: Id) {
        if let Some(error) = self.pairs.get_mut(&id).and_then(|pair| pair.error.take()) {
            self.spdy.finish(error);
            self.spdy.reset(error, CANCEL);
            self.streams.remove(&error);
        }
    }

    fn forget_if_over(&mut self, id: Id) {
        let over = |pair: &Pair| pair.we_finished && pair.peer_direction == PeerDirection::Ended;
        if self.pairs.get(&id).is_some_and(over) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: Id) {
        self.end_error(id);
        self.await_no_more(id);
        let Some(pair) = self.pairs.remove(&id) else { return };
        if let Some(data) = pair.data {
            self.streams.remove(&data);
        }
        self.early_bytes -= pair.early.len();
        if self.requests.get(&pair.request) == Some(&id) {
            self.requests.remove(&pair.request);
        }
    }
}

impl Pair {
    /// Whether a stream or a reply of it is awaited.
    fn is_awaited(&self) -> bool {
        !self.announced || self.peer_direction == PeerDirection::EndUnconfirmed
    }
}

impl Machine for OverSpdy {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        self.heartbeat.heard(now);
        self.wire.receive(input);
    }

    fn receive_end(&mut self, _now: Time) {
        self.input_ended = true;
        self.wire.receive_end();
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        use spdy::Event as Frame;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Next::Event(event);
            }
            match self.spdy.poll() {
                Some(Frame::Closed(closed)) => {
                    let (loss, cut) = received::loss(&closed);
                    self.closed(now, loss, cut);
                }
                Some(_) if self.state != State::Open => {}
                Some(Frame::Opened { id, headers }) => self.opened(now, id, &headers),
                Some(Frame::Replied { id, headers }) => self.replied(id, &headers),
                Some(Frame::Data(id, bytes)) => self.data(now, id, bytes),
                Some(Frame::Finished(id)) => self.finished(now, id),
                Some(Frame::Reset(id, _)) => self.was_reset(id),
                Some(Frame::Window(id, bytes)) => self.window(id, bytes),
                Some(Frame::Pong(number)) => self.heartbeat.answered(number),
                None if self.unpack(now) => {}
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
        self.wire.outbox(self.spdy.outbox())
    }

    fn wants_read(&self) -> bool {
        self.spdy.has_room()
    }

    fn reading(&mut self, now: Time, reading: bool) {
        self.heartbeat.paused(now, !reading);
    }
}
