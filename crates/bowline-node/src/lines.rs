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

/// About how many bytes one piece of the answer has.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// What a query asks for of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The part of it that the runtime answers.
    pub request: LogRequest,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// The most bytes of the whole answer.
    pub limit_bytes: Option<u64>,
    /// The time of the oldest line that is wanted.
    pub since: Option<SystemTime>,
}

/// A parameter that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid {name} {value:?}: {why}")]
pub(crate) struct BadOption {
    name: String,
    value: String,
    why: &'static str,
}

impl Options {
    /// Reads a query.
    ///
    /// # Errors
    /// [`BadOption`] for the first parameter whose value does not fit it.
    pub(crate) fn parse(query: &str) -> Result<Options, BadOption> {
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
                        "Stdout" => Some(Source::Stdout),
                        "Stderr" => Some(Source::Stderr),
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
pub(crate) struct LogLines {
    /// The container's name.
    name: String,
    records: Box<dyn LogRecords>,
    options: Options,
    /// How many lines are still passed over before the first one that is wanted.
    skip_lines: u64,
    left_bytes: u64,
    /// What was read from the runtime and not looked at yet.
    piece: Option<LogRecord>,
    /// The unfinished line of each output.
    partial: [Option<PartialLine>; 2],
    is_over: bool,
    /// Why the log ends here, told behind what was given before.
    fault: Option<io::Error>,
    /// What the log had when the answer began.
    first: BytesMut,
}

/// Why filling a piece stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// There is enough for a piece, or the log has ended.
    Enough,
    /// The next record has not been written yet.
    Waits,
    /// The log cannot be read any further.
    Failed,
}

/// A line whose end has not come yet.
#[derive(Debug)]
struct PartialLine {
    time: SystemTime,
    bytes: BytesMut,
    /// A part of the line was given already.
    is_continued: bool,
}

impl LogLines {
    /// Makes the lines of a container's log. `name` is the container's, for this program's own log.
    pub(crate) fn new(name: &str, log: Log, options: Options) -> LogLines {
        let Log { records, skip_lines } = log;
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        let mut lines = LogLines {
            name: name.to_owned(),
            records,
            options,
            skip_lines,
            left_bytes,
            piece: None,
            partial: [None, None],
            is_over: false,
            fault: None,
            first: BytesMut::new(),
        };
        // Read now, before it can be overwritten.
        let mut first = BytesMut::new();
        lines.fill(&mut Context::from_waker(Waker::noop()), &mut first);
        lines.first = first;
        lines
    }

    /// Adds lines to `out`, until there is enough for a piece.
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

    /// Adds to `out` what is wanted of the record in `self.piece`, until there is enough for a
    /// piece.
    fn take(&mut self, out: &mut BytesMut) {
        while out.len() < PIECE_BYTES
            && let Some(LogRecord { source, time, bytes }) = &mut self.piece
        {
            let (source, time) = (*source, *time);
            let index = source as usize;
            // Where lines are given as they are, many are moved at once.
            let is_plain =
                !self.options.timestamps && self.options.since.is_none() && self.skip_lines == 0;
            if is_plain && self.partial[index].is_none() {
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
            let fresh = || PartialLine { time, bytes: BytesMut::new(), is_continued: false };
            let mut line = self.partial[index].take().unwrap_or_else(fresh);
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
                self.partial[index] = Some(line);
            }
        }
    }

    fn put(&mut self, line: &PartialLine, is_whole: bool, out: &mut BytesMut) {
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

    /// Adds a prefix and bytes to `out`, as far as `limit_bytes` allows.
    fn add(&mut self, out: &mut BytesMut, prefix: &[u8], bytes: &[u8]) {
        let before = out.len();
        out.extend_from_slice(prefix);
        out.extend_from_slice(bytes);
        let added = (out.len() - before) as u64;
        if added >= self.left_bytes {
            let left = usize::try_from(self.left_bytes).unwrap_or(usize::MAX);
            out.truncate(before.saturating_add(left));
            self.is_over = true;
        }
        self.left_bytes = self.left_bytes.saturating_sub(added);
    }

    /// Adds the unfinished lines at the end of the log.
    fn put_rest(&mut self, out: &mut BytesMut) {
        for index in 0..self.partial.len() {
            if let Some(line) = self.partial[index].take().filter(|line| !line.bytes.is_empty()) {
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
