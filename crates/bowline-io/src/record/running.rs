//! A session that runs, to its end as a value.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_proto::Time;
use bowline_proto::relay::Tap;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::{End, Ended, Hook, Record, Traffic};
use crate::clock::Clock;
use crate::serve::{Body, LongAnswer};

/// A session that has begun. Dropped without an end, it was given up, and its hooks are told so.
#[derive(Debug)]
pub struct Running {
    /// Taken at its end.
    open: Option<Box<Open>>,
    clock: Clock,
    traffic: Option<Traffic>,
}

#[derive(Debug)]
struct Open {
    record: Record,
    hooks: Vec<Box<dyn Hook>>,
}

impl Running {
    pub(super) fn new(record: Record, hooks: Vec<Box<dyn Hook>>) -> Running {
        let mut open = Box::new(Open { record, hooks });
        let Open { record, hooks } = &mut *open;
        hooks.iter_mut().for_each(|hook| hook.begun(record));
        Running { open: Some(open), clock: Clock::start(), traffic: None }
    }

    /// What looks at the events of this session; none where nobody wants to.
    pub fn tap(&mut self) -> Option<Box<dyn Tap + Send>> {
        let hooks = &mut self.open.as_mut()?.hooks;
        let mut taps: Vec<_> = hooks.iter_mut().filter_map(|hook| hook.tap()).collect();
        if taps.len() < 2 { taps.pop() } else { Some(Box::new(taps)) }
    }

    /// Says that it has ended, and how; with its bytes where they were counted.
    pub fn end(mut self, end: End, traffic: Option<Traffic>) -> Option<Ended> {
        self.traffic = traffic;
        self.close(end)
    }

    /// The body of an answer that is a session: it ends with it, or with the server's `end`, and
    /// holds its place for as long.
    pub fn body(self, body: Body, place: LongAnswer, end: CancellationToken) -> Body {
        Watched { body, running: self, end, _place: place }.boxed_unsync()
    }

    /// The first end counts.
    fn close(&mut self, end: End) -> Option<Ended> {
        let Open { record, hooks } = *self.open.take()?;
        let lasted = self.clock.now().since(Time::ZERO);
        let ended = Ended { record, end, traffic: self.traffic, lasted };
        hooks.into_iter().for_each(|hook| hook.ended(&ended));
        Some(ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close(End::Lost("it was given up".into()));
    }
}

struct Watched {
    body: Body,
    running: Running,
    end: CancellationToken,
    _place: LongAnswer,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let watched = self.get_mut();
        let frame = ready!(Pin::new(&mut watched.body).poll_frame(cx));
        match &frame {
            None => drop(watched.running.close(End::Over)),
            Some(Err(error)) => {
                watched.running.close(End::Lost(error.to_string()));
            }
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                watched.running.traffic.get_or_insert_default().count(false, bytes);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // An end that was known before anybody asked for it is an end.
        let end = if self.body.is_end_stream() {
            End::Over
        } else if self.end.is_cancelled() {
            End::Shutdown
        } else {
            End::ClientGone("it read no more".into())
        };
        self.running.close(end);
    }
}
