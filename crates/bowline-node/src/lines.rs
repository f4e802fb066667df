//! A container's log as lines, in the form in which the kubelet gives it.

use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use tracing::warn;

use crate::log_options::Options;
use crate::runtime::{LINE_BYTES, Log, LogRecord, LogRecords, LogRequest, Source};

/// About how many bytes one piece of the answer has.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// How much of a log is looked at before others have their turn: of some, little is wanted.
const TURN_BYTES: usize = 256 * 1024;

/// What one record counts for beside its bytes: of some, all are short.
const RECORD_BYTES: usize = 64;

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
    /// The next record has not been written yet, or others have their turn.
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
        let mut looked_at_bytes = 0;
        while !self.is_over && out.len() < PIECE_BYTES {
            if self.fault.is_some() {
                return Filled::Failed;
            }
            if looked_at_bytes >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Filled::Waits;
            }
            if self.piece.is_some() {
                self.take(out);
                continue;
            }
            match self.records.poll_next(cx) {
                Poll::Ready(Some(Ok(record))) => {
                    looked_at_bytes += RECORD_BYTES + record.bytes.len();
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
            let LogRequest { timestamps, since, .. } = self.options.request;
            let is_plain = !timestamps && since.is_none() && self.skip_lines == 0;
            if is_plain && self.partial[index].is_none() {
                let room = bytes.len().min(PIECE_BYTES - out.len());
                if let Some(end) = memchr::memrchr(b'\n', &bytes[..room]) {
                    let lines = bytes.split_to(end + 1);
                    if !bytes.has_remaining() {
                        self.piece = None;
                    }
                    self.add(out, None, &lines);
                    continue;
                }
            }
            let end = memchr::memchr(b'\n', bytes);
            let part = bytes.split_to(end.map_or(bytes.len(), |end| end + 1));
            if !bytes.has_remaining() {
                self.piece = None;
            }
            self.take_part(source, time, &part, end.is_some(), out);
        }
    }

    /// Adds a part of a line to `out`, once the line has ended or is too long.
    fn take_part(
        &mut self,
        source: Source,
        time: SystemTime,
        part: &[u8],
        is_whole: bool,
        out: &mut BytesMut,
    ) {
        let partial = self.partial[source as usize].take();
        // Most lines come in one piece and need no memory of their own.
        let Some(mut line) = partial else {
            let is_put = is_whole || part.len() >= LINE_BYTES;
            if is_put {
                self.put(time, false, part, is_whole, out);
            }
            let bytes = if is_put { BytesMut::new() } else { part.into() };
            let rest = PartialLine { time, bytes, is_continued: is_put };
            self.partial[source as usize] = (!is_whole).then_some(rest);
            return;
        };
        line.bytes.extend_from_slice(part);
        let is_put = is_whole || line.bytes.len() >= LINE_BYTES;
        if is_put {
            self.put(line.time, line.is_continued, &line.bytes, is_whole, out);
        }
        if !is_whole {
            if is_put {
                line.bytes = BytesMut::new();
                line.is_continued = true;
            }
            self.partial[source as usize] = Some(line);
        }
    }

    /// Adds a line, or what came of it, if it is wanted.
    fn put(
        &mut self,
        time: SystemTime,
        is_continued: bool,
        bytes: &[u8],
        is_whole: bool,
        out: &mut BytesMut,
    ) {
        if self.skip_lines > 0 {
            self.skip_lines -= u64::from(is_whole);
            return;
        }
        let LogRequest { timestamps, since, .. } = self.options.request;
        if since.is_some_and(|since| time < since) {
            return;
        }
        self.add(out, (timestamps && !is_continued).then_some(time), bytes);
    }

    /// Adds bytes to `out`, behind a time, as far as `limit_bytes` allows.
    fn add(&mut self, out: &mut BytesMut, time: Option<SystemTime>, bytes: &[u8]) {
        let before = out.len();
        if let Some(time) = time {
            let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            // Memory takes all that is written to it.
            let _ = write!(out, "{time:.9} ");
        }
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
                self.put(line.time, line.is_continued, &line.bytes, true, out);
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
    use std::future::{Future, poll_fn};

    use http_body_util::BodyExt;

    use super::*;

    /// Records without an end, of which none is wanted.
    struct Endless;

    impl LogRecords for Endless {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>> {
            let (source, time) = (Source::Stderr, SystemTime::UNIX_EPOCH);
            Poll::Ready(Some(Ok(LogRecord { source, time, bytes: "x\n".into() })))
        }
    }

    #[tokio::test]
    async fn who_passes_over_records_lets_others_have_their_turn() {
        for query in ["stream=Stdout", "sinceTime=2026-01-31T12:00:00Z"] {
            let log = Log { records: Box::new(Endless), skip_lines: 0 };
            let mut lines = LogLines::new("c", log, Options::parse(query).unwrap());
            let mut turns = 0;
            let mut frame = Box::pin(lines.frame());
            poll_fn(|cx| {
                turns += 1;
                assert!(frame.as_mut().poll(cx).is_pending());
                // It has woken this task itself.
                if turns < 3 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }
}
