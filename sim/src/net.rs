//! A TCP connection as a model: splits, delays, stalls, half-closes, resets and silence, as Linux
//! has them.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bowline_io::stream::Connection;
use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::journal::Journal;
use crate::scenario::{Hop, Way, Wire};

/// How long the kernel takes to call a silent host gone: 15 s of idling, then probes.
pub const KEEPALIVE: Duration = Duration::from_secs(30);

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    shared: Arc<Mutex<Shared>>,
    /// Where this end writes to: 0 towards the node, 1 towards the client.
    out: usize,
    /// For who waits to read, and who waits to write.
    alarms: [Option<Pin<Box<Sleep>>>; 2],
}

/// What a fault does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Both ends are told so at once; what is under way is gone.
    Reset,
    /// A box in between ends both directions in good order; what either end sends later is lost.
    Close,
    /// Nothing passes any more, and nobody says so.
    Silence,
    /// Nothing passes for so long.
    Stall(Duration),
}

#[derive(Debug)]
struct Shared {
    hop: Hop,
    wire: Wire,
    journal: Journal,
    random: ChaCha8Rng,
    lanes: [Lane; 2],
    /// Both ends are told at this moment that the other host is gone.
    gone_at: Option<Instant>,
    silent: bool,
    stalled_until: Option<Instant>,
    /// What strikes once so many bytes went this way.
    pending: Vec<(Way, u64, Blow)>,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<(Instant, Bytes)>,
    len: usize,
    sent: u64,
    /// The writer has ended it; the reader sees that at this moment.
    end: Option<Instant>,
    /// The reader learns at this moment that the connection is broken.
    reset: Option<Instant>,
    /// Nobody will read it any more.
    deaf: bool,
    /// It was cut in between: what is still written goes nowhere.
    lost: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    /// Gives up what is behind the first `bytes` bytes.
    fn keep(&mut self, bytes: usize) {
        let mut room = bytes;
        for (_, piece) in &mut self.queue {
            piece.truncate(room);
            room -= piece.len();
        }
        self.queue.retain(|(_, piece)| !piece.is_empty());
        self.len = bytes - room;
    }
}

/// A hand on a connection, for faults.
#[derive(Clone, Debug)]
pub struct Cable(Arc<Mutex<Shared>>);

/// Both ends of a new connection, the client's first.
#[must_use]
pub fn connect(hop: Hop, wire: &Wire, seed: u64, journal: &Journal) -> (End, End, Cable) {
    let shared = Arc::new(Mutex::new(Shared {
        hop,
        wire: wire.clone(),
        journal: journal.clone(),
        random: ChaCha8Rng::seed_from_u64(seed),
        lanes: [Lane::default(), Lane::default()],
        gone_at: None,
        silent: false,
        stalled_until: None,
        pending: Vec::new(),
    }));
    journal.open().open_ends += 2;
    let end = |out| End { shared: shared.clone(), out, alarms: [None, None] };
    (end(0), end(1), Cable(shared.clone()))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cable {
    /// Strikes now.
    pub fn strike(&self, blow: Blow) {
        lock(&self.0).strike(blow);
    }

    /// Strikes once `bytes` bytes went `way`.
    pub fn strike_after(&self, way: Way, bytes: u64, blow: Blow) {
        lock(&self.0).pending.push((way, bytes, blow));
    }
}

impl Shared {
    fn strike(&mut self, blow: Blow) {
        let hop = self.hop;
        self.journal.open().fault(format_args!("{hop}: {blow:?}"));
        let now = Instant::now();
        match blow {
            Blow::Reset => {
                for lane in &mut self.lanes {
                    lane.queue.retain(|&(at, _)| at <= now);
                    lane.len = lane.queue.iter().map(|(_, bytes)| bytes.len()).sum();
                    lane.reset = Some(now);
                    lane.lost = true;
                }
            }
            Blow::Close => {
                for lane in &mut self.lanes {
                    lane.end.get_or_insert(now);
                    lane.lost = true;
                }
            }
            Blow::Silence => {
                self.silent = true;
                self.gone_at.get_or_insert(now + KEEPALIVE);
            }
            Blow::Stall(pause) => self.stalled_until = Some(now + pause),
        }
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for lane in &mut self.lanes {
            for waker in [lane.reader.take(), lane.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }

    /// When something that arrives `at` can be seen; never in silence.
    fn seen_at(&self, at: Instant) -> Option<Instant> {
        if self.silent {
            return None;
        }
        Some(self.stalled_until.map_or(at, |until| at.max(until)))
    }

    /// Why an end cannot be used any more.
    fn dead(&self, end: usize) -> Option<io::ErrorKind> {
        let now = Instant::now();
        let reset = self.lanes[1 - end].reset.and_then(|at| self.seen_at(at));
        if reset.is_some_and(|at| at <= now) {
            return Some(io::ErrorKind::ConnectionReset);
        }
        self.gone_at.is_some_and(|at| at <= now).then_some(io::ErrorKind::TimedOut)
    }

    /// When an end may learn that it is broken.
    fn death_at(&self, end: usize) -> Option<Instant> {
        let reset = self.lanes[1 - end].reset.and_then(|at| self.seen_at(at));
        earliest(reset, self.gone_at)
    }

    fn poll_read(&mut self, end: usize, cx: &mut Context<'_>, room: usize) -> Seen {
        let from = 1 - end;
        let now = Instant::now();
        let limit = self.random.random_range(1..=self.wire.piece_bytes).min(room);
        let (dead, death_at) = (self.dead(end), self.death_at(end));
        if dead.is_some() && self.wire.reset_destroys {
            self.lanes[from].queue.clear();
            self.lanes[from].len = 0;
        }
        let next = match (self.lanes[from].queue.front(), self.lanes[from].end) {
            (Some(&(at, _)), _) => self.seen_at(at),
            (None, Some(at)) => self.seen_at(at),
            (None, None) => None,
        };
        let lane = &mut self.lanes[from];
        if next.is_some_and(|at| at <= now) {
            let Some((_, bytes)) = lane.queue.front_mut() else {
                return dead.map_or(Seen::End, Seen::Broken);
            };
            let piece = bytes.split_to(bytes.len().min(limit));
            if bytes.is_empty() {
                lane.queue.pop_front();
            }
            lane.len -= piece.len();
            if let Some(writer) = lane.writer.take() {
                writer.wake();
            }
            return Seen::Bytes(piece);
        }
        if let Some(why) = dead {
            return Seen::Broken(why);
        }
        lane.reader = Some(cx.waker().clone());
        Seen::Nothing(earliest(next, death_at))
    }

    fn poll_write(&mut self, end: usize, cx: &mut Context<'_>, bytes: &[u8]) -> Wrote {
        if let Some(why) = self.dead(end) {
            return Wrote::Broken(why);
        }
        if self.lanes[end].end.is_some() && !self.lanes[end].lost {
            return Wrote::Broken(io::ErrorKind::BrokenPipe);
        }
        let room = self.wire.buffer_bytes.saturating_sub(self.lanes[end].len);
        if room == 0 {
            self.lanes[end].writer = Some(cx.waker().clone());
            return Wrote::Nothing(self.death_at(end));
        }
        let most = self.random.random_range(1..=self.wire.piece_bytes);
        let taken = bytes.len().min(room).min(most);
        let arrives = Instant::now() + self.delay();
        let lane = &mut self.lanes[end];
        lane.sent += taken as u64;
        if lane.deaf {
            // Whoever writes to one that has closed is told so by a reset, and what the other's
            // kernel has still to send is given up.
            self.lanes[1 - end].keep(self.wire.buffer_bytes / 2);
            self.reset(1 - end, arrives + self.wire.delay);
        } else if !lane.lost {
            let at = lane.queue.back().map_or(arrives, |&(last, _)| last.max(arrives));
            lane.queue.push_back((at, Bytes::copy_from_slice(&bytes[..taken])));
            lane.len += taken;
            if let Some(reader) = lane.reader.take() {
                reader.wake();
            }
        }
        let (hop, way) = (self.hop, Way::of(end));
        self.journal.note(format_args!("{hop} {way}: {taken} of {}", bytes.len()));
        self.due(way);
        Wrote::Some(taken)
    }

    fn delay(&mut self) -> Duration {
        self.wire.delay + self.wire.jitter.mul_f64(self.random.random())
    }

    /// The reader of a lane will learn that the connection is broken.
    fn reset(&mut self, lane: usize, at: Instant) {
        self.lanes[lane].reset = earliest(self.lanes[lane].reset, Some(at));
        self.wake_all();
    }

    fn due(&mut self, way: Way) {
        let sent = self.lanes[way as usize].sent;
        let is_due = |&(which, bytes, _): &(Way, u64, Blow)| which == way && sent >= bytes;
        while let Some(index) = self.pending.iter().position(is_due) {
            let (_, _, blow) = self.pending.swap_remove(index);
            self.strike(blow);
        }
    }

    /// Whether all that an end has written is at the other's kernel: half of what fits in between
    /// does there, the other half with the sender.
    fn is_acknowledged(&self, end: usize) -> bool {
        let lane = &self.lanes[end];
        let now = Instant::now();
        let arrived = lane.queue.back().is_none_or(|&(at, _)| self.is_seen(at, now));
        let told = lane.end.is_none_or(|at| self.is_seen(at, now));
        arrived && told && lane.len <= self.wire.buffer_bytes / 2
    }

    fn is_seen(&self, at: Instant, now: Instant) -> bool {
        self.seen_at(at).is_some_and(|at| at <= now)
    }

    fn shut(&mut self, end: usize) {
        let delay = self.wire.delay;
        let lane = &mut self.lanes[end];
        if lane.end.is_none() {
            let last = lane.queue.back().map(|&(at, _)| at);
            let at = Instant::now() + delay;
            lane.end = Some(last.map_or(at, |last| last.max(at)));
            if let Some(reader) = lane.reader.take() {
                reader.wake();
            }
        }
    }

    /// As when a descriptor is closed: what is unread, or comes still, is answered by a reset.
    fn close(&mut self, end: usize) {
        let now = Instant::now();
        let next = self.lanes[1 - end].queue.front().map(|&(at, _)| at);
        let (hop, way) = (self.hop, Way::of(end));
        self.journal.note(format_args!("{hop} {way}: closed, unread {}", next.is_some()));
        if next.is_some_and(|at| at <= now) {
            // The kernel sends no more of what it has, save what is under way.
            let kept = self.random.random_range(0..=self.lanes[end].queue.len());
            self.lanes[end].queue.truncate(kept);
            self.lanes[end].len = self.lanes[end].queue.iter().map(|(_, bytes)| bytes.len()).sum();
        }
        if let Some(at) = next {
            let last = self.lanes[end].queue.back().map_or(now, |&(at, _)| at);
            self.reset(end, (at + self.wire.delay).max(last));
        }
        self.lanes[1 - end].deaf = true;
        self.lanes[1 - end].queue.clear();
        self.lanes[1 - end].len = 0;
        self.shut(end);
        self.wake_all();
    }
}

enum Seen {
    Bytes(Bytes),
    End,
    Broken(io::ErrorKind),
    /// Nothing yet; not before this moment, where one is known.
    Nothing(Option<Instant>),
}

enum Wrote {
    Some(usize),
    Broken(io::ErrorKind),
    Nothing(Option<Instant>),
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Pending until the moment; ready once it is there.
fn poll_until(
    alarm: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
    at: Option<Instant>,
) -> Poll<()> {
    let Some(at) = at else {
        *alarm = None;
        return Poll::Pending;
    };
    let alarm = alarm.get_or_insert_with(|| Box::pin(sleep_until(at)));
    if alarm.deadline() != at {
        alarm.as_mut().reset(at);
    }
    alarm.as_mut().poll(cx)
}

impl End {
    fn pauses(&self, cx: &mut Context<'_>) -> bool {
        let mut shared = lock(&self.shared);
        let odds = shared.wire.pauses_percent;
        let pauses = shared.random.random_range(0..100) < odds;
        if pauses {
            cx.waker().wake_by_ref();
        }
        pauses
    }
}

impl Connection for End {
    fn is_peer_gone(&self) -> bool {
        let shared = lock(&self.shared);
        let ended = shared.lanes[1 - self.out].end.and_then(|at| shared.seen_at(at));
        shared.dead(self.out).is_some() || ended.is_some_and(|at| at <= Instant::now())
    }

    fn unacknowledged(&self) -> usize {
        let shared = lock(&self.shared);
        if shared.dead(self.out).is_some() || shared.is_acknowledged(self.out) {
            return 0;
        }
        shared.lanes[self.out].len.max(1)
    }

    fn reset_on_drop(&self) {}
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.get_mut();
        if end.pauses(cx) {
            return Poll::Pending;
        }
        loop {
            let seen = lock(&end.shared).poll_read(end.out, cx, buffer.remaining());
            match seen {
                Seen::Bytes(bytes) => {
                    buffer.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Seen::End => return Poll::Ready(Ok(())),
                Seen::Broken(why) => return Poll::Ready(Err(why.into())),
                Seen::Nothing(until) => ready!(poll_until(&mut end.alarms[0], cx, until)),
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let end = self.get_mut();
        if end.pauses(cx) {
            return Poll::Pending;
        }
        loop {
            let wrote = lock(&end.shared).poll_write(end.out, cx, bytes);
            match wrote {
                Wrote::Some(taken) => return Poll::Ready(Ok(taken)),
                Wrote::Broken(why) => return Poll::Ready(Err(why.into())),
                Wrote::Nothing(until) => ready!(poll_until(&mut end.alarms[1], cx, until)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.shared).shut(self.out);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.close(self.out);
        shared.journal.open().open_ends -= 1;
    }
}
