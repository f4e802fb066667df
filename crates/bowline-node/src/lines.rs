//! A container's log as lines, in the form in which the kubelet gives it (docs/protocols has no
//! section on it; the parameters are those of `PodLogOptions`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use thiserror::Error;
use tracing::warn;

use crate::runtime::{LINE_BYTES, Log, LogRecord, LogRecords, LogRequest, Source};

/// What one piece of the answer holds, more or less.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the runtime has to know.
    pub request: LogRequest,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// Only so many bytes in all.
    pub limit_bytes: Option<u64>,
    /// Only lines from then on.
    pub since: Option<SystemTime>,
}

/// A parameter that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid {name} {value:?}: {why}")]
pub struct BadOption {
    name: String,
    value: String,
    why: &'static str,
}

impl Options {
    /// Reads a query.
    ///
    /// # Errors
    /// [`BadOption`] for the first value that is none.
    pub fn parse(query: &str) -> Result<Options, BadOption> {
        let mut options = Options::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let bad = |why| BadOption { name: name.to_string(), value: value.to_string(), why };
            let number = || value.parse().map_err(|_| bad("must be a whole number, 0 or more"));
            let set = || match &*value {
                "true" | "1" => Ok(true),
                "false" | "0" | "" => Ok(false),
                _ => Err(bad("must be true or false")),
            };
            match &*name {
                "follow" => options.request.follow = set()?,
                "timestamps" => options.timestamps = set()?,
                "previous" => options.request.previous = set()?,
                "tailLines" => options.request.tail = Some(number()?),
                "limitBytes" => match number()? {
                    0 => return Err(bad("must be greater than 0")),
                    bytes => options.limit_bytes = Some(bytes),
                },
                #[expect(clippy::disallowed_methods, reason = "a log is asked for by date")]
                "sinceSeconds" => {
                    let ago = Duration::from_secs(number()?);
                    options.since = SystemTime::now().checked_sub(ago);
                }
                "sinceTime" => {
                    let time: Result<jiff::Timestamp, _> = value.parse();
                    let time = time.map_err(|_| bad("must be a time such as 2026-01-31T12:00:00Z"));
                    options.since = Some(time?.into());
                }
                "stream" => {
                    options.request.source = match &*value {
                        "Stdout" => Some(Source::Out),
                        "Stderr" => Some(Source::Err),
                        "All" | "" => None,
                        _ => return Err(bad("must be All, Stdout or Stderr")),
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }

    fn wants(&self, source: Source) -> bool {
        self.request.source.is_none_or(|wanted| wanted == source)
    }
}

/// The lines of a log, as the body of an answer.
pub struct LogLines {
    /// The container's name.
    name: String,
    records: Box<dyn LogRecords>,
    options: Options,
    /// Lines that are not wanted before the first that is.
    skip_lines: u64,
    left_bytes: u64,
    /// What was read and not looked at.
    piece: Option<LogRecord>,
    begun: [Option<Begun>; 2],
    is_over: bool,
    /// Why there is no more, behind what was given.
    fault: Option<io::Error>,
    /// What was there when it was asked for.
    first: BytesMut,
}

/// Why there is no more for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// It is a piece, or the end.
    Enough,
    /// It has not been written yet.
    Waits,
    /// It cannot be had.
    Failed,
}

/// A line without its end so far.
#[derive(Debug)]
struct Begun {
    time: SystemTime,
    bytes: BytesMut,
    /// A part of it was given already.
    is_continued: bool,
}

impl LogLines {
    /// The log of a container of this name.
    pub fn new(name: &str, log: Log, options: Options) -> LogLines {
        let Log { records, skip_lines } = log;
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        let mut lines = LogLines {
            name: name.to_owned(),
            records,
            options,
            skip_lines,
            left_bytes,
            piece: None,
            begun: [None, None],
            is_over: false,
            fault: None,
            first: BytesMut::new(),
        };
        // Before anything of it can be overwritten.
        let mut first = BytesMut::new();
        lines.fill(&mut Context::from_waker(Waker::noop()), &mut first);
        lines.first = first;
        lines
    }

    /// Adds what comes next, until there is enough for now.
    fn fill(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Filled {
        while !self.is_over && out.len() < PIECE_BYTES {
            if self.fault.is_some() {
                return Filled::Failed;
            }
            if self.piece.is_some() {
                self.take(out);
                continue;
            }
            match self.records.poll_next(cx) {
                Poll::Ready(Some(Ok(record))) => {
                    if self.options.wants(record.source) {
                        self.piece = Some(record);
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.fault = Some(error);
                    return Filled::Failed;
                }
                Poll::Ready(None) => self.put_rest(out),
                Poll::Pending => return Filled::Waits,
            }
        }
        Filled::Enough
    }

    /// Adds what is wanted of the piece in hand, until there is enough for now.
    fn take(&mut self, out: &mut BytesMut) {
        while out.len() < PIECE_BYTES
            && let Some(LogRecord { source, time, bytes }) = &mut self.piece
        {
            let (source, time) = (*source, *time);
            let lane = source as usize;
            // Where each line is as it comes, many go at once.
            let is_plain =
                !self.options.timestamps && self.options.since.is_none() && self.skip_lines == 0;
            if is_plain && self.begun[lane].is_none() {
                let room = bytes.len().min(PIECE_BYTES - out.len());
                if let Some(end) = bytes[..room].iter().rposition(|byte| *byte == b'\n') {
                    let lines = bytes.split_to(end + 1);
                    if !bytes.has_remaining() {
                        self.piece = None;
                    }
                    self.add(out, &[], &lines);
                    continue;
                }
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = bytes.split_to(end.map_or(bytes.len(), |end| end + 1));
            if !bytes.has_remaining() {
                self.piece = None;
            }
            let fresh = || Begun { time, bytes: BytesMut::new(), is_continued: false };
            let mut line = self.begun[lane].take().unwrap_or_else(fresh);
            line.bytes.extend_from_slice(&part);
            let is_whole = end.is_some();
            if is_whole || line.bytes.len() >= LINE_BYTES {
                self.put(&line, is_whole, out);
            }
            if !is_whole {
                if line.bytes.len() >= LINE_BYTES {
                    line.bytes = BytesMut::new();
                    line.is_continued = true;
                }
                self.begun[lane] = Some(line);
            }
        }
    }

    fn put(&mut self, line: &Begun, is_whole: bool, out: &mut BytesMut) {
        if self.skip_lines > 0 {
            self.skip_lines -= u64::from(is_whole);
            return;
        }
        if self.options.since.is_some_and(|since| line.time < since) {
            return;
        }
        let mut stamp = String::new();
        if self.options.timestamps && !line.is_continued {
            let time = jiff::Timestamp::try_from(line.time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            stamp = format!("{time:.9} ");
        }
        self.add(out, stamp.as_bytes(), &line.bytes);
    }

    /// Adds bytes, as far as they are wanted.
    fn add(&mut self, out: &mut BytesMut, before_them: &[u8], bytes: &[u8]) {
        let before = out.len();
        out.extend_from_slice(before_them);
        out.extend_from_slice(bytes);
        let added = (out.len() - before) as u64;
        if added >= self.left_bytes {
            let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
            out.truncate(before.saturating_add(left));
            self.is_over = true;
        }
        self.left_bytes = self.left_bytes.saturating_sub(added);
    }

    /// What has no end, and will have none.
    fn put_rest(&mut self, out: &mut BytesMut) {
        for lane in 0..self.begun.len() {
            if let Some(line) = self.begun[lane].take().filter(|line| !line.bytes.is_empty()) {
                self.put(&line, true, out);
            }
        }
        self.is_over = true;
    }
}

impl Body for LogLines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let mut out = std::mem::take(&mut this.first);
        let filled = this.fill(cx, &mut out);
        Poll::Ready(match filled {
            _ if !out.is_empty() => Some(Ok(Frame::data(out.freeze()))),
            Filled::Enough => None,
            Filled::Waits => return Poll::Pending,
            Filled::Failed => {
                this.is_over = true;
                let fault = this.fault.take();
                if let Some(fault) = &fault {
                    warn!(container = this.name, "the log is cut off: {fault}");
                }
                fault.map(Err)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        for (query, expected) in [
            ("tailLines=-1", "invalid tailLines \"-1\": must be a whole number, 0 or more"),
            ("limitBytes=0", "invalid limitBytes \"0\": must be greater than 0"),
            ("follow=x", "invalid follow \"x\": must be true or false"),
        ] {
            assert_eq!(Options::parse(query).unwrap_err().to_string(), expected);
        }
    }
}
