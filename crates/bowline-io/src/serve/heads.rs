//! Gives the HTTP library one request of a connection at a time.
//!
//! On every connection, the library would read requests ahead of its answers, and make answers
//! ahead of what the client reads, up to the longest head that it takes. So it gets a head once
//! that is complete, and the next one when the answer was written. Until then the kernel keeps what
//! the client sends, and TCP holds the client back.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Body;
use super::connections::{Activity, Registered};
use crate::request_target::{Query, shortened};
use crate::stream::{Connection, Stream, Upgraded};

/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long an authenticated client may be idle between two requests, as with kube-apiserver.
const IDLE_PATIENCE: Duration = Duration::from_secs(90);
/// How long an unauthenticated client may take to read an answer, which is short. An authenticated
/// one may look at a page of a log for as long as it likes.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often to check whether the client is still there, while an answer is under way and more
/// requests wait.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long a connection is still read after our end: a client that still writes would get a reset
/// instead of the answer otherwise.
const LINGER_PATIENCE: Duration = Duration::from_secs(5);
/// How much is read in that time.
const LINGER_BYTES: usize = 8 * HEAD_BYTES;

/// The longest head of a request, as for Go's servers: it may have a whole command line.
const HEAD_BYTES: usize = 1024 * 1024;
/// The longest head for the library: the last read may go beyond [`HEAD_BYTES`].
pub(super) const LIBRARY_BYTES: usize = HEAD_BYTES + PIECE_BYTES;
/// The longest head that is not counted as long.
const USUAL_BYTES: usize = 16 * 1024;
/// The size of one read.
const PIECE_BYTES: usize = 8 * 1024;
/// How much the library gets at once: less than what makes it ask for more.
const GIVEN_BYTES: usize = 4 * 1024;
/// What the library gets in place of a head that is refused.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// Why a head is not given to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not begin as a request does.
    Malformed,
    /// It does not end within [`HEAD_BYTES`].
    TooLong,
}

/// What is below and above the library tell each other about the current request by this.
#[derive(Debug, Default)]
pub(super) struct Exchange(Mutex<CurrentRequest>);

#[derive(Debug, Default)]
struct CurrentRequest {
    /// The query, if it goes around the library.
    query: Option<Query>,
    /// Why its head was refused, if it was.
    refused: Option<Refused>,
    /// The library has its whole head.
    is_asked: bool,
    /// After the answer, the connection is no longer HTTP.
    is_switching: bool,
    /// All of the answer was given to the library.
    is_given: bool,
    /// Not all that was given of the answer is written.
    is_unwritten: bool,
    /// Wakes whoever gives the rest of the answer.
    answer_waker: Option<Waker>,
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, CurrentRequest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the library has the current request's head. Returns the query that went around
    /// the library, or why the head was refused.
    pub(super) fn asked(&self) -> Result<Option<Query>, Refused> {
        let mut current = self.lock();
        current.is_asked = true;
        current.refused.map_or_else(|| Ok(current.query.take()), Err)
    }

    /// Records that the answer is 101.
    pub(super) fn switches(&self) {
        self.lock().is_switching = true;
    }

    /// Wraps the body of the answer for the library.
    pub(super) fn answer(self: &Arc<Exchange>, body: Body) -> AnswerBody {
        AnswerBody { body, exchange: self.clone() }
    }
}

/// A body that gives its next piece once the one before is written.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    exchange: Arc<Exchange>,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let answer = self.get_mut();
        let mut current = answer.exchange.lock();
        if current.is_unwritten {
            current.answer_waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(current);
        let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
        answer.exchange.lock().is_unwritten = frame.is_some();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.exchange.lock().is_given = true;
    }
}

/// A connection that gives the HTTP library one head at a time.
#[derive(Debug)]
pub(super) struct Heads {
    stream: Stream,
    registered: Arc<Registered>,
    exchange: Arc<Exchange>,
    state: State,
    /// Bytes behind the current request's head.
    read: BytesMut,
    /// How many of these bytes were searched for the end of a head, without finding it.
    searched: usize,
    /// The first line of the head was checked.
    has_line: bool,
    is_first: bool,
    /// No more bytes of the client are taken.
    has_ended: bool,
    /// A write waits.
    is_write_blocked: bool,
    /// Wakes the library, which waits for the next head.
    head_waker: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The deadline of what goes on now.
    until: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// The next head is not complete.
    Head,
    /// The head is given to the library.
    Giving(BytesMut),
    /// The request is answered.
    Answering,
    /// There will be no more requests. Our direction `is_shut`, or not yet; so many bytes were read
    /// since.
    Closing { is_shut: bool, bytes: usize },
}

impl Heads {
    pub(super) fn new(
        stream: Stream,
        registered: Arc<Registered>,
        exchange: Arc<Exchange>,
    ) -> Heads {
        Heads {
            stream,
            registered,
            exchange,
            state: State::Head,
            read: BytesMut::new(),
            searched: 0,
            has_line: false,
            is_first: true,
            has_ended: false,
            is_write_blocked: false,
            head_waker: None,
            timer: None,
            until: None,
        }
    }

    /// Returns the connection after its 101, with what was read behind that.
    pub(super) fn into_upgraded(mut self, read: &[u8]) -> Upgraded {
        let mut early = BytesMut::from(read);
        early.extend_from_slice(&self.read);
        self.stream.read_ahead();
        Upgraded { stream: self.stream, early }
    }

    /// Ready once what goes on now has taken `patience`.
    fn poll_patience(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + patience);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// Reads a piece, without holding memory while there is none.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.has_ended |= piece.filled().is_empty();
        self.read.extend_from_slice(piece.filled());
        Poll::Ready(Ok(()))
    }

    /// Reads until a head is complete, or until there will be none.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.take_head() || self.has_ended {
                return Poll::Ready(Ok(()));
            }
            let is_idle = self.read.is_empty() && !self.is_first;
            let is_authenticated = self.registered.is_authenticated();
            let patience = if is_idle && is_authenticated { IDLE_PATIENCE } else { HEAD_PATIENCE };
            if self.poll_piece(cx)?.is_pending() {
                ready!(self.poll_patience(cx, patience));
                self.has_ended = true;
            }
            self.skip_blank();
            if is_idle && !self.read.is_empty() {
                self.until = None;
                self.registered.set_activity(Activity::Busy);
            }
        }
    }

    /// Skips empty lines in front of a request.
    fn skip_blank(&mut self) {
        if self.searched == 0 {
            let is_blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            self.read.advance(self.read.iter().take_while(is_blank).count());
        }
    }

    /// Takes the next head out of what was read, or replaces one that is refused; false if there is
    /// none yet.
    fn take_head(&mut self) -> bool {
        self.skip_blank();
        let searched = self.searched;
        if let Some(end) = end_of_head(&self.read, searched) {
            let head = self.read.split_to(end);
            self.begin(head, None);
            return true;
        }
        self.searched = self.read.len();
        let line = self.read[searched..].iter().position(|&byte| byte == b'\n');
        let refused = match line {
            Some(end) if !self.has_line && !is_request_line(&self.read[..searched + end]) => {
                Refused::Malformed
            }
            _ if self.read.len() >= HEAD_BYTES => Refused::TooLong,
            _ => {
                self.has_line |= line.is_some();
                if self.read.len() > USUAL_BYTES {
                    self.registered.set_head_bytes(self.read.len());
                }
                return false;
            }
        };
        self.read = BytesMut::new();
        self.begin(BytesMut::from(REFUSED), Some(refused));
        true
    }

    fn begin(&mut self, head: BytesMut, refused: Option<Refused>) {
        self.is_first = false;
        self.has_line = false;
        self.searched = 0;
        self.until = None;
        let (head, query) = match shortened(&head) {
            Some((head, query)) => (head, Some(query)),
            None => (head, None),
        };
        *self.exchange.lock() = CurrentRequest { query, refused, ..CurrentRequest::default() };
        self.registered.set_activity(Activity::Busy);
        self.state = State::Giving(head);
    }

    /// Ready once the client has gone while its request is answered. More requests of it wait in
    /// the kernel.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.head_waker = Some(cx.waker().clone());
        let current = self.exchange.lock();
        // The library has not found the end of the head, so the two of us do not agree about it.
        if !current.is_asked {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if current.refused.is_some() {
            return Poll::Pending;
        }
        drop(current);
        while !self.has_ended && self.read.is_empty() {
            ready!(self.poll_piece(cx))?;
        }
        while !self.has_ended {
            // The timer is that of a write that waits.
            if self.is_write_blocked {
                return Poll::Pending;
            }
            ready!(self.poll_patience(cx, CHECK_EVERY));
            self.until = None;
            self.has_ended = self.stream.is_peer_gone();
        }
        Poll::Ready(Ok(()))
    }

    /// Watches a write, which an unauthenticated client must not block for long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let is_write_blocked = written.is_pending();
        if is_write_blocked != self.is_write_blocked {
            self.is_write_blocked = is_write_blocked;
            self.until = None;
            self.registered.set_activity(if is_write_blocked {
                Activity::Unread
            } else {
                Activity::Busy
            });
        }
        if is_write_blocked && !self.registered.is_authenticated() {
            ready!(self.poll_patience(cx, ANSWER_PATIENCE));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// Records that all of the library's bytes were written.
    fn written(&mut self) {
        let mut current = self.exchange.lock();
        current.is_unwritten = false;
        let answer_waker = current.answer_waker.take();
        let is_over = current.is_given && !current.is_switching;
        let is_over = is_over && matches!(self.state, State::Answering);
        drop(current);
        if let Some(answer_waker) = answer_waker {
            answer_waker.wake();
        }
        if is_over {
            self.state = State::Head;
            self.until = None;
            self.registered.set_head_bytes(0);
            self.registered.set_activity(Activity::Idle);
            if let Some(head_waker) = self.head_waker.take() {
                head_waker.wake();
            }
        }
    }

    /// Ends our direction and drops what still comes. Ready when the connection can be dropped.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_patience(cx, LINGER_PATIENCE).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let State::Closing { is_shut, bytes } = &mut self.state else { return Poll::Ready(()) };
            if !*is_shut {
                let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                *is_shut = true;
                self.has_ended |= shut.is_err();
            }
            if self.has_ended || *bytes > LINGER_BYTES {
                return Poll::Ready(());
            }
            *bytes += self.read.len();
            self.read.clear();
            if !matches!(ready!(self.poll_piece(cx)), Ok(())) {
                return Poll::Ready(());
            }
        }
    }
}

/// Whether a line, without its end, may be the first one of a request.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// Returns where the first head ends, if it does. There is no end in the first `searched` bytes.
fn end_of_head(read: &[u8], searched: usize) -> Option<usize> {
    // An end may begin in the last three of them.
    let from = searched.saturating_sub(3);
    let ends = read[from..].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let mut ends = ends.map(|(index, _)| from + index);
    ends.find_map(|end| match read[end + 1..] {
        [b'\n', ..] => Some(end + 2),
        [b'\r', b'\n', ..] => Some(end + 3),
        _ => None,
    })
}

impl AsyncRead for Heads {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let heads = self.get_mut();
        loop {
            match &mut heads.state {
                State::Giving(head) => {
                    let length = head.len().min(buffer.remaining()).min(GIVEN_BYTES);
                    buffer.put_slice(&head.split_to(length));
                    if head.is_empty() {
                        heads.state = State::Answering;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Head => {
                    ready!(heads.poll_head(cx))?;
                    if matches!(heads.state, State::Head) {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Answering => return heads.poll_gone(cx),
                State::Closing { .. } => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Heads {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let heads = self.get_mut();
        let written = Pin::new(&mut heads.stream).poll_write(cx, bytes);
        heads.watched(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let heads = self.get_mut();
        let flushed = Pin::new(&mut heads.stream).poll_flush(cx);
        ready!(heads.watched(cx, flushed))?;
        heads.written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let heads = self.get_mut();
        if !matches!(heads.state, State::Closing { .. }) {
            heads.state = State::Closing { is_shut: false, bytes: 0 };
            heads.until = None;
        }
        heads.poll_linger(cx).map(Ok)
    }
}
