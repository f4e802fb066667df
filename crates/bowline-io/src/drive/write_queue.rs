//! Bytes that wait for a pipe, a local socket or a terminal, and gathered writes of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bowline_proto::Queue;
use bytes::Bytes;
use tokio::io::AsyncWrite;

/// The most slices in one gathered write (Linux takes up to 1024).
const SLICES: usize = 64;

/// A queue of bytes that wait to be written into a pipe, a local socket or a terminal. It has no
/// bound of its own: its owner has to heed [`len`](Self::len).
#[derive(Debug, Default)]
pub struct WriteQueue {
    waiting: Queue,
    ended: bool,
}

impl WriteQueue {
    /// Says that what is queued from now on is cut from a new read, of `read` bytes. See
    /// [`Queue::begin_read`].
    pub fn begin_read(&mut self, read: usize) {
        self.waiting.begin_read(read);
    }

    /// Queues bytes, unless the queue was ended.
    pub fn push(&mut self, bytes: Bytes) {
        if !self.ended {
            self.waiting.push(&[], bytes);
        }
    }

    /// Takes out some of the first bytes, at most `most` of them.
    pub fn pop(&mut self, most: usize) -> Option<Bytes> {
        let first = self.waiting.chunks().next()?;
        let first = first.len().min(most);
        self.waiting.take(first).pop()
    }

    /// Says that nothing follows what was queued.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Drops what waits.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// Copies what waits and could keep alive much more than itself. See [`Queue::compact`].
    pub fn compact(&mut self) {
        self.waiting.compact();
    }

    /// Whether [`end`](Self::end) was called.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The last of the bytes that wait.
    pub fn last_byte(&self) -> Option<u8> {
        self.waiting.last()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the queue was ended and everything was taken.
    pub fn is_over(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// Writes as much as `sink` takes. Ready with the number of bytes that it took, which is not 0;
    /// pending if it is full, or if nothing waits.
    pub fn poll_into<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut W,
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while !self.waiting.is_empty() {
            match write_some(Pin::new(&mut *sink), cx, self.waiting.chunks()) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.waiting.advance(written);
                    taken += written;
                }
            }
        }
        if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
    }
}

pub(super) fn write_some<'a, S: AsyncWrite>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    mut chunks: impl Iterator<Item = &'a [u8]>,
) -> Poll<io::Result<usize>> {
    let first = chunks.next().unwrap_or_default();
    let Some(second) = chunks.next() else { return stream.poll_write(cx, first) };
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip([first, second].into_iter().chain(chunks)) {
        *slice = IoSlice::new(chunk);
        count += 1;
    }
    stream.poll_write_vectored(cx, &slices[..count])
}
