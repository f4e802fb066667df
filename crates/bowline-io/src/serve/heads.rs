//! A connection to one request at a time, for the HTTP library.
//!
//! The library would read requests ahead of its answers, and make answers ahead of their reader, up
//! to the longest head that it takes, on every connection. So it is given a head once that is
//! complete, and the next one when the answer to it has been taken. Until then the kernel keeps
//! what the client sends, and TCP tells it.

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
use super::connections::{Registered, State};
use crate::request_target::{Query, shortened};
use crate::stream::{Connection, Stream, Upgraded};

/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a known client may let pass between two requests: kube-apiserver's.
const IDLE_PATIENCE: Duration = Duration::from_secs(90);
/// How long an unknown client may take to read an answer. Those are short. A known one may look at
/// a page of a log for as long as it likes.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// While an answer is under way and more requests wait: how often to look whether the client is
/// still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After the end of an answer, how long and how much is read on: a client that still writes would
/// not see the answer otherwise.
const LINGER_PATIENCE: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 8 * HEAD_BYTES;

/// What a request's head may hold: Go's servers' 1 MiB, since command lines travel in it.
const HEAD_BYTES: usize = 1024 * 1024;
/// What the library may hold of it: the last read may go beyond.
pub(super) const LIBRARY_BYTES: usize = HEAD_BYTES + PIECE_BYTES;
/// What it may hold without being counted: usual ones do not.
const USUAL_BYTES: usize = 16 * 1024;
/// Of one read.
const PIECE_BYTES: usize = 8 * 1024;
/// What the library gets at once: less than what makes it ask for more.
const GIVEN_BYTES: usize = 4 * 1024;
/// Stands for a head that was refused.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// Why a head is not given to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not begin as a request does.
    Malformed,
    /// It has no end within [`HEAD_BYTES`].
    TooLong,
}

/// What the two sides of the library tell each other about the request in hand.
#[derive(Debug, Default)]
pub(super) struct Exchange(Mutex<InHand>);

#[derive(Debug, Default)]
struct InHand {
    /// The query that goes around the library.
    query: Option<Query>,
    /// Why its head is none.
    refused: Option<Refused>,
    /// The library has seen all of it.
    is_asked: bool,
    /// After the answer, it is HTTP no more.
    is_switching: bool,
    /// All of the answer was given to the library.
    is_given: bool,
    /// Some of it was given, and not all of that is written.
    is_unwritten: bool,
    /// Who gives the rest.
    giver: Option<Waker>,
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, InHand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library has the head of the request in hand: the query of it that went around the
    /// library, or why it only stands for a head that is none.
    pub(super) fn asked(&self) -> Result<Option<Query>, Refused> {
        let mut in_hand = self.lock();
        in_hand.is_asked = true;
        in_hand.refused.map_or_else(|| Ok(in_hand.query.take()), Err)
    }

    /// It will be answered with 101.
    pub(super) fn switches(&self) {
        self.lock().is_switching = true;
    }

    /// The body of its answer, as the library may have it.
    pub(super) fn answer(self: &Arc<Exchange>, body: Body) -> Answer {
        Answer { body, exchange: self.clone() }
    }
}

/// A body of which one piece is under way at a time.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    exchange: Arc<Exchange>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let answer = self.get_mut();
        let mut in_hand = answer.exchange.lock();
        if in_hand.is_unwritten {
            in_hand.giver = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(in_hand);
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

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.lock().is_given = true;
    }
}

/// The connection.
#[derive(Debug)]
pub(super) struct Heads {
    stream: Stream,
    registered: Arc<Registered>,
    exchange: Arc<Exchange>,
    phase: Phase,
    /// What was read and belongs to no head that was given.
    read: BytesMut,
    /// In so much of it there is no head's end.
    searched: usize,
    /// Its first line was looked at.
    has_line: bool,
    is_first: bool,
    /// The client will send no more.
    has_ended: bool,
    /// A write waits.
    is_stuck: bool,
    /// The library waits for the next head.
    reader: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When it was set for what goes on now.
    until: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    /// The next head is not complete.
    Head,
    /// It is given to the library.
    Giving(BytesMut),
    /// It is answered.
    Answer,
    /// There will be no more; so much was read since.
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
            phase: Phase::Head,
            read: BytesMut::new(),
            searched: 0,
            has_line: false,
            is_first: true,
            has_ended: false,
            is_stuck: false,
            reader: None,
            timer: None,
            until: None,
        }
    }

    /// The connection for what comes after HTTP, and what was read of it.
    pub(super) fn into_upgraded(mut self, read: &[u8]) -> Upgraded {
        let mut early = BytesMut::from(read);
        early.extend_from_slice(&self.read);
        self.stream.read_ahead();
        Upgraded { stream: self.stream, early }
    }

    /// Waits until what goes on has gone on for so long.
    fn poll_patience(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + patience);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// Reads a piece. No memory is held while there is none.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut piece = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.has_ended |= piece.filled().is_empty();
        self.read.extend_from_slice(piece.filled());
        Poll::Ready(Ok(()))
    }

    /// Reads until a head is complete, or there will be none.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.take_head() || self.has_ended {
                return Poll::Ready(Ok(()));
            }
            let is_idle = self.read.is_empty() && !self.is_first;
            let is_known = self.registered.is_known();
            let patience = if is_idle && is_known { IDLE_PATIENCE } else { HEAD_PATIENCE };
            if self.poll_piece(cx)?.is_pending() {
                ready!(self.poll_patience(cx, patience));
                self.has_ended = true;
            }
            self.skip_blank();
            if is_idle && !self.read.is_empty() {
                self.until = None;
                self.registered.does(State::Busy);
            }
        }
    }

    /// Empty lines in front of a request mean nothing.
    fn skip_blank(&mut self) {
        if self.searched == 0 {
            let is_blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
            self.read.advance(self.read.iter().take_while(is_blank).count());
        }
    }

    /// Takes the next head, or what stands for a bad one, from what was read.
    fn take_head(&mut self) -> bool {
        self.skip_blank();
        let known = self.searched;
        if let Some(end) = end_of_head(&self.read, known) {
            let head = self.read.split_to(end);
            self.begin(head, None);
            return true;
        }
        self.searched = self.read.len();
        let line = self.read[known..].iter().position(|&byte| byte == b'\n');
        let refused = match line {
            Some(end) if !self.has_line && !is_request_line(&self.read[..known + end]) => {
                Refused::Malformed
            }
            _ if self.read.len() >= HEAD_BYTES => Refused::TooLong,
            _ => {
                self.has_line |= line.is_some();
                if self.read.len() > USUAL_BYTES {
                    self.registered.holds(self.read.len());
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
        *self.exchange.lock() = InHand { query, refused, ..InHand::default() };
        self.registered.does(State::Busy);
        self.phase = Phase::Giving(head);
    }

    /// While the request is answered: whether the client has gone. More requests of it stay where
    /// they are.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reader = Some(cx.waker().clone());
        let in_hand = self.exchange.lock();
        // To the library its head has no end: the two do not agree on what a head is.
        if !in_hand.is_asked {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if in_hand.refused.is_some() {
            return Poll::Pending;
        }
        drop(in_hand);
        while !self.has_ended && self.read.is_empty() {
            ready!(self.poll_piece(cx))?;
        }
        while !self.has_ended {
            // A write that waits has the timer.
            if self.is_stuck {
                return Poll::Pending;
            }
            ready!(self.poll_patience(cx, LOOK_EVERY));
            self.until = None;
            self.has_ended = self.stream.is_peer_gone();
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at a write: an unknown client does not have for ever to read what it asked for.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let is_stuck = written.is_pending();
        if is_stuck != self.is_stuck {
            self.is_stuck = is_stuck;
            self.until = None;
            self.registered.does(if is_stuck { State::Unread } else { State::Busy });
        }
        if is_stuck && !self.registered.is_known() {
            ready!(self.poll_patience(cx, ANSWER_PATIENCE));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// All that the library had was written.
    fn written(&mut self) {
        let mut in_hand = self.exchange.lock();
        in_hand.is_unwritten = false;
        let giver = in_hand.giver.take();
        let is_over = in_hand.is_given && !in_hand.is_switching;
        let is_over = is_over && matches!(self.phase, Phase::Answer);
        drop(in_hand);
        if let Some(giver) = giver {
            giver.wake();
        }
        if is_over {
            self.phase = Phase::Head;
            self.until = None;
            self.registered.holds(0);
            self.registered.does(State::Idle);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// Reads on after the end, and keeps nothing.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_patience(cx, LINGER_PATIENCE).is_ready() {
            return Poll::Ready(());
        }
        loop {
            let Phase::Closing { is_shut, bytes } = &mut self.phase else { return Poll::Ready(()) };
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

/// Whether a line, without its end, may begin a request.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// Where the first head ends, if it does. There was none in what was searched before.
fn end_of_head(read: &[u8], searched: usize) -> Option<usize> {
    // An end may have begun there.
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
            match &mut heads.phase {
                Phase::Giving(head) => {
                    let length = head.len().min(buffer.remaining()).min(GIVEN_BYTES);
                    buffer.put_slice(&head.split_to(length));
                    if head.is_empty() {
                        heads.phase = Phase::Answer;
                    }
                    return Poll::Ready(Ok(()));
                }
                Phase::Head => {
                    ready!(heads.poll_head(cx))?;
                    if matches!(heads.phase, Phase::Head) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Phase::Answer => return heads.poll_gone(cx),
                Phase::Closing { .. } => return Poll::Ready(Ok(())),
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
        if !matches!(heads.phase, Phase::Closing { .. }) {
            heads.phase = Phase::Closing { is_shut: false, bytes: 0 };
            heads.until = None;
        }
        heads.poll_linger(cx).map(Ok)
    }
}
