//! A socket that is written and read in one poll.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bowline_proto::Outbox;
use bowline_proto::limits::READ_BYTES;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::read_buffer::ReadBuffer;
use super::write_queue::write_some;
use crate::stream::Connection;

/// What happened at a [`Socket`].
#[derive(Debug)]
pub enum SocketEvent {
    /// These bytes came.
    Read(BytesMut),
    /// Nothing more will come: the peer ended its direction, or the connection broke with this
    /// error.
    Ended(Option<io::Error>),
    /// The outbox has changed: some of it was written, or all of it dropped.
    Wrote,
}

/// A socket, and what its driver has to know of it.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    early: BytesMut,
    read_buffer: ReadBuffer,
    /// The most that is read at once.
    read_bytes: usize,
    read_ended: bool,
    write_ended: bool,
    needs_flush: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Drives `stream`. `early` are bytes of the peer that were read before; they come first.
    pub fn new(stream: S, early: BytesMut) -> Socket<S> {
        Socket {
            stream,
            // A copy, so that the handshake's buffer is freed.
            early: BytesMut::from(&early[..]),
            read_buffer: ReadBuffer::default(),
            read_bytes: READ_BYTES,
            read_ended: false,
            write_ended: false,
            needs_flush: false,
        }
    }

    /// Reads at most so many bytes at once.
    #[must_use]
    pub fn reading_at_most(mut self, bytes: usize) -> Socket<S> {
        self.read_bytes = bytes;
        self
    }

    /// The stream itself.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Writes what waits in `outbox`, and reads if `wants_read`. Pending means that neither can go
    /// on now.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &mut Outbox,
        wants_read: bool,
    ) -> Poll<SocketEvent> {
        let wrote = match self.poll_write(cx, outbox) {
            Ok(wrote) => wrote,
            // The host is gone, so that no end will be read either.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Poll::Ready(self.broken(outbox, error));
            }
            // The peer takes nothing more. What it sent before may still wait to be read, the
            // Status above all: only the reading side ends a connection.
            Err(_) => {
                self.write_ended = true;
                outbox.discard();
                return Poll::Ready(SocketEvent::Wrote);
            }
        };
        // Reading goes on after a write: an owner that always has more to write would never read.
        if wants_read && !self.read_ended {
            if !self.early.is_empty() {
                return Poll::Ready(SocketEvent::Read(self.early.split()));
            }
            match self.read_buffer.poll_some(cx, &mut self.stream, self.read_bytes) {
                Poll::Pending => {}
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                    self.read_ended = true;
                    return Poll::Ready(SocketEvent::Ended(None));
                }
                Poll::Ready(Ok(bytes)) => return Poll::Ready(SocketEvent::Read(bytes)),
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(outbox, error)),
            }
        }
        if wrote { Poll::Ready(SocketEvent::Wrote) } else { Poll::Pending }
    }

    fn broken(&mut self, outbox: &mut Outbox, error: io::Error) -> SocketEvent {
        (self.read_ended, self.write_ended) = (true, true);
        outbox.discard();
        SocketEvent::Ended(Some(error))
    }

    /// Writes what the socket takes; true if the outbox has changed, or its direction has ended.
    fn poll_write(&mut self, cx: &mut Context<'_>, outbox: &mut Outbox) -> io::Result<bool> {
        if self.write_ended {
            outbox.discard();
            return Ok(false);
        }
        let mut took = false;
        while !outbox.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let Poll::Ready(written) = write_some(stream, cx, outbox.chunks()) else { break };
            let written = written?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            outbox.advance(written);
            (took, self.needs_flush) = (true, true);
        }
        if self.needs_flush && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.needs_flush = false;
        }
        if outbox.is_empty() && outbox.is_finishing() && !self.needs_flush {
            // An error means that the peer is gone already, which reading will find.
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
                self.write_ended = true;
                took = true;
            }
        }
        Ok(took)
    }
}

impl<S: Connection> Socket<S> {
    /// See [`Connection::is_peer_gone`].
    pub fn is_peer_gone(&self) -> bool {
        self.stream.is_peer_gone()
    }

    /// Tells an outbox that was written to its end how much of it the peer's host has yet to get.
    /// If the connection is closed before, that is lost once the peer sends something. To be called
    /// from time to time, as no event says when the host has everything.
    pub fn update_undelivered(&self, outbox: &mut Outbox) {
        if outbox.is_finishing() && outbox.is_empty() {
            outbox.set_underway(self.stream.unacknowledged());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server whose command has ended says so and closes, with stdin unread: the kernel then
    /// resets the connection, and the next write fails before the last words are read.
    #[tokio::test]
    async fn the_last_words_of_a_peer_are_read_although_it_takes_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut socket = Socket::new(stream, BytesMut::new());
        let mut outbox = Outbox::new();
        outbox.frame(b"input", Bytes::new());
        let event = poll_fn(|cx| socket.poll(cx, &mut outbox, false)).await;
        assert!(matches!(event, SocketEvent::Wrote), "{event:?}");
        // One byte is read so that the rest is known to be there, and stays unread.
        assert_eq!(peer.read_u8().await.unwrap(), b'i');
        peer.write_all(b"status").await.unwrap();
        drop(peer);
        let mut words = Vec::new();
        loop {
            outbox.frame(b"more input", Bytes::new());
            match poll_fn(|cx| socket.poll(cx, &mut outbox, true)).await {
                SocketEvent::Read(bytes) => words.extend_from_slice(&bytes),
                SocketEvent::Wrote => {}
                SocketEvent::Ended(_) => break,
            }
        }
        assert_eq!(words, b"status");
        assert!(outbox.is_empty() || socket.write_ended);
    }
}
