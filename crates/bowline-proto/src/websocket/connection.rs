//! One WebSocket after its handshake: bytes to events, messages to bytes.

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

/// Past so many pongs that the peer does not take, only the latest ping is answered (RFC 6455
/// §5.5.3 allows it): a peer that pings without reading must not fill our memory.
const PONGS_WAITING: usize = 16;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Masks what it sends.
    Client,
    /// Does not.
    Server,
}

/// What a frame that continues a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// The same message goes on (RFC 6455 §5.4).
    Join,
    /// A message of its own, as golang.org/x/net/websocket takes it (docs/protocols/websocket.md,
    /// 2.4).
    AsMessage,
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Our end.
    pub role: Role,
    /// What continuations mean.
    pub continuation: Continuation,
}

/// What a message says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Anything.
    Binary,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What the message holds.
    pub kind: Kind,
    /// A message begins here.
    pub first: bool,
    /// It ends here.
    pub last: bool,
    /// A slice of what was read; empty only where `first` or `last` says something.
    pub payload: Bytes,
}

/// What happened. After `Closed` nothing follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A part of a message came.
    Chunk(Chunk),
    /// A ping was answered.
    Pong(Bytes),
    /// The peer says nothing more.
    Closed(Closed),
}

/// How a peer ended its side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// With a Close. The answer is queued unless we had closed before.
    Goodbye {
        /// Its code, if it gave one.
        code: Option<u16>,
        /// Its reason; may be empty.
        reason: String,
    },
    /// The bytes ended without a Close.
    Cut,
    /// It broke a rule. A Close with the fitting code is queued unless we had closed before.
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
    /// The peer's last word was heard.
    closed: bool,
    said_goodbye: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    header: Header,
    kind: Kind,
    /// The frame begins a message, and no byte of it was given yet.
    first: bool,
    read: u64,
}

enum Progress {
    Chunk(Chunk),
    /// A frame ended that says nothing.
    Nothing,
    /// The frame goes on with bytes that have not come.
    Starved,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection on which nothing was said yet. `seed` makes the masks of a client; it must come
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
            said_goodbye: false,
        }
    }

    /// Takes bytes of the peer.
    pub fn receive(&mut self, input: BytesMut) {
        if self.closed {
        } else if self.inbox.is_empty() {
            self.inbox = input;
        } else {
            self.inbox.extend_from_slice(&input);
        }
    }

    /// The peer sends no more bytes.
    pub fn receive_end(&mut self) {
        self.input_ended = true;
    }

    /// The bytes to write.
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

    /// Whether we said Close.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.said_goodbye
    }

    // ---- sending ----

    /// Sends one whole message, `head` then `payload`, as one frame: peers on golang.org/x/net do
    /// not join fragments (docs/protocols/websocket.md, 2.4).
    pub fn message(&mut self, kind: Kind, head: &[u8], payload: Bytes) {
        if self.said_goodbye {
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
            // Nobody's head is that long; it is a part of the payload then.
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
    pub fn message_of(&mut self, pieces: Vec<Bytes>) {
        if self.said_goodbye {
            return;
        }
        let mask = self.fresh_mask();
        let len = pieces.iter().map(|piece| piece.len() as u64).sum();
        let (header, end) = Header { fin: true, opcode: Opcode::Binary, mask, len }.emit();
        match mask {
            None => self.outbox.frame_of(&header[..end], pieces),
            Some(key) => {
                let mut offset = 0;
                let masked = pieces.into_iter().map(|piece| {
                    let at = offset;
                    offset = (offset + piece.len()) % 4;
                    masked(key, at, piece)
                });
                self.outbox.frame_of(&header[..end], masked);
            }
        }
    }

    /// Sends a ping, before bulk data that waits. `payload` is cut to 125 bytes.
    pub fn ping(&mut self, payload: &[u8]) {
        self.control(Opcode::Ping, payload, true);
    }

    /// Says Close, after what waits, and then nothing more. `reason` is cut to 123 bytes by the
    /// caller at a character's boundary; a longer one is left out.
    pub fn close(&mut self, code: u16, reason: &str) {
        let mut body = [0; WEBSOCKET_CONTROL_BYTES];
        body[..2].copy_from_slice(&code.to_be_bytes());
        let reason = Some(reason.as_bytes()).filter(|text| text.len() <= body.len() - 2);
        let reason = reason.unwrap_or_default();
        body[2..2 + reason.len()].copy_from_slice(reason);
        self.say_goodbye(&body[..2 + reason.len()]);
    }

    fn say_goodbye(&mut self, body: &[u8]) {
        self.control(Opcode::Close, body, false);
        self.said_goodbye = true;
        self.outbox.finish();
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8], urgent: bool) {
        if self.said_goodbye {
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

    /// The next event, if what was received holds one.
    pub fn poll(&mut self) -> Option<Event> {
        if self.closed {
            return None;
        }
        self.answer_ping();
        match self.step() {
            Ok(Some(event)) => Some(event),
            Ok(None) if self.input_ended => Some(self.over(Closed::Cut)),
            Ok(None) => {
                // Less than a control frame is left, and must not keep the read that it came with.
                self.inbox = BytesMut::from(&self.inbox[..]);
                None
            }
            Err(fault) => Some(Event::Closed(self.fail(fault))),
        }
    }

    /// Ends the connection for a fault of the peer's that only our owner can see, and says so to
    /// the peer. No event follows.
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
                    Progress::Starved => return Ok(None),
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
                let closed = goodbye(&body)?;
                if let Closed::Goodbye { code, .. } = &closed {
                    match code {
                        Some(code) => self.close(*code, ""),
                        None => self.say_goodbye(&[]),
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

    /// Gives what is there of a frame's payload.
    fn payload(&mut self, mut frame: Frame) -> Result<Progress, Fault> {
        let left = frame.header.len - frame.read;
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.inbox.len());
        if here == 0 && left > 0 {
            return Ok(Progress::Starved);
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

/// Masks without a copy where nobody else holds the bytes.
fn masked(key: [u8; 4], offset: usize, payload: Bytes) -> Bytes {
    if payload.is_empty() {
        return payload;
    }
    let mut own = payload.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    mask::apply(key, offset, &mut own);
    own.freeze()
}

/// RFC 6455 §5.5.1, §7.4.
fn goodbye(body: &[u8]) -> Result<Closed, Fault> {
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
    Ok(Closed::Goodbye { code, reason: reason.into() })
}
