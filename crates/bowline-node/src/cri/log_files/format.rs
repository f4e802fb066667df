//! Bytes of a CRI log file to records.
//!
//! Each line of a file is `TIME STREAM TAGS CONTENT`, where the first of the tags is `F` for the
//! end of a line that the container wrote and `P` for a part of one, whose rest has lines of its
//! own.

use std::ops::Range;
use std::time::SystemTime;

use bytes::BytesMut;

use crate::runtime::{LogRecord, Source};

/// The longest head of a line: a time and a stream have about 40 bytes, and nobody gives a line
/// more than one tag today. A line of the file that has not ended its head by then has none.
pub(super) const HEAD_BYTES: usize = 256;

/// How much of a malformed line is shown.
const SHOWN_BYTES: usize = 128;

/// What stands before the content of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub source: Source,
    pub time: SystemTime,
    /// What the container wrote goes on in another line of the file.
    pub is_partial: bool,
}

/// What the beginning of a line was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A head, and how many bytes it has.
    Head(Head, usize),
    /// The head is not complete yet.
    Cut,
    /// The line has no head.
    Malformed,
}

/// What is made of the lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Form {
    /// The output that is wanted; `None` is both.
    pub source: Option<Source>,
    /// Whether each line needs its own time. Otherwise lines that follow each other are one record,
    /// with the time of the first.
    pub keeps_times: bool,
}

/// Where a file is read, in the middle of a line or not.
#[derive(Debug, Default)]
pub(super) struct Parser {
    at: At,
    /// Whether a line had a head.
    pub(super) has_heads: bool,
    /// The beginning of the first line without one, until it is asked for.
    malformed: Option<String>,
    has_malformed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Head,
    Content(Head),
    /// In a line that has no head.
    Malformed,
}

/// A record whose bytes are not cut out of their block yet.
struct Span {
    source: Source,
    time: SystemTime,
    bytes: Range<usize>,
    /// Whether the record ends with the end of a line.
    is_whole: bool,
}

/// Reads the beginning of a line, behind which there may be more of anything.
pub(super) fn beginning(bytes: &[u8]) -> Beginning {
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES)];
    let (mut fields, mut begin) = ([&bytes[..0]; 3], 0);
    for field in &mut fields {
        let end = bytes[begin..].iter().position(|byte| matches!(byte, b' ' | b'\n'));
        let Some(end) = end.map(|length| begin + length) else {
            return if bytes.len() < HEAD_BYTES { Beginning::Cut } else { Beginning::Malformed };
        };
        if bytes[end] == b'\n' {
            return Beginning::Malformed;
        }
        *field = &bytes[begin..end];
        begin = end + 1;
    }
    let [time, source, tags] = fields;
    let source = match source {
        b"stdout" => Source::Stdout,
        b"stderr" => Source::Stderr,
        _ => return Beginning::Malformed,
    };
    let time = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok());
    let Some(time) = time.map(|time: jiff::Timestamp| SystemTime::from(time)) else {
        return Beginning::Malformed;
    };
    let is_partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Beginning::Head(Head { source, time, is_partial }, begin)
}

impl Parser {
    /// Returns whether what comes next begins a line of the file.
    pub(super) fn is_between_lines(&self) -> bool {
        matches!(self.at, At::Head)
    }

    /// Returns the beginning of the first line that was passed over because it has no head, once.
    pub(super) fn take_malformed(&mut self) -> Option<String> {
        self.malformed.take()
    }

    /// Adds the records of `block` to `records`, and returns its rest, which is a part of a head,
    /// shorter than [`HEAD_BYTES`], and belongs in front of the next block.
    ///
    /// The contents are moved together in the block, so that many lines can be one record and none
    /// needs memory of its own.
    pub(super) fn parse(
        &mut self,
        mut block: BytesMut,
        form: Form,
        records: &mut Vec<LogRecord>,
    ) -> BytesMut {
        let (mut read, mut written) = (0, 0);
        let mut spans: Vec<Span> = Vec::new();
        while read < block.len() {
            match self.at {
                At::Head => match beginning(&block[read..]) {
                    Beginning::Head(head, length) => {
                        self.at = At::Content(head);
                        self.has_heads = true;
                        read += length;
                    }
                    Beginning::Cut => break,
                    Beginning::Malformed => {
                        self.note_malformed(&block[read..]);
                        self.at = At::Malformed;
                    }
                },
                At::Malformed => {
                    let (end, is_whole) = line_end(&block, read);
                    read = end;
                    if is_whole {
                        self.at = At::Head;
                    }
                }
                At::Content(head) => {
                    let (end, is_whole) = line_end(&block, read);
                    // The line end of a part is the file's, not the container's.
                    let keep = end - usize::from(is_whole && head.is_partial);
                    if form.source.is_none_or(|wanted| wanted == head.source) && read < keep {
                        block.copy_within(read..keep, written);
                        let bytes = written..written + keep - read;
                        written = bytes.end;
                        let is_whole = is_whole && !head.is_partial;
                        add(
                            &mut spans,
                            form,
                            Span { source: head.source, time: head.time, bytes, is_whole },
                        );
                    }
                    read = end;
                    if is_whole {
                        self.at = At::Head;
                    }
                }
            }
        }
        let rest = BytesMut::from(&block[read..]);
        block.truncate(written);
        let bytes = block.freeze();
        records.extend(spans.into_iter().map(|span| LogRecord {
            source: span.source,
            time: span.time,
            bytes: bytes.slice(span.bytes),
        }));
        rest
    }

    fn note_malformed(&mut self, bytes: &[u8]) {
        if !std::mem::replace(&mut self.has_malformed, true) {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let shown = &line[..line.len().min(SHOWN_BYTES)];
            self.malformed = Some(String::from_utf8_lossy(shown).into_owned());
        }
    }
}

/// Returns where the line that goes on at `begin` ends in `bytes`, and whether it ends there.
fn line_end(bytes: &[u8], begin: usize) -> (usize, bool) {
    let end = memchr::memchr(b'\n', &bytes[begin..]);
    end.map_or((bytes.len(), false), |length| (begin + length + 1, true))
}

/// Adds a record, to the last one if both can be one.
fn add(spans: &mut Vec<Span>, form: Form, span: Span) {
    let last = spans.last_mut().filter(|last| last.source == span.source);
    match last.filter(|last| !(last.is_whole && form.keeps_times)) {
        Some(last) => {
            last.bytes.end = span.bytes.end;
            last.is_whole = span.is_whole;
        }
        None => spans.push(span),
    }
}
