//! The console of a container's main process: its output, kept for a while and read by many, and
//! its input, written by many.
//!
//! All who read share one log and remember how far they came, so nothing is kept twice. Who reads a
//! log is never waited for: one that is too slow is told that it missed something. The process
//! waits for a client that is attached and a whole log behind as long as that one goes on, as with
//! the runtimes that people know; one that does not is given up with a reason, and the process and
//! the others go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bowline_io::drive::WriteQueue;
use bowline_proto::limits::{READ_BYTES, STDIN_BYTES};
use bowline_proto::session::Size;
use bytes::Bytes;
use tokio::time::Instant;

use super::log::{LOG_BYTES, LogBuffer, Position};
use crate::runtime::{Act, Process, Source};

/// How far a reader may be behind before the process waits for it: the next read must not push out
/// what it has not had.
const BEHIND_BYTES: u64 = LOG_BYTES - 2 * READ_BYTES as u64;
/// How long the process waits for one reader that takes less than [`PROGRESS_BYTES`] meanwhile.
const HOLD: Duration = Duration::from_secs(1);
/// How much a reader has to take within [`HOLD`] to be waited for once more.
const PROGRESS_BYTES: u64 = 1024 * 1024;

/// The output and the input of a container's main process.
#[derive(Debug, Default)]
pub(super) struct Console {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    log: LogBuffer,
    readers: BTreeMap<u64, ReaderState>,
    next_reader: u64,
    /// The readers for whom the process waits when they are behind.
    holding: BTreeSet<u64>,
    /// The tasks of readers that wait for something to read.
    waiting: BTreeMap<u64, Waker>,
    /// The process has ended, and all of its output is in the log.
    is_over: bool,
    stdin: WriteQueue,
    /// Sizes for the process's terminal. A client asks for a redraw by another size before its own,
    /// so the last two count.
    sizes: VecDeque<Size>,
    /// The task that runs the process.
    main: Option<Waker>,
}

#[derive(Debug)]
struct ReaderState {
    at: Position,
    taken_bytes: u64,
    /// Since when the process waits for this reader, and what it had taken then.
    awaited: Option<(Instant, u64)>,
    given_up: bool,
}

/// What comes next for a reader.
#[derive(Debug)]
pub(super) enum Next {
    /// Some of the output.
    Piece(Source, SystemTime, Bytes),
    /// The output has ended.
    Over,
    /// The reader was too slow: what comes next is not there any more.
    GivenUp,
}

/// What the process's task has to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// The process did something, and moved so many bytes of output into the log.
    Acted(usize),
    /// The process waits for a reader, at most until this time.
    Held(Instant),
}

impl Console {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a reader that begins at the position that `from` chooses in the log.
    pub(super) fn reader(self: &Arc<Console>, from: impl FnOnce(&LogBuffer) -> Position) -> Reader {
        let mut inner = self.lock();
        let at = from(&inner.log);
        let id = inner.next_reader;
        inner.next_reader += 1;
        let reader = ReaderState { at, taken_bytes: 0, awaited: None, given_up: false };
        inner.readers.insert(id, reader);
        drop(inner);
        Reader { console: self.clone(), id }
    }

    /// Adds a reader for which the process waits, as long as it takes output.
    pub(super) fn holding_reader(
        self: &Arc<Console>,
        from: impl FnOnce(&LogBuffer) -> Position,
    ) -> Reader {
        let reader = self.reader(from);
        self.lock().holding.insert(reader.id);
        reader
    }

    /// Calls `look` with the log.
    pub(super) fn with_log<T>(&self, look: impl FnOnce(&LogBuffer) -> T) -> T {
        look(&self.lock().log)
    }

    /// Lets the process do one thing. Pending if there is nothing that it can do now.
    pub(super) fn poll_process(
        &self,
        cx: &mut Context<'_>,
        process: &mut (impl Process + ?Sized),
    ) -> Poll<Turn> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.sizes.drain(..).for_each(|size| process.resize(size));
        let held = inner.held();
        let act = match process.poll(cx, &mut inner.stdin, held.is_none()) {
            Poll::Ready(act) => act,
            Poll::Pending => {
                inner.main = Some(cx.waker().clone());
                return held.map_or(Poll::Pending, |until| Poll::Ready(Turn::Held(until)));
            }
        };
        let moved = match act {
            Act::Stdout(bytes) => inner.push(Source::Stdout, &bytes),
            Act::Stderr(bytes) => inner.push(Source::Stderr, &bytes),
            Act::TookInput => {
                // There is room for more input.
                inner.wake_all();
                0
            }
            Act::StdoutEnded | Act::StderrEnded | Act::Broken(_) => 0,
            // A process of this host runs once it is returned, and how it ends is known.
            Act::NotStarted(_) | Act::Lost(_) => 0,
        };
        Poll::Ready(Turn::Acted(moved))
    }

    /// Adds output to the log, as if a process had written it.
    #[cfg(test)]
    pub(super) fn write(&self, source: Source, bytes: &[u8]) {
        self.lock().push(source, bytes);
    }

    /// Tells all readers that the process has ended and all of its output was read.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.is_over = true;
        inner.stdin.discard();
        inner.wake_all();
    }
}

impl Inner {
    fn push(&mut self, source: Source, bytes: &[u8]) -> usize {
        #[expect(clippy::disallowed_methods, reason = "a line of a log has a date")]
        self.log.push(source, bytes, SystemTime::now());
        self.wake_all();
        bytes.len()
    }

    fn wake_all(&mut self) {
        std::mem::take(&mut self.waiting).into_values().for_each(Waker::wake);
    }

    /// Returns until when the process waits for slow readers; `None` if there are none. Gives up
    /// those for whom it has waited long enough.
    fn held(&mut self) -> Option<Instant> {
        let mut until: Option<Instant> = None;
        let (log, holding) = (&self.log, &self.holding);
        let mut given_up = false;
        for id in holding {
            let Some(reader) = self.readers.get_mut(id).filter(|reader| !reader.given_up) else {
                continue;
            };
            if log.backlog(reader.at) <= BEHIND_BYTES {
                reader.awaited = None;
                continue;
            }
            let now = Instant::now();
            let taken = reader.taken_bytes;
            let (since, before) = *reader.awaited.get_or_insert((now, taken));
            let mut ends = since + HOLD;
            if now >= ends {
                if taken - before < PROGRESS_BYTES {
                    reader.given_up = true;
                    given_up = true;
                    continue;
                }
                reader.awaited = Some((now, taken));
                ends = now + HOLD;
            }
            until = Some(until.map_or(ends, |until| until.min(ends)));
        }
        if given_up {
            self.wake_all();
        }
        until
    }

    /// Returns what comes next for a reader; `None` if it has not been written yet.
    fn next(&mut self, id: u64, until: Option<Position>) -> Option<Next> {
        let Some(reader) = self.readers.get_mut(&id) else { return Some(Next::Over) };
        if until.is_some_and(|until| reader.at >= until) {
            return Some(Next::Over);
        }
        if reader.given_up || self.log.is_overwritten(reader.at) {
            return Some(Next::GivenUp);
        }
        let Some(record) = self.log.at(reader.at) else {
            return self.is_over.then_some(Next::Over);
        };
        let bytes = record.bytes.slice(reader.at.skip.min(record.bytes.len())..);
        reader.at = Position { record: reader.at.record + 1, skip: 0 };
        reader.taken_bytes += bytes.len() as u64;
        let piece = Next::Piece(record.source, record.time, bytes);
        if reader.awaited.is_some() {
            self.wake_main();
        }
        Some(piece)
    }

    fn wake_main(&mut self) {
        if let Some(main) = self.main.take() {
            main.wake();
        }
    }
}

/// A reader of a console, which can also write input. Dropped, the process waits for it no more.
#[derive(Debug)]
pub(super) struct Reader {
    console: Arc<Console>,
    id: u64,
}

impl Reader {
    /// Reads what comes next, up to `until` where that is given.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>, until: Option<Position>) -> Poll<Next> {
        let mut inner = self.console.lock();
        let next = inner.next(self.id, until);
        if next.is_none() {
            inner.waiting.insert(self.id, cx.waker().clone());
        }
        next.map_or(Poll::Pending, Poll::Ready)
    }

    /// Returns whether everything up to `until`, or to the end of the process's output, was read.
    pub(super) fn is_over(&self, until: Option<Position>) -> bool {
        let inner = self.console.lock();
        inner.readers.get(&self.id).is_none_or(|reader| {
            until.is_some_and(|until| reader.at >= until)
                || inner.is_over && reader.at >= inner.log.end()
        })
    }

    /// Returns whether it was too slow for the process to wait for it any longer.
    pub(super) fn is_given_up(&self) -> bool {
        self.console.lock().readers.get(&self.id).is_some_and(|reader| reader.given_up)
    }

    /// Wakes the task at the next change.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        self.console.lock().waiting.insert(self.id, cx.waker().clone());
    }

    /// Moves input into the process's queue. Pending if that is full.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, input: &mut WriteQueue) -> Poll<()> {
        let mut inner = self.console.lock();
        let mut moved = false;
        while let room @ 1.. = STDIN_BYTES.saturating_sub(inner.stdin.len())
            && let Some(bytes) = input.pop(room)
        {
            inner.stdin.push(bytes);
            moved = true;
        }
        // Copied, so that no read buffer of a connection is kept alive by a process that does not
        // read.
        inner.stdin.compact();
        if moved {
            inner.wake_main();
            return Poll::Ready(());
        }
        inner.waiting.insert(self.id, cx.waker().clone());
        Poll::Pending
    }

    /// Ends the process's input.
    pub(super) fn end_input(&self) {
        let mut inner = self.console.lock();
        inner.stdin.end();
        inner.wake_main();
    }

    /// Returns the position behind the last byte of output.
    pub(super) fn end(&self) -> Position {
        self.console.with_log(LogBuffer::end)
    }

    /// Tells the process's terminal a size.
    pub(super) fn resize(&self, size: Size) {
        let mut inner = self.console.lock();
        if inner.sizes.len() == 2 {
            inner.sizes.pop_front();
        }
        inner.sizes.push_back(size);
        inner.wake_main();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.console.lock();
        inner.readers.remove(&self.id);
        inner.holding.remove(&self.id);
        inner.waiting.remove(&self.id);
        inner.wake_main();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endless::Endless;

    fn is_given_up(reader: &Reader) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        matches!(reader.poll_next(cx, None), Poll::Ready(Next::GivenUp))
    }

    /// Whether the process gets this far without a wait for anybody.
    fn runs(console: &Console) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        (0..1000)
            .all(|_| matches!(console.poll_process(cx, &mut Endless), Poll::Ready(Turn::Acted(_))))
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_a_log_holds_nothing() {
        let console = Arc::new(Console::default());
        let readers: Vec<_> = (0..20).map(|_| console.reader(LogBuffer::begin)).collect();
        assert!(runs(&console));
        assert!(readers.iter().all(is_given_up));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_attached_holds_it_for_a_while() {
        let console = Arc::new(Console::default());
        let reader = console.holding_reader(LogBuffer::begin);
        assert!(!runs(&console));
        tokio::time::advance(HOLD).await;
        assert!(runs(&console));
        assert!(is_given_up(&reader));
    }
}
