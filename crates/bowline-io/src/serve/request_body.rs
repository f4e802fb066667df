//! Where the body of a request over HTTP/1.1 ends, and what the HTTP library gets of it.
//!
//! A body of a known length passes as it is. One in chunks passes in chunks of the same sizes,
//! whose heads are written anew: so there is one way only to read what the library gets, and what
//! it takes for the end of the body is what is taken for it here. What is in a chunk's head beside
//! its size is dropped. Heads and trailers are bounded as in Go's servers.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

/// How many bytes that are no data a body may have beyond what its chunks need, as in Go.
const OVERHEAD_BYTES: u64 = 16 * 1024;
/// How much overhead each chunk may have, beside twice its data.
const CHUNK_OVERHEAD_BYTES: u64 = 16;
/// The longest trailers of a body, with room for what the library counts.
const TRAILER_BYTES: usize = 8 * 1024;
/// The most digits of a chunk's size.
const SIZE_DIGITS: u8 = 16;

/// How a body is framed, and how far it has come.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
}

impl Framing {
    /// The framing of a body that the library has found and nobody has read yet. `None` if there is
    /// none.
    pub(super) fn of(body: &impl http_body::Body) -> Option<Framing> {
        match body.size_hint().exact() {
            Some(0) => None,
            Some(bytes) => Some(Framing::Length(bytes)),
            None => Some(Framing::Chunked(Chunks::default())),
        }
    }

    /// Moves what belongs to the body from what was read to the library's buffer, as far as there
    /// is room.
    ///
    /// # Errors
    /// If it is no body in chunks.
    pub(super) fn take(&mut self, read: &mut BytesMut, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        match self {
            Framing::Length(left) => {
                pass(left, read, buffer);
                Ok(())
            }
            Framing::Chunked(chunks) => chunks.take(read, buffer),
        }
    }

    /// How many bytes of data are next, which need no look at them.
    pub(super) fn data(&self) -> u64 {
        match self {
            Framing::Length(left) => *left,
            Framing::Chunked(chunks) => chunks.data_left(),
        }
    }

    /// Records that so many bytes of data went past, straight to the library.
    pub(super) fn passed(&mut self, bytes: usize) {
        let left = match self {
            Framing::Length(left) => left,
            Framing::Chunked(chunks) => match &mut chunks.state {
                State::Data(left) => left,
                _ => return,
            },
        };
        *left = left.saturating_sub(bytes as u64);
    }

    /// Whether all of it went to the library.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunks) => {
                matches!(chunks.state, State::Over) && chunks.given.is_empty()
            }
        }
    }
}

/// Moves at most `left` bytes, and counts them.
fn pass(left: &mut u64, read: &mut BytesMut, buffer: &mut ReadBuf<'_>) {
    let most = usize::try_from(*left).unwrap_or(usize::MAX);
    let count = most.min(read.len()).min(buffer.remaining());
    buffer.put_slice(&read[..count]);
    read.advance(count);
    *left -= count as u64;
}

/// A body in chunks, as it is read.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
    /// How many bytes are no data, beyond what the chunks so far need.
    overhead: u64,
    /// How many bytes the trailers have so far.
    trailer_bytes: usize,
    /// What the library gets next, and is not data.
    given: BytesMut,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum State {
    /// A digit of a chunk's size, or what ends it after so many digits.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the size, where only white space, an extension or the end may be.
    SizeEnd {
        size: u64,
    },
    /// Of an extension of a chunk's head, which is dropped.
    Extension {
        size: u64,
    },
    /// The line feed behind a chunk's head.
    SizeLineFeed {
        size: u64,
    },
    /// Data, so many bytes.
    Data(u64),
    /// The end of the line behind the data.
    DataEnd,
    DataLineFeed,
    /// The first byte of a trailer, or of the empty line behind all of them.
    TrailerBegin,
    Trailer,
    TrailerLineFeed,
    /// The line feed of the last, empty line.
    LastLineFeed,
    /// Behind the body.
    Over,
}

impl Default for State {
    fn default() -> State {
        State::Size { size: 0, digits: 0 }
    }
}

impl Chunks {
    fn data_left(&self) -> u64 {
        match self.state {
            State::Data(left) if self.given.is_empty() => left,
            _ => 0,
        }
    }

    fn take(&mut self, read: &mut BytesMut, buffer: &mut ReadBuf<'_>) -> io::Result<()> {
        loop {
            let count = self.given.len().min(buffer.remaining());
            buffer.put_slice(&self.given.split_to(count));
            if !self.given.is_empty() || read.is_empty() || buffer.remaining() == 0 {
                return Ok(());
            }
            match &mut self.state {
                State::Over => return Ok(()),
                State::Data(left) => {
                    pass(left, read, buffer);
                }
                _ => {
                    let byte = read.get_u8();
                    self.state = self.next(byte)?;
                }
            }
            if matches!(self.state, State::Data(0)) {
                self.state = State::DataEnd;
            }
        }
    }

    /// Takes one byte that is no data.
    fn next(&mut self, byte: u8) -> io::Result<State> {
        match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digit(size, digits, byte)
            }
            (State::Size { size, digits: 1.. }, _) => self.behind_size(size, byte),
            (State::SizeEnd { size }, _) => self.behind_size(size, byte),
            (State::Extension { size }, b'\r') => Ok(State::SizeLineFeed { size }),
            (State::Extension { size }, byte) if byte == b'\t' || !byte.is_ascii_control() => {
                self.count_overhead(1)?;
                Ok(State::Extension { size })
            }
            (State::SizeLineFeed { size }, b'\n') => Ok(self.begin_chunk(size)),
            (State::DataEnd, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => {
                self.given.extend_from_slice(b"\r\n");
                Ok(State::default())
            }
            (
                State::TrailerBegin | State::Trailer | State::TrailerLineFeed | State::LastLineFeed,
                _,
            ) => self.trailer(byte),
            _ => Err(fault("malformed chunked encoding")),
        }
    }

    fn digit(&mut self, size: u64, digits: u8, byte: u8) -> io::Result<State> {
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        if digits == SIZE_DIGITS {
            return Err(fault("http chunk length too large"));
        }
        self.count_overhead(1)?;
        Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
    }

    fn behind_size(&mut self, size: u64, byte: u8) -> io::Result<State> {
        self.count_overhead(1)?;
        match byte {
            b'\r' => Ok(State::SizeLineFeed { size }),
            b' ' | b'\t' => Ok(State::SizeEnd { size }),
            b';' => Ok(State::Extension { size }),
            _ => Err(fault("invalid byte in chunk length")),
        }
    }

    fn begin_chunk(&mut self, size: u64) -> State {
        self.given.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        let allowed = size.saturating_mul(2).saturating_add(CHUNK_OVERHEAD_BYTES);
        self.overhead = self.overhead.saturating_sub(allowed);
        if size == 0 { State::TrailerBegin } else { State::Data(size) }
    }

    fn count_overhead(&mut self, bytes: u64) -> io::Result<()> {
        self.overhead += bytes;
        // A head's own share is taken off at its end.
        if self.overhead > OVERHEAD_BYTES {
            return Err(fault("chunked encoding contains too much non-data"));
        }
        Ok(())
    }

    /// Takes a byte behind the last chunk. It passes as it is, but a lone carriage return or line
    /// feed is refused: the library would read a line of its own.
    fn trailer(&mut self, byte: u8) -> io::Result<State> {
        self.given.extend_from_slice(&[byte]);
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES {
            return Err(fault("suspiciously long trailer after chunked body"));
        }
        match (self.state, byte) {
            (State::TrailerBegin, b'\r') => Ok(State::LastLineFeed),
            (State::LastLineFeed, b'\n') => Ok(State::Over),
            (State::Trailer, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerLineFeed, b'\n') => Ok(State::TrailerBegin),
            (State::TrailerBegin | State::Trailer, byte) if byte != b'\n' => Ok(State::Trailer),
            _ => Err(fault("malformed trailer")),
        }
    }
}

fn fault(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
