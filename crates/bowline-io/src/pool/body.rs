//! The bodies of requests, which may be sent again as long as all of them is there, and of answers,
//! which hold their connection.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Body;
use super::connections::Place;
use super::error::PoolError;
use super::http2::Received;

/// How long a body waits for the server's 100, if its client wants that, as in Go.
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// How much is kept of a body that was begun, and in how many pieces, so that it can be sent again.
/// A server may refuse a request after its body has begun, as one that ends a connection for others
/// does; most bodies are smaller.
const KEPT_BYTES: usize = 64 * 1024;
const KEPT_PIECES: usize = 16;

/// A body that can be lent again as long as all that was taken is kept. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lending(Arc<Mutex<Slot>>);

struct Slot {
    body: Body,
    /// Who may take of it: each loan ends those before.
    loan: u64,
    /// What was taken of it.
    kept: Vec<Bytes>,
    /// More was taken than is kept.
    is_cut: bool,
    ended: bool,
}

impl Slot {
    /// Keeps what is taken, if it is not too much.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let kept = self.kept.iter().map(Bytes::len).sum::<usize>();
        match frame.data_ref() {
            Some(bytes)
                if !self.is_cut
                    && kept + bytes.len() <= KEPT_BYTES
                    && self.kept.len() < KEPT_PIECES =>
            {
                self.kept.push(bytes.clone());
            }
            _ => {
                self.is_cut = true;
                self.kept = Vec::new();
            }
        }
    }
}

impl std::fmt::Debug for Lending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lending").finish_non_exhaustive()
    }
}

impl Lending {
    pub(super) fn new(body: Body) -> Lending {
        let ended = body.is_end_stream();
        Lending(Arc::new(Mutex::new(Slot {
            body,
            loan: 0,
            kept: Vec::new(),
            is_cut: false,
            ended,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends the body, and ends all earlier loans.
    pub(super) fn lend(&self) -> Lent {
        let mut slot = self.lock();
        slot.loan += 1;
        Lent { slot: self.clone(), loan: slot.loan, given: 0, hold: None }
    }

    /// Whether all of the body can be sent, from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        !self.lock().is_cut
    }

    /// Whether the body was taken to its end.
    pub(super) fn is_ended(&self) -> bool {
        let slot = self.lock();
        slot.ended || slot.body.is_end_stream()
    }
}

/// A body on loan, for one try to send it.
pub(super) struct Lent {
    slot: Lending,
    loan: u64,
    /// How many of the kept pieces it has had.
    given: usize,
    /// What the body waits for.
    hold: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Lent {
    /// Holds the body back until the server wants it, but no longer than a second.
    pub(super) fn hold(&mut self, wanted: Arc<Notify>) {
        self.hold = Some(Box::pin(async move {
            let _ = timeout(CONTINUE_PATIENCE, wanted.notified()).await;
        }));
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let lent = self.get_mut();
        if let Some(hold) = &mut lent.hold {
            ready!(hold.as_mut().poll(cx));
            lent.hold = None;
        }
        let mut slot = lent.slot.lock();
        if slot.loan != lent.loan {
            return Poll::Ready(Some(Err(io::Error::other("sent on another connection"))));
        }
        if let Some(bytes) = slot.kept.get(lent.given) {
            lent.given += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        let frame = ready!(Pin::new(&mut slot.body).poll_frame(cx));
        match &frame {
            None => slot.ended = true,
            Some(Ok(frame)) => slot.keep(frame),
            Some(Err(_)) => slot.is_cut = true,
        }
        lent.given = slot.kept.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let slot = self.slot.lock();
        self.given >= slot.kept.len() && slot.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let slot = self.slot.lock();
        let kept = slot.kept.iter().skip(self.given).map(|bytes| bytes.len() as u64).sum::<u64>();
        let rest = slot.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

/// The body of an answer, by what the connection speaks.
#[derive(Debug)]
pub(super) enum Coming {
    Http1(Incoming),
    Http2(Received),
}

impl Coming {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PoolError>>> {
        match self {
            Coming::Http1(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| Some(frame?.map_err(PoolError::of)))
            }
            Coming::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Coming::Http1(body) => body.is_end_stream(),
            Coming::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Coming::Http1(body) => body.size_hint(),
            Coming::Http2(body) => body.size_hint(),
        }
    }
}

/// The body of an answer. It fails if the server or the connection cuts it.
#[derive(Debug)]
pub struct PoolAnswer {
    body: Coming,
    /// The connection, until the body has ended.
    place: Option<Place>,
}

impl PoolAnswer {
    pub(super) fn new(body: Coming, place: Option<Place>) -> PoolAnswer {
        let mut answer = PoolAnswer { body, place };
        if answer.body.is_end_stream() {
            answer.ended();
        }
        answer
    }

    fn ended(&mut self) {
        if let Some(place) = self.place.take() {
            place.finished();
        }
    }
}

impl HttpBody for PoolAnswer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let answer = self.get_mut();
        let frame = ready!(answer.body.poll_frame(cx));
        match frame {
            None => {
                answer.ended();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                // Nobody asks for more once it is known that there is none.
                if answer.body.is_end_stream() {
                    answer.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                answer.place = None;
                let error: Box<dyn Error + Send + Sync> = Box::new(error);
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
