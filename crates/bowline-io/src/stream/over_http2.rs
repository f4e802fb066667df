//! One stream of a connection of HTTP/2, after it was upgraded, as a connection of its own.
//!
//! The HTTP library has a task that writes for it, and takes the end of this one for a good end of
//! what is written. A reset needs that task to be dropped, so whoever runs it watches a
//! [`Lifeline`].

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// How much is given to the library at once. It holds three such pieces.
const PIECE_BYTES: usize = 16 * 1024;

type Io = TokioIo<Upgraded>;

/// What a stream and the task that writes for it share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lifeline(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The stream is to be reset.
    cut: CancellationToken,
    /// What was read and written by, until it is reset: its end would be taken for a good one.
    cut_io: Mutex<Option<Io>>,
    /// The task has ended.
    is_over: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

impl Lifeline {
    /// Runs the task that writes, until it ends or the stream is to be reset.
    pub(crate) async fn run(self, writing: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.0.cut.cancelled() => {}
            () = writing => {}
        }
        self.0.is_over.store(true, Ordering::Release);
        drop(self.take_io());
    }

    fn cut(&self, io: Option<Io>) {
        *self.0.cut_io.lock().unwrap_or_else(PoisonError::into_inner) = io;
        self.0.cut.cancel();
        if self.is_over() {
            drop(self.take_io());
        }
    }

    fn take_io(&self) -> Option<Io> {
        self.0.cut_io.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }
}

/// A stream of HTTP/2 that carries bytes.
pub(crate) struct OverHttp2 {
    /// There until it is dropped.
    io: Option<Io>,
    lifeline: Lifeline,
    is_shut: bool,
    resets: AtomicBool,
    /// Counts as long as the stream is there.
    _held: Arc<dyn Send + Sync>,
}

impl fmt::Debug for OverHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverHttp2").field("lifeline", &self.lifeline).finish_non_exhaustive()
    }
}

impl OverHttp2 {
    /// A stream whose writing task `lifeline` runs. It holds `held` as long as it is there.
    pub(crate) fn new(
        upgraded: Upgraded,
        lifeline: Lifeline,
        held: Arc<dyn Send + Sync>,
    ) -> OverHttp2 {
        let io = Some(TokioIo::new(upgraded));
        OverHttp2 { io, lifeline, is_shut: false, resets: AtomicBool::new(false), _held: held }
    }

    /// Whether the peer has reset the stream, or the connection has ended. That it has ended its
    /// direction is known only to those who read.
    pub(super) fn is_peer_gone(&self) -> bool {
        self.lifeline.is_over() && !self.is_shut
    }

    pub(super) fn reset_on_drop(&self) {
        self.resets.store(true, Ordering::Relaxed);
    }

    fn io(&mut self) -> io::Result<Pin<&mut Io>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for OverHttp2 {
    fn drop(&mut self) {
        if *self.resets.get_mut() {
            self.lifeline.cut(self.io.take());
        }
    }
}

impl AsyncRead for OverHttp2 {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buffer.filled().len();
        ready!(stream.io()?.poll_read(cx, buffer))?;
        // The library takes a reset by the peer for a good end.
        if buffer.filled().len() == before && buffer.remaining() > 0 && stream.is_peer_gone() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OverHttp2 {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().io()?.poll_write(cx, &bytes[..bytes.len().min(PIECE_BYTES)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.is_shut = true;
        stream.io()?.poll_shutdown(cx)
    }
}
