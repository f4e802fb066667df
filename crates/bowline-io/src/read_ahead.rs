//! A TCP connection that is read in big pieces while bytes flow, for TLS, which asks for one record
//! at a time.
//!
//! A system call for each record costs a third of a hop, mostly because the kernel acknowledges
//! after each. While nothing flows there is no buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::coalesced::CoalescedTcp;

/// The size of one read. A bigger one would leave the processor's cache before it is decrypted.
const AHEAD_BYTES: usize = 256 * 1024;
/// A read of fewer bytes ends a flow.
const FLOW_BYTES: usize = 16 * 1024;

/// A TCP connection that reads ahead.
#[derive(Debug)]
pub struct ReadAhead {
    tcp: CoalescedTcp,
    buffer: BytesMut,
    /// Bytes flow: the last read gave much, so there may be more.
    flows: bool,
    /// Nothing is read ahead yet.
    is_held: bool,
}

impl ReadAhead {
    /// Wraps `tcp`.
    pub fn new(tcp: TcpStream) -> ReadAhead {
        ReadAhead {
            tcp: CoalescedTcp::new(tcp),
            buffer: BytesMut::new(),
            flows: false,
            is_held: false,
        }
    }

    /// Keeps it from reading ahead until [`begin`](Self::begin), so that no client has a buffer
    /// before it is authenticated.
    #[must_use]
    pub fn held(self) -> ReadAhead {
        ReadAhead { is_held: true, ..self }
    }

    /// Lets it read ahead from now on.
    pub fn begin(&mut self) {
        self.is_held = false;
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        self.tcp.tcp()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.buffer.reserve(AHEAD_BYTES);
        let tcp = Pin::new(&mut self.tcp);
        let read = tokio_util::io::poll_read_buf(tcp, cx, &mut self.buffer);
        self.flows = matches!(read, Poll::Ready(Ok(FLOW_BYTES..)));
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        read.map_ok(|_| ())
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ahead = self.get_mut();
        if ahead.buffer.is_empty() && !ahead.flows {
            let before = buffer.remaining();
            ready!(Pin::new(&mut ahead.tcp).poll_read(cx, buffer))?;
            let is_flow = before >= FLOW_BYTES && buffer.remaining() == 0;
            ahead.flows = is_flow && !ahead.is_held;
            return Poll::Ready(Ok(()));
        }
        if ahead.buffer.is_empty() {
            ready!(ahead.poll_fill(cx))?;
        }
        let length = ahead.buffer.len().min(buffer.remaining());
        buffer.put_slice(&ahead.buffer[..length]);
        ahead.buffer.advance(length);
        if ahead.buffer.is_empty() && !ahead.flows {
            ahead.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Lengths in the order in which TLS asks: for little, for a record, for little again.
    const ASKED: [usize; 4] = [5, 16 * 1024, 16 * 1024, 100];

    #[tokio::test]
    async fn all_bytes_come_in_order_and_no_buffer_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
        let sending = sent.clone();
        let sender = tokio::spawn(async move { peer.write_all(&sending).await });
        let mut ahead = ReadAhead::new(tcp);
        let (mut found, mut asked) = (Vec::new(), ASKED.iter().cycle());
        loop {
            let mut piece = vec![0; *asked.next().unwrap()];
            let length = ahead.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            found.extend_from_slice(&piece[..length]);
        }
        assert!(found == sent);
        assert_eq!(ahead.buffer.capacity(), 0);
        sender.await.unwrap().unwrap();
    }
}
