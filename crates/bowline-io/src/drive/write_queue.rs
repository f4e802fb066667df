//! Bytes that wait for a pipe, a port or a terminal, and gathered writes of what waits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bowline_proto::Queue;
use bytes::Bytes;
use tokio::io::AsyncWrite;

/// Slices in one gathered write (Linux takes up to 1024).
const SLICES: usize = 64;

/// A queue of bytes on their way into a pipe, a port or a terminal. Its owner bounds it by
/// [`len`](Self::len).
#[derive(Debug, Default)]
pub struct WriteQueue {
    waiting: Queue,
    ended: bool,
}

impl WriteQueue {
    /// What is queued from now on is cut from a read of so many bytes. See [`Queue::begin_read`].
    pub fn begin_read(&mut self, read: usize) {
        self.waiting.begin_read(read);
    }

    /// Queues bytes.
    pub fn push(&mut self, bytes: Bytes) {
        if !self.ended {
            self.waiting.push(&[], bytes);
        }
    }

    /// Takes the first of what waits, at most so many bytes.
    pub fn pop(&mut self, most: usize) -> Option<Bytes> {
        let first = self.waiting.chunks().next()?;
        let first = first.len().min(most);
        self.waiting.take(first).pop()
    }

    /// Nothing follows what was queued.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Drops what waits: nobody will take it.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// Copies what waits, once. See [`Queue::compact`].
    pub fn compact(&mut self) {
        self.waiting.compact();
    }

    /// Whether [`end`](Self::end) was said.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that wait.
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

    /// Whether everything was said and taken.
    pub fn is_over(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// Writes as much as `sink` takes. Ready with whether anything was taken: pending means that
    /// the sink is full, or that nothing waits.
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
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut count = 0;
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
        count += 1;
    }
    stream.poll_write_vectored(cx, &slices[..count])
}
