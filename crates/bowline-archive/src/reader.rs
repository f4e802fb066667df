//! Bytes of a tar archive to its entries, as a machine: whatever the pieces in which they come, the
//! events are the same.
//!
//! Understood are ustar, GNU's long names and large numbers, and pax (path, linkpath, size, mtime,
//! for an entry). Not understood, and refused by name: sparse files and multi-volume archives.

use tar::EntryType;
use thiserror::Error;

/// The unit of the format.
pub const BLOCK_BYTES: usize = 512;
/// The longest extended header: names of 4 KiB fit many times over.
const EXTENSION_BYTES: u64 = 64 * 1024;
/// After the end, archives are filled up to their record size; 20 blocks is usual.
const TRAILER_BYTES: u64 = 1024 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name for a file that came before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A device.
    Device,
    /// Something else, by its letter.
    Other(u8),
}

/// The head of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The bytes of data that follow.
    pub size: u64,
    /// Its permissions.
    pub mode: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// For links: to what.
    pub link: Vec<u8>,
}

/// What comes next in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// An entry begins.
    Entry(Entry),
    /// Some of its data.
    Data(&'a [u8]),
    /// All of its data has come.
    Whole,
    /// The archive's end was seen.
    End,
}

/// Why bytes are no archive. Nothing after it can be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// They end where something is still to come.
    #[error("unexpected EOF")]
    Truncated,
    /// A header is damaged, or none.
    #[error("tar contents corrupted: the header at byte {at}: {what}")]
    Header {
        /// Where it begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes behind the end.
    #[error("tar contents corrupted: bytes behind the end of the archive")]
    Trailer,
}

#[derive(Debug)]
enum State {
    Header,
    /// An extended header of this kind: bytes to come, and what came.
    Extension(Extension, u64, Vec<u8>),
    Data(u64),
    /// Bytes that fill a block, and then the header's state.
    Padding(usize, bool),
    /// One block of zeros was seen.
    AlmostOver,
    Over(u64),
    Broken(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    LongName,
    LongLink,
    Pax,
    /// For all entries that follow; its fields are of no use here.
    Global,
}

/// What extended headers said of the next entry.
#[derive(Debug, Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<i64>,
}

/// The machine.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// A header's bytes, while they come in pieces.
    block: Vec<u8>,
    /// WriteMode many bytes were looked at.
    at: u64,
    said: Said,
    /// WriteMode many archives follow the one that comes.
    following: u64,
    headers: Headers,
}

/// What an archive has beside the data of its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Bytes of headers, extended ones with what they hold.
    pub bytes: u64,
    /// Extended headers: each is one more than the entries.
    pub extended: u64,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_BYTES),
            at: 0,
            said: Said::default(),
            following: 0,
            headers: Headers::default(),
        }
    }
}

impl Reader {
    /// For so many archives, one behind the other; the end is that of the last one.
    #[must_use]
    pub fn of_many(archives: u64) -> Reader {
        Reader { following: archives.saturating_sub(1), ..Reader::default() }
    }

    /// What came beside data, so far.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// Whether the end was seen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_)) && self.following == 0
    }

    /// No more bytes will come.
    ///
    /// # Errors
    /// [`Fault::Truncated`] unless the end was seen.
    pub fn finish(&self) -> Result<(), Fault> {
        match &self.state {
            State::Over(_) if self.following == 0 => Ok(()),
            State::Broken(fault) => Err(fault.clone()),
            _ => Err(Fault::Truncated),
        }
    }

    /// The next event in `input`, which begins behind it then; `None` once all of it was taken.
    ///
    /// # Errors
    /// [`Fault`], and the same one ever after.
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
                    self.at += bytes.len() as u64;
                    if *left == 0 {
                        self.state = State::Padding(self.padding(), true);
                        self.skip_no_padding();
                    }
                    return Ok(Some(Event::Data(bytes)));
                }
                State::Padding(left, ends_entry) => {
                    let length = split(input, *left as u64).len();
                    self.at += length as u64;
                    *left -= length;
                    if *left == 0 {
                        self.state = if *ends_entry { State::Data(0) } else { State::Header };
                    }
                }
                State::Extension(kind, left, came) => {
                    let bytes = split(input, *left);
                    came.extend_from_slice(bytes);
                    self.headers.bytes += bytes.len() as u64;
                    *left -= bytes.len() as u64;
                    self.at += bytes.len() as u64;
                    if *left == 0 {
                        let (kind, came) = (*kind, std::mem::take(came));
                        self.extend(kind, &came)?;
                        self.state = State::Padding(self.padding(), false);
                        self.skip_no_padding();
                    }
                }
                State::Over(_) if self.following > 0 => {
                    let bytes = split(input, (BLOCK_BYTES - self.block.len()) as u64);
                    self.block.extend_from_slice(bytes);
                    self.at += bytes.len() as u64;
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
                    self.at += bytes.len() as u64;
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

    /// What fills the block that was begun.
    fn padding(&self) -> usize {
        let begun = (self.at % BLOCK_BYTES as u64) as usize;
        (BLOCK_BYTES - begun) % BLOCK_BYTES
    }

    /// A padding of nothing needs no bytes to end.
    fn skip_no_padding(&mut self) {
        if let State::Padding(0, ends_entry) = self.state {
            self.state = if ends_entry { State::Data(0) } else { State::Header };
        }
    }

    /// A block behind an archive that is not the last: it fills up the record, or begins the next.
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
        let at = self.at - BLOCK_BYTES as u64;
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
        let said = std::mem::take(&mut self.said);
        let name = said.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = said.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let mtime = said.mtime.unwrap_or_else(|| mtime_of(header));
        let kind = match kind {
            // Before there were directories of their own, a name told.
            EntryType::Regular if name.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => Kind::Other(other.as_byte()),
        };
        // A link may repeat the size of what it leads to; only files and the unknown have data.
        let size = match kind {
            Kind::File | Kind::Other(_) => said.size.unwrap_or(size),
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
            Extension::LongName => self.said.name = Some(until_zero()),
            Extension::LongLink => self.said.link = Some(until_zero()),
            Extension::Global => {}
            Extension::Pax => {
                let fault = Fault::Header { at: self.at, what: "a pax record is damaged" };
                self.pax(bytes).ok_or(fault)?;
            }
        }
        Ok(())
    }

    /// Records of `LENGTH KEY=VALUE\n`, where the length counts all of it (pax, section 4).
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
                b"path" => self.said.name = Some(value.to_vec()),
                b"linkpath" => self.said.link = Some(value.to_vec()),
                b"size" => self.said.size = Some(text()?.parse().ok()?),
                b"mtime" => {
                    let (seconds, fraction) = text()?.split_once('.').unwrap_or((text()?, ""));
                    // The whole second below, as the system counts.
                    let is_below = seconds.starts_with('-') && fraction.bytes().any(|b| b != b'0');
                    let seconds: i64 = seconds.parse().ok()?;
                    self.said.mtime = Some(seconds.checked_sub(is_below.into())?);
                }
                // A file with holes would come out as its data alone.
                _ if key.starts_with(b"GNU.sparse.") => return None,
                _ => {}
            }
        }
        Some(())
    }
}

/// Takes at most so many bytes off the beginning.
fn split<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let length = input.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    let (first, rest) = input.split_at(length);
    *input = rest;
    first
}

fn mtime_of(header: &tar::Header) -> i64 {
    header.mtime().ok().and_then(|mtime| i64::try_from(mtime).ok()).unwrap_or(0)
}

/// The sum of a header's bytes, with blanks in the place of the sum.
fn checksum(block: &[u8]) -> u32 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::writer;

    fn archive(entries: &[(&[u8], Kind, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, kind, data) in entries {
            let (size, link) = match kind {
                Kind::File => (data.len() as u64, Vec::new()),
                _ => (0, data.to_vec()),
            };
            let entry =
                Entry { name: name.to_vec(), kind: *kind, size, mode: 0o640, mtime: 1234, link };
            let data = if *kind == Kind::File { data } else { &b""[..] };
            writer::whole(&entry, writer::Owner::default(), data, &mut bytes);
        }
        writer::end(&mut bytes);
        bytes
    }

    /// What came out, with the data of an entry in one.
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
            (b"d/", Kind::Directory, b""),
            (b"d/a\nb", Kind::File, b"hello"),
            (&long, Kind::File, &[7; 1024]),
            (b"l", Kind::Symlink, &long),
            (b"empty", Kind::File, b""),
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
            Out::Entry(entry) if entry.kind == Kind::Symlink => Some(entry.link.clone()),
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
            kind: Kind::Other(b'x'),
            size: records.len() as u64,
            mode: 0,
            mtime: 0,
            link: Vec::new(),
        };
        writer::whole(&extension, writer::Owner::default(), records.as_bytes(), &mut bytes);
        let file = Entry { name: b"no".to_vec(), kind: Kind::File, size: 1, ..extension };
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
        let whole = archive(&[(b"f", Kind::File, &[1; 600])]);
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
        let one = archive(&[(b"f", Kind::File, &[1; 600])]);
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
            let mut bytes = archive(&[(&name, Kind::File, &data), (b"z", Kind::Symlink, &name)]);
            if let Some((at, change)) = flip {
                let at = at.index(bytes.len());
                bytes[at] ^= change;
            }
            prop_assert_eq!(events(&bytes, piece), events(&bytes, bytes.len()));
        }
    }
}
