//! How a server goes away: told to clients before it happens, and with time for what is under way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Body;

/// How much time a server takes to go away. The default is none: it ends at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// How long it still accepts connections while it is [going away](Phase::GoingAway), until
    /// nobody is sent to it any more.
    pub delay: Duration,
    /// How long sessions and answers may then go on. It ends sooner if all of them have.
    pub patience: Duration,
}

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// It serves, and is not ready any more: others should be asked. Kept connections of HTTP/1.1
    /// are closed with their next answer.
    GoingAway,
    /// It takes no connections and begins no sessions. Connections end with the answers that are
    /// under way on them (HTTP/2: GOAWAY). Sessions go on, and so do answers that have no end of
    /// their own, unless the service ends them ([`Sessions::until_closing`](super::Sessions)).
    Closing,
    /// Sessions are told, and end; what still goes on is cut off.
    Ended,
}

/// What tells of the phases.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    /// [`Sessions::end`](super::Sessions::end).
    pub(super) end: CancellationToken,
    pub(super) going_away: CancellationToken,
    pub(super) closing: CancellationToken,
}

impl Phases {
    pub(super) fn now(&self) -> Phase {
        if self.end.is_cancelled() {
            Phase::Ended
        } else if !self.going_away.is_cancelled() {
            // As a rule: no server closes before it goes away.
            Phase::Serving
        } else if self.closing.is_cancelled() {
            Phase::Closing
        } else {
            Phase::GoingAway
        }
    }
}

/// A body that comes to a good end once the server closes, where nothing is cut by that.
#[derive(Debug)]
pub(super) struct UntilClosing {
    body: Body,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    is_in_lines: bool,
    /// What was given so far is complete.
    is_between: bool,
}

impl UntilClosing {
    pub(super) fn wrap(body: Body, closing: CancellationToken, is_in_lines: bool) -> Body {
        let closing = Some(Box::pin(closing.cancelled_owned()));
        UntilClosing { body, closing, is_in_lines, is_between: true }.boxed_unsync()
    }

    /// Whether the server closes; wakes when it begins to.
    fn closes(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(closing) = &mut self.closing else { return true };
        let closes = closing.as_mut().poll(cx).is_ready();
        if closes {
            self.closing = None;
        }
        closes
    }
}

impl http_body::Body for UntilClosing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let until = self.get_mut();
        let frame = Pin::new(&mut until.body).poll_frame(cx);
        if frame.is_pending() {
            let ends = until.closes(cx) && until.is_between;
            return if ends { Poll::Ready(None) } else { Poll::Pending };
        }
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(last) = frame.data_ref().and_then(|data| data.last())
        {
            until.is_between = !until.is_in_lines || *last == b'\n';
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Nothing is promised: it may end before the body does.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
