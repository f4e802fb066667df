//! Reads as much as there is, into buffers that grow and shrink with it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_proto::limits::READ_BYTES;
use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// The size of the first read of an idle source, which goes to the stack: an idle session owns no
/// buffer.
const PROBE_BYTES: usize = 2 * 1024;
/// The smallest buffer once bytes flow.
const SMALLEST_BYTES: usize = 16 * 1024;
/// The largest buffer that is not kept while nothing comes. It costs little to allocate, and a
/// forward would have one for each of its connections.
const SMALL_BYTES: usize = 64 * 1024;
/// From how many small reads in a row on the reads become smaller. The end of something long is
/// small as well, and what follows may be as long again.
const SMALL_READS: u8 = 4;

/// The buffer of any source: it makes big reads while bytes flow, and holds no memory while none
/// do. The bytes that it gives keep alive at most twice as much memory.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    buffer: BytesMut,
    /// The buffer's size when it was allocated; parts of it may have been given since.
    made: usize,
    /// How much the next read takes at most; 0 while idle.
    read_size: usize,
    /// How many reads in a row were much smaller than they could have been.
    small_reads: u8,
    /// An error that came behind bytes, which were given first. The system would not tell it again,
    /// but report a good end.
    late_error: Option<io::Error>,
}

impl ReadBuffer {
    /// Reads until the buffer is full or nothing is left, so that the driver handles as many bytes
    /// as possible at once. Empty bytes are the end.
    ///
    /// # Errors
    /// If a read fails. Bytes that were read before are given first.
    pub fn poll<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
    ) -> Poll<io::Result<BytesMut>> {
        self.poll_some(cx, source, READ_BYTES)
    }

    /// As [`poll`](Self::poll), for at most `most` bytes.
    ///
    /// # Errors
    /// If a read fails. Bytes that were read before are given first.
    pub fn poll_some<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut R,
        most: usize,
    ) -> Poll<io::Result<BytesMut>> {
        if let Some(error) = self.late_error.take() {
            return Poll::Ready(Err(error));
        }
        if self.read_size == 0 {
            let mut probe = [MaybeUninit::uninit(); PROBE_BYTES];
            let mut probe = ReadBuf::uninit(&mut probe[..PROBE_BYTES.min(most)]);
            ready!(Pin::new(&mut *source).poll_read(cx, &mut probe))?;
            if probe.filled().len() == PROBE_BYTES {
                self.read_size = SMALLEST_BYTES;
            }
            return Poll::Ready(Ok(BytesMut::from(probe.filled())));
        }
        self.read_size = self.read_size.min(most.max(SMALLEST_BYTES));
        let most = self.read_size.min(most);
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
                    self.late_error = Some(error);
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

    /// Makes room for `most` bytes: in the buffer, if nobody has a part of it any more and it is
    /// not much too big, or in a new one.
    fn make_room(&mut self, most: usize) {
        let fits = self.made >= most && self.made / 2 <= most;
        if !fits || self.buffer.capacity() < most && !self.buffer.try_reclaim(most) {
            self.buffer = BytesMut::with_capacity(most);
            self.made = most;
        }
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.read_size {
            self.read_size = (self.read_size * 2).min(READ_BYTES);
        }
        let is_small = read < self.read_size / 4;
        self.small_reads = if is_small { self.small_reads.saturating_add(1) } else { 0 };
        if self.small_reads >= SMALL_READS {
            self.read_size /= 2;
        }
        if self.read_size < SMALLEST_BYTES {
            self.read_size = 0;
            self.buffer = BytesMut::new();
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Linux tells of a reset once; the next read finds a good end.
    #[tokio::test]
    async fn a_reset_behind_bytes_stays_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut read_buffer = ReadBuffer { read_size: SMALLEST_BYTES, ..ReadBuffer::default() };
        // More than one read, so that the reset is met behind the last one's bytes.
        peer.write_all(&[7; 2000]).await.unwrap();
        stream.readable().await.unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let mut bytes = 0;
        let error = loop {
            match poll_fn(|cx| read_buffer.poll(cx, &mut stream)).await {
                Ok(read) if read.is_empty() => panic!("a good end after {bytes} bytes"),
                Ok(read) => bytes += read.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(bytes, 2000);
    }

    /// Messages of one length, each with something small behind it: each is read at once.
    #[tokio::test]
    async fn the_end_of_something_long_does_not_make_the_next_read_short() {
        let (mut peer, mut stream) = tokio::io::duplex(1024 * 1024);
        let mut read_buffer = ReadBuffer::default();
        let mut reads = Vec::new();
        for _ in 0..10 {
            for length in [140_000, 30] {
                peer.write_all(&vec![7; length]).await.unwrap();
                let (mut left, mut count) = (length, 0);
                while left > 0 {
                    left -= poll_fn(|cx| read_buffer.poll(cx, &mut stream)).await.unwrap().len();
                    count += 1;
                }
                reads.push(count);
            }
        }
        assert_eq!(reads[10..], [1; 10]);
        // Where little comes, little is held.
        for _ in 0..20 {
            peer.write_all(&[7]).await.unwrap();
            poll_fn(|cx| read_buffer.poll(cx, &mut stream)).await.unwrap();
        }
        assert_eq!(read_buffer.read_size, 0);
        assert_eq!(read_buffer.buffer.capacity(), 0);
    }
}
