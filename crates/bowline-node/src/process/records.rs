//! A console's log to the records of an answer, from where it was asked for.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::console::{Console, Next, Reader};
use super::log::Position;
use crate::runtime::{Log, LogRecord, LogRecords, LogRequest};

/// The records of one answer.
struct Records {
    reader: Reader,
    /// The beginning of a line that goes on at the reader's position.
    partial_line: Option<LogRecord>,
    /// Where the answer ends, if it does not follow the log.
    until: Option<Position>,
}

/// Returns what `request` wants of a console's log.
pub(super) fn answer(console: &Arc<Console>, request: LogRequest) -> Log {
    let LogRequest { follow, tail, source: wanted, .. } = request;
    let (mut until, mut skip_lines, mut partial_line) = (None, 0, None);
    let reader = console.reader(|log| {
        until = (!follow).then(|| log.end());
        let Some(lines) = tail else { return log.begin() };
        let tail = log.last_lines(lines, |source| wanted.is_none_or(|wanted| wanted == source));
        skip_lines = tail.skip_lines;
        partial_line = tail.partial_line;
        tail.position
    });
    Log { records: Box::new(Records { reader, partial_line, until }), skip_lines }
}

impl LogRecords for Records {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>> {
        if let Some(partial_line) = self.partial_line.take() {
            return Poll::Ready(Some(Ok(partial_line)));
        }
        Poll::Ready(match ready!(self.reader.poll_next(cx, self.until)) {
            Next::Piece(source, time, bytes) => Some(Ok(LogRecord { source, time, bytes })),
            Next::Over => None,
            Next::GivenUp => {
                let why = "its reader was too slow: what it missed is overwritten";
                Some(Err(io::Error::other(why)))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::container::Container;
    use super::super::manifest::ContainerSpec;
    use super::*;
    use crate::lines::{LogLines, PIECE_BYTES};
    use crate::log_options::Options;
    use crate::runtime::{LINE_BYTES, Source};

    fn container(pieces: &[(Source, &str)]) -> Arc<Container> {
        let container = Container::idle(ContainerSpec::default());
        for (source, piece) in pieces {
            container.console.write(*source, piece.as_bytes());
        }
        container
    }

    fn lines(container: &Container, query: &str) -> LogLines {
        let options = Options::parse(query).unwrap();
        LogLines::new("c", answer(&container.console, options.request), options)
    }

    async fn read(container: &Container, query: &str) -> String {
        let lines = lines(container, query);
        String::from_utf8(lines.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    use Source::{Stderr as E, Stdout as O};

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
        let mut lines = lines(&container, "follow=true&tailLines=1");
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
        let mut lines = lines(&container, "follow=true");
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
        let mut lines = lines(&container, "");
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
        let mut lines = lines(&container, "timestamps=1");
        let frame = lines.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.len() < 2 * PIECE_BYTES);
    }
}
