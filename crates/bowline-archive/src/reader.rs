//! Bytes of a tar archive to its entries, as a machine: the events are the same in whatever pieces
//! the bytes come.
//!
//! It reads ustar, GNU's long names and large numbers, and pax (path, linkpath, size and mtime of
//! an entry). Sparse files and multi-volume archives are refused.

use tar::EntryType;
use thiserror::Error;

/// The size of a tar block.
pub const BLOCK_BYTES: usize = 512;
/// The longest extended header in bytes: names of 4 KiB fit many times over.
const EXTENSION_BYTES: u64 = 64 * 1024;
/// The longest padding behind an archive's end in bytes. Records of 20 blocks are usual.
const TRAILER_BYTES: u64 = 1024 * 1024;

/// The kind of an [`Entry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name for a file earlier in the archive.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A device.
    Device,
    /// Any other kind, with its type flag.
    Other(u8),
}

/// The header of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's name in the archive.
    pub name: Vec<u8>,
    /// The entry's kind.
    pub kind: EntryKind,
    /// The size of the data that follows, in bytes.
    pub size: u64,
    /// The entry's permissions.
    pub mode: u32,
    /// The time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// The target of a link; empty for other kinds.
    pub link: Vec<u8>,
}

/// What comes next in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// An entry begins.
    Entry(Entry),
    /// Some of the current entry's data.
    Data(&'a [u8]),
    /// The current entry's data is complete.
    Whole,
    /// The archive's end was seen.
    End,
}

/// Why bytes are no archive. Nothing behind a fault can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The bytes end before the archive does.
    #[error("unexpected EOF")]
    Truncated,
    /// A header is damaged, or is none.
    #[error("tar contents corrupted: the header at byte {at}: {what}")]
    Header {
        /// The byte at which the header begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// There are bytes other than padding behind the archive's end.
    #[error("tar contents corrupted: bytes behind the end of the archive")]
    Trailer,
}

#[derive(Debug)]
enum State {
    Header,
    /// In an extended header: its kind, the bytes still to come, and those that have.
    Extension(Extension, u64, Vec<u8>),
    /// In an entry's data, with the bytes still to come.
    Data(u64),
    /// In a block's padding: the bytes still to come, and whether they end an entry.
    Padding(usize, bool),
    /// Behind the first of the two blocks of zeros that end an archive.
    AlmostOver,
    /// Behind the end, with the bytes of padding so far.
    Over(u64),
    Broken(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    LongName,
    LongLink,
    Pax,
    /// Applies to all entries that follow; none of its fields is used.
    Global,
}

/// Fields of the next entry from extended headers, which override those of its own header.
#[derive(Debug, Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
}

/// Turns the bytes of an archive into [`Event`]s.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The bytes so far of a header that comes in pieces.
    block: Vec<u8>,
    /// The bytes read so far.
    position: u64,
    overrides: Overrides,
    /// The archives that follow the current one.
    following: u64,
    headers: Headers,
}

/// The size of an archive's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Bytes of headers, including the content of extended ones.
    pub bytes: u64,
    /// The number of extended headers.
    pub extended: u64,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_BYTES),
            position: 0,
            overrides: Overrides::default(),
            following: 0,
            headers: Headers::default(),
        }
    }
}

impl Reader {
    /// Creates a reader of several archives, one behind the other, with one end.
    #[must_use]
    pub fn of_many(archives: u64) -> Reader {
        Reader { following: archives.saturating_sub(1), ..Reader::default() }
    }

    /// The size of the headers read so far.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// Whether the archive's end was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_)) && self.following == 0
    }

    /// Checks, once no more bytes will come, that the archive is complete.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if the archive's end was not read, or the earlier fault.
    pub fn finish(&self) -> Result<(), Fault> {
        match &self.state {
            State::Over(_) if self.following == 0 => Ok(()),
            State::Broken(fault) => Err(fault.clone()),
            _ => Err(Fault::Truncated),
        }
    }

    /// Takes the bytes of the next event off the beginning of `input`. Returns `None` once `input`
    /// is empty.
    ///
    /// # Errors
    /// [`Fault`] if the bytes are no archive; every later call returns the same one.
    pub fn next_event<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        let event = self.step(input);
        if let Err(fault) = &event {
            self.state = State::Broken(fault.clone());
        }
        event
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fault> {
        loop {
            match &mut self.state {
                State::Broken(fault) => return Err(fault.clone()),
                State::Data(0) => {
                    self.state = State::Header;
                    return Ok(Some(Event::Whole));
                }
                _ if input.is_empty() => return Ok(None),
                State::Data(left) => {
                    let bytes = split(input, *left);
                    *left -= bytes.len() as u64;
                    self.position += bytes.len() as u64;
                    if *left == 0 {
                        self.state = State::Padding(self.padding(), true);
                        self.skip_no_padding();
                    }
                    return Ok(Some(Event::Data(bytes)));
                }
                State::Padding(left, ends_entry) => {
                    let length = split(input, *left as u64).len();
                    self.position += length as u64;
                    *left -= length;
                    if *left == 0 {
                        self.state = if *ends_entry { State::Data(0) } else { State::Header };
                    }
                }
                State::Extension(kind, left, received) => {
                    let bytes = split(input, *left);
                    received.extend_from_slice(bytes);
                    self.headers.bytes += bytes.len() as u64;
                    *left -= bytes.len() as u64;
                    self.position += bytes.len() as u64;
                    if *left == 0 {
                        let (kind, received) = (*kind, std::mem::take(received));
                        self.extend(kind, &received)?;
                        self.state = State::Padding(self.padding(), false);
                        self.skip_no_padding();
                    }
                }
                State::Over(_) if self.following > 0 => {
                    let bytes = split(input, (BLOCK_BYTES - self.block.len()) as u64);
                    self.block.extend_from_slice(bytes);
                    self.position += bytes.len() as u64;
                    if self.block.len() == BLOCK_BYTES {
                        let event = self.between();
                        self.block.clear();
                        if let Some(event) = event? {
                            return Ok(Some(event));
                        }
                    }
                }
                State::Over(trailer) => {
                    let bytes = std::mem::take(input);
                    *trailer += bytes.len() as u64;
                    if *trailer > TRAILER_BYTES || bytes.iter().any(|byte| *byte != 0) {
                        return Err(Fault::Trailer);
                    }
                }
                State::Header | State::AlmostOver => {
                    let bytes = split(input, (BLOCK_BYTES - self.block.len()) as u64);
                    self.block.extend_from_slice(bytes);
                    self.position += bytes.len() as u64;
                    if self.block.len() == BLOCK_BYTES {
                        let event = self.header();
                        self.block.clear();
                        if let Some(event) = event? {
                            return Ok(Some(event));
                        }
                    }
                }
            }
        }
    }

    /// The bytes up to the end of the current block.
    fn padding(&self) -> usize {
        let begun = (self.position % BLOCK_BYTES as u64) as usize;
        (BLOCK_BYTES - begun) % BLOCK_BYTES
    }

    /// Leaves [`State::Padding`] if there is no padding, since no byte will do so.
    fn skip_no_padding(&mut self) {
        if let State::Padding(0, ends_entry) = self.state {
            self.state = if ends_entry { State::Data(0) } else { State::Header };
        }
    }

    /// Reads a block behind an archive that is not the last: padding, or the next one's header.
    fn between(&mut self) -> Result<Option<Event<'static>>, Fault> {
        let State::Over(trailer) = &mut self.state else { return Ok(None) };
        if self.block.iter().any(|byte| *byte != 0) {
            self.following -= 1;
            self.state = State::Header;
            return self.header();
        }
        *trailer += BLOCK_BYTES as u64;
        if *trailer > TRAILER_BYTES { Err(Fault::Trailer) } else { Ok(None) }
    }

    fn header(&mut self) -> Result<Option<Event<'static>>, Fault> {
        let at = self.position - BLOCK_BYTES as u64;
        let fault = |what| Fault::Header { at, what };
        if self.block.iter().all(|byte| *byte == 0) {
            if matches!(self.state, State::AlmostOver) {
                self.state = State::Over(0);
                return Ok((self.following == 0).then_some(Event::End));
            }
            self.state = State::AlmostOver;
            return Ok(None);
        }
        if matches!(self.state, State::AlmostOver) {
            return Err(fault("an entry behind the end"));
        }
        let header = tar::Header::from_byte_slice(&self.block);
        if header.cksum().ok() != Some(checksum(&self.block)) {
            return Err(fault("its checksum is wrong"));
        }
        let size = header.entry_size().map_err(|_| fault("its size is no number"))?;
        self.headers.bytes += BLOCK_BYTES as u64;
        let kind = header.entry_type();
        let extension = match kind {
            EntryType::GNULongName => Some(Extension::LongName),
            EntryType::GNULongLink => Some(Extension::LongLink),
            EntryType::XHeader => Some(Extension::Pax),
            EntryType::XGlobalHeader => Some(Extension::Global),
            _ => None,
        };
        if let Some(extension) = extension {
            if size > EXTENSION_BYTES {
                return Err(fault("an extended header of that size"));
            }
            self.headers.extended += 1;
            self.state = State::Extension(extension, size, Vec::new());
            if size == 0 {
                self.state = State::Header;
            }
            return Ok(None);
        }
        let overrides = std::mem::take(&mut self.overrides);
        let name = overrides.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            overrides.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let mtime = overrides.mtime.unwrap_or_else(|| mtime_of(header));
        let kind = match kind {
            // The oldest format marks directories by their names alone.
            EntryType::Regular if name.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::Char | EntryType::Block => EntryKind::Device,
            other => EntryKind::Other(other.as_byte()),
        };
        // A link may repeat the size of its target; only files and unknown kinds have data.
        let size = match kind {
            EntryKind::File | EntryKind::Other(_) => overrides.size.unwrap_or(size),
            _ => 0,
        };
        if size > i64::MAX as u64 {
            return Err(fault("its size is larger than any file"));
        }
        let mode = header.mode().unwrap_or(0o644);
        self.state = State::Data(size);
        let link = link.unwrap_or_default();
        Ok(Some(Event::Entry(Entry { name, kind, size, mode, mtime, link })))
    }

    fn extend(&mut self, kind: Extension, bytes: &[u8]) -> Result<(), Fault> {
        let until_zero = || {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            bytes[..end].to_vec()
        };
        match kind {
            Extension::LongName => self.overrides.name = Some(until_zero()),
            Extension::LongLink => self.overrides.link = Some(until_zero()),
            Extension::Global => {}
            Extension::Pax => {
                let fault = Fault::Header { at: self.position, what: "a pax record is damaged" };
                self.pax(bytes).ok_or(fault)?;
            }
        }
        Ok(())
    }

    /// Reads records of `LENGTH KEY=VALUE\n`, where the length is the whole record's (pax, section
    /// 4).
    fn pax(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
            let record = bytes.get(..length)?.strip_suffix(b"\n")?.get(space + 1..)?;
            bytes = &bytes[length..];
            let equals = record.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let text = || std::str::from_utf8(value).ok();
            match key {
                b"path" => self.overrides.name = Some(value.to_vec()),
                b"linkpath" => self.overrides.link = Some(value.to_vec()),
                b"size" => self.overrides.size = Some(text()?.parse().ok()?),
                b"mtime" => {
                    let (seconds, fraction) = text()?.split_once('.').unwrap_or((text()?, ""));
                    // Rounded down, as the system does.
                    let is_below = seconds.starts_with('-') && fraction.bytes().any(|b| b != b'0');
                    let seconds: i64 = seconds.parse().ok()?;
                    self.overrides.mtime = Some(seconds.checked_sub(is_below.into())?);
                }
                // A sparse file would come out without its holes.
                _ if key.starts_with(b"GNU.sparse.") => return None,
                _ => {}
            }
        }
        Some(())
    }
}

/// Takes at most `most` bytes off the beginning of `input`.
fn split<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let length = input.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let (first, rest) = input.split_at(length);
    *input = rest;
    first
}

fn mtime_of(header: &tar::Header) -> i64 {
    header.mtime().ok().and_then(|mtime| i64::try_from(mtime).ok()).unwrap_or(0)
}

/// Returns the sum of a header's bytes, with blanks instead of its checksum field.
fn checksum(block: &[u8]) -> u32 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::writer;

    fn archive(entries: &[(&[u8], EntryKind, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, data) in entries {
            let (size, link) = match kind {
                EntryKind::File => (data.len() as u64, Vec::new()),
                _ => (0, data.to_vec()),
            };
            let entry =
                Entry { name: name.to_vec(), kind: *kind, size, mode: 0o640, mtime: 1234, link };
            let data = if *kind == EntryKind::File { data } else { &b""[..] };
            writer::entry(&entry, writer::Owner::default(), data, &mut bytes);
        }
        writer::end(&mut bytes);
        bytes
    }

    /// An [`Event`], with all data of an entry in one.
    #[derive(Debug, PartialEq)]
    enum Out {
        Entry(Entry),
        Data(Vec<u8>),
        Whole,
        End,
    }

    fn events(bytes: &[u8], piece: usize) -> (Vec<Out>, Result<(), Fault>) {
        let mut reader = Reader::default();
        let mut found: Vec<Out> = Vec::new();
        for mut piece in bytes.chunks(piece) {
            loop {
                match reader.next_event(&mut piece) {
                    Ok(None) => break,
                    Err(fault) => return (found, Err(fault)),
                    Ok(Some(Event::Data(more))) => match found.last_mut() {
                        Some(Out::Data(data)) => data.extend_from_slice(more),
                        _ => found.push(Out::Data(more.to_vec())),
                    },
                    Ok(Some(Event::Entry(entry))) => found.push(Out::Entry(entry)),
                    Ok(Some(Event::Whole)) => found.push(Out::Whole),
                    Ok(Some(Event::End)) => found.push(Out::End),
                }
            }
        }
        let end = reader.finish();
        (found, end)
    }

    #[test]
    fn what_was_written_is_read() {
        let long = [b'n'; 300];
        let archive = archive(&[
            (b"d/", EntryKind::Directory, b""),
            (b"d/a\nb", EntryKind::File, b"hello"),
            (&long, EntryKind::File, &[7; 1024]),
            (b"l", EntryKind::Symlink, &long),
            (b"empty", EntryKind::File, b""),
        ]);
        let (events, end) = events(&archive, usize::MAX);
        assert_eq!(end, Ok(()));
        let names: Vec<&[u8]> = events
            .iter()
            .filter_map(|event| match event {
                Out::Entry(entry) => Some(&entry.name[..]),
                _ => None,
            })
            .collect();
        assert_eq!(names, [b"d/", &b"d/a\nb"[..], &long, b"l", b"empty"]);
        assert_eq!(events.last(), Some(&Out::End));
        assert!(events.contains(&Out::Data(b"hello".to_vec())));
        let link = events.iter().find_map(|event| match event {
            Out::Entry(entry) if entry.kind == EntryKind::Symlink => Some(entry.link.clone()),
            _ => None,
        });
        assert_eq!(link.as_deref(), Some(&long[..]));
    }

    #[test]
    fn pax_has_the_last_word() {
        let mut bytes = Vec::new();
        let value = "a\nb=c";
        let records =
            format!("{} path={value}\n12 size=513\n19 mtime=-5.123456\n", 9 + value.len());
        let extension = Entry {
            name: b"x".to_vec(),
            kind: EntryKind::Other(b'x'),
            size: records.len() as u64,
            mode: 0,
            mtime: 0,
            link: Vec::new(),
        };
        writer::entry(&extension, writer::Owner::default(), records.as_bytes(), &mut bytes);
        let file = Entry { name: b"no".to_vec(), kind: EntryKind::File, size: 1, ..extension };
        writer::header(&file, writer::Owner::default(), &mut bytes);
        bytes.extend_from_slice(&[1; 1024]);
        writer::end(&mut bytes);
        let (events, end) = events(&bytes, 100);
        assert_eq!(end, Ok(()));
        let Out::Entry(entry) = &events[0] else { panic!("{events:?}") };
        assert_eq!((&entry.name[..], entry.size, entry.mtime), (&b"a\nb=c"[..], 513, -6));
    }

    #[test]
    fn faults_are_named() {
        let whole = archive(&[(b"f", EntryKind::File, &[1; 600])]);
        for length in 0..whole.len() - 9 * 1024 {
            let (_, end) = events(&whole[..length], 1000);
            assert_eq!(end.unwrap_err(), Fault::Truncated, "{length}");
        }
        let mut bent = whole.clone();
        bent[3] ^= 1;
        let what = "its checksum is wrong";
        assert_eq!(events(&bent, 99).1, Err(Fault::Header { at: 0, what }));
        let mut more = whole.clone();
        more.push(1);
        assert_eq!(events(&more, 99).1, Err(Fault::Trailer));
        more = [&whole[..], &[0; 2 * TRAILER_BYTES as usize]].concat();
        assert_eq!(events(&more, 4096).1, Err(Fault::Trailer));
    }

    #[test]
    fn archives_follow_one_another() {
        let one = archive(&[(b"f", EntryKind::File, &[1; 600])]);
        // Some tars write no more than two blocks of zeros.
        let short = &one[..one.len().min(512 + 1024 + 1024)];
        let all = [short, &one, short].concat();
        for piece in [1, 511, 512, 5000, usize::MAX] {
            let mut reader = Reader::of_many(3);
            let mut entries = 0;
            for (number, mut bytes) in all.chunks(piece.min(all.len())).enumerate() {
                assert!(!reader.is_over(), "{number}");
                while let Some(event) = reader.next_event(&mut bytes).unwrap() {
                    entries += u32::from(matches!(event, Event::Entry(_)));
                }
            }
            assert!(reader.is_over() && entries == 3, "{piece} {entries}");
            assert_eq!(reader.headers(), Headers { bytes: 3 * 512, extended: 0 });
        }
        let mut reader = Reader::of_many(4);
        while reader.next_event(&mut &all[..]).unwrap().is_none() {}
        assert_eq!(reader.finish(), Err(Fault::Truncated));
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same_events(
            data in prop::collection::vec(any::<u8>(), 0..2000),
            name in prop::collection::vec(1u8.., 1..200),
            piece in 1usize..1500,
            flip in prop::option::of((any::<prop::sample::Index>(), 1u8..)),
        ) {
            let entries = [
                (&name[..], EntryKind::File, &data[..]),
                (b"z", EntryKind::Symlink, &name),
            ];
            let mut bytes = archive(&entries);
            if let Some((at, change)) = flip {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
            }
            prop_assert_eq!(events(&bytes, piece), events(&bytes, bytes.len()));
        }
    }
}
