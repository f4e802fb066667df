//! One WebSocket connection after its handshake: bytes to events, messages to bytes.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::fault::Fault;
use super::frame::{Header, Opcode};
use super::mask;
use super::utf8::Utf8;
use crate::limits::{WEBSOCKET_CONTROL_BYTES, WEBSOCKET_HEADER_BYTES};
use crate::outbox::Outbox;

/// How many pongs may wait before only the latest ping is answered (RFC 6455 §5.5.3 allows it): a
/// peer that pings without reading must not fill our memory.
const PONGS_WAITING: usize = 16;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client, which masks what it sends.
    Client,
    /// The server, which does not mask.
    Server,
}

/// What a frame that continues a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// It is a part of the same message (RFC 6455 §5.4).
    Join,
    /// It is a message of its own, as for golang.org/x/net/websocket (docs/protocols/websocket.md,
    /// 2.4).
    AsMessage,
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end we are.
    pub role: Role,
    /// What continuations mean.
    pub continuation: Continuation,
}

/// What a message holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, which is checked to be UTF-8.
    Text,
    /// Any bytes.
    Binary,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What the message holds.
    pub kind: Kind,
    /// It is the beginning of a message.
    pub first: bool,
    /// It is the end of a message.
    pub last: bool,
    /// Its bytes, a slice of what was read. Empty only where it is the first or the last part.
    pub payload: Bytes,
}

/// What a connection tells its owner. After [`Closed`](Self::Closed) no event follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a message came.
    Chunk(Chunk),
    /// A pong came, with this payload.
    Pong(Bytes),
    /// The peer sends nothing more.
    Closed(Closed),
}

/// How a peer ended its direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// By a Close. The answer is queued unless we had closed before.
    CloseFrame {
        /// The code, if there was one.
        code: Option<u16>,
        /// The reason; may be empty.
        reason: String,
    },
    /// By ending the connection without a Close.
    Cut,
    /// By breaking a rule. A Close with the fitting code is queued unless we had closed before.
    Fault(Fault),
}

/// A WebSocket connection, after the 101.
pub struct Connection {
    config: Config,
    masks: ChaCha8Rng,
    inbox: BytesMut,
    input_ended: bool,
    outbox: Outbox,
    /// The latest ping's payload, while too many pongs wait.
    unanswered: Option<Bytes>,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// The message that is being read, between its first and its last frame.
    message: Option<Kind>,
    utf8: Utf8,
    /// [`Event::Closed`] was given, or is not to be.
    closed: bool,
    close_sent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: Header,
    kind: Kind,
    /// The frame begins a message of which no byte was given yet.
    first: bool,
    read: u64,
}

enum Progress {
    Chunk(Chunk),
    /// A frame ended without an event.
    Nothing,
    /// The frame goes on with bytes that have not come.
    Incomplete,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection right after the handshake. `seed` makes the masks of a client and must come
    /// from a cryptographic source (RFC 6455 §10.3).
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32]) -> Connection {
        Connection {
            config,
            masks: ChaCha8Rng::from_seed(seed),
            inbox: BytesMut::new(),
            input_ended: false,
            outbox: Outbox::new(),
            unanswered: None,
            frame: None,
            message: None,
            utf8: Utf8::default(),
            closed: false,
            close_sent: false,
        }
    }

    /// Takes the next bytes of the peer.
    pub fn receive(&mut self, input: BytesMut) {
        if self.closed {
        } else if self.inbox.is_empty() {
            self.inbox = input;
        } else {
            self.inbox.extend_from_slice(&input);
        }
    }

    /// Records that the peer sends no more bytes.
    pub fn receive_end(&mut self) {
        self.input_ended = true;
    }

    /// The bytes that wait to be written.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// See [`Outbox::is_undelivered`].
    #[must_use]
    pub fn is_undelivered(&self) -> bool {
        self.outbox.is_undelivered()
    }

    /// How many bytes wait to be written.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outbox.len()
    }

    /// Whether we have sent a Close.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.close_sent
    }

    // ---- sending ----

    /// Sends one whole message, `head` then `payload`, as one frame: peers on golang.org/x/net do
    /// not join fragments (docs/protocols/websocket.md, 2.4).
    pub fn message(&mut self, kind: Kind, head: &[u8], payload: Bytes) {
        if self.close_sent {
            return;
        }
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let mask = self.fresh_mask();
        let len = (head.len() + payload.len()) as u64;
        let (bytes, end) = Header { fin: true, opcode, mask, len }.emit();
        let mut front = [0; WEBSOCKET_HEADER_BYTES + 16];
        let fits = head.len() <= 16;
        if !fits {
            // No caller has a head that long; it is made a part of the payload.
            let whole = Bytes::from([head, &payload].concat());
            return self.message(kind, &[], whole);
        }
        front[..end].copy_from_slice(&bytes[..end]);
        front[end..end + head.len()].copy_from_slice(head);
        let payload = match mask {
            None => payload,
            Some(key) => {
                mask::apply(key, 0, &mut front[end..end + head.len()]);
                masked(key, head.len(), payload)
            }
        };
        self.outbox.frame(&front[..end + head.len()], payload);
    }

    /// Sends one binary message whose payload is in pieces, as one frame.
    pub fn message_in_pieces(&mut self, pieces: Vec<Bytes>) {
        if self.close_sent {
            return;
        }
        let mask = self.fresh_mask();
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let (header, end) = Header { fin: true, opcode: Opcode::Binary, mask, len }.emit();
        match mask {
            None => self.outbox.frame_in_pieces(&header[..end], pieces),
            Some(key) => {
                let mut offset = 0;
                let masked = pieces.into_iter().map(|piece| {
                    let at = offset;
                    offset = (offset + piece.len()) % 4;
                    masked(key, at, piece)
                });
                self.outbox.frame_in_pieces(&header[..end], masked);
            }
        }
    }

    /// Sends a ping, ahead of bulk data that waits. `payload` is cut to 125 bytes.
    pub fn ping(&mut self, payload: &[u8]) {
        self.control(Opcode::Ping, payload, true);
    }

    /// Sends a Close after what waits, and nothing after that. A `reason` of more than 123 bytes is
    /// left out.
    pub fn close(&mut self, code: u16, reason: &str) {
        let mut body = [0; WEBSOCKET_CONTROL_BYTES];
        body[..2].copy_from_slice(&code.to_be_bytes());
        let reason = Some(reason.as_bytes()).filter(|text| text.len() <= body.len() - 2);
        let reason = reason.unwrap_or_default();
        body[2..2 + reason.len()].copy_from_slice(reason);
        self.send_close(&body[..2 + reason.len()]);
    }

    fn send_close(&mut self, body: &[u8]) {
        self.control(Opcode::Close, body, false);
        self.close_sent = true;
        self.outbox.finish();
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8], urgent: bool) {
        if self.close_sent {
            return;
        }
        let payload = &payload[..payload.len().min(WEBSOCKET_CONTROL_BYTES)];
        let mask = self.fresh_mask();
        let (bytes, end) = Header { fin: true, opcode, mask, len: payload.len() as u64 }.emit();
        let mut frame = [0; WEBSOCKET_HEADER_BYTES + WEBSOCKET_CONTROL_BYTES];
        frame[..end].copy_from_slice(&bytes[..end]);
        let whole = end + payload.len();
        frame[end..whole].copy_from_slice(payload);
        if let Some(key) = mask {
            mask::apply(key, 0, &mut frame[end..whole]);
        }
        if urgent {
            self.outbox.urgent(&frame[..whole]);
        } else {
            self.outbox.frame(&frame[..whole], Bytes::new());
        }
    }

    fn fresh_mask(&mut self) -> Option<[u8; 4]> {
        (self.config.role == Role::Client).then(|| self.masks.next_u32().to_ne_bytes())
    }

    // ---- receiving ----

    /// Returns the next event, if there is one in what was received.
    pub fn poll(&mut self) -> Option<Event> {
        if self.closed {
            return None;
        }
        self.answer_ping();
        match self.step() {
            Ok(Some(event)) => Some(event),
            Ok(None) if self.input_ended => Some(self.over(Closed::Cut)),
            Ok(None) => {
                // Less than a control frame is left. It must not keep alive all of the last read.
                self.inbox = BytesMut::from(&self.inbox[..]);
                None
            }
            Err(fault) => Some(Event::Closed(self.fail(fault))),
        }
    }

    /// Ends the connection, with a Close, for a fault of the peer that only our owner can see. No
    /// event follows.
    pub fn fail(&mut self, fault: Fault) -> Closed {
        self.close(fault.close_code(), "");
        self.over(Closed::Fault(fault));
        Closed::Fault(fault)
    }

    fn over(&mut self, closed: Closed) -> Event {
        self.closed = true;
        self.inbox = BytesMut::new();
        Event::Closed(closed)
    }

    fn step(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(frame) = self.frame {
                match self.payload(frame)? {
                    Progress::Chunk(chunk) => return Ok(Some(Event::Chunk(chunk))),
                    Progress::Nothing => continue,
                    Progress::Incomplete => return Ok(None),
                }
            }
            let Some((header, end)) = Header::parse(&self.inbox)? else { return Ok(None) };
            match (self.config.role, header.mask) {
                (Role::Server, None) => return Err(Fault::Unmasked),
                (Role::Client, Some(_)) => return Err(Fault::Masked),
                _ => {}
            }
            if header.opcode.is_control() {
                let whole = end + header.len as usize;
                if self.inbox.len() < whole {
                    return Ok(None);
                }
                let mut body = self.inbox.split_to(whole).split_off(end);
                if let Some(key) = header.mask {
                    mask::apply(key, 0, &mut body);
                }
                if let Some(event) = self.control_frame(header.opcode, body.freeze())? {
                    return Ok(Some(event));
                }
                continue;
            }
            let frame = self.data_frame(header)?;
            let _ = self.inbox.split_to(end);
            self.frame = Some(frame);
        }
    }

    fn control_frame(&mut self, opcode: Opcode, body: Bytes) -> Result<Option<Event>, Fault> {
        match opcode {
            Opcode::Pong => Ok(Some(Event::Pong(body))),
            Opcode::Close => {
                let closed = parse_close(&body)?;
                if let Closed::CloseFrame { code, .. } = &closed {
                    match code {
                        Some(code) => self.close(*code, ""),
                        None => self.send_close(&[]),
                    }
                }
                Ok(Some(self.over(closed)))
            }
            _ => {
                self.unanswered = Some(Bytes::copy_from_slice(&body));
                self.answer_ping();
                Ok(None)
            }
        }
    }

    fn answer_ping(&mut self) {
        if self.outbox.urgent_waiting() < PONGS_WAITING
            && let Some(body) = self.unanswered.take()
        {
            self.control(Opcode::Pong, &body, true);
        }
    }

    fn data_frame(&mut self, header: Header) -> Result<Frame, Fault> {
        let (kind, first) = match (header.opcode, self.message) {
            (Opcode::Continuation, None) => return Err(Fault::StrayContinuation),
            (Opcode::Continuation, Some(kind)) => {
                (kind, self.config.continuation == Continuation::AsMessage)
            }
            (_, Some(_)) => return Err(Fault::Interleaved),
            (Opcode::Text, None) => (Kind::Text, true),
            (_, None) => (Kind::Binary, true),
        };
        if header.opcode != Opcode::Continuation {
            self.utf8 = Utf8::default();
        }
        self.message = Some(kind).filter(|_| !header.fin);
        Ok(Frame { header, kind, first, read: 0 })
    }

    /// Takes what has come of a frame's payload.
    fn payload(&mut self, mut frame: Frame) -> Result<Progress, Fault> {
        let left = frame.header.len - frame.read;
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.inbox.len());
        if here == 0 && left > 0 {
            return Ok(Progress::Incomplete);
        }
        let mut payload = self.inbox.split_to(here);
        if let Some(key) = frame.header.mask {
            mask::apply(key, (frame.read % 4) as usize, &mut payload);
        }
        let ends = here as u64 == left;
        let last =
            ends && (frame.header.fin || self.config.continuation == Continuation::AsMessage);
        if frame.kind == Kind::Text {
            let whole = ends && frame.header.fin;
            if !self.utf8.push(&payload) || whole && !self.utf8.is_whole() {
                return Err(Fault::Utf8);
            }
        }
        let (kind, first) = (frame.kind, frame.first);
        frame.read += here as u64;
        frame.first = false;
        self.frame = Some(frame).filter(|_| !ends);
        if payload.is_empty() && !first && !last {
            // An empty frame in the middle of a message says nothing.
            return Ok(Progress::Nothing);
        }
        Ok(Progress::Chunk(Chunk { kind, first, last, payload: payload.freeze() }))
    }
}

/// Returns the masked payload, without a copy where nobody else holds the bytes.
fn masked(key: [u8; 4], offset: usize, payload: Bytes) -> Bytes {
    if payload.is_empty() {
        return payload;
    }
    let mut own = payload.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    mask::apply(key, offset, &mut own);
    own.freeze()
}

/// Parses the body of a Close (RFC 6455 §5.5.1, §7.4).
fn parse_close(body: &[u8]) -> Result<Closed, Fault> {
    let (code, reason) = match body {
        [] => (None, &body[..0]),
        [_] => return Err(Fault::ShortClose),
        [a, b, reason @ ..] => (Some(u16::from_be_bytes([*a, *b])), reason),
    };
    match code {
        None | Some(1000..=1003 | 1007..=1014 | 3000..=4999) => {}
        Some(code) => return Err(Fault::CloseCode(code)),
    }
    let reason = core::str::from_utf8(reason).map_err(|_| Fault::Utf8)?;
    Ok(Closed::CloseFrame { code, reason: reason.into() })
}
