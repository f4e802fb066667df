//! What a container's main process wrote: the newest of it, in the order in which it was read.
//! Above: `console`, `lines`. Below: nothing.

use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::Bytes;

/// What is kept of it. Kubernetes' own default for a container's log.
pub const LOG_BYTES: u64 = 10 * 1024 * 1024;
/// What a record costs beside its bytes: many small ones must not cost much more than few big ones.
const RECORD_BYTES: u64 = 64;

/// Which of its outputs it wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its output, or its terminal.
    Out,
    /// Its errors.
    Err,
}

/// What was read at once.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was read.
    pub time: SystemTime,
    /// What it was written to.
    pub source: Source,
    /// Never empty.
    pub bytes: Bytes,
    /// What all records before it cost.
    before: u64,
}

impl Record {
    fn end(&self) -> u64 {
        self.before + RECORD_BYTES + self.bytes.len() as u64
    }
}

/// A place between two bytes of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The record, counted from the container's beginning.
    pub record: u64,
    /// So many of its bytes are before this place.
    pub skip: usize,
}

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    records: VecDeque<Record>,
    /// The number of the oldest record that is kept.
    oldest: u64,
    /// What all records, kept or not, have cost.
    total: u64,
}

impl Log {
    /// Adds what was read. The bytes are copied: a slice would keep the whole read buffer alive.
    pub fn push(&mut self, source: Source, bytes: &[u8], time: SystemTime) {
        if bytes.is_empty() {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let record = Record { time, source, bytes, before: self.total };
        self.total = record.end();
        self.records.push_back(record);
        // The newest is kept, however long it is.
        while self.kept() > LOG_BYTES && self.records.len() > 1 {
            self.records.pop_front();
            self.oldest += 1;
        }
    }

    fn kept(&self) -> u64 {
        self.records.front().map_or(0, |first| self.total - first.before)
    }

    /// Where the oldest byte is.
    pub fn begin(&self) -> Place {
        Place { record: self.oldest, skip: 0 }
    }

    /// Where the next byte will be.
    pub fn end(&self) -> Place {
        Place { record: self.oldest + self.records.len() as u64, skip: 0 }
    }

    /// Whether what comes next at `place` was there and is kept no more.
    pub fn is_overwritten(&self, place: Place) -> bool {
        place.record < self.oldest
    }

    /// The record at `place`, if it is there.
    pub fn at(&self, place: Place) -> Option<&Record> {
        let index = place.record.checked_sub(self.oldest)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// What the records from `place` on cost.
    pub fn backlog(&self, place: Place) -> u64 {
        match self.at(place) {
            Some(record) => self.total - record.before,
            None if self.is_overwritten(place) => u64::MAX,
            None => 0,
        }
    }

    /// Where the last `lines` lines begin. An unfinished one at the end counts as one, as for tail.
    pub fn tail(&self, lines: usize) -> Place {
        if lines == 0 {
            return self.end();
        }
        let mut ends = 0;
        let mut is_last_byte = true;
        for (offset, record) in self.records.iter().enumerate().rev() {
            for (index, byte) in record.bytes.iter().enumerate().rev() {
                if *byte == b'\n' && !is_last_byte {
                    ends += 1;
                }
                is_last_byte = false;
                if ends < lines {
                    continue;
                }
                let number = self.oldest + offset as u64;
                return if index + 1 < record.bytes.len() {
                    Place { record: number, skip: index + 1 }
                } else {
                    Place { record: number + 1, skip: 0 }
                };
            }
        }
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(pieces: &[&str]) -> Log {
        let mut log = Log::default();
        for piece in pieces {
            log.push(Source::Out, piece.as_bytes(), SystemTime::UNIX_EPOCH);
        }
        log
    }

    fn text_from(log: &Log, mut place: Place) -> String {
        let mut text = String::new();
        while let Some(record) = log.at(place) {
            text.push_str(std::str::from_utf8(&record.bytes[place.skip..]).unwrap());
            place = Place { record: place.record + 1, skip: 0 };
        }
        text
    }

    #[test]
    fn the_last_lines() {
        let log = log(&["a\nb", "b\nc", "\nd\n", "e"]);
        let tail = |lines| text_from(&log, log.tail(lines));
        assert_eq!(tail(0), "");
        assert_eq!(tail(1), "e");
        assert_eq!(tail(2), "d\ne");
        assert_eq!(tail(4), "bb\nc\nd\ne");
        assert_eq!(tail(5), "a\nbb\nc\nd\ne");
        assert_eq!(tail(99), "a\nbb\nc\nd\ne");
    }

    #[test]
    fn a_finished_line_is_the_last_one() {
        let log = log(&["a\nb\n"]);
        assert_eq!(text_from(&log, log.tail(1)), "b\n");
        assert_eq!(text_from(&log, log.tail(2)), "a\nb\n");
        assert_eq!(Log::default().tail(3), Place::default());
    }

    #[test]
    fn it_is_bounded_however_small_the_pieces_are() {
        let mut log = Log::default();
        let first = log.begin();
        for _ in 0..1_000_000 {
            log.push(Source::Err, b"x", SystemTime::UNIX_EPOCH);
        }
        assert!(log.kept() <= LOG_BYTES);
        assert!(log.is_overwritten(first) && log.backlog(first) == u64::MAX);
        assert!(log.backlog(log.begin()) > LOG_BYTES / 2);
        assert_eq!(log.backlog(log.end()), 0);
    }
}
