//! A TCP connection, plain or in TLS, as one type.
#![allow(unsafe_code, reason = "what the kernel knows of a connection, for which std has no way")]

#[cfg(feature = "server")]
mod over_http2;

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::{client, server};

#[cfg(feature = "server")]
pub(crate) use self::over_http2::{Lifeline, OverHttp2};
use crate::coalesced::CoalescedTcp;
use crate::read_ahead::ReadAhead;

/// By keepalive the kernel finds a host that is gone while nothing is sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// How often the connection is checked while a write waits.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long a host may acknowledge nothing, of [`UNACKNOWLEDGED_TRIES`] or more, before it counts
/// as gone. One that merely does not read answers window probes, so it stays. The kernel's
/// TCP_USER_TIMEOUT is of no use here: it ends such a connection as well.
const UNACKNOWLEDGED_PATIENCE: Duration = Duration::from_secs(30);
const UNACKNOWLEDGED_TRIES: u8 = 3;

/// How much TLS encrypts for one write: bytes per system call decide the cost. It has room for what
/// a client gathers, and its headers.
const SEALED_BYTES: usize = 528 * 1024;

/// A connection to a peer: TCP, perhaps in TLS, or one stream of a connection of HTTP/2.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    /// A write waits, and the next check is set.
    stuck: bool,
    /// When to check the connection next. Kept from one wait to the next: writes wait often, and
    /// not for long.
    next_check: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum Kind {
    Plain(CoalescedTcp),
    Client(Box<client::TlsStream<ReadAhead>>),
    Nested(Box<client::TlsStream<client::TlsStream<ReadAhead>>>),
    Server(Box<server::TlsStream<ReadAhead>>),
    #[cfg(feature = "server")]
    OverHttp2(Box<OverHttp2>),
}

/// A connection after its 101.
#[derive(Debug)]
pub struct Upgraded<S = Stream> {
    /// The connection.
    pub stream: S,
    /// Bytes behind the handshake that were read with it. They come first.
    pub early: BytesMut,
}

/// What a role's loop needs of a connection, which is a [`Stream`] or a simulated one.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {
    /// Whether the peer has ended its direction or reset the connection, even if there are still
    /// bytes to read. For an owner that does not read because it has no room.
    fn is_peer_gone(&self) -> bool;

    /// How many of the written bytes the peer's host has not acknowledged; 0 as well if it never
    /// will. If the connection is closed before, they are lost once the peer sends something.
    fn unacknowledged(&self) -> usize;

    /// Makes dropping the connection reset it, so that the peer cannot take that for a good end.
    fn reset_on_drop(&self);
}

impl Connection for Stream {
    fn is_peer_gone(&self) -> bool {
        match &self.kind {
            #[cfg(feature = "server")]
            Kind::OverHttp2(stream) => stream.is_peer_gone(),
            _ => self.tcp().is_some_and(is_peer_gone),
        }
    }

    /// Of a stream of HTTP/2 nothing is lost when it is closed: the connection stays.
    fn unacknowledged(&self) -> usize {
        let bytes = self.tcp().map_or(0, unacknowledged);
        if bytes > 0 && self.tcp().is_some_and(is_host_gone) { 0 } else { bytes }
    }

    fn reset_on_drop(&self) {
        match &self.kind {
            #[cfg(feature = "server")]
            Kind::OverHttp2(stream) => stream.reset_on_drop(),
            _ => {
                let linger = |tcp| SockRef::from(tcp).set_linger(Some(Duration::ZERO));
                let _ = self.tcp().map(linger);
            }
        }
    }
}

/// Within one process what is written has arrived, and nothing breaks.
impl Connection for DuplexStream {
    fn is_peer_gone(&self) -> bool {
        false
    }

    fn unacknowledged(&self) -> usize {
        0
    }

    fn reset_on_drop(&self) {}
}

/// Whether the peer of a socket has ended its direction or reset the connection, even if there are
/// still bytes to read. What a [`Connection`] is asked.
pub fn is_peer_gone(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::RDHUP)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    poll(&mut watched, Some(&at_once)).is_ok_and(|_| watched[0].revents().intersects(gone))
}

/// Sets the socket options of every connection, as far as the system has them.
pub fn prepare(tcp: &TcpStream) {
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// How many written bytes the other host has not acknowledged.
#[cfg(target_os = "linux")]
fn unacknowledged(tcp: &TcpStream) -> usize {
    use std::os::fd::AsRawFd;

    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, of the same number as TIOCOUTQ, writes one int, to one of ours.
    let result = unsafe { libc::ioctl(tcp.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// Other systems do not tell.
#[cfg(not(target_os = "linux"))]
fn unacknowledged(_tcp: &TcpStream) -> usize {
    0
}

/// Whether the other host no longer acknowledges what is sent.
#[cfg(target_os = "linux")]
fn is_host_gone(tcp: &TcpStream) -> bool {
    use std::mem::{MaybeUninit, size_of};
    use std::os::fd::AsRawFd;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the pointer is to memory of ours of `length` bytes, and the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            tcp.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return false;
    }
    // SAFETY: it was zeroed, which is a valid value of all of its integers.
    let info = unsafe { info.assume_init() };
    let silent = Duration::from_millis(u64::from(info.tcpi_last_ack_recv));
    let tries = info.tcpi_retransmits.max(info.tcpi_probes);
    silent >= UNACKNOWLEDGED_PATIENCE && tries >= UNACKNOWLEDGED_TRIES
}

/// Other systems have the kernel's own, longer timeout only.
#[cfg(not(target_os = "linux"))]
fn is_host_gone(_tcp: &TcpStream) -> bool {
    false
}

macro_rules! each {
    ($stream:expr, $inner:ident => $body:expr) => {
        match $stream {
            Kind::Plain($inner) => $body,
            Kind::Client($inner) => $body,
            Kind::Nested($inner) => $body,
            Kind::Server($inner) => $body,
            #[cfg(feature = "server")]
            Kind::OverHttp2($inner) => $body,
        }
    };
}

impl Stream {
    fn of(kind: Kind) -> Stream {
        Stream { kind, stuck: false, next_check: None }
    }

    /// A connection without TLS.
    #[must_use]
    pub fn plain(tcp: TcpStream) -> Stream {
        Stream::of(Kind::Plain(CoalescedTcp::new(tcp)))
    }

    /// A connection in TLS that we dialled.
    #[must_use]
    pub fn client(mut tls: client::TlsStream<ReadAhead>) -> Stream {
        tls.get_mut().1.set_buffer_limit(Some(SEALED_BYTES));
        Stream::of(Kind::Client(Box::new(tls)))
    }

    /// A connection in TLS that we dialled through a proxy, which itself is reached over TLS.
    #[must_use]
    pub fn nested(mut tls: client::TlsStream<client::TlsStream<ReadAhead>>) -> Stream {
        tls.get_mut().1.set_buffer_limit(Some(SEALED_BYTES));
        Stream::of(Kind::Nested(Box::new(tls)))
    }

    /// A connection in TLS that we accepted.
    #[must_use]
    pub fn server(mut tls: server::TlsStream<ReadAhead>) -> Stream {
        tls.get_mut().1.set_buffer_limit(Some(SEALED_BYTES));
        Stream::of(Kind::Server(Box::new(tls)))
    }

    /// A stream of a connection of HTTP/2 that we accepted.
    #[cfg(feature = "server")]
    pub(crate) fn over_http2(stream: OverHttp2) -> Stream {
        Stream::of(Kind::OverHttp2(Box::new(stream)))
    }

    /// Lets an accepted connection read ahead, once its client is authenticated.
    #[cfg(feature = "server")]
    pub(crate) fn read_ahead(&mut self) {
        if let Kind::Server(tls) = &mut self.kind {
            tls.get_mut().0.begin();
        }
    }

    /// The socket below; none if others share it.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        Some(match &self.kind {
            Kind::Plain(coalesced) => coalesced.tcp(),
            Kind::Client(tls) => tls.get_ref().0.tcp(),
            Kind::Nested(tls) => tls.get_ref().0.get_ref().0.tcp(),
            Kind::Server(tls) => tls.get_ref().0.tcp(),
            #[cfg(feature = "server")]
            Kind::OverHttp2(_) => return None,
        })
    }

    /// The protocol that was agreed on in the TLS handshake, if it was one.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Plain(_) => None,
            Kind::Client(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Nested(tls) => tls.get_ref().1.alpn_protocol(),
            Kind::Server(tls) => tls.get_ref().1.alpn_protocol(),
            #[cfg(feature = "server")]
            Kind::OverHttp2(_) => None,
        }
    }

    /// Watches a write that waits; gives an error if it can never go on.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = false;
            return written;
        }
        loop {
            let next_check = self.next_check.get_or_insert_with(|| Box::pin(sleep(CHECK_EVERY)));
            if !std::mem::replace(&mut self.stuck, true) {
                next_check.as_mut().reset(Instant::now() + CHECK_EVERY);
            }
            ready!(next_check.as_mut().poll(cx));
            self.stuck = false;
            if self.tcp().is_some_and(is_host_gone) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().kind, inner => Pin::new(inner).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let written = each!(&mut stream.kind, inner => Pin::new(inner).poll_write(cx, bytes));
        stream.watched(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let written =
            each!(&mut stream.kind, inner => Pin::new(inner).poll_write_vectored(cx, slices));
        stream.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        each!(&self.kind, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        match each!(&mut stream.kind, inner => Pin::new(inner).poll_flush(cx)) {
            // That nothing is left to flush says nothing of a write that waits.
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => stream.watched(cx, Poll::Pending),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().kind, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// More than the kernel takes for a peer that does not read.
    const BYTES: usize = 16 * 1024 * 1024;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn what_the_other_host_has_not_taken_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = Stream::plain(listener.accept().await.unwrap().0);
        assert_eq!(stream.unacknowledged(), 0);
        let bytes = vec![7; BYTES];
        let mut written = 0;
        while let Ok(count) = stream.tcp().unwrap().try_write(&bytes[written..]) {
            written += count;
        }
        stream.shutdown().await.unwrap();
        assert!(stream.unacknowledged() > 0, "after {written} bytes");
        let mut read = Vec::new();
        peer.read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), written);
        // The acknowledgement is under way.
        while stream.unacknowledged() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
