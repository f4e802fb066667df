//! Bytes of HTTP/2 to the heads of its frames and pieces of their payloads (RFC 9113 §4.1).

use bytes::{Buf, Bytes};

/// The length of a frame's head.
pub(super) const HEAD_BYTES: usize = 9;

/// What a client sends before its first frame (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The types of frames that are looked at.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
/// Of SETTINGS.
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// The head of a frame, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(pub(super) [u8; HEAD_BYTES]);

impl Head {
    /// Of a DATA frame without flags.
    pub(super) fn data(stream: u32, length: usize) -> Head {
        let [_, a, b, c] = (length as u32).to_be_bytes();
        let [d, e, f, g] = stream.to_be_bytes();
        Head([a, b, c, kind::DATA, 0, d, e, f, g])
    }

    pub(super) fn length(self) -> usize {
        let [a, b, c, ..] = self.0;
        usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
    }

    pub(super) fn kind(self) -> u8 {
        self.0[3]
    }

    pub(super) fn stream(self) -> u32 {
        let [.., d, e, f, g] = self.0;
        u32::from_be_bytes([d & 0x7f, e, f, g])
    }

    fn has(self, flag: u8) -> bool {
        self.0[4] & flag != 0
    }

    pub(super) fn is_padded(self) -> bool {
        matches!(self.kind(), kind::DATA | kind::HEADERS) && self.has(PADDED)
    }

    pub(super) fn ends_headers(self) -> bool {
        self.has(END_HEADERS)
    }

    pub(super) fn is_ack(self) -> bool {
        self.has(ACK)
    }

    /// Whether the sender says nothing more on the stream.
    pub(super) fn ends_stream(self) -> bool {
        let ends = matches!(self.kind(), kind::DATA | kind::HEADERS) && self.has(END_STREAM);
        ends || self.kind() == kind::RST_STREAM
    }

    /// The heads of two frames for one, the first with a payload of `first` bytes. The second one
    /// has the flags. For DATA without padding.
    pub(super) fn split(self, first: usize) -> (Head, Head) {
        let (mut a, mut b) = (self, self);
        a.set_length(first);
        a.0[4] = 0;
        b.set_length(self.length().saturating_sub(first));
        (a, b)
    }

    fn set_length(&mut self, length: usize) {
        self.0[..3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    }
}

/// What comes next in a connection.
#[derive(Debug)]
pub(super) enum Part {
    /// Frames of which nothing is looked at; never empty. The payload of the last one may go on.
    Passing(Bytes),
    /// A frame begins.
    Head(Head),
    /// Bytes of its payload; never empty.
    Payload(Bytes),
}

/// Reads frames out of bytes that may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: [u8; HEAD_BYTES],
    have: usize,
    left: usize,
}

impl Reader {
    /// The next part, taken out of `input`. Frames for which `passes` is true come in one piece, as
    /// far as nothing has to be put together for them.
    pub(super) fn next(
        &mut self,
        input: &mut Bytes,
        passes: impl FnMut(Head) -> bool,
    ) -> Option<Part> {
        if input.is_empty() {
            return None;
        }
        let passing = self.passing(input, passes);
        if passing > 0 {
            return Some(Part::Passing(input.split_to(passing)));
        }
        if self.left > 0 {
            let piece = input.split_to(self.left.min(input.len()));
            self.left -= piece.len();
            return Some(Part::Payload(piece));
        }
        let more = input.len().min(HEAD_BYTES - self.have);
        self.head[self.have..self.have + more].copy_from_slice(&input[..more]);
        input.advance(more);
        self.have += more;
        if self.have < HEAD_BYTES {
            return None;
        }
        self.have = 0;
        let head = Head(self.head);
        self.left = head.length();
        Some(Part::Head(head))
    }

    /// How many bytes are of frames that pass.
    fn passing(&mut self, input: &[u8], mut passes: impl FnMut(Head) -> bool) -> usize {
        let mut end = 0;
        while self.left == 0
            && self.have == 0
            && let Some(head) = input[end..].first_chunk().copied().map(Head)
            && passes(head)
        {
            end += HEAD_BYTES;
            let come = head.length().min(input.len() - end);
            end += come;
            self.left = head.length() - come;
        }
        end
    }

    /// How many bytes of the frame's payload have yet to come.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The beginning of a head whose rest has not come.
    pub(super) fn unfinished(&self) -> &[u8] {
        &self.head[..self.have]
    }
}

/// What of a frame's payload is neither padding nor priority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// The length of the padding has yet to come.
    padded: bool,
    /// How many bytes of priority have yet to come.
    priority: usize,
    /// How many bytes have yet to come, those of the padding left out once they are known.
    left: usize,
}

/// Padding that is longer than its frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPadding;

impl Content {
    pub(super) fn of(head: Head) -> Content {
        let has_priority = head.kind() == kind::HEADERS && head.has(PRIORITY);
        Content {
            padded: head.is_padded(),
            priority: if has_priority { 5 } else { 0 },
            left: head.length(),
        }
    }

    /// The content in the next piece of the payload.
    pub(super) fn of_piece<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], BadPadding> {
        if self.padded
            && let Some((padding, rest)) = piece.split_first()
        {
            self.padded = false;
            self.left = self.left.checked_sub(1 + usize::from(*padding)).ok_or(BadPadding)?;
            piece = rest;
        }
        let skipped = self.priority.min(piece.len());
        self.priority -= skipped;
        self.left = self.left.checked_sub(skipped).ok_or(BadPadding)?;
        let content = &piece[skipped..];
        let content = &content[..content.len().min(self.left)];
        self.left -= content.len();
        Ok(content)
    }

    /// Whether the frame can be as its flags say, once all of it came.
    pub(super) fn is_whole(self) -> bool {
        !self.padded && self.priority == 0 && self.left == 0
    }
}

/// SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
pub(super) const HEADER_TABLE_SIZE: u16 = 1;
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Reads the payload of a SETTINGS frame in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings {
    entry: [u8; 6],
    have: usize,
}

impl Settings {
    /// Gives each setting and its value.
    pub(super) fn take(&mut self, piece: &[u8], mut give: impl FnMut(u16, u32)) {
        for byte in piece {
            self.entry[self.have] = *byte;
            self.have += 1;
            if self.have == self.entry.len() {
                self.have = 0;
                let [a, b, c, d, e, f] = self.entry;
                give(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
            }
        }
    }
}
