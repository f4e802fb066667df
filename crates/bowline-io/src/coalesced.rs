//! A TCP connection that is read a few hundred times a second while its peer writes in small
//! pieces, rather than once for each of them.
//!
//! Programs in Go write each field of a SPDY frame by itself. Every such write would wake whoever
//! reads, and every relay after it, for a few bytes. So a connection on which small pieces keep
//! coming, while this side sends nothing, is read again only after a pause. What may be an answer
//! to something sent is never delayed.
//!
//! The kernel would still wake the thread for each piece. `SO_RCVLOWAT` keeps it from that, and
//! makes it have room for what comes in a pause.
#![expect(unsafe_code, reason = "a socket option, and a buffer that the kernel fills")]

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::coalescing::{Coalescing, PAUSE};

/// The largest piece that is not worth waking up for.
const SMALL_BYTES: u32 = 8 * 1024;
/// How many bytes the socket has to have room for: more than come in a pause.
const MUCH_BYTES: usize = 1024 * 1024;

/// A TCP connection whose small pieces are read together.
#[derive(Debug)]
pub struct CoalescedTcp {
    tcp: TcpStream,
    coalescing: Coalescing,
    /// In a flow, until when the connection is not read.
    pause: Option<Pin<Box<Sleep>>>,
    /// The kernel has room for what comes in a pause, as far as is known.
    is_able: bool,
}

impl CoalescedTcp {
    /// Wraps `tcp`.
    pub fn new(tcp: TcpStream) -> CoalescedTcp {
        CoalescedTcp { tcp, coalescing: Coalescing::default(), pause: None, is_able: true }
    }

    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Begins to pause, where the kernel can do its part.
    fn begin(&mut self) {
        if wake_at(&self.tcp, MUCH_BYTES) {
            self.pause = Some(Box::pin(sleep(PAUSE)));
        } else {
            self.is_able = false;
            wake_at(&self.tcp, 1);
        }
    }

    /// Has the kernel wake us for every piece again.
    fn end(&mut self) {
        self.pause = None;
        self.coalescing.reset();
        wake_at(&self.tcp, 1);
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.coalescing.reset();
        }
        written
    }
}

/// Has the kernel wake us for no fewer than so many bytes, or for an end or an error; returns
/// whether it has room for so many.
#[cfg(target_os = "linux")]
fn wake_at(tcp: &TcpStream, bytes: usize) -> bool {
    use std::os::fd::AsRawFd;

    use socket2::SockRef;

    let number = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the option is an int, and the pointer is to one.
    let result = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const number).cast(),
            length,
        )
    };
    result == 0 && SockRef::from(tcp).recv_buffer_size().is_ok_and(|room| room >= bytes)
}

/// Other systems cannot do so.
#[cfg(not(target_os = "linux"))]
fn wake_at(_tcp: &TcpStream, _bytes: usize) -> bool {
    false
}

/// Reads what has come in a pause, which the kernel has not told tokio of. Returns the number of
/// bytes, where 0 is the end.
///
/// # Errors
/// If the read fails; with `AGAIN` if nothing is there.
pub fn read_now(fd: impl AsFd, buffer: &mut ReadBuf<'_>) -> Result<usize, Errno> {
    // SAFETY: nothing in it is made uninitialized: the system writes to it, and only bytes.
    let room = unsafe { buffer.unfilled_mut() };
    let (read, _) = rustix::io::read(fd, room)?;
    let length = read.len();
    // SAFETY: the system has written so many.
    unsafe { buffer.assume_init(length) };
    buffer.advance(length);
    Ok(length)
}

impl AsyncRead for CoalescedTcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let Some(pause) = &mut this.pause else {
                let before = buffer.filled().len();
                let result = Pin::new(&mut this.tcp).poll_read(cx, buffer);
                this.coalescing.moved(buffer.filled().len() - before);
                if result.is_pending() {
                    let piece = this.coalescing.take_piece();
                    if piece > 0 && this.is_able && this.coalescing.count_piece(piece, SMALL_BYTES)
                    {
                        this.begin();
                        continue;
                    }
                }
                return result;
            };
            ready!(pause.as_mut().poll(cx));
            match read_now(&this.tcp, buffer) {
                Ok(length) => {
                    this.coalescing.moved(length);
                    return Poll::Ready(Ok(()));
                }
                // Nothing came in all of the pause, or what comes next may be an answer.
                Err(Errno::AGAIN)
                    if this.coalescing.take_piece() == 0 || !this.coalescing.is_flow() =>
                {
                    this.end()
                }
                Err(Errno::AGAIN) => pause.as_mut().reset(Instant::now() + PAUSE),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for CoalescedTcp {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write(cx, bytes);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write_vectored(cx, slices);
        this.wrote(written)
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
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::coalescing::{PIECES, QUICK};

    /// A blocking peer, and our end.
    fn pair() -> (std::net::TcpStream, CoalescedTcp) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        theirs.set_nodelay(true).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (theirs, CoalescedTcp::new(TcpStream::from_std(ours).unwrap()))
    }

    fn is_paused(coalesced: &CoalescedTcp) -> bool {
        coalesced.pause.is_some()
    }

    /// Takes a byte, and finds that there are no more; whether that began a pause.
    async fn piece(theirs: &mut std::net::TcpStream, coalesced: &mut CoalescedTcp) -> bool {
        theirs.write_all(b"x").unwrap();
        coalesced.read_u8().await.unwrap();
        let more = std::future::poll_fn(|cx| {
            let mut byte = [0; 1];
            Poll::Ready(Pin::new(&mut *coalesced).poll_read(cx, &mut ReadBuf::new(&mut byte)))
        });
        assert!(more.await.is_pending());
        is_paused(coalesced)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_in_small_pieces_comes_whole_and_ends() {
        let noise: Vec<u8> = (0..20_000_000_u32).map(|index| (index / 7) as u8).collect();
        let (mut theirs, mut coalesced) = pair();
        while !piece(&mut theirs, &mut coalesced).await {}
        let sent = noise.clone();
        let writing = thread::spawn(move || {
            for piece in sent.chunks(1000) {
                theirs.write_all(piece).unwrap();
            }
        });
        let mut found = Vec::new();
        coalesced.read_to_end(&mut found).await.unwrap();
        assert!(found == noise);
        writing.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_follows_quickly_and_often_is_paused_for() {
        let (mut theirs, mut coalesced) = pair();
        for _ in 0..100 {
            assert!(!piece(&mut theirs, &mut coalesced).await, "what comes slowly was paused for");
            tokio::time::advance(QUICK).await;
        }
        for _ in 0..100 {
            assert!(!piece(&mut theirs, &mut coalesced).await, "an answer was paused for");
            coalesced.write_all(b"y").await.unwrap();
            theirs.read_exact(&mut [0]).unwrap();
        }
        for _ in 1..PIECES {
            assert!(!piece(&mut theirs, &mut coalesced).await, "a few pieces were paused for");
        }
        assert!(piece(&mut theirs, &mut coalesced).await, "a flow was not paused for");
        // It waits for the system again once nothing came in a pause: no timer can end this.
        tokio::time::advance(PAUSE * 2).await;
        let nothing = tokio::time::timeout(PAUSE * 3, coalesced.read_u8()).await;
        assert!(nothing.is_err() && !is_paused(&coalesced));
        theirs.write_all(b"x").unwrap();
        assert_eq!(coalesced.read_u8().await.unwrap(), b'x');
    }

    /// Once something was said, an answer may come.
    #[tokio::test(start_paused = true)]
    async fn a_flow_that_is_answered_is_one_no_more() {
        let (mut theirs, mut coalesced) = pair();
        while !piece(&mut theirs, &mut coalesced).await {}
        coalesced.write_all(b"y").await.unwrap();
        tokio::time::advance(PAUSE).await;
        assert!(!piece(&mut theirs, &mut coalesced).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_in_a_pause_stays_a_reset() {
        let (mut theirs, mut coalesced) = pair();
        while !piece(&mut theirs, &mut coalesced).await {}
        SockRef::from(&theirs).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(theirs);
        let error = coalesced.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
