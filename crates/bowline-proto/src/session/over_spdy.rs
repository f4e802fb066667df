//! A remote command over SPDY: each channel is a stream, named by its `streamtype` header.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::channel::{Channel, Size, Wants};
use super::protocol::Protocol;
use super::resize::{self, Sizes};
use super::status::Status;
use super::{Cause, Event, LOST, Loss, Side};
use crate::heartbeat::{Heartbeat, KeepAlive};
use crate::limits;
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::spdy::{Closed, Connection, Headers, Role, StreamId};
use crate::time::{Time, earlier};

/// RST_STREAM and GOAWAY codes (SPDY/3.1 §2.6.3, §2.6.6).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;
const GOAWAY_OK: u32 = 0;
const GOAWAY_INTERNAL_ERROR: u32 = 2;

/// The order in which a client opens its streams (docs/protocols/spdy.md, 3.5).
const OPENING: [Channel; 5] =
    [Channel::Error, Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Resize];

/// One end of a remote command over SPDY.
#[derive(Debug)]
pub struct OverSpdy {
    side: Side,
    protocol: &'static Protocol,
    wants: Wants,
    spdy: Connection,
    events: VecDeque<Event>,
    channels: [ChannelState; 5],
    sizes: Sizes,
    /// The bytes that came on the error stream.
    error: Vec<u8>,
    heartbeat: Heartbeat,
    /// At a server.
    keep_alive: Option<KeepAlive>,
    input_ended: bool,
    state: State,
}

/// The state of one channel's stream.
#[derive(Clone, Copy, Debug, Default)]
struct ChannelState {
    id: Option<StreamId>,
    /// At a client: the server answered.
    replied: bool,
    /// The peer's direction ended, by FIN or by reset.
    ended: bool,
    /// It ended by FIN.
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Streams are being opened, which has to be done by this deadline.
    Setup(Time),
    Open,
    /// At a client: the Status is there; the rest has until this time to end.
    Outcome(Time),
    /// The last event was given; the peer has until this time to close.
    Closing(Time),
    Over,
}

impl OverSpdy {
    /// One end of a session, right after the 101.
    #[must_use]
    pub fn new(side: Side, protocol: &'static Protocol, wants: Wants) -> Self {
        let role = match side {
            Side::Client => Role::Client,
            Side::Server => Role::Server,
        };
        OverSpdy {
            side,
            protocol,
            wants,
            spdy: Connection::new(role),
            events: VecDeque::new(),
            channels: [ChannelState::default(); 5],
            sizes: Sizes::default(),
            error: Vec::new(),
            heartbeat: Heartbeat::new(Time::ZERO, limits::PING_EVERY, limits::SILENCE_PATIENCE),
            keep_alive: None,
            input_ended: false,
            state: State::Setup(Time::ZERO + limits::STREAMS_PATIENCE),
        }
    }

    /// See [`Session::keep_alive`](super::Session::keep_alive).
    pub fn keep_alive(&mut self, every: Duration) {
        self.keep_alive = Some(KeepAlive::new(every));
    }

    /// See [`Session::begin`](super::Session::begin).
    pub fn begin(&mut self, now: Time) {
        let begun = self.state_of(Channel::Error).id.is_some();
        if self.side == Side::Server || begun || !matches!(self.state, State::Setup(_)) {
            return;
        }
        self.state = State::Setup(now + limits::STREAMS_PATIENCE);
        for channel in OPENING {
            if self.has(channel) {
                let id = self.spdy.open(&[("streamtype", channel.stream_type())]);
                self.state_of(channel).id = Some(id);
            }
        }
    }

    fn has(&self, channel: Channel) -> bool {
        self.wants.has(channel) && (channel != Channel::Resize || self.protocol.resizes)
    }

    fn state_of(&mut self, channel: Channel) -> &mut ChannelState {
        &mut self.channels[usize::from(channel.number())]
    }

    fn channel_of(&self, id: StreamId) -> Option<Channel> {
        Channel::ALL.into_iter().find(|channel| self.channels[*channel as usize].id == Some(id))
    }

    /// See [`Session::protocol`](super::Session::protocol).
    #[must_use]
    pub fn protocol(&self) -> &'static Protocol {
        self.protocol
    }

    /// See [`Session::send`](super::Session::send).
    pub fn send(&mut self, channel: Channel, bytes: Bytes) {
        let ours = channel.is_from_client() == (self.side == Side::Client);
        let open = matches!(self.state, State::Setup(_) | State::Open);
        let Some(id) = self.state_of(channel).id.filter(|_| ours && open) else { return };
        if bytes.is_empty() {
            return;
        }
        if channel == Channel::Stdin {
            self.heartbeat.sent_bulk();
        }
        self.spdy.send(id, bytes);
    }

    /// See [`Session::finish`](super::Session::finish).
    pub fn finish(&mut self, channel: Channel) {
        let ours = channel.is_from_client() == (self.side == Side::Client);
        // A version 1 client never ends stdin (docs/protocols/remote-command.md, 3.6).
        let can = self.side == Side::Server || self.protocol.half_closes;
        if let Some(id) = self.state_of(channel).id.filter(|_| ours && can) {
            self.spdy.finish(id);
        }
    }

    /// See [`Session::resize`](super::Session::resize).
    pub fn resize(&mut self, size: Size) {
        if self.side == Side::Client {
            self.send(Channel::Resize, resize::encode(size));
        }
    }

    /// See [`Session::status`](super::Session::status).
    pub fn status(&mut self, now: Time, status: &Status) {
        if !matches!(self.state, State::Setup(_) | State::Open) {
            return;
        }
        self.finish(Channel::Stdout);
        self.finish(Channel::Stderr);
        let said =
            if self.protocol.json_status { status.json().clone() } else { status.text().into() };
        self.send(Channel::Error, said);
        self.finish(Channel::Error);
        self.reset(Channel::Stdin);
        self.go_away(now, GOAWAY_OK);
    }

    /// See [`Session::lose`](super::Session::lose). Go's clients take the end of the connection for
    /// success; text on the error stream that is no Status makes them fail, as they must.
    pub fn lose(&mut self, now: Time, why: &str) {
        if !matches!(self.state, State::Setup(_) | State::Open) {
            return;
        }
        self.reset(Channel::Stdout);
        self.reset(Channel::Stderr);
        self.send(Channel::Error, format!("{LOST}{why}").into());
        self.finish(Channel::Error);
        self.reset(Channel::Stdin);
        self.go_away(now, GOAWAY_INTERNAL_ERROR);
    }

    /// See [`Session::leave`](super::Session::leave).
    pub fn leave(&mut self, now: Time) {
        self.events.clear();
        self.abandon(now);
    }

    fn abandon(&mut self, now: Time) {
        if matches!(self.state, State::Setup(_) | State::Open | State::Outcome(_)) {
            for channel in OPENING {
                self.reset(channel);
            }
            self.go_away(now, GOAWAY_OK);
        }
    }

    /// Renews the deadline of a server that has sent its Status: output that still comes, or that
    /// we do not read, must not be cut off.
    fn extend_outcome(&mut self, now: Time) {
        if let State::Outcome(deadline) = &mut self.state {
            *deadline = now + limits::CLOSING_PATIENCE;
        }
    }

    fn reset(&mut self, channel: Channel) {
        if let Some(id) = self.state_of(channel).id {
            self.spdy.reset(id, CANCEL);
        }
    }

    fn go_away(&mut self, now: Time, code: u32) {
        self.spdy.goaway(code);
        self.state = State::Closing(now + limits::CLOSING_PATIENCE);
    }

    fn lost(&mut self, now: Time, loss: Loss) {
        self.abandon(now);
        self.events.push_back(Event::Lost(loss));
    }

    // ---- what came ----

    fn opened(&mut self, id: StreamId, headers: &Headers) {
        if self.side == Side::Client {
            return self.spdy.reset(id, REFUSED_STREAM);
        }
        let Some(name) = headers.get("streamtype") else {
            return self.spdy.reset(id, PROTOCOL_ERROR);
        };
        match Channel::from_stream_type(name) {
            Some(channel) if self.has(channel) => {
                if self.state_of(channel).id.is_some() {
                    return self.spdy.reset(id, PROTOCOL_ERROR);
                }
                self.state_of(channel).id = Some(id);
                self.spdy.reply(id);
            }
            // A stream that is not used is answered by Kubernetes all the same.
            _ => {
                self.spdy.reply(id);
                self.spdy.finish(id);
            }
        }
        self.check_setup();
    }

    fn replied(&mut self, id: StreamId) {
        if let Some(channel) = self.channel_of(id) {
            self.state_of(channel).replied = true;
            self.check_setup();
        }
    }

    fn check_setup(&mut self) {
        let there =
            |one: &ChannelState| one.id.is_some() && (one.replied || self.side == Side::Server);
        let complete = Channel::ALL
            .into_iter()
            .filter(|&channel| self.has(channel))
            .all(|channel| there(&self.channels[channel as usize]));
        if complete && matches!(self.state, State::Setup(_)) {
            self.state = State::Open;
            self.spdy.forget_headers();
            self.events.push_back(Event::Ready);
        }
    }

    fn data(&mut self, now: Time, id: StreamId, bytes: Bytes) {
        let Some(channel) = self.channel_of(id) else { return };
        if channel == Channel::Error {
            if self.side == Side::Client {
                self.error_bytes(now, &bytes);
            }
        } else if channel.is_from_client() != (self.side == Side::Server) {
            // The peer may not send on this channel.
        } else if channel == Channel::Resize {
            let sizes = self.sizes.push(&bytes);
            self.events.extend(sizes.into_iter().map(Event::Resize));
        } else {
            self.extend_outcome(now);
            self.events.push_back(Event::Data(channel, bytes));
        }
    }

    fn error_bytes(&mut self, now: Time, bytes: &[u8]) {
        if self.error.len() + bytes.len() > limits::STATUS_BYTES {
            return self.lost(now, Loss::new(Cause::BadStatus, "it is too long"));
        }
        self.error.extend_from_slice(bytes);
    }

    fn finished(&mut self, now: Time, id: StreamId) {
        let Some(channel) = self.channel_of(id) else { return };
        let one = self.state_of(channel);
        (one.ended, one.finished) = (true, true);
        let theirs = channel.is_from_client() == (self.side == Side::Server);
        if theirs && matches!(channel, Channel::Stdin | Channel::Stdout | Channel::Stderr) {
            self.events.push_back(Event::Eof(channel));
        }
        self.check_outcome(now);
    }

    fn was_reset(&mut self, now: Time, id: StreamId) {
        let Some(channel) = self.channel_of(id) else { return };
        let setting_up = matches!(self.state, State::Setup(_));
        let had_finished = self.state_of(channel).finished;
        self.state_of(channel).ended = true;
        match (self.side, channel) {
            (Side::Client, _) if setting_up => {
                let why = format!("the {} stream was refused", channel.stream_type());
                self.lost(now, Loss::new(Cause::Streams, why));
            }
            // There will be no Status, however long the output goes on.
            (Side::Client, Channel::Error) if self.error.is_empty() && !had_finished => {
                self.lost(now, Loss::new(Cause::NoStatus, "its stream was reset"));
            }
            // A reset is no end of input. A client that gives up its stdin gives up the session.
            (Side::Server, Channel::Stdin) => {
                self.lost(now, Loss::new(Cause::Closed, "stdin was reset"));
            }
            _ => self.check_outcome(now),
        }
    }

    /// At a client: concludes once the error stream and all output have ended. Output may end by a
    /// reset, the Status counts all the same (trap T54 in docs/protocols/traps.md).
    fn check_outcome(&mut self, now: Time) {
        if self.side == Side::Server || !matches!(self.state, State::Open | State::Outcome(_)) {
            return;
        }
        let ended = |channel: Channel| self.channels[channel as usize].ended || !self.has(channel);
        if !ended(Channel::Error) {
            return;
        }
        // Text that is no Status may be the reason for the end of the connection, which follows.
        let doubtful = self.protocol.json_status
            && Status::parse(Bytes::copy_from_slice(&self.error)).is_err();
        if ended(Channel::Stdout) && ended(Channel::Stderr) && (!doubtful || self.error.is_empty())
        {
            self.conclude(now, None);
        } else if self.state == State::Open && !self.error.is_empty() {
            self.state = State::Outcome(now + limits::CLOSING_PATIENCE);
        }
    }

    /// At a client: gives the last event.
    fn conclude(&mut self, now: Time, closed: Option<&Closed>) {
        let error = Bytes::from(core::mem::take(&mut self.error));
        let status = if self.protocol.json_status {
            Some(error.clone()).filter(|error| !error.is_empty()).map(Status::parse)
        } else {
            self.status_in_words(&error).map(Ok)
        };
        let event = match status {
            Some(Ok(status)) => {
                self.tell_ends();
                Event::Status(status)
            }
            Some(Err(bad)) => match closed {
                Some(Closed::Goaway { status: 1.. }) => {
                    Event::Lost(Loss::new(Cause::Closed, lossy(&error)))
                }
                _ => Event::Lost(Loss::new(Cause::BadStatus, bad.to_string())),
            },
            None if error.starts_with(LOST.as_bytes()) => {
                Event::Lost(Loss::new(Cause::Closed, lossy(&error[LOST.len()..])))
            }
            None => Event::Lost(closed.map_or(Loss::new(Cause::NoStatus, ""), loss)),
        };
        self.abandon(now);
        self.events.push_back(event);
    }

    /// Without JSON, text on the error stream is a failure, and none is success. Text counts if its
    /// stream was finished; that there is none only counts if all streams were.
    fn status_in_words(&self, words: &[u8]) -> Option<Status> {
        let finished =
            |channel: Channel| self.channels[channel as usize].finished || !self.has(channel);
        if !finished(Channel::Error) || words.starts_with(LOST.as_bytes()) {
            return None;
        }
        if !words.is_empty() {
            return Some(Status::from_text(&String::from_utf8_lossy(words)));
        }
        (finished(Channel::Stdout) && finished(Channel::Stderr)).then(Status::success)
    }

    fn tell_ends(&mut self) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            if self.has(channel) && !self.state_of(channel).finished {
                self.events.push_back(Event::Eof(channel));
            }
        }
    }

    fn closed(&mut self, now: Time, closed: &Closed) {
        if matches!(self.state, State::Closing(_) | State::Over) {
            self.state = State::Over;
            return;
        }
        match self.side {
            Side::Client => self.conclude(now, Some(closed)),
            Side::Server => self.events.push_back(Event::Lost(loss(closed))),
        }
        self.state = match closed {
            Closed::Cut => State::Over,
            _ => State::Closing(now + limits::CLOSING_PATIENCE),
        };
    }

    // ---- what time brings ----

    fn tick(&mut self, now: Time) -> Option<Time> {
        match self.state {
            State::Setup(deadline) if now >= deadline => {
                let why = format!("{} s", limits::STREAMS_PATIENCE.as_secs());
                self.lost(now, Loss::new(Cause::Streams, why));
                None
            }
            State::Setup(deadline) => Some(deadline),
            State::Open => self.beat(now),
            State::Outcome(_) if self.heartbeat.is_paused() => self.beat(now),
            State::Outcome(deadline) if now >= deadline => {
                self.conclude(now, None);
                None
            }
            State::Outcome(deadline) => earlier(Some(deadline), self.beat(now)),
            State::Closing(_) if self.is_still_read() => {
                self.state = State::Closing(now + limits::CLOSING_PATIENCE);
                Some(now + limits::CLOSING_PATIENCE)
            }
            State::Closing(deadline) if now >= deadline || self.has_nothing_to_wait_for() => {
                self.state = State::Over;
                None
            }
            State::Closing(deadline) => Some(deadline),
            State::Over => None,
        }
    }

    /// Whether a client still takes what waits for it. One that reads slowly gets the rest of its
    /// output and its Status, however long it takes.
    fn is_still_read(&self) -> bool {
        self.side == Side::Server && !self.input_ended && self.spdy.is_undelivered()
    }

    /// Whether a closing connection can be dropped. A client that has its outcome owes its server
    /// nothing but the bytes that wait; a server reads on until the client has closed, so that no
    /// reset overtakes the Status.
    fn has_nothing_to_wait_for(&self) -> bool {
        let flushed = self.spdy.unsent() == 0;
        flushed && (self.side == Side::Client || self.input_ended)
    }

    /// Pings a client that is quiet, at a server that is to. Apart from the beat of a client, which
    /// comes with each message.
    #[cold]
    #[inline(never)]
    fn keep_alive_beat(&mut self, now: Time) -> Option<Time> {
        let is_empty = self.spdy.unsent() == 0;
        let heard = self.heartbeat.heard_at();
        let keep_alive = self.keep_alive.as_mut()?;
        Some(keep_alive.beat(now, heard, || {
            // One that waits already says as much.
            if is_empty {
                self.spdy.ping();
            }
        }))
    }

    fn beat(&mut self, now: Time) -> Option<Time> {
        if self.side == Side::Server {
            return self.keep_alive_beat(now);
        }
        let has_room = self.spdy.outbox().len() < limits::OUTBOX_BYTES;
        let ping = || if has_room { self.spdy.ping() } else { None };
        let beat = self.heartbeat.beat(now, ping);
        beat.map_err(|loss| self.lost(now, loss)).ok()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limits::REASON_BYTES)]).into_owned()
}

fn loss(closed: &Closed) -> Loss {
    match closed {
        Closed::Cut => Loss::new(Cause::Cut, ""),
        Closed::Fault(fault) => Loss::new(Cause::Fault, fault.to_string()),
        Closed::Goaway { status: GOAWAY_OK } => Loss::new(Cause::NoStatus, ""),
        Closed::Goaway { status } => Loss::new(Cause::Closed, format!("code {status}")),
    }
}

impl Machine for OverSpdy {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        self.heartbeat.heard(now);
        self.spdy.receive(input);
    }

    fn receive_end(&mut self, _now: Time) {
        self.input_ended = true;
        self.spdy.receive_end();
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        use crate::spdy::Event as Frame;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Next::Event(event);
            }
            match self.spdy.poll() {
                Some(Frame::Closed(closed)) => self.closed(now, &closed),
                Some(_) if matches!(self.state, State::Closing(_) | State::Over) => {}
                Some(Frame::Opened { id, headers }) => self.opened(id, &headers),
                Some(Frame::Replied { id, .. }) => self.replied(id),
                Some(Frame::Data(id, bytes)) => self.data(now, id, bytes),
                Some(Frame::Finished(id)) => self.finished(now, id),
                Some(Frame::Reset(id, _)) => self.was_reset(now, id),
                Some(Frame::Pong(number)) => self.heartbeat.answered(number),
                Some(Frame::Window(..)) => {}
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
        self.spdy.outbox()
    }

    fn wants_read(&self) -> bool {
        self.spdy.has_room()
    }

    fn reading(&mut self, now: Time, reading: bool) {
        if reading && self.heartbeat.is_paused() {
            self.extend_outcome(now);
        }
        self.heartbeat.paused(now, !reading);
    }
}
