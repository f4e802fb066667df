//! What is below and above the HTTP library tell each other of the current request of a connection,
//! and the body of its answer.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use tokio::sync::Notify;

use super::Body;
use super::request_body::Framing;
use crate::request_target::Query;

/// Why a head is not given to the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It does not begin as a request does, or says more than once how long its body is.
    Malformed,
    /// It does not end within the bytes that a head may have.
    TooLong,
}

/// What is below and above the library tell each other about the current request by this.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    current: Mutex<CurrentRequest>,
    first: Notify,
    /// What the library has waited for is there.
    has_more: AtomicBool,
}

#[derive(Debug, Default)]
struct CurrentRequest {
    /// The query, if it goes around the library.
    query: Option<Query>,
    /// Why its head was refused, if it was.
    refused: Option<Refused>,
    /// The library has its whole head.
    is_asked: bool,
    /// How its body is framed, if it has one that was not begun.
    framing: Option<Framing>,
    /// After the answer, the connection is no longer HTTP.
    is_switching: bool,
    /// All of the answer was given to the library.
    is_given: bool,
    /// All of the answer is written.
    is_written: bool,
    /// Not all that was given of the answer is written.
    is_unwritten: bool,
    /// The library waits for more of the answer.
    is_answer_wanted: bool,
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, CurrentRequest> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the beginning of a request: the query that goes around the library, and why the head
    /// is refused, if it is.
    pub(super) fn begin(&self, query: Option<Query>, refused: Option<Refused>) {
        *self.lock() = CurrentRequest { query, refused, ..CurrentRequest::default() };
        self.first.notify_one();
    }

    /// Waits for the first request. Only one may wait.
    pub(super) async fn first(&self) {
        self.first.notified().await;
    }

    /// Records that the library has the current request's head, and the body that it has found.
    /// Returns the query that went around the library, or why the head was refused.
    pub(super) fn asked(&self, body: &impl http_body::Body) -> Result<Option<Query>, Refused> {
        let mut current = self.lock();
        current.is_asked = true;
        current.framing = Framing::of(body);
        current.refused.map_or_else(|| Ok(current.query.take()), Err)
    }

    /// Returns how the body of the current request is framed, if it has one, once.
    ///
    /// # Errors
    /// If the library has not found the end of the head, so that the two sides do not agree about
    /// it.
    pub(super) fn take_framing(&self) -> io::Result<Option<Framing>> {
        let mut current = self.lock();
        if !current.is_asked {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(current.framing.take())
    }

    /// Whether the current request is refused.
    pub(super) fn is_refused(&self) -> bool {
        self.lock().refused.is_some()
    }

    /// Records that all that was given of the answer is written.
    pub(super) fn written(&self) {
        let mut current = self.lock();
        current.is_unwritten = false;
        current.is_written |= current.is_given;
        if std::mem::take(&mut current.is_answer_wanted) {
            self.say_more();
        }
    }

    /// Has the library asked again before its connection rests: what it waited for is there. All
    /// of this is in the connection's own task. To wake that from within would put it behind
    /// others, and wake a thread to look for them.
    pub(super) fn say_more(&self) {
        self.has_more.store(true, Ordering::Relaxed);
    }

    /// Whether the library has to be asked again.
    pub(super) fn take_more(&self) -> bool {
        self.has_more.swap(false, Ordering::Relaxed)
    }

    /// Whether the answer is written, no byte of a body is left unread, and the connection goes on
    /// with another request.
    pub(super) fn is_over(&self) -> bool {
        let current = self.lock();
        current.is_written && !current.is_switching && current.framing.is_none()
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
            current.is_answer_wanted = true;
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
