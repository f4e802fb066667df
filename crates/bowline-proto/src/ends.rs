//! How two joined sockets end: what ends one side ends the other, once that has what waits for it.

use core::time::Duration;

use crate::limits::{CLOSED_CLIENT_GRACE, CLOSING_PATIENCE, OUTBOX_BYTES};
use crate::machine::{Leg, Next};
use crate::time::Time;

/// What has ended of two joined sockets, and until when the rest is waited for.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    near: bool,
    far: bool,
    ending: Option<Leg>,
    ending_told: bool,
    /// Once a side has ended: until when the rest may take.
    until: Option<Time>,
    /// How many bytes the far side had yet to take when that was last looked at.
    owed: usize,
    /// Once the near side has ended: until when the far side has to take some of them.
    owed_until: Option<Time>,
    /// Bytes for the near side were dropped.
    near_cut: bool,
    /// Bytes for the far side were dropped.
    far_cut: bool,
}

/// What the two sides have yet to get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Whether the near side's host has yet to get something.
    pub(crate) near_undelivered: bool,
    /// How many bytes the far side's host has yet to get.
    pub(crate) far_undelivered: usize,
    /// Whether everything was written.
    pub(crate) flushed: bool,
}

impl Ends {
    /// How long a client that has ended its direction still counts as there.
    pub(crate) const GRACE: Duration = CLOSED_CLIENT_GRACE;

    /// Records that a side gives nothing more.
    pub(crate) fn end(&mut self, now: Time, leg: Leg) {
        *match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        } = true;
        self.ending.get_or_insert(leg);
        self.until.get_or_insert(now + CLOSING_PATIENCE);
    }

    /// Records that the client has gone, and that the far side takes nothing.
    pub(crate) fn client_gone(&mut self, now: Time) {
        (self.far, self.far_cut) = (true, true);
        self.end(now, Leg::Near);
    }

    /// Waits for both sides no longer than the patience from now on.
    pub(crate) fn abort(&mut self, now: Time) {
        self.until = Some(now + CLOSING_PATIENCE);
    }

    pub(crate) fn has_ended(&self, leg: Leg) -> bool {
        match leg {
            Leg::Near => self.near,
            Leg::Far => self.far,
        }
    }

    /// Whether bytes for this side, for which `unsent` wait already, are kept. A side that has
    /// ended does not hold back the other one, which is read on; what exceeds its bound is dropped
    /// then, and all that follows.
    pub(crate) fn keeps(&mut self, leg: Leg, unsent: usize) -> bool {
        let ended = self.has_ended(leg);
        let cut = match leg {
            Leg::Near => &mut self.near_cut,
            Leg::Far => &mut self.far_cut,
        };
        *cut |= ended && unsent >= OUTBOX_BYTES;
        !*cut
    }

    /// Whether bytes for this side were dropped.
    pub(crate) fn is_cut(&self, leg: Leg) -> bool {
        match leg {
            Leg::Near => self.near_cut,
            Leg::Far => self.far_cut,
        }
    }

    /// The ending once, then how long to wait, then that it is over.
    pub(crate) fn poll(&mut self, now: Time, waiting: Waiting) -> Next<Leg> {
        if let Some(ending) = self.ending.filter(|_| !self.ending_told) {
            self.ending_told = true;
            return Next::Event(ending);
        }
        let Some(until) = self.until else { return Next::Idle(None) };
        if self.near && self.far && waiting.flushed {
            return Next::Done;
        }
        // However slow a side reads, what it is owed is not cut off while it does.
        if self.is_moving(now, waiting) {
            self.until = Some(now + CLOSING_PATIENCE);
            return Next::Idle(self.until);
        }
        if now >= until { Next::Done } else { Next::Idle(Some(until)) }
    }

    fn is_moving(&mut self, now: Time, waiting: Waiting) -> bool {
        let near = !self.near && waiting.near_undelivered;
        let far = !self.far && waiting.far_undelivered > 0;
        near || far && self.is_far_taking(now, waiting.far_undelivered)
    }

    /// Whether the far side still takes bytes, once the near side has ended: nobody else would ever
    /// end a far side that takes nothing.
    fn is_far_taking(&mut self, now: Time, owed: usize) -> bool {
        if self.owed_until.is_none() || owed != self.owed {
            self.owed = owed;
            self.owed_until = Some(now + CLOSED_CLIENT_GRACE);
        }
        self.owed_until.is_some_and(|until| now < until)
    }
}
