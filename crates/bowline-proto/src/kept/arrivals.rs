//! What came of a stream, what of it was taken, and what the peer was told of that.

use bytes::{Buf, Bytes};

use super::sum::Sum;
use super::{Frame, Stream, Total};
use crate::limits::{
    KEPT_ACK_BYTES, KEPT_ACK_SOON, KEPT_ACK_SOON_BYTES, KEPT_ACK_WITHIN, KEPT_WINDOW_BYTES,
};
use crate::time::{Time, earlier};

/// One stream of the peer's.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// The offset of the byte that comes next.
    expected: u64,
    /// The end has come.
    is_over: bool,
    /// What was taken, without the end.
    taken: u64,
    /// What the peer was told of, the end included.
    told: u64,
    /// Where the peer begins to count what it may send ahead: at what it was told, and as much
    /// later as gaps have been long since.
    allowed_from: u64,
    /// When the peer has to be told of what was taken.
    due: Option<Time>,
    sum: Sum,
    /// Everything came since the session began.
    is_whole: bool,
    /// Where the last gap ended: what came before it may still wait to be taken.
    gap_end: u64,
    /// The peer may not know what it was told: it is told again.
    again: bool,
}

impl Arrivals {
    pub(super) fn new() -> Arrivals {
        Arrivals {
            expected: 0,
            is_over: false,
            taken: 0,
            told: 0,
            allowed_from: 0,
            due: None,
            sum: Sum::new(),
            is_whole: true,
            gap_end: 0,
            again: false,
        }
    }

    /// A stream of which so much came, and was taken.
    pub(super) fn past(bytes: u64, is_over: bool) -> Arrivals {
        let mut past = Arrivals::new();
        past.begin_at(bytes);
        past.is_over = is_over;
        past
    }

    /// Begins behind what others have taken.
    pub(super) fn begin_at(&mut self, offset: u64) {
        self.is_whole &= offset == 0;
        (self.expected, self.taken) = (offset, offset);
        (self.told, self.allowed_from) = (offset, offset);
    }

    /// Takes bytes that came; returns those that are new.
    ///
    /// # Errors
    /// If bytes are missing before them, or more came than was allowed.
    pub(super) fn data(&mut self, offset: u64, mut bytes: Bytes) -> Result<Bytes, &'static str> {
        let known = self.expected.checked_sub(offset).ok_or("bytes of a stream are missing")?;
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(known);
        let behind = self.expected + bytes.len() as u64;
        if !bytes.is_empty() && self.is_over {
            return Err("bytes came behind the end of their stream");
        }
        if behind > self.allowed_from.saturating_add(KEPT_WINDOW_BYTES) {
            return Err("more bytes came than were allowed");
        }
        self.expected = behind;
        self.sum.add(&bytes);
        Ok(bytes)
    }

    /// Takes the end of the stream; whether it is new.
    ///
    /// # Errors
    /// If it is not where the bytes end.
    pub(super) fn end(&mut self, now: Time, at: u64) -> Result<bool, &'static str> {
        if at != self.expected {
            return Err("a stream ends where its bytes do not");
        }
        let is_new = !core::mem::replace(&mut self.is_over, true);
        if is_new {
            self.due_within(now);
        }
        Ok(is_new)
    }

    /// Takes a gap; returns how many bytes it has.
    ///
    /// # Errors
    /// If it does not begin where the bytes end.
    pub(super) fn gap(&mut self, from: u64, to: u64) -> Result<u64, &'static str> {
        if from != self.expected || to <= from || self.is_over {
            return Err("a gap is where none can be");
        }
        self.is_whole = false;
        // What waits from before the gap counts as its last bytes, and is not acknowledged before
        // it was taken.
        let waiting = self.expected - self.taken;
        (self.expected, self.gap_end) = (to, to);
        self.taken = to.saturating_sub(waiting);
        self.allowed_from += to - from;
        Ok(to - from)
    }

    /// Records that so many of the bytes were taken.
    pub(super) fn took(&mut self, now: Time, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes).min(self.expected);
        self.due_within(now);
    }

    fn due_within(&mut self, now: Time) {
        let waiting = self.acknowledged().saturating_sub(self.told);
        let within = match waiting {
            0 => return,
            KEPT_ACK_SOON_BYTES.. => KEPT_ACK_SOON,
            _ => KEPT_ACK_WITHIN,
        };
        self.due = earlier(self.due, Some(now + within));
    }

    /// What can be acknowledged: the end as well once all was taken.
    fn acknowledged(&self) -> u64 {
        if self.taken < self.gap_end {
            return self.told;
        }
        self.taken + u64::from(self.is_over && self.taken == self.expected)
    }

    /// What has come, the end included: where a peer goes on.
    pub(super) fn have(&self) -> u64 {
        self.expected + u64::from(self.is_over)
    }

    /// The acknowledgement, if it is due. The end of a stream is acknowledged at once.
    pub(super) fn acknowledge(&mut self, now: Time, stream: Stream) -> Option<Frame> {
        let at = self.acknowledged();
        let is_due = self.due.is_some_and(|due| now >= due)
            || at.saturating_sub(self.told) >= KEPT_ACK_BYTES
            || at > self.expected;
        let is_new = at > self.told && is_due;
        if at <= self.told {
            // A gap came in between.
            self.due = None;
        }
        if !is_new && !self.again {
            return None;
        }
        (self.told, self.due, self.again) = (self.told.max(at), None, false);
        self.allowed_from = self.allowed_from.max(self.told);
        (self.told > 0).then_some(Frame::Ack(stream, self.told))
    }

    /// Has what was taken acknowledged with what is sent next.
    pub(super) fn hurry(&mut self) {
        self.due = self.due.map(|_| Time::ZERO);
    }

    /// When an acknowledgement is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// There is another connection: what was told on the last one may not have come.
    pub(super) fn reconnected(&mut self) {
        self.again = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether this is all that a stream with this total had, as far as it came.
    pub(super) fn agrees(&self, total: Total) -> bool {
        self.expected == total.bytes && (!self.is_whole || self.sum.value() == total.sum)
    }

    /// The offset of the byte that comes next.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const OUT: Stream = Stream::Stdout;

    #[test]
    fn what_waits_from_before_a_gap_is_not_acknowledged() {
        let (mut arrivals, now) = (Arrivals::new(), Time::ZERO);
        arrivals.data(0, Bytes::from_static(&[0; 100])).unwrap();
        arrivals.took(now, 40);
        assert_eq!(arrivals.gap(100, 1_000_000), Ok(999_900));
        arrivals.reconnected();
        assert_eq!(arrivals.acknowledge(now, OUT), None);
        arrivals.took(now, 60);
        assert_eq!(arrivals.acknowledge(now, OUT), Some(Frame::Ack(OUT, 1_000_000)));
    }

    #[test]
    fn an_acknowledgement_that_a_gap_defers_has_no_deadline() {
        let (mut arrivals, now) = (Arrivals::new(), Time::ZERO);
        arrivals.data(0, Bytes::from_static(&[0; 100])).unwrap();
        arrivals.took(now, 40);
        arrivals.gap(100, 200).unwrap();
        assert_eq!(arrivals.acknowledge(now + KEPT_ACK_WITHIN, OUT), None);
        assert_eq!(arrivals.deadline(), None);
        arrivals.took(now, 60);
        assert_eq!(arrivals.deadline(), Some(now + KEPT_ACK_WITHIN));
    }

    #[test]
    fn the_more_was_taken_the_sooner_the_peer_is_told() {
        let now = Time::ZERO;
        let soon = KEPT_ACK_SOON_BYTES;
        for (bytes, due) in
            [(1, KEPT_ACK_WITHIN), (soon - 1, KEPT_ACK_WITHIN), (soon, KEPT_ACK_SOON)]
        {
            let mut arrivals = Arrivals::new();
            arrivals.data(0, vec![0; usize::try_from(bytes).unwrap()].into()).unwrap();
            arrivals.took(now, bytes);
            assert_eq!(arrivals.deadline(), Some(now + due));
            assert_eq!(arrivals.acknowledge(now, OUT), None);
            assert_eq!(arrivals.acknowledge(now + due, OUT), Some(Frame::Ack(OUT, bytes)));
        }
        let mut arrivals = Arrivals::new();
        arrivals.data(0, vec![0; usize::try_from(KEPT_ACK_BYTES).unwrap()].into()).unwrap();
        arrivals.took(now, KEPT_ACK_BYTES);
        assert_eq!(arrivals.acknowledge(now, OUT), Some(Frame::Ack(OUT, KEPT_ACK_BYTES)));
    }
}
