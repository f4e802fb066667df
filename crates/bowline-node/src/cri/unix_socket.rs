//! A Unix socket that is woken by what it waits for alone.
//!
//! Linux tells the owner of a Unix socket that there is room whenever its peer has read something,
//! also if there was room before. So a socket that waits for both, as tokio's does, is woken a few
//! times for each call that passes, for nothing. This one waits for room only after a write that
//! has found none.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bowline_io::coalesced::read_now;
use bowline_io::stream::{Connection, is_peer_gone};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use crate::async_fd::register_for;

/// A connection to a Unix socket.
#[derive(Debug)]
pub(super) struct UnixSocket {
    socket: AsyncFd<OwnedFd>,
    /// While a write waits: the same socket, which is waited for until it has room.
    room: Option<AsyncFd<OwnedFd>>,
}

impl UnixSocket {
    /// Takes over a connection.
    pub(super) fn new(stream: UnixStream) -> io::Result<UnixSocket> {
        let socket = OwnedFd::from(stream.into_std()?);
        Ok(UnixSocket { socket: register_for(socket, Interest::READABLE)?, room: None })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

impl AsyncRead for UnixSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let wanted = buffer.remaining();
            match read_now(self.fd(), buffer) {
                Ok(read) => {
                    // Less than there was room for: the next bytes will be told anew.
                    if (1..wanted).contains(&read) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for UnixSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let UnixSocket { socket, room } = self.get_mut();
        loop {
            let mut ready = match room {
                Some(room) => Some(ready!(room.poll_write_ready(cx))?),
                None => None,
            };
            match rustix::io::writev(socket.get_ref(), slices) {
                Ok(written) => {
                    *room = None;
                    return Poll::Ready(Ok(written));
                }
                Err(Errno::AGAIN) => match &mut ready {
                    Some(ready) => ready.clear_ready(),
                    // A descriptor of its own: the runtime waits for each but once.
                    None => {
                        let same = socket.get_ref().try_clone()?;
                        *room = Some(register_for(same, Interest::WRITABLE)?);
                    }
                },
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.fd(), Shutdown::Write).map_err(io::Error::from))
    }
}

/// Within one host what is written has arrived, and is read also after the connection was closed.
/// There are no resets: an end is all that a peer can see.
impl Connection for UnixSocket {
    fn is_peer_gone(&self) -> bool {
        is_peer_gone(&self.fd())
    }

    fn unacknowledged(&self) -> usize {
        0
    }

    fn reset_on_drop(&self) {}
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than a socket has room for.
    const MUCH_BYTES: usize = 4_000_000;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pair() -> (UnixSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (UnixSocket::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn what_has_no_room_is_written_once_the_peer_reads_and_so_is_the_end() {
        let (mut ours, theirs) = pair();
        let (mut from, mut to) = theirs.into_split();
        let sent: Vec<u8> = (0..MUCH_BYTES).map(|number| (number / 7) as u8).collect();
        let write = async {
            ours.write_all(&sent).await.unwrap();
            assert!(ours.room.is_none());
            ours.shutdown().await.unwrap();
            // The other direction is open.
            let mut answer = Vec::new();
            ours.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let read = async {
            let mut all = Vec::new();
            from.read_to_end(&mut all).await.unwrap();
            to.write_all(b"answer").await.unwrap();
            drop(to);
            all
        };
        let (answer, all) = tokio::join!(write, read);
        assert!(all == sent);
        assert_eq!(answer, b"answer");
    }

    #[tokio::test]
    async fn a_write_that_waits_fails_once_the_peer_is_gone() {
        let (mut ours, theirs) = pair();
        let write = async { ours.write_all(&vec![0; MUCH_BYTES]).await.unwrap_err() };
        let gone = async {
            theirs.readable().await.unwrap();
            drop(theirs);
        };
        let (error, ()) = tokio::join!(write, gone);
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(ours.is_peer_gone());
    }

    /// A peer that reads is nothing to whoever waits to read.
    #[tokio::test]
    async fn a_peer_that_reads_wakes_nobody() {
        let (mut ours, mut theirs) = pair();
        let counted = Arc::new(Counted::default());
        let waker = Waker::from(counted.clone());
        let is_waiting = |ours: &mut UnixSocket| {
            let mut bytes = [0; 16];
            let mut buffer = ReadBuf::new(&mut bytes);
            let mut cx = Context::from_waker(&waker);
            Pin::new(ours).poll_read(&mut cx, &mut buffer).is_pending()
        };
        assert!(is_waiting(&mut ours));
        ours.write_all(b"call").await.unwrap();
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        // Both are told by the same look at the kernel, so that what is not told now never is.
        let (mut other, mut sign) = pair();
        sign.write_all(b"x").await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), b'x');
        assert_eq!(counted.0.load(Ordering::SeqCst), 0);
        theirs.write_all(b"answer").await.unwrap();
        poll_fn(|cx| {
            if counted.0.load(Ordering::SeqCst) > 0 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        assert!(!is_waiting(&mut ours));
    }
}
