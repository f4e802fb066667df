//! A container's log as lines, in the form in which the kubelet gives it (docs/protocols has no
//! section on it; the parameters are those of `PodLogOptions`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use thiserror::Error;
use tracing::warn;

use crate::console::{Next, View};
use crate::log::{LINE_BYTES, Place, Source};
use crate::runtime::Container;

/// What one piece of the answer holds, more or less.
const PIECE_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on while the container runs.
    pub follow: bool,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// Only so many lines of what there is.
    pub tail: Option<u64>,
    /// Only so many bytes in all.
    pub limit_bytes: Option<u64>,
    /// Only lines from then on.
    pub since: Option<SystemTime>,
    /// Only one of the outputs.
    pub source: Option<Source>,
    /// Of the run before this one.
    pub previous: bool,
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
                "follow" => options.follow = set()?,
                "timestamps" => options.timestamps = set()?,
                "previous" => options.previous = set()?,
                "tailLines" => options.tail = Some(number()?),
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
                    options.source = match &*value {
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
        self.source.is_none_or(|wanted| wanted == source)
    }
}

/// The lines of a log, as the body of an answer.
#[derive(Debug)]
pub struct LogLines {
    /// The container's name.
    name: String,
    view: View,
    options: Options,
    /// Where it ends, if it does not follow.
    until: Option<Place>,
    /// LogLines that are not wanted before the first that is.
    skip_lines: u64,
    left_bytes: u64,
    /// What was read and not looked at.
    piece: Option<(Source, SystemTime, Bytes)>,
    begun: [Option<Begun>; 2],
    is_over: bool,
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
    /// It was overwritten.
    Missed,
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
    /// The log of a container.
    pub(crate) fn of(container: &Container, options: Options) -> LogLines {
        let (mut until, mut skip_lines, mut begun) = (None, 0, [None, None]);
        let view = container.console.reader(|log| {
            until = (!options.follow).then(|| log.end());
            let Some(lines) = options.tail else { return log.begin() };
            let tail = log.last_lines(lines, |source| options.wants(source));
            skip_lines = tail.skip_lines;
            if let Some((source, time, bytes)) = tail.begun {
                begun[source as usize] = Some(Begun { time, bytes, is_continued: false });
            }
            tail.place
        });
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        let (name, is_over) = (container.spec.name.clone(), false);
        let (piece, first) = (None, BytesMut::new());
        let mut lines = LogLines {
            name,
            view,
            options,
            until,
            skip_lines,
            left_bytes,
            piece,
            begun,
            is_over,
            first,
        };
        // Before anything of it can be overwritten.
        let mut first = BytesMut::new();
        lines.fill(&mut first, |view, until| view.next_now(until));
        lines.first = first;
        lines
    }

    /// Adds what `next` gives, until there is enough for now.
    fn fill(
        &mut self,
        out: &mut BytesMut,
        mut next: impl FnMut(&View, Option<Place>) -> Option<Next>,
    ) -> Filled {
        while !self.is_over && out.len() < PIECE_BYTES {
            if self.piece.is_some() {
                self.take(out);
                continue;
            }
            match next(&self.view, self.until) {
                Some(Next::Piece(source, time, bytes)) => {
                    if self.options.wants(source) {
                        self.piece = Some((source, time, bytes));
                    }
                }
                Some(Next::Over) => self.put_rest(out),
                Some(Next::GivenUp) => return Filled::Missed,
                None => return Filled::Waits,
            }
        }
        Filled::Enough
    }

    /// Adds what is wanted of the piece in hand, until there is enough for now.
    fn take(&mut self, out: &mut BytesMut) {
        while out.len() < PIECE_BYTES
            && let Some((source, time, bytes)) = &mut self.piece
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
        let filled = this.fill(&mut out, |view, until| match view.poll_next(cx, until) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        });
        Poll::Ready(match filled {
            _ if !out.is_empty() => Some(Ok(Frame::data(out.freeze()))),
            Filled::Enough => None,
            Filled::Waits => return Poll::Pending,
            Filled::Missed => {
                let why = "its reader was too slow: what it missed is overwritten";
                warn!(container = this.name, "the log is cut off: {why}");
                this.is_over = true;
                Some(Err(io::Error::other(why)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt;

    use super::*;
    use crate::manifest::ContainerSpec;

    fn container(pieces: &[(Source, &str)]) -> Arc<Container> {
        let container = Container::idle(ContainerSpec::default());
        for (source, piece) in pieces {
            container.console.write(*source, piece.as_bytes());
        }
        container
    }

    async fn read(container: &Container, query: &str) -> String {
        let lines = LogLines::of(container, Options::parse(query).unwrap());
        String::from_utf8(lines.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    use Source::{Err as E, Out as O};

    #[tokio::test]
    async fn lines_of_both_outputs_stay_whole() {
        let written =
            container(&[(O, "one "), (E, "error 1\ner"), (O, "line\ntwo\nthr"), (E, "ror 2\n")]);
        assert_eq!(read(&written, "").await, "error 1\none line\ntwo\nerror 2\nthr");
        assert_eq!(read(&written, "tailLines=2").await, "error 2\nthr");
        assert_eq!(read(&written, "tailLines=0").await, "");
        assert_eq!(read(&written, "tailLines=9&limitBytes=11").await, "error 1\none");
        assert_eq!(read(&written, "stream=Stderr").await, "error 1\nerror 2\n");
        assert_eq!(read(&written, "sinceTime=2999-01-01T00:00:00Z").await, "");
        assert_eq!(read(&written, "sinceSeconds=100").await.lines().count(), 5);
        let stamped = read(&written, "timestamps=true&tailLines=1").await;
        let (time, line) = stamped.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 30, "{time}");
        assert_eq!(line, "thr");
    }

    #[tokio::test]
    async fn a_follower_gets_the_rest_and_the_end() {
        let container = container(&[(O, "one\ntwo\n")]);
        let options = Options::parse("follow=true&tailLines=1").unwrap();
        let mut lines = LogLines::of(&container, options);
        let first = lines.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "two\n");
        container.console.write(O, b"three\nfo");
        container.console.end();
        assert_eq!(lines.collect().await.unwrap().to_bytes(), "three\nfo");
    }

    /// Nothing of it is lost without a word, and nothing is kept for who does not read.
    #[tokio::test]
    async fn a_follower_that_is_too_slow_is_told() {
        let container = container(&[(O, "one\n")]);
        let mut lines = LogLines::of(&container, Options::parse("follow=true").unwrap());
        let piece = "x".repeat(1_000_000);
        for _ in 0..20 {
            container.console.write(O, piece.as_bytes());
        }
        // What was there when it came is its own.
        let first = lines.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one\n");
        let error = lines.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("too slow"), "{error}");
        assert!(lines.frame().await.is_none());
    }

    #[tokio::test]
    async fn who_begins_to_read_a_full_log_is_not_too_slow() {
        let container = container(&[]);
        let piece = format!("{}\n", "x".repeat(999));
        for _ in 0..20_000 {
            container.console.write(O, piece.as_bytes());
        }
        let mut lines = LogLines::of(&container, Options::default());
        let mut read = 0;
        while let Some(frame) = lines.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
            for _ in 0..20 {
                container.console.write(O, piece.as_bytes());
            }
        }
        assert!(read > 9_000_000, "{read}");
    }

    #[tokio::test]
    async fn the_last_lines_of_two_outputs_are_counted_where_they_end() {
        let written = container(&[(E, "e1"), (O, "o1\no2\no3"), (E, "e1\ne2"), (O, "o3\n")]);
        for (lines, expected) in [
            (0, ""),
            (1, "e2"),
            (2, "o3o3\ne2"),
            (3, "e1e1\no3o3\ne2"),
            (4, "o2\ne1e1\no3o3\ne2"),
            (5, "o1\no2\ne1e1\no3o3\ne2"),
            (99, "o1\no2\ne1e1\no3o3\ne2"),
        ] {
            assert_eq!(read(&written, &format!("tailLines={lines}")).await, expected, "{lines}");
        }
        assert_eq!(read(&written, "tailLines=1&stream=Stdout").await, "o3o3\n");
        let both = container(&[(O, "a\nb"), (E, "c")]);
        assert_eq!(read(&both, "tailLines=1").await, "c");
        assert_eq!(read(&both, "tailLines=2").await, "bc");
    }

    #[tokio::test]
    async fn endless_lines_and_endless_line_ends_come_in_pieces() {
        let long = "x".repeat(3 * LINE_BYTES);
        assert_eq!(read(&container(&[(O, &long)]), "").await, long);
        let ends = "\n".repeat(1024 * 1024);
        let container = container(&[(O, &ends)]);
        let mut lines = LogLines::of(&container, Options::parse("timestamps=1").unwrap());
        let frame = lines.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.len() < 2 * PIECE_BYTES);
    }

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
