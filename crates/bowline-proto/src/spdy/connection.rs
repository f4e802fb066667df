//! One SPDY connection after its upgrade: bytes to events, data of streams to bytes.
//!
//! There is no flow control by itself: nobody in Kubernetes sends or heeds windows (trap T12 in
//! docs/protocols/traps.md), and TCP is what holds back a sender.

use alloc::collections::BTreeMap;
use core::mem;

use bytes::{Buf, Bytes, BytesMut};

use super::fault::Fault;
use super::frame::{self, FIN, HEADER_BYTES, Header, ID_BITS, PAYLOAD_BYTES, Type};
use super::headers::{Decoder, Encoder, Headers};
use crate::limits;
use crate::outbox::Outbox;

/// RST_STREAM codes (SPDY/3.1 §2.6.3).
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
/// GOAWAY code (§2.6.6).
const GOAWAY_PROTOCOL_ERROR: u32 = 1;
/// How many answers to PINGs may wait before only the latest PING is answered: a peer that asks
/// without reading must not fill our memory.
const PONGS_WAITING: usize = 16;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client, which opens odd streams and sends first.
    Client,
    /// The server, which opens even streams (in Kubernetes none) and never sends first
    /// (docs/protocols/handshakes.md, 3.9).
    Server,
}

/// The number of a stream: odd if the client opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// Returns the number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What a connection tells its owner. After [`Closed`](Self::Closed) no event follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened a stream; answer with [`Connection::reply`] or [`Connection::reset`].
    Opened {
        /// The stream's number.
        id: StreamId,
        /// The headers that it was opened with.
        headers: Headers,
    },
    /// The peer answered a stream of ours.
    Replied {
        /// The stream's number.
        id: StreamId,
        /// The headers of the answer. Go's servers send none.
        headers: Headers,
    },
    /// Bytes of a stream; never empty.
    Data(StreamId, Bytes),
    /// The peer ended its direction of a stream.
    Finished(StreamId),
    /// The peer reset a stream, with this code; it is gone.
    Reset(StreamId, u32),
    /// The peer has taken so many more bytes of a stream. Go's library never sends this.
    Window(StreamId, u32),
    /// The peer answered a ping of ours.
    Pong(u32),
    /// The connection is over.
    Closed(Closed),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer sent a GOAWAY. In Kubernetes nothing follows it (trap T55 in
    /// docs/protocols/traps.md).
    Goaway {
        /// The status, where 0 is a normal end.
        status: u32,
    },
    /// The bytes ended without a GOAWAY.
    Cut,
    /// The peer broke a rule; a GOAWAY is queued.
    Fault(Fault),
}

/// A SPDY/3.1 connection, after the 101.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    inbox: Bytes,
    /// The length of `inbox` when it got memory of its own; 0 while it is a slice of a read.
    inbox_own: usize,
    input_ended: bool,
    outbox: Outbox,
    encoder: Encoder,
    /// `None` once no further header block is read.
    decoder: Option<Decoder>,
    streams: BTreeMap<StreamId, Stream>,
    next_id: u32,
    last_peer_id: u32,
    next_ping: u32,
    /// The peer's latest PING, while too many answers wait.
    unanswered: Option<u32>,
    /// The DATA frame whose payload is being read.
    data: Option<DataFrame>,
    /// The peer has sent something, so that a server may send as well.
    heard: bool,
    closed: bool,
}

/// The state of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    we_finished: bool,
    they_finished: bool,
    /// The one SYN_REPLY of the stream was sent, by the end that did not open it.
    replied: bool,
}

#[derive(Clone, Copy, Debug)]
struct DataFrame {
    id: StreamId,
    left: usize,
    fin: bool,
}

impl Connection {
    /// A connection right after the upgrade.
    #[must_use]
    pub fn new(role: Role) -> Connection {
        let first = if role == Role::Client { 1 } else { 2 };
        Connection {
            role,
            inbox: Bytes::new(),
            inbox_own: 0,
            input_ended: false,
            outbox: Outbox::new(),
            encoder: Encoder::default(),
            decoder: Some(Decoder::default()),
            streams: BTreeMap::new(),
            next_id: first,
            last_peer_id: 0,
            next_ping: first,
            unanswered: None,
            data: None,
            heard: false,
            closed: false,
        }
    }

    /// Takes the next bytes of the peer.
    pub fn receive(&mut self, input: impl Into<Bytes>) {
        let input = input.into();
        if self.closed {
        } else if self.inbox.is_empty() {
            self.inbox = input;
            self.inbox_own = 0;
        } else {
            let own = mem::take(&mut self.inbox).try_into_mut();
            let mut whole = own.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            whole.extend_from_slice(&input);
            self.inbox = whole.freeze();
            self.inbox_own = self.inbox.len();
        }
    }

    /// Copies the beginning of a frame, which must not keep alive all of the last read.
    fn keep_rest(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = Bytes::new();
        } else if self.inbox.len() <= self.inbox_own / 2 || self.inbox_own == 0 {
            self.inbox = Bytes::copy_from_slice(&self.inbox);
            self.inbox_own = self.inbox.len();
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

    /// Whether there is room for answers that more input may require. A peer that sends requests
    /// and never reads is not read either.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.outbox.len() < limits::OUTBOX_WITH_ANSWERS_BYTES
    }

    /// Refuses all further streams and ignores headers from now on, to free the memory that
    /// decoding them takes.
    pub fn forget_headers(&mut self) {
        self.decoder = None;
    }

    // ---- sending ----

    /// Whether all stream numbers are used, so that no further stream can be opened (§2.3.2).
    #[must_use]
    pub fn is_out_of_ids(&self) -> bool {
        self.next_id > ID_BITS
    }

    /// Opens a stream. The peer answers it with [`Event::Replied`] or [`Event::Reset`].
    pub fn open(&mut self, headers: &[(&str, &str)]) -> StreamId {
        let id = StreamId(self.next_id & ID_BITS);
        self.next_id = self.next_id.wrapping_add(2);
        self.streams.insert(id, Stream::default());
        let block = self.encoder.block(headers);
        // Stream, associated stream, priority, slot (§2.6.1).
        let len = (10 + block.len()) as u32;
        let mut frame = [0; HEADER_BYTES + 10];
        let header = Header::Control { kind: Type::SynStream, flags: 0, len };
        frame[..8].copy_from_slice(&header.emit());
        frame[8..12].copy_from_slice(&id.0.to_be_bytes());
        self.outbox.frame(&frame, block.into());
        id
    }

    /// Answers a stream that the peer opened, once.
    pub fn reply(&mut self, id: StreamId) {
        self.reply_with(id, &[]);
    }

    /// The same with something to say, to peers that are known to listen.
    pub fn reply_with(&mut self, id: StreamId, headers: &[(&str, &str)]) {
        if self.is_ours(id) || !self.take_reply(id) {
            return;
        }
        let block = self.encoder.block(headers);
        let len = (4 + block.len()) as u32;
        let mut frame = [0; HEADER_BYTES + 4];
        let header = Header::Control { kind: Type::SynReply, flags: 0, len };
        frame[..8].copy_from_slice(&header.emit());
        frame[8..].copy_from_slice(&id.0.to_be_bytes());
        self.outbox.frame(&frame, block.into());
    }

    /// Sends bytes on a stream. Ignored once we finished it or it is gone.
    pub fn send(&mut self, id: StreamId, mut payload: Bytes) {
        if self.streams.get(&id).is_none_or(|stream| stream.we_finished) {
            return;
        }
        while !payload.is_empty() {
            let piece = payload.split_to(payload.len().min(PAYLOAD_BYTES));
            let header = Header::Data { id: id.0, fin: false, len: piece.len() as u32 };
            self.outbox.frame(&header.emit(), piece);
        }
    }

    /// Ends our direction of a stream.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.we_finished) else {
            return;
        };
        stream.we_finished = true;
        let header = Header::Data { id: id.0, fin: true, len: 0 };
        self.outbox.frame(&header.emit(), Bytes::new());
        self.forget_if_finished(id);
    }

    /// Gives up a stream in both directions.
    pub fn reset(&mut self, id: StreamId, code: u32) {
        if self.streams.remove(&id).is_some() {
            self.outbox.frame(&frame::pair(Type::RstStream, id.0, code), Bytes::new());
        }
    }

    /// Tells the peer that so many bytes more of a stream were taken (§2.6.8). Only for peers that
    /// are known to heed it.
    pub fn taken(&mut self, id: StreamId, bytes: u32) {
        if self.streams.get(&id).is_some_and(|stream| !stream.they_finished) {
            self.outbox.frame(&frame::pair(Type::WindowUpdate, id.0, bytes), Bytes::new());
        }
    }

    /// Asks for a sign of life, before bulk data that waits. A server that has heard nothing yet
    /// must not, and gives `None`.
    pub fn ping(&mut self) -> Option<u32> {
        if self.role == Role::Server && !self.heard {
            return None;
        }
        let id = self.next_ping & ID_BITS;
        self.next_ping = self.next_ping.wrapping_add(2);
        self.outbox.urgent(&frame::ping(id));
        Some(id)
    }

    /// Says the last word, after what waits.
    pub fn goaway(&mut self, status: u32) {
        if self.role == Role::Client || self.heard {
            let frame = frame::pair(Type::Goaway, self.last_peer_id, status);
            self.outbox.frame(&frame, Bytes::new());
        }
        self.outbox.finish();
    }

    /// Whether the stream lives and was not replied to before.
    fn take_reply(&mut self, id: StreamId) -> bool {
        let stream = self.streams.get_mut(&id);
        stream.is_some_and(|stream| !mem::replace(&mut stream.replied, true))
    }

    fn forget_if_finished(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|stream| stream.we_finished && stream.they_finished) {
            self.streams.remove(&id);
        }
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
                self.keep_rest();
                None
            }
            Err(fault) => {
                self.goaway(GOAWAY_PROTOCOL_ERROR);
                Some(self.over(Closed::Fault(fault)))
            }
        }
    }

    fn over(&mut self, closed: Closed) -> Event {
        self.closed = true;
        self.inbox = Bytes::new();
        self.decoder = None;
        Event::Closed(closed)
    }

    fn step(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            if let Some(data) = self.data {
                match self.payload(data) {
                    Progress::Event(event) => return Ok(Some(event)),
                    Progress::Nothing => continue,
                    Progress::Incomplete => return Ok(None),
                }
            }
            let Some(head) = self.inbox.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            self.heard = true;
            match Header::parse(*head)? {
                Header::Data { id, fin, len } => {
                    self.inbox.advance(HEADER_BYTES);
                    self.data = Some(DataFrame { id: StreamId(id), left: len as usize, fin });
                }
                Header::Control { kind, flags, len } => {
                    if len as usize > limits::SPDY_CONTROL_BYTES {
                        return Err(Fault::LongControl(len));
                    }
                    let whole = HEADER_BYTES + len as usize;
                    if self.inbox.len() < whole {
                        return Ok(None);
                    }
                    let body = self.inbox.split_to(whole).split_off(HEADER_BYTES);
                    if let Some(event) = self.control(kind, flags, &body)? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Takes what has come of a DATA frame. Data of streams that are unknown, reset or finished is
    /// dropped, as by Go's library.
    fn payload(&mut self, mut data: DataFrame) -> Progress {
        let here = data.left.min(self.inbox.len());
        if here == 0 && data.left > 0 {
            return Progress::Incomplete;
        }
        let bytes = self.inbox.split_to(here);
        data.left -= here;
        let known = self.streams.get(&data.id).is_some_and(|stream| !stream.they_finished);
        // The FIN of a frame with a payload is given by the next call, after the payload.
        let last = data.left == 0 && (!data.fin || bytes.is_empty());
        self.data = Some(data).filter(|_| !last);
        if !known {
            return Progress::Nothing;
        }
        if !bytes.is_empty() {
            return Progress::Event(Event::Data(data.id, bytes));
        }
        if last && data.fin { self.they_finished(data.id) } else { Progress::Nothing }
    }

    fn they_finished(&mut self, id: StreamId) -> Progress {
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.they_finished => {
                stream.they_finished = true;
                self.forget_if_finished(id);
                Progress::Event(Event::Finished(id))
            }
            _ => Progress::Nothing,
        }
    }

    fn control(&mut self, kind: Type, flags: u8, body: &[u8]) -> Result<Option<Event>, Fault> {
        let wrong = Fault::Length(kind as u16);
        let first = body.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(wrong)?;
        let second = body[4..].first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
        let id = StreamId(first & ID_BITS);
        let has_stream = matches!(kind, Type::SynStream | Type::SynReply | Type::Headers);
        if has_stream && id.0 == 0 {
            return Err(Fault::StreamZero);
        }
        match (kind, body.len(), second) {
            (Type::SynStream, 10.., _) => self.syn_stream(id, flags, &body[10..]),
            (Type::SynReply, _, _) => {
                let headers = self.decode(&body[4..])?.unwrap_or_default();
                let known = self.is_ours(id) && self.take_reply(id);
                // A FIN on the reply, which ends the stream at once, is given by the next call.
                if known && flags & FIN != 0 {
                    self.data = Some(DataFrame { id, left: 0, fin: true });
                }
                Ok(known.then_some(Event::Replied { id, headers }))
            }
            (Type::Headers, _, _) => {
                self.decode(&body[4..])?;
                if flags & FIN != 0 {
                    self.data = Some(DataFrame { id, left: 0, fin: true });
                }
                Ok(None)
            }
            (Type::RstStream, 8, Some(code)) => {
                if id.0 == 0 || code == 0 {
                    return Err(Fault::Reset);
                }
                Ok(self.streams.remove(&id).map(|_| Event::Reset(id, code)))
            }
            (Type::Ping, 4, _) => self.pinged(first, flags),
            (Type::Goaway, 8, Some(status)) => Ok(Some(self.over(Closed::Goaway { status }))),
            (Type::Settings, len, _) if len as u64 == 4 + 8 * u64::from(first) => Ok(None),
            (Type::WindowUpdate, 8, Some(bytes)) => {
                let known = self.streams.contains_key(&id);
                Ok(known.then_some(Event::Window(id, bytes & ID_BITS)))
            }
            _ => Err(wrong),
        }
    }

    fn syn_stream(
        &mut self,
        id: StreamId,
        flags: u8,
        block: &[u8],
    ) -> Result<Option<Event>, Fault> {
        // The block is decoded even if the stream is refused, or the next one could not be.
        let headers = self.decode(block)?;
        let fresh = !self.is_ours(id) && id.0 > self.last_peer_id;
        if fresh {
            self.last_peer_id = id.0;
        }
        let refused = if !fresh {
            Some(PROTOCOL_ERROR)
        } else if headers.is_none() || self.streams.len() >= limits::SPDY_STREAMS {
            Some(REFUSED_STREAM)
        } else {
            None
        };
        if let Some(code) = refused {
            self.outbox.frame(&frame::pair(Type::RstStream, id.0, code), Bytes::new());
            // To the peer this resets an open stream of that number, so that goes here, too.
            let theirs = self.streams.remove(&id).is_some();
            return Ok(theirs.then_some(Event::Reset(id, code)));
        }
        self.streams.insert(id, Stream::default());
        if flags & FIN != 0 {
            self.data = Some(DataFrame { id, left: 0, fin: true });
        }
        Ok(headers.map(|headers| Event::Opened { id, headers }))
    }

    fn decode(&mut self, block: &[u8]) -> Result<Option<Headers>, Fault> {
        self.decoder.as_mut().map(|decoder| decoder.headers(block)).transpose()
    }

    fn is_ours(&self, id: StreamId) -> bool {
        (id.0 % 2 == 1) == (self.role == Role::Client)
    }

    /// Takes a PING. One with a number of ours is an answer, any other one is a question (§2.6.5).
    fn pinged(&mut self, id: u32, flags: u8) -> Result<Option<Event>, Fault> {
        if id == 0 || flags != 0 {
            return Err(Fault::Ping);
        }
        if self.is_ours(StreamId(id)) {
            return Ok(Some(Event::Pong(id)));
        }
        self.unanswered = Some(id);
        self.answer_ping();
        Ok(None)
    }

    fn answer_ping(&mut self) {
        if self.outbox.urgent_waiting() < PONGS_WAITING
            && let Some(id) = self.unanswered.take()
        {
            self.outbox.urgent(&frame::ping(id));
        }
    }
}

enum Progress {
    Event(Event),
    Nothing,
    /// The frame goes on with bytes that have not come.
    Incomplete,
}
