//! What a container's main process wrote: the newest of it, in the order in which it was read.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use crate::runtime::{LINE_BYTES, LogRecord, Source};

/// What is kept of it. Kubernetes' own default for a container's log.
pub const LOG_BYTES: u64 = 10 * 1024 * 1024;
/// What is kept beyond that for those who began to read it before it was overwritten.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;
/// What a record costs beside its bytes: many small ones must not cost much more than few big ones.
const RECORD_BYTES: u64 = 64;

/// What was read at once, or a part of it.
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
    /// Its line ends, once they were counted.
    line_ends: OnceCell<u64>,
}

impl Record {
    fn end(&self) -> u64 {
        self.before + RECORD_BYTES + self.bytes.len() as u64
    }

    fn line_ends(&self) -> u64 {
        *self.line_ends.get_or_init(|| line_ends(&self.bytes))
    }
}

/// How many there are. In pieces that a byte can count, which processors do many of at once.
fn line_ends(bytes: &[u8]) -> u64 {
    let count = |piece: &[u8]| piece.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>();
    bytes.chunks(u8::MAX.into()).map(|piece| u64::from(count(piece))).sum()
}

/// A place between two bytes of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The record, counted from the container's beginning.
    pub record: u64,
    /// So many of its bytes are before this position.
    pub skip: usize,
}

/// Where the last lines begin.
#[derive(Debug)]
pub struct Tail {
    /// From here on all are read.
    pub position: Position,
    /// So many of the first do not count: both outputs have a line that is not at its end.
    pub skip_lines: u64,
    /// What one output has of a line before that position.
    pub begun: Option<LogRecord>,
}

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    records: VecDeque<Record>,
    /// The number of the oldest record that is kept,
    oldest: u64,
    /// and of the oldest that is given to who begins to read.
    begin: u64,
    /// The newest of each output.
    last: [Option<u64>; 2],
    /// What all records, kept or not, have cost.
    total: u64,
}

impl Log {
    /// Adds what was read, in records of at most [`LINE_BYTES`]: whoever reads slowly keeps one
    /// alive. The bytes are copied: a slice would keep the whole read buffer alive.
    pub fn push(&mut self, source: Source, bytes: &[u8], time: SystemTime) {
        for bytes in bytes.chunks(LINE_BYTES) {
            self.add(source, bytes, time);
        }
    }

    fn add(&mut self, source: Source, bytes: &[u8], time: SystemTime) {
        let bytes = Bytes::copy_from_slice(bytes);
        let record = Record { time, source, bytes, before: self.total, line_ends: OnceCell::new() };
        self.total = record.end();
        self.last[source as usize] = Some(self.end().record);
        self.records.push_back(record);
        // The newest is kept, however long it is.
        while self.kept() > LOG_BYTES + SLACK_BYTES && self.records.len() > 1 {
            self.records.pop_front();
            self.oldest += 1;
        }
        let shown = |record: &Record| self.total - record.before <= LOG_BYTES;
        while self.begin + 1 < self.end().record && !self.at(self.begin()).is_some_and(shown) {
            self.begin += 1;
        }
    }

    fn kept(&self) -> u64 {
        self.records.front().map_or(0, |first| self.total - first.before)
    }

    /// Where the oldest byte is that is given to who begins to read.
    pub fn begin(&self) -> Position {
        Position { record: self.begin, skip: 0 }
    }

    /// Where the next byte will be.
    pub fn end(&self) -> Position {
        Position { record: self.oldest + self.records.len() as u64, skip: 0 }
    }

    /// Whether what comes next at `position` was there and is kept no more.
    pub fn is_overwritten(&self, position: Position) -> bool {
        position.record < self.oldest
    }

    /// The record at `position`, if it is there.
    pub fn at(&self, position: Position) -> Option<&Record> {
        let index = position.record.checked_sub(self.oldest)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// What the records from `position` on cost.
    pub fn backlog(&self, position: Position) -> u64 {
        match self.at(position) {
            Some(record) => self.total - record.before,
            None if self.is_overwritten(position) => u64::MAX,
            None => 0,
        }
    }

    /// The records that are given to who begins to read, with their numbers.
    fn shown(&self) -> impl DoubleEndedIterator<Item = (u64, &Record)> {
        let hidden = usize::try_from(self.begin - self.oldest).unwrap_or(usize::MAX);
        let shown = self.records.range(hidden.min(self.records.len())..);
        shown.enumerate().map(|(offset, record)| (self.begin + offset as u64, record))
    }

    /// Where the last `lines` lines of the outputs that are wanted begin. A line that both outputs
    /// have begun counts for each.
    pub fn last_lines(&self, lines: u64, wants: impl Fn(Source) -> bool) -> Tail {
        let unfinished = [Source::Out, Source::Err].into_iter().filter(|source| {
            let last = self.last[*source as usize].filter(|last| *last >= self.begin);
            let last = last.and_then(|record| self.at(Position { record, skip: 0 }));
            wants(*source) && last.is_some_and(|last| last.bytes.last() != Some(&b'\n'))
        });
        let unfinished = unfinished.count() as u64;
        let skip_lines = unfinished.saturating_sub(lines);
        // The line end before the first of them, counted from the log's end.
        let mut left = lines.saturating_sub(unfinished);
        for (number, record) in self.shown().rev().filter(|(_, record)| wants(record.source)) {
            if record.line_ends() <= left {
                left -= record.line_ends();
                continue;
            }
            let ends = record.bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
            let skip = ends.map(|(index, _)| index + 1).nth(usize::try_from(left).unwrap_or(0));
            let position = Position { record: number, skip: skip.unwrap_or(0) };
            return Tail {
                position,
                skip_lines,
                begun: self.line_before(number, record.source, wants),
            };
        }
        Tail { position: self.begin(), skip_lines, begun: None }
    }

    /// What the other output has of a line that is not at its end at a record.
    fn line_before(
        &self,
        number: u64,
        source: Source,
        wants: impl Fn(Source) -> bool,
    ) -> Option<LogRecord> {
        let before = self.shown().rev().skip_while(|(other, _)| *other >= number);
        let others = before.filter(|(_, record)| record.source != source && wants(record.source));
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for (_, record) in others {
            let end = record.bytes.iter().rposition(|byte| *byte == b'\n');
            let begin = end.map_or(0, |end| end + 1);
            bytes += record.bytes.len() - begin;
            if begin < record.bytes.len() {
                pieces.push((record, begin));
            }
            if end.is_some() || bytes >= LINE_BYTES {
                break;
            }
        }
        let first = pieces.last()?.0;
        let mut line = BytesMut::with_capacity(bytes);
        for (record, begin) in pieces.iter().rev() {
            line.extend_from_slice(&record.bytes[*begin..]);
        }
        Some(LogRecord { source: first.source, time: first.time, bytes: line.freeze() })
    }

    /// Where the last `lines` lines begin. An unfinished one at the end counts as one, as for tail.
    pub fn tail(&self, lines: usize) -> Position {
        if lines == 0 {
            return self.end();
        }
        let mut ends = 0;
        let mut is_last_byte = true;
        for (offset, record) in self.shown().rev() {
            for (index, byte) in record.bytes.iter().enumerate().rev() {
                if *byte == b'\n' && !is_last_byte {
                    ends += 1;
                }
                is_last_byte = false;
                if ends < lines {
                    continue;
                }
                let number = offset;
                return if index + 1 < record.bytes.len() {
                    Position { record: number, skip: index + 1 }
                } else {
                    Position { record: number + 1, skip: 0 }
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

    fn text_from(log: &Log, mut position: Position) -> String {
        let mut text = String::new();
        while let Some(record) = log.at(position) {
            text.push_str(std::str::from_utf8(&record.bytes[position.skip..]).unwrap());
            position = Position { record: position.record + 1, skip: 0 };
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
        assert_eq!(Log::default().tail(3), Position::default());
    }

    #[test]
    fn a_long_read_becomes_short_records() {
        let mut log = Log::default();
        let read: Vec<u8> = (0..1_000_000_u32).map(|number| (number / 7) as u8).collect();
        log.push(Source::Out, &read, SystemTime::UNIX_EPOCH);
        assert!(log.records.iter().all(|record| record.bytes.len() <= LINE_BYTES));
        let kept: Vec<u8> = log.records.iter().flat_map(|record| record.bytes.to_vec()).collect();
        assert!(kept == read);
    }

    #[test]
    fn it_is_bounded_however_small_the_pieces_are() {
        let mut log = Log::default();
        let first = log.begin();
        for _ in 0..1_000_000 {
            log.push(Source::Err, b"x", SystemTime::UNIX_EPOCH);
        }
        assert!(log.kept() <= LOG_BYTES + SLACK_BYTES);
        assert!(log.is_overwritten(first) && log.backlog(first) == u64::MAX);
        assert!(log.backlog(log.begin()) > LOG_BYTES / 2);
        assert!(log.backlog(log.begin()) <= LOG_BYTES);
        // Who begins to read now has time until that is overwritten.
        let begin = log.begin();
        for _ in 0..1000 {
            log.push(Source::Err, &[0; 4096], SystemTime::UNIX_EPOCH);
        }
        assert!(!log.is_overwritten(begin) && begin < log.begin());
        assert_eq!(log.backlog(log.end()), 0);
    }
}
