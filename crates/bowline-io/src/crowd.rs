//! Many local connections in one task: only those that were woken are looked at.
//! Above: [`forward`](crate::forward). Below: [`drive`](crate::drive), tokio.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bowline_proto::portforward::Id;
use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::drive::{Inflow, Intake};

/// The most that is read from one connection before others have their turn.
const TURN_BYTES: usize = 64 * 1024;

/// Why a connection ended other than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The node could not connect, or lost the connection, and says why. These are a peer's words:
    /// make them harmless before they are shown.
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
pub struct Crowd<L> {
    members: BTreeMap<Id, Member<L>>,
    ready: Arc<Ready>,
    /// Would read if there were room for all.
    held: Vec<Id>,
    waiting: usize,
}

#[derive(Debug)]
struct Member<L> {
    /// Not there yet for a connection that is still being made.
    stream: Option<L>,
    slot: Arc<Slot>,
    intake: Intake,
    inflow: Inflow,
    read_ended: bool,
    write_ended: bool,
    /// It takes nothing more; what it said before may still be there to read.
    deaf: bool,
    /// It is in `held`.
    held: bool,
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

impl<L> Default for Crowd<L> {
    fn default() -> Crowd<L> {
        Crowd { members: BTreeMap::new(), ready: Arc::default(), held: Vec::new(), waiting: 0 }
    }
}

impl<L: Local> Crowd<L> {
    /// A connection that is still to come; bytes for it may come before.
    pub fn expect(&mut self, id: Id) {
        let slot = Slot { id, queued: AtomicBool::new(false), ready: self.ready.clone() };
        let member = Member {
            stream: None,
            slot: Arc::new(slot),
            intake: Intake::default(),
            inflow: Inflow::default(),
            read_ended: false,
            write_ended: false,
            deaf: false,
            held: false,
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

    /// Bytes for a connection.
    pub fn push(&mut self, id: Id, bytes: Bytes) {
        let takes = |member: &&mut Member<L>| !member.leaving && !member.deaf;
        if let Some(member) = self.members.get_mut(&id).filter(takes) {
            self.waiting += bytes.len();
            member.inflow.push(bytes);
            member.slot.wake_by_ref();
        }
    }

    /// Nothing follows for it.
    pub fn finish(&mut self, id: Id) {
        if let Some(member) = self.members.get_mut(&id) {
            member.inflow.end();
            member.slot.wake_by_ref();
        }
    }

    /// Ends it: in good order once it has all of its bytes, where that is all that there were;
    /// else so that its peer knows.
    pub fn end(&mut self, id: Id, why: Failure) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.inflow.is_ended() && member.stream.is_some() {
            member.leaving = true;
            member.slot.wake_by_ref();
        } else {
            self.abort(id, why);
        }
    }

    /// Ends it at once, so that its peer knows.
    pub fn abort(&mut self, id: Id, why: Failure) {
        if let Some(stream) = self.remove(id) {
            stream.abort(why);
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
            if let Some(stream) = member.stream {
                stream.abort(Failure::Lost);
            }
        }
        self.waiting = 0;
    }

    fn remove(&mut self, id: Id) -> Option<L> {
        let member = self.members.remove(&id)?;
        self.waiting -= member.inflow.len();
        member.stream
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
                _ if over => drop(self.remove(id)),
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
        if !self.inflow.is_empty() {
            match self.inflow.poll_into(cx, stream) {
                Poll::Ready(Ok(taken)) => return Poll::Ready(Act::Took(taken)),
                Poll::Ready(Err(error)) if self.read_ended || self.leaving => {
                    return Poll::Ready(Act::Broken(error));
                }
                Poll::Ready(Err(_)) => {
                    let lost = self.inflow.len();
                    self.inflow.discard();
                    self.deaf = true;
                    return Poll::Ready(Act::Took(lost));
                }
                // What waits must not keep what it came with.
                Poll::Pending => self.inflow.own(),
            }
        }
        if self.inflow.is_over() && !self.write_ended {
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
        match self.intake.poll_some(cx, stream, room.min(TURN_BYTES)) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                self.read_ended = true;
                Poll::Ready(if self.deaf { Act::Closed } else { Act::Ended })
            }
            Poll::Ready(Ok(bytes)) => Poll::Ready(Act::Read(bytes)),
            Poll::Ready(Err(error)) => Poll::Ready(Act::Broken(error)),
        }
    }

    fn is_over(&self) -> bool {
        (self.write_ended || self.deaf) && (self.read_ended || self.leaving)
    }
}
