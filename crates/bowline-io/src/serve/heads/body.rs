//! Gives the HTTP library the body of a request, a piece whenever it asks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::{HEAD_PATIENCE, Heads, IDLE_PATIENCE, State};

/// How much of a body the library gets at once: less than what makes it ask for more than 64 KiB.
const BODY_BYTES: usize = 60 * 1024;

impl Heads {
    /// Gives the library a piece of the body, or ends it where the client has.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let State::Body(framing) = &mut self.state else { return Poll::Ready(Ok(())) };
            framing.take(&mut self.read, buffer)?;
            let (is_over, data) = (framing.is_over(), framing.data());
            if is_over {
                self.state = State::Answering;
                self.since = None;
                self.next_if_over();
            }
            if is_over || buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let read = match usize::try_from(data).unwrap_or(usize::MAX) {
                0 => self.poll_piece(cx),
                data => self.poll_data(cx, buffer, data),
            };
            if read?.is_pending() {
                let is_authenticated = self.registered.is_authenticated();
                let patience = if is_authenticated { IDLE_PATIENCE } else { HEAD_PATIENCE };
                ready!(self.poll_patience(cx, patience));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            if !self.is_write_blocked {
                self.since = None;
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads bytes of the body, at most so many, without holding them here.
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        bytes: usize,
    ) -> Poll<io::Result<()>> {
        let most = bytes.min(BODY_BYTES).min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        let count = piece.filled().len();
        buffer.advance(count);
        self.has_ended |= count == 0;
        if let State::Body(framing) = &mut self.state {
            framing.passed(count);
        }
        Poll::Ready(Ok(()))
    }
}
