//! Forwarded connections as pairs of SPDY streams: one for the bytes, one for what went wrong.
//!
//! SPDY in Kubernetes has no windows, so that one connection whose end takes nothing would hold up
//! all others behind it. Where both ends are Bowline's they agree on counting, in a header that
//! Go's library passes over: the client says `window: N` with its data stream, and a server that
//! says it back sends no more than N bytes until WINDOW_UPDATE gives it more, and is held to the
//! same. Such a server ends its direction only when the pod did, and resets what failed; of any
//! other, the end of the data is only believed once the error stream has ended without a word.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::mem;

use bytes::{Bytes, BytesMut};

use super::window::Window;
use super::{Event, Id};
use crate::extension::WINDOW;
use crate::heartbeat::{Beat, Heartbeat};
use crate::limits;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Cause, Loss, Side};
use crate::spdy::{self, Connection, Headers, Role, StreamId};
use crate::time::{Time, earlier};
use crate::tunnel::{Incoming, Wire};
use crate::websocket;

/// RST_STREAM and GOAWAY codes (SPDY/3.1 §2.6.3, §2.6.6).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;
const GOAWAY_OK: u32 = 0;

/// The longest request id; kubectl's are decimal numbers.
const REQUEST_BYTES: usize = 64;
/// What a connection is told whose peer sent more than it may.
const OVERRUN: &str = "more was sent than the window allows";

/// A forward over SPDY, on either side.
#[derive(Debug)]
pub struct OverSpdy {
    side: Side,
    wire: Wire,
    spdy: Connection,
    events: VecDeque<Event>,
    pairs: BTreeMap<Id, Pair>,
    /// Whose stream it is.
    streams: BTreeMap<StreamId, (Id, StreamType)>,
    /// At a server: which pair has this request id.
    requests: BTreeMap<String, Id>,
    /// Of pairs that are awaited.
    deadlines: BTreeSet<(Time, Id)>,
    /// Bytes that came for pairs which are not complete.
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

/// One connection.
#[derive(Debug, Default)]
struct Pair {
    /// At a server: the client's name for it.
    request: String,
    port: u16,
    error: Option<StreamId>,
    data: Option<StreamId>,
    /// The owner was told of it (at a server), or that it is there (at a client).
    told: bool,
    /// At a server: what came before it was told.
    early: BytesMut,
    /// Until when something of it has to come.
    deadline: Option<Time>,
    /// At a client: what the error stream said, and whether it has ended.
    words: Vec<u8>,
    error_ended: bool,
    theirs: Theirs,
    we_finished: bool,
    /// Where both ends count.
    window: Option<Window>,
}

/// The peer's direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Theirs {
    #[default]
    Open,
    /// It ended; whether in good order, the error stream will say.
    Held,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The last event was given; the peer has until then to close.
    Closing(Time),
    Over,
}

impl OverSpdy {
    /// The forward right after the 101.
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

    // ---- what the owner does ----

    /// See [`Forward::connect`](super::Forward::connect).
    pub fn connect(&mut self, now: Time, port: u16) -> Option<Id> {
        if self.side != Side::Client || self.state != State::Open {
            return None;
        }
        if self.spdy.is_used_up() {
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

    /// Something of the pair has to come within its patience.
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
            Some(pair) if pair.told && !pair.we_finished => {
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
        // kubectl before 1.32 waits for the error stream when the data has ended, and only then
        // ends its own; so the error stream ends first, as in Kubernetes. Who counts knows that
        // one direction's end is not the other's.
        let last = pair.theirs == Theirs::Ended || pair.window.is_none();
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
        self.walk_away(now, why);
    }

    fn walk_away(&mut self, now: Time, why: &str) {
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
        self.walk_away(now, "");
        self.events.push_back(Event::Lost(loss));
    }

    /// Ends a pair's error stream, in both directions: a client that has not is not waited for.
    fn end_error(&mut self, id: Id) {
        if let Some(error) = self.pairs.get_mut(&id).and_then(|pair| pair.error.take()) {
            self.spdy.finish(error);
            self.spdy.reset(error, CANCEL);
            self.streams.remove(&error);
        }
    }

    fn forget_if_over(&mut self, id: Id) {
        let over = |pair: &Pair| pair.we_finished && pair.theirs == Theirs::Ended;
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

    // ---- what came ----

    fn opened(&mut self, now: Time, stream: StreamId, headers: &Headers) {
        if self.side == Side::Client {
            return self.spdy.reset(stream, REFUSED_STREAM);
        }
        let port = headers.get("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        let kind = match headers.get("streamtype") {
            Some("error") => Some(StreamType::Error),
            Some("data") => Some(StreamType::Data),
            _ => None,
        };
        let (Some(port), Some(kind)) = (port, kind) else {
            return self.spdy.reset(stream, CANCEL);
        };
        // Clients before request ids open the error stream and the data stream right behind it
        // (trap T44 in docs/protocols/traps.md).
        let request = match (headers.get("requestid").filter(|id| !id.is_empty()), kind) {
            (Some(request), _) => request.to_string(),
            (None, StreamType::Error) => stream.number().to_string(),
            (None, StreamType::Data) => stream.number().saturating_sub(2).to_string(),
        };
        if request.len() > REQUEST_BYTES {
            return self.spdy.reset(stream, PROTOCOL_ERROR);
        }
        let id = match self.requests.get(&request) {
            Some(id) => *id,
            None => {
                let id = self.fresh_id();
                self.requests.insert(request.clone(), id);
                self.pairs.insert(id, Pair { request, ..Pair::default() });
                self.await_more(now, id);
                id
            }
        };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let slot = if kind == StreamType::Error { &mut pair.error } else { &mut pair.data };
        if slot.is_some() {
            return self.spdy.reset(stream, PROTOCOL_ERROR);
        }
        *slot = Some(stream);
        self.streams.insert(stream, (id, kind));
        if kind == StreamType::Data {
            pair.port = port;
            let window = headers.get(WINDOW.asked).and_then(|window| window.parse().ok());
            pair.window = window.map(Window::new);
        }
        if pair.window.is_some() && kind == StreamType::Data {
            let ours = limits::WINDOW_BYTES.to_string();
            self.spdy.reply_with(stream, &[(WINDOW.answered, &ours)]);
        } else {
            self.spdy.reply(stream);
        }
        if pair.error.is_some() && pair.data.is_some() {
            self.complete(id);
        }
    }

    /// At a server: both streams of a pair are there. Its client may use the request id again.
    fn complete(&mut self, id: Id) {
        self.await_no_more(id);
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.told = true;
        self.requests.remove(&mem::take(&mut pair.request));
        self.events.push_back(Event::Asked(id, pair.port));
        let early = mem::take(&mut pair.early);
        self.early_bytes -= early.len();
        if !early.is_empty() {
            self.events.push_back(Event::Data(id, early.freeze()));
        }
        if pair.theirs == Theirs::Held {
            pair.theirs = Theirs::Ended;
            self.events.push_back(Event::Eof(id));
        }
    }

    fn replied(&mut self, stream: StreamId, headers: &Headers) {
        let Some((id, StreamType::Data)) = self.streams.get(&stream).copied() else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let window = headers.get(WINDOW.answered).and_then(|window| window.parse().ok());
        pair.window = window.map(Window::new);
        pair.told = true;
        self.events.push_back(Event::Connected(id));
        if !self.pairs.get(&id).is_some_and(Pair::is_awaited) {
            self.await_no_more(id);
        }
    }

    fn data(&mut self, now: Time, stream: StreamId, bytes: Bytes) {
        let Some((id, kind)) = self.streams.get(&stream).copied() else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if let (StreamType::Data, Some(window)) = (kind, &mut pair.window)
            && !window.came(bytes.len())
        {
            return self.overrun(now, id);
        }
        match (kind, self.side) {
            (StreamType::Error, Side::Server) => {}
            (StreamType::Error, Side::Client) => {
                let room = limits::REASON_BYTES.saturating_sub(pair.words.len());
                pair.words.extend_from_slice(&bytes[..room.min(bytes.len())]);
            }
            (StreamType::Data, Side::Server) if !pair.told => {
                if self.early_bytes + bytes.len() > limits::EARLY_BYTES {
                    self.spdy.reset(stream, REFUSED_STREAM);
                    return self.forget(id);
                }
                pair.early.extend_from_slice(&bytes);
                self.early_bytes += bytes.len();
            }
            (StreamType::Data, _) => self.events.push_back(Event::Data(id, bytes)),
        }
    }

    /// The peer does not keep to what it was given, and nothing else would bound what it sends.
    fn overrun(&mut self, now: Time, id: Id) {
        if self.side == Side::Client {
            return self.give_up(id, OVERRUN);
        }
        if self.pairs.get(&id).is_some_and(|pair| pair.told) {
            self.events.push_back(Event::Reset(id));
        }
        self.fail(now, id, OVERRUN);
    }

    fn finished(&mut self, now: Time, stream: StreamId) {
        let Some((id, kind)) = self.streams.get(&stream).copied() else { return };
        match (kind, self.side) {
            // Clients finish it at once, it means nothing (trap T43 in docs/protocols/traps.md).
            (StreamType::Error, Side::Server) => {}
            (StreamType::Error, Side::Client) => self.error_ended(id),
            (StreamType::Data, _) => self.data_ended(now, id),
        }
    }

    fn data_ended(&mut self, now: Time, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let believed = match self.side {
            Side::Server => pair.told,
            Side::Client => pair.window.is_some() || pair.error_ended,
        };
        if !believed {
            pair.theirs = Theirs::Held;
            // A server awaits its error stream already.
            if self.side == Side::Client {
                self.await_more(now, id);
            }
            return;
        }
        pair.theirs = Theirs::Ended;
        let both = pair.we_finished;
        self.events.push_back(Event::Eof(id));
        if both {
            self.forget(id);
        }
    }

    fn error_ended(&mut self, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.error_ended = true;
        if !pair.words.is_empty() {
            return self.failed(id);
        }
        if pair.theirs == Theirs::Held {
            pair.theirs = Theirs::Ended;
            self.events.push_back(Event::Eof(id));
            self.await_no_more(id);
            self.forget_if_over(id);
        }
    }

    /// At a client: the server gave its reason.
    fn failed(&mut self, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let words = String::from_utf8_lossy(&mem::take(&mut pair.words)).into_owned();
        self.give_up(id, &words);
    }

    fn give_up(&mut self, id: Id, words: &str) {
        if let Some(data) = self.pairs.get(&id).and_then(|pair| pair.data) {
            self.spdy.reset(data, CANCEL);
        }
        self.events.push_back(Event::Failed(id, words.into()));
        self.forget(id);
    }

    fn was_reset(&mut self, stream: StreamId) {
        let Some((id, kind)) = self.streams.remove(&stream) else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        match (self.side, kind) {
            (Side::Server, StreamType::Error) => {
                pair.error = None;
                if !pair.told {
                    self.forget_early(id);
                }
            }
            (Side::Client, StreamType::Error) if !pair.told => self.give_up(id, "Stream reset"),
            (Side::Client, StreamType::Error) => {
                pair.error = None;
                self.error_ended(id);
            }
            (_, StreamType::Data) => {
                pair.data = None;
                let (told, words) = (pair.told, !pair.words.is_empty());
                // kubectl takes our end for the end of all, and resets what it needs no more. Who
                // counts does not.
                let kubectl = self.side == Side::Server && pair.window.is_none();
                let done = kubectl && pair.we_finished;
                let ended = pair.theirs == Theirs::Ended;
                match self.side {
                    Side::Server if !told => {}
                    Side::Server if done && ended => {}
                    Side::Server if done => self.events.push_back(Event::Eof(id)),
                    Side::Client if words => return self.failed(id),
                    Side::Client if !told => return self.give_up(id, "Stream reset"),
                    _ => self.events.push_back(Event::Reset(id)),
                }
                self.forget(id);
            }
        }
    }

    /// A pair that will not be complete.
    fn forget_early(&mut self, id: Id) {
        if let Some(data) = self.pairs.get(&id).and_then(|pair| pair.data) {
            self.spdy.reset(data, CANCEL);
        }
        self.forget(id);
    }

    fn window(&mut self, stream: StreamId, bytes: u32) {
        let Some((id, StreamType::Data)) = self.streams.get(&stream).copied() else { return };
        let Some(window) = self.pairs.get_mut(&id).and_then(|pair| pair.window.as_mut()) else {
            return;
        };
        window.opened(bytes);
        self.events.push_back(Event::Room(id));
    }

    fn closed(&mut self, now: Time, closed: Loss, cut: bool) {
        match self.state {
            State::Open => {
                self.pairs.clear();
                self.streams.clear();
                self.requests.clear();
                self.deadlines.clear();
                self.early_bytes = 0;
                self.spdy.goaway(GOAWAY_OK);
                self.events.push_back(Event::Lost(closed));
                self.state =
                    if cut { State::Over } else { State::Closing(now + limits::CLOSING_PATIENCE) };
            }
            State::Closing(_) | State::Over => self.state = State::Over,
        }
    }

    // ---- what time brings ----

    fn tick(&mut self, now: Time) -> Option<Time> {
        match self.state {
            State::Open => {
                let pair = self.expire(now);
                earlier(pair, self.beat(now))
            }
            State::Closing(deadline) if now >= deadline || self.has_nothing_to_wait_for() => {
                self.state = State::Over;
                None
            }
            State::Closing(deadline) => Some(deadline),
            State::Over => None,
        }
    }

    /// A client owes its server nothing but the bytes that wait; a server reads on until the client
    /// has closed, so that no reset overtakes its last words.
    fn has_nothing_to_wait_for(&self) -> bool {
        self.unsent() == 0 && (self.side == Side::Client || self.input_ended)
    }

    fn expire(&mut self, now: Time) -> Option<Time> {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if now < deadline {
                return Some(deadline);
            }
            self.await_no_more(id);
            let Some(pair) = self.pairs.get(&id) else { continue };
            match self.side {
                Side::Server if pair.told => {}
                Side::Server => {
                    let request = &pair.request;
                    let why = format!("(request={request}) timed out waiting for streams");
                    self.fail(now, id, &why);
                }
                Side::Client if pair.told => {
                    self.reset(now, id);
                    self.events.push_back(Event::Reset(id));
                }
                Side::Client => self.give_up(id, "Timeout occurred"),
            }
        }
        None
    }

    fn beat(&mut self, now: Time) -> Option<Time> {
        if self.side == Side::Server {
            return None;
        }
        loop {
            match self.heartbeat.poll(now) {
                Beat::Wait(until) => return Some(until),
                Beat::Ping => {
                    let has_room = self.unsent() < limits::OUTBOX_BYTES;
                    let ping = if has_room { self.spdy.ping() } else { None };
                    self.heartbeat.pinged(now, ping);
                }
                Beat::Dead => {
                    let patience = limits::SILENCE_PATIENCE.as_secs();
                    let why = format!("no answer to a ping for {patience} s");
                    self.lost(now, Loss::new(Cause::Silent, why));
                    return None;
                }
            }
        }
    }

    /// Takes what the wire holds, for SPDY to read.
    fn unpack(&mut self, now: Time) -> bool {
        match self.wire.poll() {
            Some(Incoming::Bytes(bytes)) => {
                self.spdy.receive(bytes);
                true
            }
            Some(Incoming::Closed(websocket::Closed::Cut)) => {
                self.spdy.receive_end();
                true
            }
            Some(Incoming::Closed(closed)) => {
                self.closed(now, loss_in_tunnel(&closed), false);
                true
            }
            None => false,
        }
    }
}

impl Pair {
    /// Whether something of it has to come within its patience.
    fn is_awaited(&self) -> bool {
        !self.told || self.theirs == Theirs::Held
    }
}

fn loss_in_tunnel(closed: &websocket::Closed) -> Loss {
    use websocket::Closed;
    match closed {
        Closed::Cut => Loss::new(Cause::Cut, ""),
        Closed::Fault(fault) => Loss::new(Cause::Fault, fault.to_string()),
        Closed::Goodbye { reason, .. } if !reason.is_empty() => {
            Loss::new(Cause::Closed, reason.clone())
        }
        Closed::Goodbye { code: None | Some(1000), .. } => Loss::new(Cause::Closed, ""),
        Closed::Goodbye { code: Some(code), .. } => {
            Loss::new(Cause::Closed, format!("code {code}"))
        }
    }
}

fn loss(closed: &spdy::Closed) -> (Loss, bool) {
    use spdy::Closed;
    match closed {
        Closed::Cut => (Loss::new(Cause::Cut, ""), true),
        Closed::Fault(fault) => (Loss::new(Cause::Fault, fault.to_string()), false),
        Closed::Goaway { status: GOAWAY_OK } => (Loss::new(Cause::Closed, ""), false),
        Closed::Goaway { status } => (Loss::new(Cause::Closed, format!("code {status}")), false),
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
                    let (loss, cut) = loss(&closed);
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
