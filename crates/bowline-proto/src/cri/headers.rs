//! Header blocks of requests to the methods that they call: HPACK (RFC 7541) is read, never
//! written.
//!
//! Of a header nothing is kept but what says which method is called: of a string how long it is and
//! how it begins, of an entry of the dynamic table how large it is and which method it names. So no
//! block and no string is ever held, however long it is, and no secret.

use alloc::collections::VecDeque;

use super::huffman::Decoder;
use super::method::Method;
use crate::limits::HPACK_TABLE_BYTES;

/// The size of the dynamic table before anybody speaks of it (RFC 9113 §6.5.2).
const DEFAULT_TABLE_BYTES: usize = 4096;
/// What an entry counts beyond its strings (RFC 7541 §4.1).
const ENTRY_BYTES: usize = 32;
/// How much of a string is looked at: more than the longest path that means anything here.
const KEPT_BYTES: usize = 64;
const PATH: &[u8] = b":path";

/// How long the names of the static table are (RFC 7541 appendix A).
const STATIC_NAMES: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14,
    16, 13, 12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10,
    25, 17, 10, 4, 3, 16,
];

/// Where the static table has a path: `/` and `/index.html`.
const STATIC_PATHS: [u64; 2] = [4, 5];

/// A block that is not in HPACK, or that needs a larger table than is kept. What follows on the
/// connection cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Reads the header blocks of one direction of a connection, in pieces.
#[derive(Debug)]
pub(super) struct Reader {
    table: Table,
    at: At,
    name: Name,
    /// Whether the field that comes is added to the table.
    is_added: bool,
    string: Text,
    path: Path,
}

/// The path of the block.
#[derive(Clone, Copy, Debug, Default)]
enum Path {
    #[default]
    None,
    One(Option<Method>),
    /// No server takes more than one.
    Several,
}

/// What comes next in a block.
#[derive(Clone, Copy, Debug)]
enum At {
    Field,
    Integer {
        of: Integer,
        value: u64,
        shift: u32,
    },
    /// The first byte of a string's length.
    String(Which),
    Raw {
        of: Which,
        left: u64,
    },
    Huffman {
        of: Which,
        left: u64,
        decoder: Decoder,
    },
}

#[derive(Clone, Copy, Debug)]
enum Integer {
    Index,
    TableSize,
    NameIndex,
    Length { of: Which, is_huffman: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Name,
    Value,
}

/// A string: how long it is, and how it begins.
#[derive(Clone, Copy, Debug)]
struct Text {
    kept: [u8; KEPT_BYTES],
    length: usize,
}

impl Text {
    const EMPTY: Text = Text { kept: [0; KEPT_BYTES], length: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.kept.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// All of it, unless it is longer than what means anything.
    fn whole(&self) -> Option<&[u8]> {
        self.kept.get(..self.length)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Name {
    length: usize,
    is_path: bool,
}

/// An entry of the dynamic table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    size: usize,
    name_length: usize,
    is_path: bool,
    method: Option<Method>,
}

/// The dynamic table (RFC 7541 §2.3.2).
#[derive(Debug)]
struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    /// What the client has chosen.
    most: usize,
    /// The largest size that the server has ever allowed.
    allowed: usize,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            table: Table {
                entries: VecDeque::new(),
                size: 0,
                most: DEFAULT_TABLE_BYTES,
                allowed: DEFAULT_TABLE_BYTES,
            },
            at: At::Field,
            name: Name::default(),
            is_added: false,
            string: Text::EMPTY,
            path: Path::None,
        }
    }
}

impl Reader {
    /// Takes the server's word on how large the table may be. When the client goes by it is not
    /// looked at: a size that was allowed once is not refused.
    pub(super) fn allow_table(&mut self, bytes: u32) {
        self.table.allowed = self.table.allowed.max(bytes as usize);
    }

    /// Takes the next piece of a block.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), Unreadable> {
        piece.iter().try_for_each(|byte| self.byte(*byte))
    }

    /// Ends a block: the method that it calls, if it is one of those that matter.
    pub(super) fn end(&mut self) -> Result<Option<Method>, Unreadable> {
        match (self.at, core::mem::take(&mut self.path)) {
            (At::Field, Path::One(method)) => Ok(method),
            (At::Field, Path::None | Path::Several) => Ok(None),
            _ => Err(Unreadable),
        }
    }

    fn byte(&mut self, byte: u8) -> Result<(), Unreadable> {
        match self.at {
            At::Field => self.field(byte),
            At::Integer { of, value, shift } => {
                let value = value + (u64::from(byte & 0x7f) << shift);
                if byte & 0x80 == 0 {
                    return self.integer(of, value);
                }
                // As much as Go's reader takes; the sum is still below 2^64.
                let shift = shift + 7;
                self.at = At::Integer { of, value, shift };
                if shift < 63 { Ok(()) } else { Err(Unreadable) }
            }
            At::String(of) => {
                let of = Integer::Length { of, is_huffman: byte & 0x80 != 0 };
                self.prefix(of, byte, 0x7f)
            }
            At::Raw { of, left } => {
                self.string.push(byte);
                self.at = At::Raw { of, left: left - 1 };
                if left == 1 { self.string_ended(of) } else { Ok(()) }
            }
            At::Huffman { of, left, mut decoder } => {
                decoder.take(byte, |symbol| self.string.push(symbol)).map_err(|_| Unreadable)?;
                self.at = At::Huffman { of, left: left - 1, decoder };
                match left {
                    1 if decoder.may_end() => self.string_ended(of),
                    1 => Err(Unreadable),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The first byte of a field says what it is (RFC 7541 §6).
    fn field(&mut self, byte: u8) -> Result<(), Unreadable> {
        self.is_added = byte & 0xc0 == 0x40;
        match byte {
            0x80.. => self.prefix(Integer::Index, byte, 0x7f),
            0x40.. => self.prefix(Integer::NameIndex, byte, 0x3f),
            0x20.. => self.prefix(Integer::TableSize, byte, 0x1f),
            _ => self.prefix(Integer::NameIndex, byte, 0x0f),
        }
    }

    /// The first byte of an integer (RFC 7541 §5.1).
    fn prefix(&mut self, of: Integer, byte: u8, mask: u8) -> Result<(), Unreadable> {
        let value = u64::from(byte & mask);
        if byte & mask < mask {
            return self.integer(of, value);
        }
        self.at = At::Integer { of, value, shift: 0 };
        Ok(())
    }

    fn integer(&mut self, of: Integer, value: u64) -> Result<(), Unreadable> {
        self.at = match of {
            Integer::Index => {
                if self.table.name(value)?.is_path {
                    self.path_came(self.table.method(value));
                }
                At::Field
            }
            Integer::TableSize => {
                self.table.resize(value)?;
                At::Field
            }
            Integer::NameIndex if value == 0 => At::String(Which::Name),
            Integer::NameIndex => {
                self.name = self.table.name(value)?;
                At::String(Which::Value)
            }
            Integer::Length { of, is_huffman } => {
                self.string = Text::EMPTY;
                match (value, is_huffman) {
                    (0, _) => return self.string_ended(of),
                    (left, false) => At::Raw { of, left },
                    (left, true) => At::Huffman { of, left, decoder: Decoder::default() },
                }
            }
        };
        Ok(())
    }

    fn string_ended(&mut self, of: Which) -> Result<(), Unreadable> {
        if of == Which::Name {
            let is_path = self.string.whole() == Some(PATH);
            self.name = Name { length: self.string.length, is_path };
            self.at = At::String(Which::Value);
            return Ok(());
        }
        self.at = At::Field;
        let name = self.name;
        let method = self.string.whole().filter(|_| name.is_path).and_then(Method::of_path);
        if self.is_added {
            self.table.add(name, self.string.length, method);
        }
        if name.is_path {
            self.path_came(method);
        }
        Ok(())
    }

    fn path_came(&mut self, method: Option<Method>) {
        self.path = match self.path {
            Path::None => Path::One(method),
            Path::One(_) | Path::Several => Path::Several,
        };
    }
}

impl Table {
    /// The dynamic entry at an index of both tables, which begins at 1.
    fn entry(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(STATIC_NAMES.len() as u64 + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    fn name(&self, index: u64) -> Result<Name, Unreadable> {
        if let Some(entry) = self.entry(index) {
            return Ok(Name { length: entry.name_length, is_path: entry.is_path });
        }
        let place = index.checked_sub(1).and_then(|place| usize::try_from(place).ok());
        let length = place.and_then(|place| STATIC_NAMES.get(place)).ok_or(Unreadable)?;
        Ok(Name { length: usize::from(*length), is_path: STATIC_PATHS.contains(&index) })
    }

    fn method(&self, index: u64) -> Option<Method> {
        self.entry(index)?.method
    }

    /// What does not fit at all empties the table (RFC 7541 §4.4).
    fn add(&mut self, name: Name, value_length: usize, method: Option<Method>) {
        let size = name.length.saturating_add(value_length).saturating_add(ENTRY_BYTES);
        let Some(rest) = self.most.checked_sub(size) else { return self.evict(0) };
        self.evict(rest);
        self.size += size;
        let Name { length: name_length, is_path } = name;
        self.entries.push_front(Entry { size, name_length, is_path, method });
    }

    fn resize(&mut self, most: u64) -> Result<(), Unreadable> {
        let most = usize::try_from(most).map_err(|_| Unreadable)?;
        if most > self.allowed.min(HPACK_TABLE_BYTES) {
            return Err(Unreadable);
        }
        self.most = most;
        self.evict(most);
        Ok(())
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// How large the entries are, the newest first.
    fn sizes(reader: &Reader) -> Vec<usize> {
        let sizes: Vec<usize> = reader.table.entries.iter().map(|entry| entry.size).collect();
        assert_eq!(sizes.iter().sum::<usize>(), reader.table.size);
        assert!(reader.table.size <= reader.table.most);
        sizes
    }

    fn read(reader: &mut Reader, block: &[u8]) -> Result<Option<Method>, Unreadable> {
        reader.take(block)?;
        reader.end()
    }

    /// RFC 7541 C.3 and C.4: the same requests without and with Huffman's code.
    #[test]
    fn requests_of_the_rfc_leave_its_tables() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut reader = Reader::default();
            for (block, expected) in blocks.iter().zip([&[57][..], &[53, 57], &[54, 53, 57]]) {
                assert_eq!(read(&mut reader, &bytes(block)), Ok(None));
                assert_eq!(sizes(&reader), expected);
            }
        }
    }

    /// RFC 7541 C.5 and C.6: answers, in a table of 256 bytes.
    #[test]
    fn answers_of_the_rfc_evict_what_it_evicts() {
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
             6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
             54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
             5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
             3d31",
        ];
        let huffman = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
             77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
             9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        for blocks in [plain, huffman] {
            let mut reader = Reader::default();
            reader.table.resize(256).unwrap();
            let expected = [&[63, 65, 52, 42][..], &[42, 63, 65, 52], &[98, 52, 65]];
            for (block, expected) in blocks.iter().zip(expected) {
                assert_eq!(read(&mut reader, &bytes(block)), Ok(None));
                assert_eq!(sizes(&reader), expected);
            }
        }
    }

    /// A literal `:path`, added to the table.
    fn path(value: &[u8]) -> Vec<u8> {
        [&[0x44, value.len() as u8], value].concat()
    }

    #[test]
    fn a_method_is_known_by_its_path_literal_or_from_the_table() {
        let mut reader = Reader::default();
        let exec = path(b"/runtime.v1.RuntimeService/Exec");
        assert_eq!(read(&mut reader, &exec), Ok(Some(Method::Exec)));
        let forward = path(b"/runtime.v1alpha2.RuntimeService/PortForward");
        assert_eq!(read(&mut reader, &forward), Ok(Some(Method::PortForward)));
        // The entry before the last one; a name from the table; a name as a literal.
        assert_eq!(read(&mut reader, &[0xbf]), Ok(Some(Method::Exec)));
        let mut literal = b"\x0f\x30\x22".to_vec();
        literal[2] = 33;
        literal.extend(b"/runtime.v1.RuntimeService/Attach");
        assert_eq!(read(&mut reader, &literal), Ok(Some(Method::Attach)));
        let literal = [&b"\x00\x05:path\x21/runtime.v1.RuntimeService/Attach"[..]].concat();
        assert_eq!(read(&mut reader, &literal), Ok(Some(Method::Attach)));
        for other in [
            &b"/runtime.v1.RuntimeService/ExecSync"[..],
            b"/runtime.v1.RuntimeService/Exec/",
            b"/runtime.v2.RuntimeService/Exec",
            b"",
        ] {
            assert_eq!(read(&mut reader, &path(other)), Ok(None));
        }
        assert_eq!(read(&mut reader, &[exec.clone(), exec].concat()), Ok(None), "two paths");
        assert_eq!(read(&mut reader, &[0x84]), Ok(None), "that of the static table");
        assert_eq!(reader.end(), Ok(None), "an empty block");
    }

    #[test]
    fn strings_that_are_longer_than_the_table_empty_it_and_are_not_kept() {
        let mut reader = Reader::default();
        read(&mut reader, &path(b"/runtime.v1.RuntimeService/Exec")).unwrap();
        assert_eq!(sizes(&reader), [68]);
        // `x-long`, and 70,000 bytes behind it.
        let mut long = b"\x40\x06x-long\x7f\xf1\xa1\x04".to_vec();
        long.resize(long.len() + 70_000, b'v');
        assert_eq!(read(&mut reader, &long), Ok(None));
        assert_eq!(sizes(&reader), [] as [usize; 0]);
        assert_eq!(read(&mut reader, &[0xbe]), Err(Unreadable), "its index is no more");
    }

    #[test]
    fn a_table_is_as_large_as_both_sides_say_within_a_bound() {
        let mut reader = Reader::default();
        // 4,096, 4,097.
        assert_eq!(read(&mut reader, &[0x3f, 0xe1, 0x1f]), Ok(None));
        let larger = [0x3f, 0xe2, 0x1f];
        assert_eq!(reader.take(&larger), Err(Unreadable));
        let mut reader = Reader::default();
        reader.allow_table(u32::MAX);
        reader.allow_table(0);
        assert_eq!(read(&mut reader, &larger), Ok(None), "it was allowed once");
        assert_eq!(reader.table.most, 4097);
        assert!(reader.table.resize(HPACK_TABLE_BYTES as u64 + 1).is_err());
        reader.table.resize(HPACK_TABLE_BYTES as u64).unwrap();
        for _ in 0..10_000 {
            read(&mut reader, &[0x40, 0, 0]).unwrap();
        }
        assert_eq!(reader.table.entries.len(), HPACK_TABLE_BYTES / ENTRY_BYTES);
        assert_eq!(read(&mut reader, &[0x20]), Ok(None));
        assert!(reader.table.entries.is_empty());
    }

    #[test]
    fn what_is_no_hpack_is_unreadable() {
        let bad = [
            &[0x80][..],                                                   // index 0
            &[0xbe],                                                       // not in the table
            &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], // a long integer
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], // a large one
            &[0x40, 0x81, 0x00, 0x00],                                     // zeros as padding
            &[0x40, 0x82, 0xff, 0xff],                                     // too much padding
            &[0x40, 0x84, 0xff, 0xff, 0xff, 0xff],                         // the end of a string
        ];
        for bad in bad {
            assert_eq!(read(&mut Reader::default(), bad), Err(Unreadable), "{bad:x?}");
        }
        for unfinished in [&[0x40][..], &[0x40, 3], &[0x40, 3, b'a'], &[0x40, 1, b'a'], &[0xff]] {
            assert_eq!(read(&mut Reader::default(), unfinished), Err(Unreadable));
        }
    }

    proptest! {
        #[test]
        fn any_cut_of_any_block_is_read_alike(
            block in prop::collection::vec(prop_oneof![any::<u8>(), 0x3eu8..0x48], 0..200),
            cut in 0usize..200,
        ) {
            let (mut whole, mut pieces) = (Reader::default(), Reader::default());
            let (first, second) = block.split_at(cut.min(block.len()));
            let one = read(&mut whole, &block);
            let two = pieces.take(first).and_then(|()| read(&mut pieces, second));
            prop_assert_eq!(one, two);
            prop_assert_eq!(sizes(&whole), sizes(&pieces));
        }
    }
}
