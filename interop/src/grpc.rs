//! A client of gRPC over a Unix socket, by hand: it sends what no library would, and keeps what it
//! gets as frames.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::client::PATIENCE;
use crate::hpack;

/// The service of container runtimes that all calls here are of.
pub const RUNTIME: &str = "/runtime.v1.RuntimeService/";
/// The code of a stream that its client gives up.
pub const CANCEL: u32 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The window that each side begins with, and the largest frame.
const WINDOW_BYTES: i64 = 65_535;
const FRAME_BYTES: usize = 16_384;

/// A frame of a stream. Those of two connections can be compared: the stream's number is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// All frames that a call was answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// In their order.
    pub frames: Vec<Frame>,
}

/// A connection to a runtime, or to what is in front of it.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    authority: String,
    next: u32,
    /// How much may be sent on the whole connection, and on a new stream.
    window: i64,
    initial: i64,
    streams: HashMap<u32, Stream>,
    /// Whether the server said that it ends the connection, or has.
    pub is_over: bool,
}

#[derive(Debug)]
struct Stream {
    window: i64,
    answer: Answer,
    has_ended: bool,
}

impl Connection {
    /// Connects, as a client that names the server so.
    #[must_use]
    pub fn open(socket: &str, authority: &str) -> Connection {
        let socket = UnixStream::connect(socket.trim_start_matches("unix://")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection {
            socket,
            authority: authority.to_owned(),
            next: 1,
            window: WINDOW_BYTES,
            initial: WINDOW_BYTES,
            streams: HashMap::new(),
            is_over: false,
        };
        connection.socket.write_all(PREFACE).unwrap();
        // No table of headers: each block can be read by itself.
        connection.send(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
        connection
    }

    /// Calls a method to its end. The message may be larger than the server takes.
    pub fn call(&mut self, method: &str, message: &[u8]) -> Answer {
        let id = self.begin(method);
        self.message(id, message);
        self.answer(id)
    }

    /// Begins a call, and sends no message yet.
    pub fn begin(&mut self, method: &str) -> u32 {
        let id = self.next;
        self.next += 2;
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", &self.authority),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-go/1.80.0"),
            ("te", "trailers"),
        ];
        self.send(HEADERS, END_HEADERS, id, &hpack::block(&headers));
        let stream = Stream { window: self.initial, answer: Answer::default(), has_ended: false };
        self.streams.insert(id, stream);
        id
    }

    /// Sends the call's only message, as far as its answer has not come before.
    pub fn message(&mut self, id: u32, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap();
        let whole = [&[0], &length.to_be_bytes()[..], message].concat();
        let mut rest = &whole[..];
        while !self.streams[&id].has_ended && !self.is_over {
            let window = self.window.min(self.streams[&id].window);
            let length = rest.len().min(FRAME_BYTES);
            if window < length as i64 {
                self.read();
                continue;
            }
            let (piece, more) = rest.split_at(length);
            self.window -= length as i64;
            self.stream(id).window -= length as i64;
            self.send(DATA, if more.is_empty() { END_STREAM } else { 0 }, id, piece);
            rest = more;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Gives up a call.
    pub fn cancel(&mut self, id: u32) {
        self.send(RST_STREAM, 0, id, &CANCEL.to_be_bytes());
        self.streams.remove(&id);
    }

    /// Waits for the end of a call, or of the connection.
    pub fn answer(&mut self, id: u32) -> Answer {
        while !self.streams[&id].has_ended && !self.is_over {
            self.read();
        }
        self.streams.remove(&id).unwrap().answer
    }

    /// Waits for the headers of an answer.
    pub fn has_begun(&mut self, id: u32) {
        while self.streams[&id].answer.frames.is_empty() && !self.is_over {
            self.read();
        }
    }

    /// Asks for a sign of life and waits for it: the server has read all that came before.
    pub fn ping(&mut self) {
        self.send(PING, 0, 0, b"by hand.");
        while !self.is_over && self.read() != Some((PING, ACK)) {}
    }

    /// Reads until the server ends the connection.
    pub fn ends(&mut self) {
        while !self.is_over {
            self.read();
        }
    }

    fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).unwrap()
    }

    /// Sends a frame; who has gone does not get it.
    fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()[..]].concat();
        let sent = self.socket.write_all(&[&head[..], payload].concat());
        self.is_over |= sent.is_err();
    }

    /// Takes one frame and gives its type and flags.
    fn read(&mut self) -> Option<(u8, u8)> {
        let mut head = [0; 9];
        if let Err(error) = self.socket.read_exact(&mut head) {
            let late = error.kind() == std::io::ErrorKind::WouldBlock;
            assert!(!late, "nothing comes within {PATIENCE:?}");
            self.is_over = true;
            return None;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.is_over |= self.socket.read_exact(&mut payload).is_err();
        match kind {
            SETTINGS if flags & ACK == 0 => self.settings(&payload),
            PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload),
            GOAWAY => self.is_over = true,
            WINDOW_UPDATE => self.more_window(id, number(&payload)),
            DATA | HEADERS | RST_STREAM => self.take(id, Frame { kind, flags, payload }),
            _ => {}
        }
        Some((kind, flags))
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            if setting[..2] == [0, 4] {
                let now = i64::from(number(&setting[2..]));
                for stream in self.streams.values_mut() {
                    stream.window += now - self.initial;
                }
                self.initial = now;
            }
        }
        self.send(SETTINGS, ACK, 0, &[]);
    }

    fn more_window(&mut self, id: u32, bytes: u32) {
        if id == 0 {
            self.window += i64::from(bytes);
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.window += i64::from(bytes);
        }
    }

    fn take(&mut self, id: u32, frame: Frame) {
        if frame.kind == DATA && !frame.payload.is_empty() {
            let bytes = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
            self.send(WINDOW_UPDATE, 0, 0, &bytes);
            if frame.flags & END_STREAM == 0 {
                self.send(WINDOW_UPDATE, 0, id, &bytes);
            }
        }
        // What comes for a call that was given up is nobody's.
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.has_ended |= frame.kind == RST_STREAM || frame.flags & END_STREAM != 0;
        stream.answer.frames.push(frame);
    }
}

impl Answer {
    /// Its status and the words with it; nothing where it ended without.
    #[must_use]
    pub fn status(&self) -> Option<(String, String)> {
        let blocks = self.frames.iter().filter(|frame| frame.kind == HEADERS);
        let headers: Vec<_> = blocks.flat_map(|frame| hpack::headers(&frame.payload)).collect();
        let value = |name: &str| {
            headers.iter().find(|header| header.0 == name).map(|header| header.1.clone())
        };
        Some((value("grpc-status")?, value("grpc-message").unwrap_or_default()))
    }

    /// The message in it.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let data = self.frames.iter().filter(|frame| frame.kind == DATA);
        // A byte for compression and four for the length come first.
        data.flat_map(|frame| frame.payload.iter().copied()).skip(5).collect()
    }

    /// The string in the first field of its message, as all answers with a URL have it.
    ///
    /// # Panics
    /// If the call has failed.
    #[must_use]
    pub fn url(&self) -> String {
        assert_eq!(self.status().unwrap_or_default(), ("0".to_owned(), String::new()));
        let message = self.message();
        assert_eq!((message[0], usize::from(message[1])), (0x0a, message.len() - 2));
        String::from_utf8(message[2..].to_vec()).unwrap()
    }
}

/// A field of a message, of text or bytes.
#[must_use]
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    assert!(number < 16, "one byte is enough");
    let mut field = vec![number << 3 | 2];
    let mut rest = value.len();
    while rest >= 128 {
        field.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    field.push(u8::try_from(rest).unwrap());
    field.extend_from_slice(value);
    field
}

/// A field that is `true`.
#[must_use]
pub fn flag(number: u8) -> Vec<u8> {
    vec![number << 3, 1]
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}
