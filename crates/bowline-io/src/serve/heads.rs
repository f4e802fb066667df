//! Gives the HTTP library one request of a connection at a time.
//!
//! On every connection, the library would read requests ahead of its answers, and make answers
//! ahead of what the client reads, up to the longest head that it takes. So it gets a head once
//! that is complete, and the next one when the answer was written. Until then the kernel keeps what
//! the client sends, and TCP holds the client back.
//!
//! Where the service wants the bodies of requests, the library gets them as it asks, and then what
//! is behind them is the next head. How long a body is, the library says; how it is in chunks is
//! read here and written anew (`request_body.rs`), so that the two cannot disagree about its end.

mod body;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::connections::{Activity, Registered};
use super::exchange::{Exchange, Refused};
use super::head_lines::{end_of_head, has_two_lengths, is_request_line};
use super::request_body::Framing;
use crate::request_target::shortened;
use crate::stream::{Connection, Stream, Upgraded};

/// How long a client may take for the head of a request.
pub(super) const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long an authenticated client may be idle between two requests, as with kube-apiserver.
pub(super) const IDLE_PATIENCE: Duration = Duration::from_secs(90);
/// How long an unauthenticated client may take to read an answer, which is short. An authenticated
/// one may look at a page of a log for as long as it likes.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How often to check whether the client is still there, while an answer is under way and more
/// requests wait.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(5);
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
pub(super) const USUAL_BYTES: usize = 16 * 1024;
/// The size of one read.
const PIECE_BYTES: usize = 8 * 1024;
/// How much the library gets at once: less than what makes it ask for more.
const GIVEN_BYTES: usize = 4 * 1024;
/// What the library gets in place of a head that is refused.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// A connection that gives the HTTP library one head at a time.
#[derive(Debug)]
pub(super) struct Heads {
    stream: Stream,
    registered: Arc<Registered>,
    exchange: Arc<Exchange>,
    /// The service gets the bodies of requests.
    takes_bodies: bool,
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
    /// What the list of connections was told last.
    told: Option<Activity>,
    /// The library waits for the next head.
    is_head_wanted: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// When what goes on now began.
    since: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// The next head is not complete.
    Head,
    /// The head is given to the library.
    Giving(BytesMut),
    /// The library gets the body of the request, as far as it asks.
    Body(Framing),
    /// The request is complete, or its body is of no interest, and it is answered.
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
        takes_bodies: bool,
    ) -> Heads {
        Heads {
            stream,
            registered,
            exchange,
            takes_bodies,
            state: State::Head,
            read: BytesMut::new(),
            searched: 0,
            has_line: false,
            is_first: true,
            has_ended: false,
            is_write_blocked: false,
            told: None,
            is_head_wanted: false,
            timer: None,
            since: None,
        }
    }

    /// Returns the connection after its 101, with what was read behind that.
    pub(super) fn into_upgraded(mut self, read: &[u8]) -> Upgraded {
        let mut early = BytesMut::from(read);
        early.extend_from_slice(&self.read);
        self.stream.read_ahead();
        Upgraded { stream: self.stream, early }
    }

    /// Tells the list of connections what goes on now, which it has a lock for.
    fn tell(&mut self, activity: Activity) {
        if self.told.replace(activity) != Some(activity) {
            self.registered.set_activity(activity);
        }
    }

    /// Ready once what goes on now has taken `patience`.
    fn poll_patience(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    /// Reads a piece, without holding memory while there is none.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Zeroed, it would be so for each look at a connection on which nothing has come.
        let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut piece);
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
                self.since = None;
                self.tell(Activity::Busy);
            }
        }
    }

    /// Skips empty lines in front of a request.
    fn skip_blank(&mut self) {
        while self.searched == 0
            && let [b'\n', ..] | [b'\r', b'\n', ..] = self.read[..]
        {
            let end = self.read.iter().position(|&byte| byte == b'\n').unwrap_or_default();
            self.read.advance(end + 1);
        }
    }

    /// Takes the next head out of what was read, or replaces one that is refused; false if there is
    /// none yet.
    fn take_head(&mut self) -> bool {
        self.skip_blank();
        let searched = self.searched;
        if let Some(end) = end_of_head(&self.read, searched) {
            let head = self.read.split_to(end);
            if self.takes_bodies && has_two_lengths(&head) {
                self.refuse(Refused::Malformed);
            } else {
                self.begin(head, None);
            }
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
        self.refuse(refused);
        true
    }

    /// Begins a request in place of one that is refused. Nothing behind that is read as a request.
    fn refuse(&mut self, refused: Refused) {
        self.read = BytesMut::new();
        self.begin(BytesMut::from(REFUSED), Some(refused));
    }

    fn begin(&mut self, head: BytesMut, refused: Option<Refused>) {
        self.is_first = false;
        self.has_line = false;
        self.searched = 0;
        self.since = None;
        let (head, query) = match shortened(&head) {
            Some((head, query)) => (head, Some(query)),
            None => (head, None),
        };
        self.exchange.begin(query, refused);
        self.tell(Activity::Busy);
        self.state = State::Giving(head);
    }

    /// Ready once the client has gone while its request is answered. More requests of it wait in
    /// the kernel.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_head_wanted = true;
        if self.exchange.is_refused() {
            return Poll::Pending;
        }
        while !self.has_ended && self.read.is_empty() {
            ready!(self.poll_piece(cx))?;
        }
        while !self.has_ended {
            // The timer is that of a write that waits.
            if self.is_write_blocked {
                return Poll::Pending;
            }
            ready!(self.poll_patience(cx, CHECK_EVERY));
            self.since = None;
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
            self.since = None;
            self.tell(if is_write_blocked { Activity::Unread } else { Activity::Busy });
        }
        if is_write_blocked && !self.registered.is_authenticated() {
            ready!(self.poll_patience(cx, ANSWER_PATIENCE));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// Records that all of the library's bytes were written.
    fn written(&mut self) {
        self.exchange.written();
        self.next_if_over();
    }

    /// Goes on to the next request, if this one has come to its end and its answer is written.
    fn next_if_over(&mut self) {
        if matches!(self.state, State::Answering) && self.exchange.is_over() {
            self.state = State::Head;
            self.since = None;
            self.registered.set_head_bytes(0);
            self.tell(Activity::Idle);
            if std::mem::take(&mut self.is_head_wanted) {
                self.exchange.say_more();
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
                    let _asked = heads.exchange.take_more();
                    ready!(heads.poll_head(cx))?;
                    if matches!(heads.state, State::Head) {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Answering => match heads.exchange.take_framing()? {
                    Some(framing) if heads.takes_bodies => heads.state = State::Body(framing),
                    _ => return heads.poll_gone(cx),
                },
                State::Body(_) => return heads.poll_body(cx, buffer),
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
            heads.since = None;
        }
        heads.poll_linger(cx).map(Ok)
    }
}
