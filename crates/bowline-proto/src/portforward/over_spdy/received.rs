//! What the peer of a port-forward sends: streams, their bytes and their ends, to events.

use alloc::format;
use alloc::string::{String, ToString};
use core::mem;

use bytes::Bytes;

use super::{
    CANCEL, GOAWAY_OK, OverSpdy, PROTOCOL_ERROR, Pair, PeerDirection, REFUSED_STREAM, State,
    StreamType,
};
use crate::extension::WINDOW;
use crate::limits;
use crate::portforward::window::Window;
use crate::portforward::{Event, Id};
use crate::session::{Cause, Loss, Side};
use crate::spdy::{self, Headers, StreamId};
use crate::time::Time;
use crate::tunnel::Incoming;
use crate::websocket;

/// The longest request id that is taken; kubectl's are decimal numbers.
const REQUEST_BYTES: usize = 64;
/// The failure of a connection whose peer sent more than its window allows.
const OVERRUN: &str = "more was sent than the window allows";

impl OverSpdy {
    pub(super) fn opened(&mut self, now: Time, stream: StreamId, headers: &Headers) {
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

    /// At a server: announces a pair of which both streams are there. Its client may use the
    /// request id again.
    fn complete(&mut self, id: Id) {
        self.await_no_more(id);
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.announced = true;
        self.requests.remove(&mem::take(&mut pair.request));
        self.events.push_back(Event::Requested(id, pair.port));
        let early = mem::take(&mut pair.early);
        self.early_bytes -= early.len();
        if !early.is_empty() {
            self.events.push_back(Event::Data(id, early.freeze()));
        }
        if pair.peer_direction == PeerDirection::EndUnconfirmed {
            pair.peer_direction = PeerDirection::Ended;
            self.events.push_back(Event::Eof(id));
        }
    }

    pub(super) fn replied(&mut self, stream: StreamId, headers: &Headers) {
        let Some((id, StreamType::Data)) = self.streams.get(&stream).copied() else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let window = headers.get(WINDOW.answered).and_then(|window| window.parse().ok());
        pair.window = window.map(Window::new);
        pair.announced = true;
        self.events.push_back(Event::Connected(id));
        if !self.pairs.get(&id).is_some_and(Pair::is_awaited) {
            self.await_no_more(id);
        }
    }

    pub(super) fn data(&mut self, now: Time, stream: StreamId, bytes: Bytes) {
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
                let room = limits::REASON_BYTES.saturating_sub(pair.error_text.len());
                pair.error_text.extend_from_slice(&bytes[..room.min(bytes.len())]);
            }
            (StreamType::Data, Side::Server) if !pair.announced => {
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

    /// Ends a connection whose peer exceeds its window, as nothing else would bound what it sends.
    fn overrun(&mut self, now: Time, id: Id) {
        if self.side == Side::Client {
            return self.give_up(id, OVERRUN);
        }
        if self.pairs.get(&id).is_some_and(|pair| pair.announced) {
            self.events.push_back(Event::Reset(id));
        }
        self.fail(now, id, OVERRUN);
    }

    pub(super) fn finished(&mut self, now: Time, stream: StreamId) {
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
            Side::Server => pair.announced,
            Side::Client => pair.window.is_some() || pair.error_ended,
        };
        if !believed {
            pair.peer_direction = PeerDirection::EndUnconfirmed;
            // A server awaits its error stream already.
            if self.side == Side::Client {
                self.await_more(now, id);
            }
            return;
        }
        pair.peer_direction = PeerDirection::Ended;
        let both = pair.we_finished;
        self.events.push_back(Event::Eof(id));
        if both {
            self.forget(id);
        }
    }

    fn error_ended(&mut self, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.error_ended = true;
        if !pair.error_text.is_empty() {
            return self.failed(id);
        }
        if pair.peer_direction == PeerDirection::EndUnconfirmed {
            pair.peer_direction = PeerDirection::Ended;
            self.events.push_back(Event::Eof(id));
            self.await_no_more(id);
            self.forget_if_over(id);
        }
    }

    /// At a client: gives up a connection for the reason on its error stream.
    fn failed(&mut self, id: Id) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let reason = String::from_utf8_lossy(&mem::take(&mut pair.error_text)).into_owned();
        self.give_up(id, &reason);
    }

    pub(super) fn give_up(&mut self, id: Id, reason: &str) {
        if let Some(data) = self.pairs.get(&id).and_then(|pair| pair.data) {
            self.spdy.reset(data, CANCEL);
        }
        self.events.push_back(Event::Failed(id, reason.into()));
        self.forget(id);
    }

    pub(super) fn was_reset(&mut self, stream: StreamId) {
        let Some((id, kind)) = self.streams.remove(&stream) else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        match (self.side, kind) {
            (Side::Server, StreamType::Error) => {
                pair.error = None;
                if !pair.announced {
                    self.forget_early(id);
                }
            }
            (Side::Client, StreamType::Error) if !pair.announced => {
                self.give_up(id, "Stream reset")
            }
            (Side::Client, StreamType::Error) => {
                pair.error = None;
                self.error_ended(id);
            }
            (_, StreamType::Data) => {
                pair.data = None;
                let (announced, has_reason) = (pair.announced, !pair.error_text.is_empty());
                // kubectl takes the end of our direction for the end of the connection, and resets
                // it then. A client that counts does not.
                let is_kubectl = self.side == Side::Server && pair.window.is_none();
                let done = is_kubectl && pair.we_finished;
                let ended = pair.peer_direction == PeerDirection::Ended;
                match self.side {
                    Side::Server if !announced => {}
                    Side::Server if done && ended => {}
                    Side::Server if done => self.events.push_back(Event::Eof(id)),
                    Side::Client if has_reason => return self.failed(id),
                    Side::Client if !announced => return self.give_up(id, "Stream reset"),
                    _ => self.events.push_back(Event::Reset(id)),
                }
                self.forget(id);
            }
        }
    }

    /// Forgets a pair that will never be complete.
    fn forget_early(&mut self, id: Id) {
        if let Some(data) = self.pairs.get(&id).and_then(|pair| pair.data) {
            self.spdy.reset(data, CANCEL);
        }
        self.forget(id);
    }

    pub(super) fn window(&mut self, stream: StreamId, bytes: u32) {
        let Some((id, StreamType::Data)) = self.streams.get(&stream).copied() else { return };
        let Some(window) = self.pairs.get_mut(&id).and_then(|pair| pair.window.as_mut()) else {
            return;
        };
        window.opened(bytes);
        self.events.push_back(Event::Room(id));
    }

    pub(super) fn closed(&mut self, now: Time, closed: Loss, cut: bool) {
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

    /// Gives SPDY what the wire holds; false if it holds nothing.
    pub(super) fn unpack(&mut self, now: Time) -> bool {
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

fn loss_in_tunnel(closed: &websocket::Closed) -> Loss {
    use websocket::Closed;
    match closed {
        Closed::Cut => Loss::new(Cause::Cut, ""),
        Closed::Fault(fault) => Loss::new(Cause::Fault, fault.to_string()),
        Closed::CloseFrame { reason, .. } if !reason.is_empty() => {
            Loss::new(Cause::Closed, reason.clone())
        }
        Closed::CloseFrame { code: None | Some(1000), .. } => Loss::new(Cause::Closed, ""),
        Closed::CloseFrame { code: Some(code), .. } => {
            Loss::new(Cause::Closed, format!("code {code}"))
        }
    }
}

pub(super) fn loss(closed: &spdy::Closed) -> (Loss, bool) {
    use spdy::Closed;
    match closed {
        Closed::Cut => (Loss::new(Cause::Cut, ""), true),
        Closed::Fault(fault) => (Loss::new(Cause::Fault, fault.to_string()), false),
        Closed::Goaway { status: GOAWAY_OK } => (Loss::new(Cause::Closed, ""), false),
        Closed::Goaway { status } => (Loss::new(Cause::Closed, format!("code {status}")), false),
    }
}
