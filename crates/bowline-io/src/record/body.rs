//! A session that is the body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::{End, Running};
use crate::serve::{Body, LongAnswer};

impl Running {
    /// The body of an answer that is a session: it ends with it, or with the server's `end`, and
    /// holds its place for as long.
    pub fn body(self, body: Body, place: LongAnswer, end: CancellationToken) -> Body {
        Watched { body, running: self, end, _place: place }.boxed_unsync()
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
