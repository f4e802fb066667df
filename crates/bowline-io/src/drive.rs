//! The one place where bytes move between a socket and a machine.
//! Above: the roles' session loops. Below: [`Stream`](crate::stream::Stream),
//! `bowline_proto::Outbox`.
//!
//! A role's loop owns its sockets and its machine and waits in one `poll_fn` for whatever comes
//! first. Nothing here spawns, and no byte passes through a channel.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_proto::limits::READ_BYTES;
use bowline_proto::{Outbox, Queue, Time};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio::time::Sleep;

use crate::clock::Clock;
use crate::stream::Connection;

/// What an idle socket is read into: an idle session owns no buffer.
const PROBE_BYTES: usize = 2 * 1024;
/// The smallest buffer once bytes flow.
const SMALLEST_BYTES: usize = 16 * 1024;
/// A buffer that is not larger costs little to get, and is not kept while nothing comes: a forward
/// has one for each of its connections.
const SMALL_BYTES: usize = 64 * 1024;
/// Slices in one gathered write (Linux takes up to 1024).
const SLICES: usize = 64;

/// After so much at once, others have their turn.
const MUCH_BYTES: usize = 128 * 1024;

/// Lets other tasks run if a loop has just moved much: tokio counts reads, not what they bring.
pub async fn take_turns(moved: usize) {
    if moved >= MUCH_BYTES {
        yield_now().await;
    }
}

/// Something happened at a socket.
#[derive(Debug)]
pub enum Moment {
    /// These bytes came.
    Read(BytesMut),
    /// Nothing more will come: the peer ended its direction, or the connection broke.
    Ended(Option<io::Error>),
    /// Some of the outbox was taken.
    Wrote,
}

/// A socket and what its driver has to remember about it.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    early: BytesMut,
    intake: Intake,
    read_ended: bool,
    write_ended: bool,
    needs_flush: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Drives `stream`, beginning with bytes of the peer that were read before (`early`).
    pub fn new(stream: S, early: BytesMut) -> Socket<S> {
        Socket {
            stream,
            // It is in a buffer of the handshake's.
            early: BytesMut::from(&early[..]),
            intake: Intake::default(),
            read_ended: false,
            write_ended: false,
            needs_flush: false,
        }
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
    ) -> Poll<Moment> {
        let wrote = match self.poll_write(cx, outbox) {
            Ok(wrote) => wrote,
            // The host is gone, and will not say so.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Poll::Ready(self.broken(outbox, error));
            }
            // The peer takes nothing more. What it said before may still wait to be read, the
            // Status above all: only the reading side ends a connection.
            Err(_) => {
                self.write_ended = true;
                outbox.discard();
                return Poll::Ready(Moment::Wrote);
            }
        };
        // Writing never keeps us from reading: with an owner that always has more to write, it
        // would for ever.
        if wants_read && !self.read_ended {
            if !self.early.is_empty() {
                return Poll::Ready(Moment::Read(self.early.split()));
            }
            match self.intake.poll(cx, &mut self.stream) {
                Poll::Pending => {}
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                    self.read_ended = true;
                    return Poll::Ready(Moment::Ended(None));
                }
                Poll::Ready(Ok(bytes)) => return Poll::Ready(Moment::Read(bytes)),
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(outbox, error)),
            }
        }
        if wrote { Poll::Ready(Moment::Wrote) } else { Poll::Pending }
    }

    fn broken(&mut self, outbox: &mut Outbox, error: io::Error) -> Moment {
        (self.read_ended, self.write_ended) = (true, true);
        outbox.discard();
        Moment::Ended(Some(error))
    }

    /// Whether anything was taken. The driver polls again before it waits, so a partial write needs
    /// no loop of its own beyond this one.
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
            // An error here means that the peer is gone already; the read side will say so.
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
                self.write_ended = true;
                took = true;
            }
        }
        Ok(took)
    }
}

/// The reading half of anything: big reads while bytes flow, no buffer while none do. What it gives
/// keeps at most twice as much memory alive as it holds.
#[derive(Debug, Default)]
pub struct Intake {
    buffer: BytesMut,
    /// What the buffer was made for. What was read before may be in a part of it.
    made: usize,
    /// How much the next read takes at most; 0 while idle.
    appetite: usize,
    /// It broke behind bytes that were given. The system says that once, and then that all ended
    /// well.
    fault: Option<io::Error>,
}

impl Intake {
    /// Reads until the buffer is full or nothing is left, so that one round of the driver serves
    /// as many bytes as possible. Empty bytes are the end.
    pub fn poll<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
    ) -> Poll<io::Result<BytesMut>> {
        self.poll_some(cx, source, READ_BYTES)
    }

    /// The same, but gives at most `most` bytes at once.
    pub fn poll_some<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        most: usize,
    ) -> Poll<io::Result<BytesMut>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Err(fault));
        }
        if self.appetite == 0 {
            let mut probe = [0; PROBE_BYTES];
            let mut probe = ReadBuf::new(&mut probe[..PROBE_BYTES.min(most)]);
            ready!(Pin::new(&mut *source).poll_read(cx, &mut probe))?;
            if probe.filled().len() == PROBE_BYTES {
                self.appetite = SMALLEST_BYTES;
            }
            return Poll::Ready(Ok(BytesMut::from(probe.filled())));
        }
        self.appetite = self.appetite.min(most.max(SMALLEST_BYTES));
        let most = self.appetite.min(most);
        self.make_room(most);
        let mut ended = false;
        while self.buffer.len() < most {
            match read_some(Pin::new(&mut *source), cx, &mut self.buffer, most) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    ended = true;
                    break;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if self.buffer.is_empty() => {
                    return Poll::Ready(Err(error));
                }
                // What was read before the fault still counts.
                Poll::Ready(Err(error)) => {
                    self.fault = Some(error);
                    break;
                }
            }
        }
        if self.buffer.is_empty() && !ended {
            if self.made <= SMALL_BYTES {
                self.buffer = BytesMut::new();
            }
            return Poll::Pending;
        }
        let bytes = if self.buffer.len() < self.made / 2 {
            let bytes = BytesMut::from(&self.buffer[..]);
            self.buffer.clear();
            bytes
        } else {
            self.buffer.split()
        };
        self.adapt(bytes.len());
        Poll::Ready(Ok(bytes))
    }

    /// A buffer that nobody else has a part of any more is used again, unless it is too big by now.
    fn make_room(&mut self, most: usize) {
        let fits = self.made >= most && self.made / 2 <= most;
        if !fits || self.buffer.capacity() < most && !self.buffer.try_reclaim(most) {
            self.buffer = BytesMut::with_capacity(most);
            self.made = most;
        }
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.appetite {
            self.appetite = (self.appetite * 2).min(READ_BYTES);
        } else if read < self.appetite / 4 {
            self.appetite /= 2;
        }
        if self.appetite < SMALLEST_BYTES {
            self.appetite = 0;
            self.buffer = BytesMut::new();
        }
    }
}

impl<S: Connection> Socket<S> {
    /// See [`Connection::is_peer_gone`].
    pub fn is_peer_gone(&self) -> bool {
        self.stream.is_peer_gone()
    }

    /// Tells an outbox that was written to its end whether the peer's host has all of it. A
    /// connection that is closed before that loses the rest once the peer says another word; and no
    /// event comes when it has.
    pub fn look_after(&self, outbox: &mut Outbox) {
        if outbox.is_finishing() && outbox.is_empty() {
            outbox.set_underway(self.stream.unacknowledged());
        }
    }
}

fn read_some<S: AsyncRead>(
    stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    limit: usize,
) -> Poll<io::Result<usize>> {
    let room = limit.saturating_sub(buffer.len());
    let mut limited = bytes::BufMut::limit(buffer, room);
    tokio_util::io::poll_read_buf(stream, cx, &mut limited)
}

fn write_some<'a, S: AsyncWrite>(
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

/// A deadline that a loop can poll beside its sockets.
#[derive(Debug, Default)]
pub struct Alarm {
    set: Option<(Time, Pin<Box<Sleep>>)>,
}

impl Alarm {
    /// Rings at `deadline`, or never.
    pub fn set(&mut self, clock: &Clock, deadline: Option<Time>) {
        match (&mut self.set, deadline) {
            (Some((at, _)), Some(deadline)) if *at == deadline => {}
            (Some((at, sleep)), Some(deadline)) => {
                *at = deadline;
                sleep.as_mut().reset(clock.instant(deadline));
            }
            (set, Some(deadline)) => {
                let sleep = tokio::time::sleep_until(clock.instant(deadline));
                *set = Some((deadline, Box::pin(sleep)));
            }
            (set, None) => *set = None,
        }
    }

    /// Ready once the deadline has come.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, sleep)) = &mut self.set else { return Poll::Pending };
        ready!(sleep.as_mut().poll(cx));
        self.set = None;
        Poll::Ready(())
    }
}

/// A queue of bytes on their way into a pipe, a port or a terminal. Its owner bounds it by
/// [`len`](Self::len).
#[derive(Debug, Default)]
pub struct Inflow {
    waiting: Queue,
    ended: bool,
}

impl Inflow {
    /// What is queued from now on is cut from a read of so many bytes. See [`Queue::round`].
    pub fn round(&mut self, read: usize) {
        self.waiting.round(read);
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

    /// Copies what waits, once. See [`Queue::own`].
    pub fn own(&mut self) {
        self.waiting.own();
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Linux tells of a reset once; the next read finds a good end.
    #[tokio::test]
    async fn a_reset_behind_bytes_stays_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut intake = Intake { appetite: SMALLEST_BYTES, ..Intake::default() };
        // More than one read, so that the reset is met behind the last one's bytes.
        peer.write_all(&[7; 2000]).await.unwrap();
        stream.readable().await.unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let mut bytes = 0;
        let error = loop {
            match poll_fn(|cx| intake.poll(cx, &mut stream)).await {
                Ok(read) if read.is_empty() => panic!("a good end after {bytes} bytes"),
                Ok(read) => bytes += read.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(bytes, 2000);
    }

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
        let moment = poll_fn(|cx| socket.poll(cx, &mut outbox, false)).await;
        assert!(matches!(moment, Moment::Wrote), "{moment:?}");
        // One byte is read so that the rest is known to be there, and stays unread.
        assert_eq!(peer.read_u8().await.unwrap(), b'i');
        peer.write_all(b"status").await.unwrap();
        drop(peer);
        let mut words = Vec::new();
        loop {
            outbox.frame(b"more input", Bytes::new());
            match poll_fn(|cx| socket.poll(cx, &mut outbox, true)).await {
                Moment::Read(bytes) => words.extend_from_slice(&bytes),
                Moment::Wrote => {}
                Moment::Ended(_) => break,
            }
        }
        assert_eq!(words, b"status");
        assert!(outbox.is_empty() || socket.write_ended);
    }
}
