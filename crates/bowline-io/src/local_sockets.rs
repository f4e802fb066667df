//! Many local sockets in one task, which polls only those that were woken.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bowline_proto::portforward::Id;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use crate::drive::{ReadBuffer, WriteQueue};

/// The most that is read from one socket before others have their turn.
const TURN_BYTES: usize = 64 * 1024;

/// Why a forwarded connection ended other than in good order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node could not make the connection, or lost it, for this reason. The text is a peer's
    /// and has to be sanitized before it is shown.
    Refused(String),
    /// The other side reset the connection.
    Reset,
    /// The local end broke, with this error.
    Local(String),
    /// The whole forward was lost.
    Lost,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(words) => f.write_str(words),
            Failure::Reset => f.write_str("the other side reset the connection"),
            Failure::Local(why) => write!(f, "the local connection broke: {why}"),
            Failure::Lost => f.write_str("the connection to the pod was lost"),
        }
    }
}

/// The local end of a forwarded connection.
pub trait Local: AsyncRead + AsyncWrite + Unpin {
    /// Drops the connection in a way that its peer cannot take for a good end.
    fn abort(self, why: Failure);
}

impl Local for TcpStream {
    fn abort(self, _why: Failure) {
        // Dropping a socket that must not linger resets it.
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

/// What happened at one of the local sockets.
#[derive(Debug)]
pub enum LocalEvent {
    /// These bytes were read.
    Read(BytesMut),
    /// Its peer sends nothing more.
    Ended,
    /// Its peer sends nothing more and takes nothing more. The socket is gone.
    Closed,
    /// So many bytes were written, or dropped because they never can be.
    Took(usize),
    /// It broke with this error, and is gone.
    Broken(io::Error),
}

/// The local sockets of one forward, by the numbers of their connections.
#[derive(Debug)]
pub struct LocalSockets<L> {
    members: BTreeMap<Id, Member<L>>,
    ready: Arc<Ready>,
    /// Those to be polled once reading is allowed again.
    read_blocked: Vec<Id>,
    /// Those with bytes of the forward's last read.
    fresh: Vec<Id>,
    /// How many bytes wait for all of them.
    waiting: usize,
}

#[derive(Debug)]
struct Member<L> {
    /// `None` while the connection is still being made.
    stream: Option<L>,
    slot: Arc<Slot>,
    read_buffer: ReadBuffer,
    queue: WriteQueue,
    read_ended: bool,
    write_ended: bool,
    /// Its peer takes nothing more; what it sent before may still be there to read.
    write_failed: bool,
    /// The reset that a write has found. The system would not tell it to a read any more, but
    /// report a good end.
    write_error: Option<io::Error>,
    /// It is in `read_blocked`.
    read_blocked: bool,
    /// It is in `fresh`.
    fresh: bool,
    /// It is not read any more and only stays until it has taken what waits.
    is_draining: bool,
}

/// The sockets that were woken, in order, and the waker of the task.
#[derive(Debug, Default)]
struct Ready {
    woken: Mutex<(VecDeque<Id>, Option<Waker>)>,
}

#[derive(Debug)]
struct Slot {
    id: Id,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = {
            let mut woken = self.ready.woken.lock().unwrap_or_else(PoisonError::into_inner);
            woken.0.push_back(self.id);
            woken.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<L> Default for LocalSockets<L> {
    fn default() -> LocalSockets<L> {
        LocalSockets {
            members: BTreeMap::new(),
            ready: Arc::default(),
            read_blocked: Vec::new(),
            fresh: Vec::new(),
            waiting: 0,
        }
    }
}

impl<L: Local> LocalSockets<L> {
    /// Adds a connection whose socket is still to come; bytes for it may come before.
    pub fn expect(&mut self, id: Id) {
        let slot = Slot { id, queued: AtomicBool::new(false), ready: self.ready.clone() };
        let member = Member {
            stream: None,
            slot: Arc::new(slot),
            read_buffer: ReadBuffer::default(),
            queue: WriteQueue::default(),
            read_ended: false,
            write_ended: false,
            write_failed: false,
            write_error: None,
            read_blocked: false,
            fresh: false,
            is_draining: false,
        };
        self.members.insert(id, member);
    }

    /// Gives a connection its socket. Returns it if the connection is gone.
    pub fn attach(&mut self, id: Id, stream: L) -> Option<L> {
        let Some(member) = self.members.get_mut(&id) else { return Some(stream) };
        member.stream = Some(stream);
        self.wake(id);
        None
    }

    /// Has a socket polled, as it may be read or written again.
    pub fn wake(&self, id: Id) {
        if let Some(member) = self.members.get(&id) {
            member.slot.wake_by_ref();
        }
    }

    /// Says that the forward is read again. What still waits of its last read is copied: it may be
    /// small parts of it, at many sockets.
    pub fn begin_read(&mut self) {
        for id in self.fresh.drain(..) {
            if let Some(member) = self.members.get_mut(&id) {
                member.fresh = false;
                member.queue.compact();
            }
        }
    }

    /// Queues bytes for a socket.
    pub fn push(&mut self, id: Id, bytes: Bytes) {
        let takes = |member: &&mut Member<L>| !member.is_draining && !member.write_failed;
        if let Some(member) = self.members.get_mut(&id).filter(takes) {
            self.waiting += bytes.len();
            member.queue.push(bytes);
            member.slot.wake_by_ref();
            if !mem::replace(&mut member.fresh, true) {
                self.fresh.push(id);
            }
        }
    }

    /// Ends a socket's direction once it has taken what waits.
    pub fn finish(&mut self, id: Id) {
        if let Some(member) = self.members.get_mut(&id) {
            member.queue.end();
            member.slot.wake_by_ref();
        }
    }

    /// Ends a socket: in good order once it has taken what waits, if all of its bytes have come;
    /// else as [`abort`](Self::abort) does.
    pub fn end(&mut self, id: Id, why: Failure) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.queue.is_ended() && member.stream.is_some() {
            member.is_draining = true;
            member.slot.wake_by_ref();
        } else {
            self.abort(id, why);
        }
    }

    /// Ends a socket at once, in a way that its peer cannot take for a good end. What waits is
    /// written first, as far as that goes without waiting: it may be an answer before a reset.
    pub fn abort(&mut self, id: Id, why: Failure) {
        if let Some(member) = self.members.remove(&id) {
            self.waiting -= member.queue.len();
            member.abort(why);
        }
    }

    /// Ends all sockets, each as [`end`](Self::end) does, because the forward is lost.
    pub fn end_all(&mut self) {
        let all: Vec<Id> = self.members.keys().copied().collect();
        for id in all {
            self.end(id, Failure::Lost);
        }
    }

    /// Ends all sockets, each as [`abort`](Self::abort) does.
    pub fn abort_all(&mut self) {
        for (_, member) in mem::take(&mut self.members) {
            member.abort(Failure::Lost);
        }
        self.waiting = 0;
    }

    fn remove(&mut self, id: Id) {
        if let Some(member) = self.members.remove(&id) {
            self.waiting -= member.queue.len();
        }
    }

    /// How many there are, including those that are still being made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many bytes wait for all of them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Polls the sockets that were woken. `room` says how much may be read from one now; where that
    /// is 0, [`wake`](Self::wake) it once it is not. While `reads` is false none is read.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
        room: impl Fn(Id) -> usize,
    ) -> Poll<(Id, LocalEvent)> {
        if reads {
            for id in mem::take(&mut self.read_blocked) {
                if let Some(member) = self.members.get_mut(&id) {
                    member.read_blocked = false;
                    member.slot.wake_by_ref();
                }
            }
        }
        loop {
            let id = {
                let mut woken = self.ready.woken.lock().unwrap_or_else(PoisonError::into_inner);
                match woken.0.pop_front() {
                    Some(id) => id,
                    None => {
                        woken.1 = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.slot.queued.store(false, Ordering::Release);
            let room = if member.is_draining { 0 } else { room(id) };
            let event = member.poll(if reads { room } else { 0 });
            if !reads
                && room > 0
                && !member.read_ended
                && !mem::replace(&mut member.read_blocked, true)
            {
                self.read_blocked.push(id);
            }
            let over = member.is_over();
            match &event {
                Poll::Ready(LocalEvent::Took(bytes)) => self.waiting -= bytes,
                Poll::Ready(LocalEvent::Broken(error)) => {
                    let why = Failure::Local(error.to_string());
                    self.abort(id, why);
                }
                _ if over => self.remove(id),
                _ => {}
            }
            if let Poll::Ready(event) = event {
                // There may be more here, after the others had their turn.
                self.wake(id);
                return Poll::Ready((id, event));
            }
        }
    }
}

impl<L: Local> Member<L> {
    fn poll(&mut self, room: usize) -> Poll<LocalEvent> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let waker = Waker::from(self.slot.clone());
        let cx = &mut Context::from_waker(&waker);
        if !self.queue.is_empty() {
            match self.queue.poll_into(cx, stream) {
                Poll::Ready(Ok(taken)) => return Poll::Ready(LocalEvent::Took(taken)),
                Poll::Ready(Err(error)) if self.read_ended || self.is_draining => {
                    return Poll::Ready(LocalEvent::Broken(error));
                }
                Poll::Ready(Err(error)) => {
                    let lost = self.queue.len();
                    self.queue.discard();
                    self.write_failed = true;
                    // A peer that had sent its end before gives a broken pipe instead.
                    self.write_error =
                        Some(error).filter(|it| it.kind() != io::ErrorKind::BrokenPipe);
                    return Poll::Ready(LocalEvent::Took(lost));
                }
                // What waits must not keep alive the read that it is a slice of.
                Poll::Pending => self.queue.compact(),
            }
        }
        if self.queue.is_over() && !self.write_ended {
            match Pin::new(&mut *stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.write_ended = true,
                // The peer is gone already, which reading will find.
                Poll::Ready(Err(_)) => self.write_ended = true,
                Poll::Pending => {}
            }
        }
        if room == 0 || self.read_ended {
            return Poll::Pending;
        }
        match self.read_buffer.poll_some(cx, stream, room.min(TURN_BYTES)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                self.read_ended = true;
                Poll::Ready(match self.write_error.take() {
                    Some(write_error) => LocalEvent::Broken(write_error),
                    None if self.write_failed => LocalEvent::Closed,
                    None => LocalEvent::Ended,
                })
            }
            Poll::Ready(Ok(bytes)) => Poll::Ready(LocalEvent::Read(bytes)),
            Poll::Ready(Err(error)) => Poll::Ready(LocalEvent::Broken(error)),
        }
    }

    /// Writes what waits, as far as that goes without waiting, and aborts the socket.
    fn abort(mut self, why: Failure) {
        let Some(mut stream) = self.stream.take() else { return };
        // Without tokio's budget, as there is no second time.
        let rest = unconstrained(poll_fn(|cx| self.queue.poll_into(cx, &mut stream)));
        let _ = pin!(rest).poll(&mut Context::from_waker(Waker::noop()));
        stream.abort(why);
    }

    fn is_over(&self) -> bool {
        (self.write_ended || self.write_failed) && (self.read_ended || self.is_draining)
    }
}

#[cfg(test)]
mod tests {
    use bowline_proto::Time;
    use bowline_proto::portforward::OverSpdy;
    use bowline_proto::session::Side;
    use bowline_proto::tunnel::Wire;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
    use tokio::net::TcpListener;
    use tokio::task::yield_now;

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 413 Content Too Large\r\n\r\n";

    /// One local socket, and its peer.
    async fn one() -> (LocalSockets<TcpStream>, Id, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        let mut sockets = LocalSockets::default();
        let id = OverSpdy::new(Side::Client, Wire::plain()).connect(Time::ZERO, 80).unwrap();
        sockets.expect(id);
        assert!(sockets.attach(id, stream).is_none());
        (sockets, id, peer)
    }

    /// Returns all that comes, and whether it ended well.
    async fn read(peer: &mut TcpStream) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let ended = peer.read_to_end(&mut bytes).await;
        (bytes, ended.is_ok())
    }

    #[tokio::test]
    async fn an_answer_before_a_reset_arrives_before_the_reset() {
        for why in [Failure::Reset, Failure::Refused("broken pipe".into()), Failure::Lost] {
            let (mut sockets, id, mut peer) = one().await;
            // Both in one piece of the carrier: nothing was written in between.
            sockets.push(id, Bytes::from_static(ANSWER));
            sockets.end(id, why.clone());
            assert_eq!(read(&mut peer).await, (ANSWER.to_vec(), false), "{why:?}");
            assert_eq!((sockets.waiting(), sockets.is_empty()), (0, true));
        }
        let (mut sockets, id, mut peer) = one().await;
        sockets.push(id, Bytes::from_static(ANSWER));
        sockets.abort_all();
        assert_eq!(read(&mut peer).await, (ANSWER.to_vec(), false));
    }

    #[tokio::test]
    async fn an_answer_that_has_ended_before_a_reset_ends_well() {
        let (mut sockets, id, mut peer) = one().await;
        sockets.push(id, Bytes::from_static(ANSWER));
        sockets.finish(id);
        sockets.end(id, Failure::Reset);
        while !sockets.is_empty() {
            poll_fn(|cx| {
                let polled = sockets.poll(cx, true, |_| usize::MAX).map(drop);
                if sockets.is_empty() { Poll::Ready(()) } else { polled }
            })
            .await;
        }
        assert_eq!(read(&mut peer).await, (ANSWER.to_vec(), true));
    }

    /// Returns all bytes that a peer sends, and the event that ended them.
    async fn told(sockets: &mut LocalSockets<TcpStream>) -> (Vec<u8>, LocalEvent) {
        let mut said = Vec::new();
        loop {
            match poll_fn(|cx| sockets.poll(cx, true, |_| usize::MAX)).await.1 {
                LocalEvent::Read(bytes) => said.extend_from_slice(&bytes),
                LocalEvent::Took(_) => {}
                end => return (said, end),
            }
        }
    }

    /// A peer that is gone when it is written to: what it said is there, and whether it had said
    /// all of it. The system tells that to who writes, and then no longer to who reads.
    #[tokio::test]
    async fn who_answers_and_goes_is_told_from_who_is_reset_in_its_answer() {
        for ends_well in [true, false] {
            let (mut sockets, id, mut peer) = one().await;
            let stream = sockets.members[&id].stream.as_ref().unwrap();
            peer.write_all(ANSWER).await.unwrap();
            if ends_well {
                peer.shutdown().await.unwrap();
                stream.readable().await.unwrap();
            }
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            // Until the reset is here.
            let both = Interest::READABLE | Interest::WRITABLE;
            while !stream.ready(both).await.unwrap().is_write_closed() {
                yield_now().await;
            }
            sockets.push(id, Bytes::from_static(b"the rest of a request"));
            let (said, end) = told(&mut sockets).await;
            assert_eq!(said, ANSWER);
            assert_eq!(matches!(end, LocalEvent::Closed), ends_well, "{end:?}");
            assert_eq!(matches!(end, LocalEvent::Broken(_)), !ends_well, "{end:?}");
        }
    }
}
