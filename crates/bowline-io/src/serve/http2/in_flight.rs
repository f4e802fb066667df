//! Counts the requests that are under way on a connection, and tells from them what happens on it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::serve::Body;
use crate::serve::connections::{Activity, Registered};
use crate::serve::heads::{
    ANSWER_PATIENCE, CHECK_EVERY, HEAD_PATIENCE, IDLE_PATIENCE, USUAL_BYTES,
};

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct InFlight {
    registered: Arc<Registered>,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// How many requests are under way, upgraded streams among them.
    requests: usize,
    /// Of how many of them a piece of the answer was given to the library, which has not come for
    /// the next.
    unread: usize,
    /// How many pieces were given.
    given: u64,
    /// How many were when it was last looked at.
    given_before: u64,
    /// Since when nobody reads, as far as is known.
    unread_since: Option<Instant>,
    /// Since when there is no request.
    idle_since: Instant,
    /// Bytes that came while nobody was authenticated: of a head that is not complete, or of
    /// requests that are under way.
    unknown_bytes: usize,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Stays,
    /// It has been idle for too long, or its unauthenticated client reads nothing.
    Over,
}

impl InFlight {
    pub(super) fn new(registered: Arc<Registered>) -> Arc<InFlight> {
        let counts = Counts {
            requests: 0,
            unread: 0,
            given: 0,
            given_before: 0,
            unread_since: None,
            idle_since: Instant::now(),
            unknown_bytes: 0,
        };
        Arc::new(InFlight { registered, counts: Mutex::new(counts) })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request whose head has come.
    pub(super) fn begin(self: &Arc<InFlight>) -> Arc<OneInFlight> {
        let mut counts = self.lock();
        counts.requests += 1;
        if counts.requests == 1 {
            // The head is complete, and nothing is held of others.
            counts.unknown_bytes = 0;
            self.registered.set_activity(Activity::Busy);
        }
        drop(counts);
        Arc::new(OneInFlight(self.clone()))
    }

    /// Counts bytes that have come; true once somebody on the connection is authenticated.
    pub(super) fn count_unknown(&self, bytes: usize) -> bool {
        if self.registered.is_authenticated() {
            return true;
        }
        let mut counts = self.lock();
        counts.unknown_bytes += bytes;
        let held = counts.unknown_bytes;
        drop(counts);
        self.registered.set_head_bytes(if held > USUAL_BYTES { held } else { 0 });
        false
    }

    /// When to judge the connection next.
    pub(super) fn wake_at(&self) -> Instant {
        let counts = self.lock();
        match counts.requests {
            0 => counts.idle_since + self.idle_patience(),
            _ => Instant::now() + CHECK_EVERY,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lock().requests == 0
    }

    fn idle_patience(&self) -> std::time::Duration {
        if self.registered.is_authenticated() { IDLE_PATIENCE } else { HEAD_PATIENCE }
    }

    /// Looks at what happens on the connection.
    pub(super) fn judge(&self) -> Verdict {
        let mut counts = self.lock();
        let now = Instant::now();
        if counts.requests == 0 {
            let is_over = now >= counts.idle_since + self.idle_patience();
            return if is_over { Verdict::Over } else { Verdict::Stays };
        }
        let is_unread = counts.unread == counts.requests && counts.given == counts.given_before;
        counts.given_before = counts.given;
        if !is_unread {
            if counts.unread_since.take().is_some() {
                self.registered.set_activity(Activity::Busy);
            }
            return Verdict::Stays;
        }
        let is_new = counts.unread_since.is_none();
        let since = *counts.unread_since.get_or_insert(now);
        if is_new {
            self.registered.set_activity(Activity::Unread);
        }
        let is_known = self.registered.is_authenticated();
        if !is_known && now >= since + ANSWER_PATIENCE { Verdict::Over } else { Verdict::Stays }
    }
}

/// A request that is under way. Dropping it ends that.
#[derive(Debug)]
pub(super) struct OneInFlight(Arc<InFlight>);

impl Drop for OneInFlight {
    fn drop(&mut self) {
        let mut counts = self.0.lock();
        counts.requests -= 1;
        if counts.requests == 0 {
            counts.idle_since = Instant::now();
            counts.unread_since = None;
            self.0.registered.set_activity(Activity::Idle);
        }
    }
}

/// The body of an answer, whose pieces are counted as the library comes for them.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    one: Arc<OneInFlight>,
    /// A piece was given, and the next was not asked for.
    is_unread: bool,
}

impl AnswerBody {
    pub(super) fn new(body: Body, one: Arc<OneInFlight>) -> AnswerBody {
        AnswerBody { body, one, is_unread: false }
    }

    fn set_unread(&mut self, is_unread: bool) {
        if is_unread == self.is_unread {
            return;
        }
        self.is_unread = is_unread;
        let mut counts = self.one.0.lock();
        if is_unread {
            counts.unread += 1;
            counts.given += 1;
        } else {
            counts.unread -= 1;
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let answer = self.get_mut();
        answer.set_unread(false);
        let frame = ready!(Pin::new(&mut answer.body).poll_frame(cx));
        answer.set_unread(frame.is_some());
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
        self.set_unread(false);
    }
}
