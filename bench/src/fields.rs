//! SPDY as Go's library writes it: each field of a frame by itself, which becomes a write to a
//! socket of its own, or a message of its own in a tunnel (docs/protocols/port-forward.md, 2.11).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_io::stream::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a byte stream of SPDY is in its frame.
#[derive(Debug, Default)]
pub struct Fields {
    head: [u8; 8],
    have: usize,
    /// Of the payload, once the head is whole.
    left: usize,
}

impl Fields {
    /// How many of these bytes, which come next, are of the next field. Never 0 for some.
    pub fn next(&self, bytes: &[u8]) -> usize {
        match self.have {
            0..4 => bytes.len().min(4 - self.have),
            4..8 => bytes.len().min(8 - self.have),
            _ => bytes.len().min(self.left),
        }
    }

    /// These bytes were written; no more than [`next`](Self::next) says.
    pub fn wrote(&mut self, bytes: &[u8]) {
        if self.have < 8 {
            let end = self.have + bytes.len();
            self.head[self.have..end].copy_from_slice(bytes);
            self.have = end;
            if end == 8 {
                let [.., a, b, c] = self.head;
                self.left = u32::from_be_bytes([0, a, b, c]) as usize;
            }
        } else {
            self.left -= bytes.len();
        }
        if self.have == 8 && self.left == 0 {
            self.have = 0;
        }
    }
}

/// A connection that is written a field at a time.
#[derive(Debug)]
pub struct ByField<S> {
    stream: S,
    /// `None` writes as it comes.
    fields: Option<Fields>,
}

impl<S> ByField<S> {
    pub fn new(stream: S) -> ByField<S> {
        ByField { stream, fields: Some(Fields::default()) }
    }

    /// One whose fields are in messages already.
    pub fn in_messages(stream: S) -> ByField<S> {
        ByField { stream, fields: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ByField<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ByField<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(fields) = &self.fields else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        let field = &bytes[..fields.next(bytes)];
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, field))?;
        // In TLS, a write that is not flushed would be joined with the next.
        let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
        if let Some(fields) = &mut self.fields {
            fields.wrote(&field[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.fields.is_none() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connection> Connection for ByField<S> {
    fn is_peer_gone(&self) -> bool {
        self.stream.is_peer_gone()
    }

    fn unacknowledged(&self) -> usize {
        self.stream.unacknowledged()
    }

    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_frame_has_three_fields() {
        let mut fields = Fields::default();
        let mut bytes = &[0, 0, 0, 3, 0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 1, 1, 0, 0, 0][..];
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let (field, rest) = bytes.split_at(fields.next(bytes));
            fields.wrote(field);
            lengths.push(field.len());
            bytes = rest;
        }
        assert_eq!(lengths, [4, 4, 5, 4, 4]);
    }
}
