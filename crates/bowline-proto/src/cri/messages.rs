//! Messages of the container runtime interface, as far as they matter: what a request asks for,
//! read while it passes, and the URL in an answer.
//!
//! A message is read as protobuf's own readers do: fields that nobody knows are passed over, the
//! last value of a field is the one that counts.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::method::Method;
use super::{Asked, Call, Kept};
use crate::limits::{CRI_COMMAND_BYTES, CRI_COMMAND_WORDS, CRI_ID_BYTES, CRI_PORTS};
use crate::session::Wants;

/// The bytes before a message of gRPC: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// The fields that an exec's request has today.
const EXEC_FIELDS: u64 = 6;

/// Not a message that can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Whether the message is compressed, and how long it is.
pub(super) fn prefix(prefix: [u8; PREFIX_BYTES]) -> Result<(bool, u32), Unreadable> {
    let [flag, a, b, c, d] = prefix;
    let is_compressed = match flag {
        0 => false,
        1 => true,
        _ => return Err(Unreadable),
    };
    Ok((is_compressed, u32::from_be_bytes([a, b, c, d])))
}

/// What a [`Fields`] finds.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    /// A number, as a varint.
    Number { field: u64, value: u64 },
    /// A value with a length begins; its field began at this place in the message.
    Begin { field: u64, from: u64 },
    /// A piece of that value.
    Piece { field: u64, bytes: &'a [u8] },
    /// It has ended, at this place.
    End { field: u64, to: u64 },
}

/// Reads the fields of a message in pieces.
#[derive(Debug, Default)]
struct Fields {
    at: At,
    /// How many bytes of the message were read.
    place: u64,
    /// Where the field that is being read has begun.
    from: u64,
    /// How many groups the reader is in; what is in one is passed over.
    depth: u32,
    /// There was a field of a kind that is only passed over: a group, or a fixed number.
    has_others: bool,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Tag(Varint),
    Number { field: u64, varint: Varint },
    Length { field: u64, varint: Varint },
    Value { field: u64, left: u64 },
    Fixed { left: u8 },
}

impl Default for At {
    fn default() -> At {
        At::Tag(Varint::default())
    }
}

/// A number of seven bits a byte, the least ones first.
#[derive(Clone, Copy, Debug, Default)]
struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    fn take(&mut self, byte: u8) -> Result<Option<u64>, Unreadable> {
        let bits = u64::from(byte & 0x7f);
        // It stays so, however many bytes come.
        if self.shift > 63 || self.shift == 63 && bits > 1 {
            return Err(Unreadable);
        }
        self.value |= bits << self.shift;
        if byte & 0x80 == 0 {
            return Ok(Some(self.value));
        }
        self.shift += 7;
        if self.shift > 63 { Err(Unreadable) } else { Ok(None) }
    }
}

impl Fields {
    fn take<'a>(
        &mut self,
        mut bytes: &'a [u8],
        mut found: impl FnMut(Found<'a>),
    ) -> Result<(), Unreadable> {
        while let Some((byte, rest)) = bytes.split_first() {
            if let At::Value { field, left } = &mut self.at {
                let more = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                let (piece, rest) = bytes.split_at(more);
                bytes = rest;
                *left -= more as u64;
                self.place += more as u64;
                let (field, left) = (*field, *left);
                if self.depth == 0 {
                    found(Found::Piece { field, bytes: piece });
                }
                if left == 0 {
                    self.value_ended(field, &mut found);
                }
                continue;
            }
            bytes = rest;
            self.place += 1;
            self.byte(*byte, &mut found)?;
        }
        Ok(())
    }

    fn byte<'a>(&mut self, byte: u8, found: &mut impl FnMut(Found<'a>)) -> Result<(), Unreadable> {
        match &mut self.at {
            At::Tag(varint) => {
                if varint.shift == 0 {
                    self.from = self.place - 1;
                }
                if let Some(tag) = varint.take(byte)? {
                    self.tag(tag)?;
                }
            }
            At::Number { field, varint } => {
                if let Some(value) = varint.take(byte)? {
                    if self.depth == 0 {
                        found(Found::Number { field: *field, value });
                    }
                    self.at = At::default();
                }
            }
            At::Length { field, varint } => {
                if let Some(left) = varint.take(byte)? {
                    let field = *field;
                    self.at = At::Value { field, left };
                    if self.depth == 0 {
                        found(Found::Begin { field, from: self.from });
                    }
                    if left == 0 {
                        self.value_ended(field, found);
                    }
                }
            }
            At::Fixed { left: 1 } => self.at = At::default(),
            At::Fixed { left } => *left -= 1,
            // Pieces of values are taken whole.
            At::Value { .. } => return Err(Unreadable),
        }
        Ok(())
    }

    fn tag(&mut self, tag: u64) -> Result<(), Unreadable> {
        let (field, varint) = (tag >> 3, Varint::default());
        if field == 0 {
            return Err(Unreadable);
        }
        self.has_others |= !matches!(tag & 7, 0 | 2);
        self.at = match tag & 7 {
            0 => At::Number { field, varint },
            1 => At::Fixed { left: 8 },
            2 => At::Length { field, varint },
            3 => {
                self.depth = self.depth.checked_add(1).ok_or(Unreadable)?;
                At::default()
            }
            4 => {
                self.depth = self.depth.checked_sub(1).ok_or(Unreadable)?;
                At::default()
            }
            5 => At::Fixed { left: 4 },
            _ => return Err(Unreadable),
        };
        Ok(())
    }

    fn value_ended<'a>(&mut self, field: u64, found: &mut impl FnMut(Found<'a>)) {
        self.at = At::default();
        if self.depth == 0 {
            found(Found::End { field, to: self.place });
        }
    }

    /// Whether the message may end here.
    fn may_end(&self) -> bool {
        matches!(self.at, At::Tag(varint) if varint.shift == 0) && self.depth == 0
    }
}

/// A request that passes.
#[derive(Debug)]
pub(super) struct Request {
    method: Method,
    prefix: [u8; PREFIX_BYTES],
    have: usize,
    /// How many bytes of the message have yet to come.
    left: u32,
    fields: Fields,
    asked: Fragments,
    /// Why it is not read.
    lost: Option<Kept>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Fragments {
    id: Vec<u8>,
    wants: Wants,
    ports: Vec<u16>,
    /// A port in a list of ports.
    port: Varint,
    is_excessive: bool,
    /// The words of a command, one behind the other, and where each of them ends.
    words: Vec<u8>,
    ends: Vec<usize>,
    /// The words are too many, or there are fields of later versions: a command may depend on
    /// them.
    is_unknown: bool,
}

impl Request {
    pub(super) fn new(method: Method) -> Request {
        Request {
            method,
            prefix: [0; PREFIX_BYTES],
            have: 0,
            left: 0,
            fields: Fields::default(),
            asked: Fragments::default(),
            lost: None,
        }
    }

    /// Takes the next bytes of the request's first message, and of what follows it.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        if self.have < PREFIX_BYTES {
            let more = bytes.len().min(PREFIX_BYTES - self.have);
            self.prefix[self.have..self.have + more].copy_from_slice(&bytes[..more]);
            self.have += more;
            bytes = &bytes[more..];
            if self.have < PREFIX_BYTES {
                return;
            }
            match prefix(self.prefix) {
                Ok((false, length)) => self.left = length,
                Ok((true, _)) => self.lost = Some(Kept::Compressed),
                Err(Unreadable) => self.lost = Some(Kept::Unreadable),
            }
        }
        if self.lost.is_some() {
            return;
        }
        let more = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.left -= more as u32;
        let (method, asked) = (self.method, &mut self.asked);
        let read = self.fields.take(&bytes[..more], |found| asked.found(method, &found));
        if read.is_err() || self.asked.is_excessive {
            self.lost = Some(Kept::Unreadable);
        }
    }

    /// Records that some of it cannot be read.
    pub(super) fn lose(&mut self) {
        self.lost = Some(Kept::Unreadable);
    }

    /// What was asked for.
    ///
    /// # Errors
    /// If not all of it is known.
    pub(super) fn call(&self) -> Result<Call, Kept> {
        if let Some(why) = self.lost {
            return Err(why);
        }
        let is_whole = self.have == PREFIX_BYTES && self.left == 0 && self.fields.may_end();
        let id = core::str::from_utf8(&self.asked.id).ok().filter(|_| is_whole);
        let id = id.ok_or(Kept::Unreadable)?;
        let asked = match self.method {
            Method::Exec => Asked::Exec(self.asked.wants),
            Method::Attach => Asked::Attach(self.asked.wants),
            Method::PortForward => Asked::PortForward { ports: self.asked.ports.clone() },
        };
        let command = Some(&self.asked).filter(|_| !self.fields.has_others);
        let command = command.and_then(|asked| asked.command(self.method));
        Ok(Call { asked, id: String::from(id), command })
    }
}

impl Fragments {
    fn found(&mut self, method: Method, found: &Found<'_>) {
        match *found {
            Found::Number { field, value } => self.number(method, field, value),
            Found::Begin { field: 1, .. } => self.id.clear(),
            Found::Piece { field: 2, bytes } if method == Method::Exec => {
                self.is_unknown |= self.words.len() + bytes.len() > CRI_COMMAND_BYTES;
                if !self.is_unknown {
                    self.words.extend_from_slice(bytes);
                }
            }
            Found::End { field: 2, .. } if method == Method::Exec => {
                self.is_unknown |= self.ends.len() == CRI_COMMAND_WORDS;
                if !self.is_unknown {
                    self.ends.push(self.words.len());
                }
            }
            Found::Begin { field, .. } => {
                self.is_unknown |= field > EXEC_FIELDS;
                self.port = Varint::default();
            }
            Found::Piece { field: 1, bytes } => {
                self.is_excessive |= self.id.len() + bytes.len() > CRI_ID_BYTES;
                if !self.is_excessive {
                    self.id.extend_from_slice(bytes);
                }
            }
            Found::Piece { field: 2, bytes } if method == Method::PortForward => {
                for byte in bytes {
                    match self.port.take(*byte) {
                        Ok(Some(port)) => {
                            self.port = Varint::default();
                            self.port_came(port);
                        }
                        Ok(None) => {}
                        Err(Unreadable) => self.is_excessive = true,
                    }
                }
            }
            Found::End { field: 2, .. } if method == Method::PortForward => {
                self.is_excessive |= self.port.shift > 0;
            }
            Found::Piece { .. } | Found::End { .. } => {}
        }
    }

    /// The command of an exec, if all of it is known.
    fn command(&self, method: Method) -> Option<Vec<String>> {
        if self.is_unknown || method != Method::Exec {
            return None;
        }
        let mut from = 0;
        let words = self.ends.iter().map(|to| {
            let word = self.words.get(core::mem::replace(&mut from, *to)..*to)?;
            core::str::from_utf8(word).ok().map(String::from)
        });
        words.collect()
    }

    fn number(&mut self, method: Method, field: u64, value: u64) {
        self.is_unknown |= field > EXEC_FIELDS;
        let wants = &mut self.wants;
        let place = match (method, field) {
            (Method::Exec | Method::Attach, 3) => &mut wants.tty,
            (Method::Exec, 4) | (Method::Attach, 2) => &mut wants.stdin,
            (Method::Exec, 5) | (Method::Attach, 4) => &mut wants.stdout,
            (Method::Exec, 6) | (Method::Attach, 5) => &mut wants.stderr,
            (Method::PortForward, 2) => return self.port_came(value),
            _ => return,
        };
        *place = value != 0;
    }

    /// What is no port at all is left out; the runtime lets it pass as well.
    fn port_came(&mut self, port: u64) {
        self.is_excessive |= self.ports.len() == CRI_PORTS;
        if let Ok(port) = u16::try_from(port)
            && !self.is_excessive
        {
            self.ports.push(port);
        }
    }
}

/// The URL of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) text: &'a str,
    /// Where its field is in the message, tag and length included.
    field: Range<usize>,
}

/// Finds the URL in an answer's message. None if there is none, or an empty one.
pub(super) fn url(message: &[u8]) -> Result<Option<Url<'_>>, Unreadable> {
    let (mut from, mut text, mut url) = (0, &[][..], None);
    let mut fields = Fields::default();
    fields.take(message, |found| match found {
        Found::Begin { field: 1, from: place } => (from, text) = (place as usize, &[]),
        Found::Piece { field: 1, bytes } => text = bytes,
        Found::End { field: 1, to } => url = Some((text, from..to as usize)),
        _ => {}
    })?;
    if !fields.may_end() {
        return Err(Unreadable);
    }
    let Some((text, field)) = url.filter(|(text, _)| !text.is_empty()) else { return Ok(None) };
    let text = core::str::from_utf8(text).map_err(|_| Unreadable)?;
    Ok(Some(Url { text, field }))
}

/// The message with another URL, behind its prefix. All else stays in its place.
pub(super) fn with_url(message: &[u8], url: &Url<'_>, other: &str) -> Vec<u8> {
    // Field 1, with a length.
    let mut field = alloc::vec![0x0a];
    let mut length = other.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(other.as_bytes());
    let before = message.get(..url.field.start).unwrap_or_default();
    let after = message.get(url.field.end..).unwrap_or_default();
    let length = before.len() + field.len() + after.len();
    let mut all = Vec::with_capacity(PREFIX_BYTES + length);
    all.push(0);
    all.extend_from_slice(&(length as u32).to_be_bytes());
    all.extend_from_slice(before);
    all.extend_from_slice(&field);
    all.extend_from_slice(after);
    all
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn request(message: &[u8]) -> Vec<u8> {
        [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat()
    }

    fn call(method: Method, message: &[u8]) -> Result<Call, Kept> {
        let mut read = Request::new(method);
        read.take(&request(message));
        read.call()
    }

    #[test]
    fn an_exec_is_read_with_its_last_values_and_without_its_command() {
        let mut message = b"\x0a\x03old\x0a\x02id".to_vec();
        message.extend(b"\x12\x02sh\x12\x7f");
        message.extend([0x0a; 0x7f]);
        // tty, stdin, stdout; stdin once more, as 0; an unknown string, number, group and fixed64.
        message.extend(b"\x18\x01\x20\x01\x28\x01\x20\x00");
        message.extend(
            b"\x3a\x01\x0a\x40\x96\x01\x4b\x0a\x01x\x4c\x51\x08\x08\x08\x08\x08\x08\x08\x08",
        );
        let wants = Wants { stdin: false, stdout: true, stderr: false, tty: true };
        let (asked, id) = (Asked::Exec(wants), "id".to_string());
        let expected = Call { asked, id, command: None };
        assert_eq!(call(Method::Exec, &message), Ok(expected));
    }

    #[test]
    fn a_command_is_known_where_nothing_else_could_belong_to_it() {
        let command = |message: &[u8]| call(Method::Exec, message).unwrap().command;
        let words = |words: &[&str]| Some(words.iter().map(|word| word.to_string()).collect());
        assert_eq!(command(b""), words(&[]));
        assert_eq!(
            command(b"\x0a\x01c\x12\x02sh\x12\x00\x12\x01a\x20\x01"),
            words(&["sh", "", "a"])
        );
        assert_eq!(command(b"\x12\x01\xff"), None);
        // A field of a later version, as a number, as a value, and as one of 4 bytes.
        assert_eq!(command(b"\x12\x02sh\x3d\x01\x00\x00\x00"), None);
        assert_eq!(command(b"\x12\x02sh\x38\x01"), None);
        assert_eq!(command(b"\x12\x02sh\x3a\x01x"), None);
        let long = [&b"\x12\x80\x80\x04"[..], &vec![b'x'; CRI_COMMAND_BYTES]].concat();
        assert_eq!(command(&long).map(|words| words[0].len()), Some(CRI_COMMAND_BYTES));
        assert_eq!(command(&[&long[..], b"\x12\x01x"].concat()), None);
        assert_eq!(command(&b"\x12\x00".repeat(CRI_COMMAND_WORDS + 1)), None);
        assert_eq!(call(Method::Attach, b"\x10\x01").unwrap().command, None);
    }

    #[test]
    fn the_fields_of_an_attach_are_its_own() {
        let asked = |message| call(Method::Attach, message).map(|call| call.asked);
        let none = Wants::default();
        let only = |wants| Ok(Asked::Attach(wants));
        assert_eq!(asked(b"\x10\x01"), only(Wants { stdin: true, ..none }));
        assert_eq!(asked(b"\x18\x01"), only(Wants { tty: true, ..none }));
        assert_eq!(asked(b"\x20\x01"), only(Wants { stdout: true, ..none }));
        assert_eq!(asked(b"\x28\x01"), only(Wants { stderr: true, ..none }));
        assert_eq!(asked(b"\x30\x01"), only(none));
    }

    #[test]
    fn ports_come_one_by_one_or_packed() {
        let message =
            b"\x0a\x03pod\x10\x50\x12\x03\xbb\x03\x51\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        let expected = Asked::PortForward { ports: vec![80, 443, 81] };
        let read = call(Method::PortForward, message).unwrap();
        assert_eq!((read.asked, &*read.id), (expected, "pod"));
        let many = [0x10, 1].repeat(CRI_PORTS + 1);
        assert!(call(Method::PortForward, &many[2..]).is_ok());
        assert_eq!(call(Method::PortForward, &many), Err(Kept::Unreadable));
        assert_eq!(call(Method::PortForward, b"\x12\x01\x80"), Err(Kept::Unreadable));
        let long = [&b"\x12\x14"[..], &[0x81; 20]].concat();
        assert_eq!(call(Method::PortForward, &long), Err(Kept::Unreadable));
    }

    #[test]
    fn what_is_not_whole_or_not_readable_is_no_call() {
        let long = [&b"\x0a\x80\x02"[..], &[b'x'; 256]].concat();
        assert_eq!(call(Method::Exec, &long).map(|call| call.id.len()), Ok(CRI_ID_BYTES));
        let longer = [&b"\x0a\x81\x02"[..], &[b'x'; 257]].concat();
        let bad =
            [&b"\x0a\x05id"[..], b"\x0a\x01\xff", b"\x07", b"\x00", b"\x0c", b"\x0b", &longer];
        for bad in bad {
            assert_eq!(call(Method::Exec, bad), Err(Kept::Unreadable), "{bad:x?}");
        }
        let mut read = Request::new(Method::Exec);
        read.take(&[1, 0, 0, 0, 0]);
        assert_eq!(read.call(), Err(Kept::Compressed));
        let mut read = Request::new(Method::Exec);
        read.take(&[0, 0, 0, 0]);
        assert_eq!(read.call(), Err(Kept::Unreadable));
        read.take(&[0]);
        assert!(read.call().is_ok(), "an empty message is one");
    }

    #[test]
    fn a_url_is_exchanged_where_it_stands() {
        let message = b"\x12\x01a\x0a\x03one\x0a\x03two\x18\x01";
        let found = url(message).unwrap().unwrap();
        assert_eq!(found.text, "two");
        let same = with_url(message, &found, "TWO");
        assert_eq!(same, request(b"\x12\x01a\x0a\x03one\x0a\x03TWO\x18\x01"));
        let long = "x".repeat(300);
        let longer = with_url(message, &found, &long);
        let expected =
            [&b"\x12\x01a\x0a\x03one\x0a\xac\x02"[..], long.as_bytes(), b"\x18\x01"].concat();
        assert_eq!(longer, request(&expected));
        assert_eq!(url(b""), Ok(None));
        assert_eq!(url(b"\x0a\x03one\x0a\x00"), Ok(None));
        for bad in [&b"\x0a\x03tw"[..], b"\x0a\x01\xff", b"<html>"] {
            assert_eq!(url(bad), Err(Unreadable), "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_any_request_is_read_alike(
            mut message in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..40], 0..100),
            cut in 0usize..100,
            method in prop::sample::select(vec![Method::Exec, Method::Attach, Method::PortForward]),
        ) {
            message = request(&message);
            let (mut whole, mut pieces) = (Request::new(method), Request::new(method));
            whole.take(&message);
            let (first, second) = message.split_at(cut.min(message.len()));
            pieces.take(first);
            pieces.take(second);
            prop_assert_eq!(whole.call(), pieces.call());
        }
    }
}
