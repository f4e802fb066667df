//! What a terminal is written, in pieces: text, control characters, and sequences of them.
//!
//! Only as much as is needed to know a terminal's modes, and to know at each byte how a terminal
//! that has not seen the bytes before it is brought there. Sequences are those of ECMA-48 in seven
//! bits; all else is text.

use alloc::vec::Vec;

/// Longer sequences are none that is known.
const SEQUENCE_BYTES: usize = 96;

pub(super) const ESC: u8 = 0x1b;
const BEL: u8 = 7;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Characters, which may be incomplete at both ends.
    Text(&'a [u8]),
    /// A control character.
    Control(u8),
    /// A sequence without a string, from its ESC on.
    Sequence(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Text,
    /// Behind ESC, and whatever comes between it and the last byte.
    Escape,
    /// Behind ESC and `[`.
    Csi,
    /// In a sequence that is too long.
    TooLong,
    /// In a command to the system, such as a title; BEL ends it as well.
    Command,
    /// In any other string.
    String,
}

/// Knows where in a sequence, or in a character, the bytes are that came last.
#[derive(Clone, Debug)]
pub(super) struct Parser {
    state: State,
    /// The sequence so far; the beginning of a character, in text.
    raw: [u8; SEQUENCE_BYTES],
    length: u8,
}

impl Parser {
    pub(super) fn new() -> Parser {
        Parser { state: State::Text, raw: [0; SEQUENCE_BYTES], length: 0 }
    }

    fn raw(&self) -> &[u8] {
        self.raw.get(..self.length.into()).unwrap_or_default()
    }

    fn collect(&mut self, byte: u8) -> bool {
        let Some(place) = self.raw.get_mut(usize::from(self.length)) else { return false };
        *place = byte;
        self.length += 1;
        true
    }

    fn begin(&mut self, state: State) {
        (self.state, self.length) = (state, 0);
    }

    /// Takes bytes, and gives what they are. Strings are not given.
    pub(super) fn feed(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Piece<'_>)) {
        while let [byte, rest @ ..] = bytes {
            if self.state == State::Text && !is_control(*byte) {
                let length = bytes.iter().position(|byte| is_control(*byte));
                let (text, rest) = bytes.split_at(length.unwrap_or(bytes.len()));
                self.text(text);
                found(Piece::Text(text));
                bytes = rest;
                continue;
            }
            self.byte(*byte, found);
            bytes = rest;
        }
    }

    /// Remembers the character that has begun at the end of a text.
    fn text(&mut self, text: &[u8]) {
        let more = &text[text.len().saturating_sub(4)..];
        let mut last = [0; 8];
        let before = usize::from(self.length).min(4);
        last[..before].copy_from_slice(&self.raw[..before]);
        last[before..before + more.len()].copy_from_slice(more);
        let last = &last[..before + more.len()];
        let begun = last.iter().rposition(|byte| *byte >= 0xc0).map_or(&[][..], |at| &last[at..]);
        let whole = match begun.first() {
            None => 0,
            Some(0xc0..0xe0) => 2,
            Some(0xe0..0xf0) => 3,
            Some(_) => 4,
        };
        self.length = 0;
        if begun.len() < whole {
            self.raw[..begun.len()].copy_from_slice(begun);
            self.length = begun.len() as u8;
        }
    }

    fn byte(&mut self, byte: u8, found: &mut impl FnMut(Piece<'_>)) {
        match (self.state, byte) {
            (_, ESC) => {
                self.begin(State::Escape);
                self.collect(ESC);
            }
            (_, CAN | SUB) | (State::Command, BEL) => self.begin(State::Text),
            (State::Command | State::String, _) => {}
            // Control characters are obeyed in the middle of a sequence.
            (_, byte) if is_control(byte) => {
                if self.state == State::Text {
                    self.length = 0;
                }
                found(Piece::Control(byte));
            }
            (State::Escape, byte) => self.escape(byte, found),
            (State::Csi | State::TooLong, 0x40..) if byte < 0x80 => {
                if self.state == State::Csi && self.collect(byte) {
                    found(Piece::Sequence(self.raw()));
                }
                self.begin(State::Text);
            }
            (State::Csi, _) if !self.collect(byte) => self.state = State::TooLong,
            (State::Csi | State::TooLong | State::Text, _) => {}
        }
    }

    fn escape(&mut self, byte: u8, found: &mut impl FnMut(Piece<'_>)) {
        let state = match byte {
            b'[' => State::Csi,
            b']' => State::Command,
            b'P' | b'X' | b'^' | b'_' => State::String,
            _ => State::Text,
        };
        if self.length == 1 && state != State::Text {
            self.collect(byte);
            self.state = state;
        } else if !matches!(byte, 0x20..0x30) {
            if self.collect(byte) {
                found(Piece::Sequence(self.raw()));
            }
            self.begin(State::Text);
        } else if !self.collect(byte) {
            self.state = State::TooLong;
        }
    }

    /// How many bytes of a character have come that is not complete.
    pub(super) fn character_bytes(&self) -> usize {
        if self.state == State::Text { self.length.into() } else { 0 }
    }

    /// Writes what a character, of which the beginning has come, began with.
    pub(super) fn write_character(&self, out: &mut Vec<u8>) {
        if self.state == State::Text {
            out.extend_from_slice(self.raw());
        }
    }

    /// Writes what brings a terminal into the sequence of which the beginning has come. Of a string
    /// the rest will come, which is nothing without the beginning: it is made one that is passed
    /// over.
    pub(super) fn write_sequence(&self, out: &mut Vec<u8>) {
        match self.state {
            State::Text => {}
            State::Escape | State::Csi | State::TooLong => out.extend_from_slice(self.raw()),
            State::Command => out.extend_from_slice(b"\x1b]7777;"),
            State::String => out.extend_from_slice(b"\x1b_"),
        }
    }

    /// Whether the last sequence is complete.
    pub(super) fn is_in_text(&self) -> bool {
        self.state == State::Text
    }
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 || byte == 0x7f
}

/// A control sequence: `CSI`, perhaps a mark of private ones, numbers, perhaps more marks, and a
/// last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Csi<'a> {
    /// One of `<=>?`, or 0.
    pub(super) private: u8,
    pub(super) numbers: &'a [u8],
    pub(super) marks: &'a [u8],
    pub(super) last: u8,
}

impl<'a> Csi<'a> {
    /// Reads one from its ESC on.
    pub(super) fn parse(sequence: &'a [u8]) -> Option<Csi<'a>> {
        let (last, body) = sequence.strip_prefix(&[ESC, b'['])?.split_last()?;
        let (private, body) = match body {
            [private @ 0x3c..=0x3f, body @ ..] => (*private, body),
            _ => (0, body),
        };
        let behind = body.iter().position(|byte| !(0x30..0x3c).contains(byte));
        let (numbers, marks) = body.split_at(behind.unwrap_or(body.len()));
        let are_marks = marks.iter().all(|byte| (0x20..0x30).contains(byte));
        are_marks.then_some(Csi { private, numbers, marks, last: *last })
    }

    /// Its numbers, divided by semicolons; 0 where there is none.
    pub(super) fn each(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.numbers.split(|byte| *byte == b';').map(number)
    }

    /// The number at a place; 0 if there is none.
    pub(super) fn number(&self, at: usize) -> u16 {
        self.each().nth(at).unwrap_or(0)
    }
}

/// The number that these digits are, as far as they are any.
pub(super) fn number(digits: &[u8]) -> u16 {
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number: u16, digit| {
        number.saturating_mul(10).saturating_add(u16::from(digit - b'0'))
    })
}
