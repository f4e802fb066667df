//! Many local connections in one task: only those that were woken are looked at.

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

/// The most that is read from one connection before others have their turn.
const TURN_BYTES: usize = 64 * 1024;

/// Why a connection ended other than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node could not connect, or lost the connection, and says why. These are a peer's words:
    /// are to be sanitized before they are shown.
    Refused(String),
    /// The other end was reset.
    Reset,
    /// This end was.
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
    /// Ends it so that its peer cannot take it for a good end.
    fn abort(self, why: Failure);
}

impl Local for TcpStream {
    fn abort(self, _why: Failure) {
        // Closed with nothing to wait for, TCP resets.
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

/// What happened at one of the connections.
#[derive(Debug)]
pub enum Act {
    /// It has these bytes to say.
    Read(BytesMut),
    /// It says nothing more.
    Ended,
    /// It says nothing more and takes nothing more. It is gone.
    Closed,
    /// It took so many bytes, or never will.
    Took(usize),
    /// It broke, and is gone.
    Broken(io::Error),
}

/// Connections by their number.
#[derive(Debug)]
pub struct LocalSockets<L> {
    members: BTreeMap<Id, Member<L>>,
    ready: Arc<Ready>,
    /// Would read if there were room for all.
    held: Vec<Id>,
    /// Have got bytes of the forward's last read.
    fresh: Vec<Id>,
    waiting: usize,
}

#[derive(Debug)]
struct Member<L> {
    /// Not there yet for a connection that is still being made.
    stream: Option<L>,
    slot: Arc<Slot>,
    read_buffer: ReadBuffer,
    queue: WriteQueue,
    read_ended: bool,
    write_ended: bool,
    /// It takes nothing more; what it said before may still be there to read.
    deaf: bool,
    /// It was found to be reset when it was written to. The system says that once, and then that
    /// all ended well.
    fault: Option<io::Error>,
    /// It is in `held`.
    held: bool,
    /// It is in `fresh`.
    fresh: bool,
    /// Nothing more comes from it or for it: it stays only until it has taken what waits.
    leaving: bool,
}

/// Who was woken, in order, and who is to be told.
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
            held: Vec::new(),
            fresh: Vec::new(),
            waiting: 0,
        }
    }
}

impl<L: Local> LocalSockets<L> {
    /// A connection that is still to come; bytes for it may come before.
    pub fn expect(&mut self, id: Id) {
        let slot = Slot { id, queued: AtomicBool::new(false), ready: self.ready.clone() };
        let member = Member {
            stream: None,
            slot: Arc::new(slot),
            read_buffer: ReadBuffer::default(),
            queue: WriteQueue::default(),
            read_ended: false,
            write_ended: false,
            deaf: false,
            fault: None,
            held: false,
            fresh: false,
            leaving: false,
        };
        self.members.insert(id, member);
    }

    /// The connection is there. Gives it back if nobody expects it any more.
    pub fn attach(&mut self, id: Id, stream: L) -> Option<L> {
        let Some(member) = self.members.get_mut(&id) else { return Some(stream) };
        member.stream = Some(stream);
        self.wake(id);
        None
    }

    /// Something changed for it: it may read again, or write.
    pub fn wake(&self, id: Id) {
        if let Some(member) = self.members.get(&id) {
            member.slot.wake_by_ref();
        }
    }

    /// The forward was read again. What still waits of its last read is copied: it may be any
    /// small part of it, at any number of connections.
    pub fn begin_read(&mut self) {
        for id in self.fresh.drain(..) {
            if let Some(member) = self.members.get_mut(&id) {
                member.fresh = false;
                member.queue.compact();
            }
        }
    }

    /// Bytes for a connection.
    pub fn push(&mut self, id: Id, bytes: Bytes) {
        let takes = |member: &&mut Member<L>| !member.leaving && !member.deaf;
        if let Some(member) = self.members.get_mut(&id).filter(takes) {
            self.waiting += bytes.len();
            member.queue.push(bytes);
            member.slot.wake_by_ref();
            if !mem::replace(&mut member.fresh, true) {
                self.fresh.push(id);
            }
        }
    }

    /// Nothing follows for it.
    pub fn finish(&mut self, id: Id) {
        if let Some(member) = self.members.get_mut(&id) {
            member.queue.end();
            member.slot.wake_by_ref();
        }
    }

    /// Ends it: in good order once it has all of its bytes, where that is all that there were;
    /// else so that its peer knows.
    pub fn end(&mut self, id: Id, why: Failure) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.queue.is_ended() && member.stream.is_some() {
            member.leaving = true;
            member.slot.wake_by_ref();
        } else {
            self.abort(id, why);
        }
    }

    /// Ends it at once, so that its peer knows. What came before goes first, as far as its end
    /// takes it now: who answers and resets has answered.
    pub fn abort(&mut self, id: Id, why: Failure) {
        if let Some(member) = self.members.remove(&id) {
            self.waiting -= member.queue.len();
            member.abort(why);
        }
    }

    /// Ends all, each as [`end`](Self::end) does: the forward is lost.
    pub fn end_all(&mut self) {
        let all: Vec<Id> = self.members.keys().copied().collect();
        for id in all {
            self.end(id, Failure::Lost);
        }
    }

    /// Ends all at once, so that their peers know.
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

    /// How many there are, also such as are still being made.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Bytes that wait for all of them.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next thing that happens. `room` says how much may be read from one now: where that is
    /// nothing, [`wake`](Self::wake) it once there is. With `reads` false none is read; say true
    /// again with the next call that may.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reads: bool,
        room: impl Fn(Id) -> usize,
    ) -> Poll<(Id, Act)> {
        if reads {
            for id in mem::take(&mut self.held) {
                if let Some(member) = self.members.get_mut(&id) {
                    member.held = false;
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
            let room = if member.leaving { 0 } else { room(id) };
            let act = member.poll(if reads { room } else { 0 });
            if !reads && room > 0 && !member.read_ended && !mem::replace(&mut member.held, true) {
                self.held.push(id);
            }
            let over = member.is_over();
            match &act {
                Poll::Ready(Act::Took(bytes)) => self.waiting -= bytes,
                Poll::Ready(Act::Broken(error)) => {
                    let why = Failure::Local(error.to_string());
                    self.abort(id, why);
                }
                _ if over => self.remove(id),
                _ => {}
            }
            if let Poll::Ready(act) = act {
                // Others first, then what else there is here.
                self.wake(id);
                return Poll::Ready((id, act));
            }
        }
    }
}

impl<L: Local> Member<L> {
    fn poll(&mut self, room: usize) -> Poll<Act> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let waker = Waker::from(self.slot.clone());
        let cx = &mut Context::from_waker(&waker);
        if !self.queue.is_empty() {
            match self.queue.poll_into(cx, stream) {
                Poll::Ready(Ok(taken)) => return Poll::Ready(Act::Took(taken)),
                Poll::Ready(Err(error)) if self.read_ended || self.leaving => {
                    return Poll::Ready(Act::Broken(error));
                }
                Poll::Ready(Err(error)) => {
                    let lost = self.queue.len();
                    self.queue.discard();
                    self.deaf = true;
                    // Who had said all before gives a broken pipe instead.
                    self.fault = Some(error).filter(|it| it.kind() != io::ErrorKind::BrokenPipe);
                    return Poll::Ready(Act::Took(lost));
                }
                // What waits must not keep what it came with.
                Poll::Pending => self.queue.compact(),
            }
        }
        if self.queue.is_over() && !self.write_ended {
            match Pin::new(&mut *stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.write_ended = true,
                // Gone already; reading says so.
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
                Poll::Ready(match self.fault.take() {
                    Some(fault) => Act::Broken(fault),
                    None if self.deaf => Act::Closed,
                    None => Act::Ended,
                })
            }
            Poll::Ready(Ok(bytes)) => Poll::Ready(Act::Read(bytes)),
            Poll::Ready(Err(error)) => Poll::Ready(Act::Broken(error)),
        }
    }

    /// Gives what waits to its end, as far as that takes it without being waited for; then ends it
    /// so that its peer knows.
    fn abort(mut self, why: Failure) {
        let Some(mut stream) = self.stream.take() else { return };
        // Not by the budget of the task: nobody comes again.
        let rest = unconstrained(poll_fn(|cx| self.queue.poll_into(cx, &mut stream)));
        let _ = pin!(rest).poll(&mut Context::from_waker(Waker::noop()));
        stream.abort(why);
    }

    fn is_over(&self) -> bool {
        (self.write_ended || self.deaf) && (self.read_ended || self.leaving)
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

    /// A sockets of one, and who talks to it.
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

    /// All that comes, and whether it ended well.
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

    /// What a peer says of itself: all of its bytes, and the act that ended them.
    async fn told(sockets: &mut LocalSockets<TcpStream>) -> (Vec<u8>, Act) {
        let mut said = Vec::new();
        loop {
            match poll_fn(|cx| sockets.poll(cx, true, |_| usize::MAX)).await.1 {
                Act::Read(bytes) => said.extend_from_slice(&bytes),
                Act::Took(_) => {}
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
            assert_eq!(matches!(end, Act::Closed), ends_well, "{end:?}");
            assert_eq!(matches!(end, Act::Broken(_)), !ends_well, "{end:?}");
        }
    }
}
