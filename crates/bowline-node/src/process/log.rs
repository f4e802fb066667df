//! The newest output of a container's main process, in the order in which it was read.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use crate::runtime::{LINE_BYTES, LogRecord, Source};

/// How much output is shown. Kubernetes' own default for a container's log.
pub(super) const LOG_BYTES: u64 = 10 * 1024 * 1024;
/// How much is kept beyond [`LOG_BYTES`], for those who began to read before it was overwritten.
const SLACK_BYTES: u64 = 4 * 1024 * 1024;
/// What a record costs beside its bytes: many small ones must not cost much more than few big ones.
const RECORD_BYTES: u64 = 64;

/// What one read gave, or a part of it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// When it was read.
    pub time: SystemTime,
    /// The output that it was written to.
    pub source: Source,
    /// The bytes; never empty.
    pub bytes: Bytes,
    /// What all records before it cost.
    before: u64,
    /// How many line ends it has, once they were counted.
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

/// Counts line ends. In pieces that a byte can count, which compilers turn into vector code.
fn line_ends(bytes: &[u8]) -> u64 {
    let count = |piece: &[u8]| piece.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>();
    bytes.chunks(u8::MAX.into()).map(|piece| u64::from(count(piece))).sum()
}

/// A place between two bytes of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// The record, counted from the container's beginning.
    pub record: u64,
    /// So many of its bytes are before this position.
    pub skip: usize,
}

/// Where the last lines begin.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where to read from.
    pub position: Position,
    /// How many of the first lines to pass over: more than one where both outputs have an
    /// unfinished line and fewer are wanted.
    pub skip_lines: u64,
    /// The part before `position` of the other output's unfinished line.
    pub partial_line: Option<LogRecord>,
}

/// The output that is kept, in records.
#[derive(Debug, Default)]
pub(super) struct LogBuffer {
    records: VecDeque<Record>,
    /// The number of the oldest record that is kept.
    oldest: u64,
    /// The number of the oldest record that is shown to those who begin to read.
    begin: u64,
    /// The number of the newest record of each output.
    last: [Option<u64>; 2],
    /// The cost of all records, kept or not.
    total: u64,
}

impl LogBuffer {
    /// Adds what was read, in records of at most [`LINE_BYTES`]: whoever reads slowly keeps one
    /// alive. The bytes are copied: a slice would keep the whole read buffer alive.
    pub(super) fn push(&mut self, source: Source, bytes: &[u8], time: SystemTime) {
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

    /// Returns where those who begin to read begin.
    pub(super) fn begin(&self) -> Position {
        Position { record: self.begin, skip: 0 }
    }

    /// Returns where the next byte will be.
    pub(super) fn end(&self) -> Position {
        Position { record: self.oldest + self.records.len() as u64, skip: 0 }
    }

    /// Returns whether what was at `position` is not kept any more.
    pub(super) fn is_overwritten(&self, position: Position) -> bool {
        position.record < self.oldest
    }

    /// Returns the record at `position`, if it is there.
    pub(super) fn at(&self, position: Position) -> Option<&Record> {
        let index = position.record.checked_sub(self.oldest)?;
        self.records.get(usize::try_from(index).ok()?)
    }

    /// Returns what the records from `position` on cost; `u64::MAX` if some were overwritten.
    pub(super) fn backlog(&self, position: Position) -> u64 {
        match self.at(position) {
            Some(record) => self.total - record.before,
            None if self.is_overwritten(position) => u64::MAX,
            None => 0,
        }
    }

    /// The records that are shown to those who begin to read, with their numbers.
    fn shown(&self) -> impl DoubleEndedIterator<Item = (u64, &Record)> {
        let hidden = usize::try_from(self.begin - self.oldest).unwrap_or(usize::MAX);
        let shown = self.records.range(hidden.min(self.records.len())..);
        shown.enumerate().map(|(offset, record)| (self.begin + offset as u64, record))
    }

    /// Where the last `lines` lines of the outputs that are wanted begin. A line that both outputs
    /// have begun counts for each.
    pub(super) fn last_lines(&self, lines: u64, wants: impl Fn(Source) -> bool) -> Tail {
        let unfinished = [Source::Stdout, Source::Stderr].into_iter().filter(|source| {
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
                partial_line: self.line_before(number, record.source, wants),
            };
        }
        Tail { position: self.begin(), skip_lines, partial_line: None }
    }

    /// Returns what the other output has, before a record, of a line that is unfinished there.
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

    /// Returns where the last `lines` lines begin. An unfinished one at the end counts, as for
    /// tail(1).
    pub(super) fn tail(&self, lines: usize) -> Position {
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

    fn log(pieces: &[&str]) -> LogBuffer {
        let mut log = LogBuffer::default();
        for piece in pieces {
            log.push(Source::Stdout, piece.as_bytes(), SystemTime::UNIX_EPOCH);
        }
        log
    }

    fn text_from(log: &LogBuffer, mut position: Position) -> String {
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
        assert_eq!(LogBuffer::default().tail(3), Position::default());
    }

    #[test]
    fn a_long_read_becomes_short_records() {
        let mut log = LogBuffer::default();
        let read: Vec<u8> = (0..1_000_000_u32).map(|number| (number / 7) as u8).collect();
        log.push(Source::Stdout, &read, SystemTime::UNIX_EPOCH);
        assert!(log.records.iter().all(|record| record.bytes.len() <= LINE_BYTES));
        let kept: Vec<u8> = log.records.iter().flat_map(|record| record.bytes.to_vec()).collect();
        assert!(kept == read);
    }

    #[test]
    fn it_is_bounded_however_small_the_pieces_are() {
        let mut log = LogBuffer::default();
        let first = log.begin();
        for _ in 0..1_000_000 {
            log.push(Source::Stderr, b"x", SystemTime::UNIX_EPOCH);
        }
        assert!(log.kept() <= LOG_BYTES + SLACK_BYTES);
        assert!(log.is_overwritten(first) && log.backlog(first) == u64::MAX);
        assert!(log.backlog(log.begin()) > LOG_BYTES / 2);
        assert!(log.backlog(log.begin()) <= LOG_BYTES);
        // Who begins to read now has time until that is overwritten.
        let begin = log.begin();
        for _ in 0..1000 {
            log.push(Source::Stderr, &[0; 4096], SystemTime::UNIX_EPOCH);
        }
        assert!(!log.is_overwritten(begin) && begin < log.begin());
        assert_eq!(log.backlog(log.end()), 0);
    }
}
