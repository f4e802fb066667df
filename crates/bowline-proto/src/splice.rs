//! Bytes between two sockets, unread: out of a tunnel's messages and into them where the near side
//! has one, as they are where it has none.
//!
//! What ends one side ends the other, after what waits for it. Neither end is invented: a SPDY
//! connection that was cut stays one without a GOAWAY, and a tunnel whose far side broke is not
//! closed as if all were well.

use core::time::Duration;

use bytes::BytesMut;

use crate::limits::{CLOSED_CLIENT_GRACE, CLOSING_PATIENCE, OUTBOX_BYTES};
use crate::machine::{Intermediary, Leg, Next};
use crate::outbox::Outbox;
use crate::time::Time;
use crate::tunnel::{Incoming, Wire};

/// Which side ended first.
pub type Ending = Leg;

/// Two byte streams as one machine with two sockets.
#[derive(Debug)]
pub struct Splice {
    near: Wire,
    /// What waits for the near and the far side, before the near one's tunnel.
    to_near: Outbox,
    to_far: Outbox,
    near_ended: bool,
    far_ended: bool,
    /// Told once.
    ending: Option<Ending>,
    told: bool,
    until: Option<Time>,
    /// What the far side is owed, and until when it has to have taken some of it, once nobody is
    /// there any more who owes it.
    owed: usize,
    owed_until: Option<Time>,
    /// Something that was said to this side was dropped.
    near_cut: bool,
    far_cut: bool,
    broken: &'static str,
}

impl Splice {
    /// Between `near`, at which a client is, and a bare far side.
    #[must_use]
    pub fn new(near: Wire) -> Splice {
        Splice {
            near,
            to_near: Outbox::new(),
            to_far: Outbox::new(),
            near_ended: false,
            far_ended: false,
            ending: None,
            told: false,
            until: None,
            owed: 0,
            owed_until: None,
            near_cut: false,
            far_cut: false,
            broken: "the connection to the node broke",
        }
    }

    /// What a client in a tunnel is told if the far side breaks, where that is no node.
    #[must_use]
    pub fn with_words(mut self, broken: &'static str) -> Splice {
        self.broken = broken;
        self
    }

    fn ended(&mut self, now: Time, leg: Leg) {
        self.ending.get_or_insert(leg);
        self.until.get_or_insert(now + CLOSING_PATIENCE);
    }

    fn is_moving(&mut self, now: Time) -> bool {
        let near = !self.near_ended && self.near.is_undelivered(&self.to_near);
        let far = !self.far_ended && self.to_far.is_undelivered();
        near || far && self.is_far_taking(now)
    }

    /// The near side has ended, so that nobody else would ever end a far side that takes nothing.
    fn is_far_taking(&mut self, now: Time) -> bool {
        let owed = self.to_far.undelivered();
        if self.owed_until.is_none() || owed != self.owed {
            self.owed = owed;
            self.owed_until = Some(now + CLOSED_CLIENT_GRACE);
        }
        self.owed_until.is_some_and(|until| now < until)
    }

    /// Whether what comes for this side is kept. Once a side has ended, the other one is read
    /// whatever it takes; what is more than its bound is dropped then, and all that follows.
    fn keeps(&mut self, leg: Leg) -> bool {
        let is_full = self.unsent(leg) >= OUTBOX_BYTES;
        let (ended, cut) = match leg {
            Leg::Near => (self.near_ended, &mut self.near_cut),
            Leg::Far => (self.far_ended, &mut self.far_cut),
        };
        *cut |= ended && is_full;
        !*cut
    }

    fn unsent(&self, leg: Leg) -> usize {
        match leg {
            Leg::Near => self.to_near.len() + self.near.unsent(),
            Leg::Far => self.to_far.len(),
        }
    }
}

impl Intermediary for Splice {
    type Ending = Ending;

    fn receive(&mut self, _now: Time, leg: Leg, input: BytesMut) {
        match leg {
            Leg::Near => {
                self.to_far.round(input.len());
                self.near.receive(input);
            }
            Leg::Far if !self.keeps(Leg::Near) => {}
            Leg::Far => self.to_near.frame(&[], input.freeze()),
        }
    }

    fn receive_end(&mut self, now: Time, leg: Leg, broken: bool) {
        match leg {
            Leg::Near => self.near.receive_end(),
            Leg::Far if self.far_ended => {}
            Leg::Far => {
                self.far_ended = true;
                self.ended(now, Leg::Far);
                if broken {
                    self.near.fail(&mut self.to_near, self.broken);
                } else {
                    self.to_near.finish();
                }
            }
        }
    }

    fn poll(&mut self, now: Time) -> Next<Ending> {
        while let Some(came) = self.near.poll() {
            match came {
                Incoming::Bytes(_) if !self.keeps(Leg::Far) => {}
                Incoming::Bytes(bytes) => self.to_far.frame(&[], bytes),
                Incoming::Closed(_) => {
                    self.near_ended = true;
                    self.ended(now, Leg::Near);
                    self.to_far.finish();
                }
            }
        }
        if let Some(ending) = self.ending.filter(|_| !self.told) {
            self.told = true;
            return Next::Event(ending);
        }
        let Some(until) = self.until else { return Next::Idle(None) };
        let flushed = self.unsent(Leg::Near) == 0 && self.unsent(Leg::Far) == 0;
        if self.near_ended && self.far_ended && flushed {
            return Next::Done;
        }
        // However slow a side reads, what it is owed is not cut off while it does.
        if self.is_moving(now) {
            self.until = Some(now + CLOSING_PATIENCE);
            return Next::Idle(self.until);
        }
        if now >= until { Next::Done } else { Next::Idle(Some(until)) }
    }

    fn outbox(&mut self, leg: Leg) -> &mut Outbox {
        match leg {
            Leg::Near => self.near.outbox(&mut self.to_near),
            Leg::Far => &mut self.to_far,
        }
    }

    fn wants_read(&mut self, leg: Leg) -> bool {
        let (other, ended) = match leg {
            Leg::Near => (Leg::Far, self.far_ended),
            Leg::Far => (Leg::Near, self.near_ended),
        };
        ended || self.unsent(other) < OUTBOX_BYTES
    }

    fn is_cut(&self, leg: Leg) -> bool {
        match leg {
            Leg::Near => self.near_cut,
            Leg::Far => self.far_cut || self.to_far.is_undelivered(),
        }
    }

    fn client_grace(&self) -> Duration {
        CLOSED_CLIENT_GRACE
    }

    /// The far side takes nothing.
    fn client_gone(&mut self, now: Time) {
        (self.near_ended, self.far_ended, self.far_cut) = (true, true, true);
        self.ended(now, Leg::Near);
        self.to_near.discard();
        self.near.outbox(&mut self.to_near).discard();
        self.to_far.discard();
    }

    /// Both outboxes are finished: what still comes is queued for nobody.
    fn abort(&mut self, now: Time, why: &str) {
        self.near.fail(&mut self.to_near, why);
        self.to_far.finish();
        self.until = Some(now + CLOSING_PATIENCE);
    }
}
