//! Passes bytes between two sockets without parsing them. A near side in a tunnel has its bytes
//! taken out of WebSocket messages and put into some; any other has them passed as they are.
//!
//! The end of one side ends the other, once that has what waits for it. No end is invented: a SPDY
//! connection that was cut ends without a GOAWAY, and a tunnel whose far side broke is not closed
//! as if all were well.

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
    /// Bytes for the near side that are not in its tunnel's messages yet.
    to_near: Outbox,
    to_far: Outbox,
    near_ended: bool,
    far_ended: bool,
    ending: Option<Ending>,
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
    /// The close reason for a client in a tunnel whose far side broke.
    failure_text: &'static str,
}

impl Splice {
    /// Joins `near`, the client's side, and a far side without a tunnel.
    #[must_use]
    pub fn new(near: Wire) -> Splice {
        Splice {
            near,
            to_near: Outbox::new(),
            to_far: Outbox::new(),
            near_ended: false,
            far_ended: false,
            ending: None,
            ending_told: false,
            until: None,
            owed: 0,
            owed_until: None,
            near_cut: false,
            far_cut: false,
            failure_text: "the connection to the node broke",
        }
    }

    /// Sets the close reason for a client in a tunnel whose far side breaks. The default speaks of
    /// a node.
    #[must_use]
    pub fn with_failure_text(mut self, failure_text: &'static str) -> Splice {
        self.failure_text = failure_text;
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

    /// Whether the far side still takes bytes, once the near side has ended: nobody else would ever
    /// end a far side that takes nothing.
    fn is_far_taking(&mut self, now: Time) -> bool {
        let owed = self.to_far.undelivered();
        if self.owed_until.is_none() || owed != self.owed {
            self.owed = owed;
            self.owed_until = Some(now + CLOSED_CLIENT_GRACE);
        }
        self.owed_until.is_some_and(|until| now < until)
    }

    /// Whether bytes for this side are kept. A side that has ended does not hold back the other
    /// one, which is read on; what exceeds its bound is dropped then, and all that follows.
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
                self.to_far.begin_read(input.len());
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
                    self.near.fail(&mut self.to_near, self.failure_text);
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
        if let Some(ending) = self.ending.filter(|_| !self.ending_told) {
            self.ending_told = true;
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

    /// What waits for either side is dropped: the client has gone, and the far side takes nothing.
    fn client_gone(&mut self, now: Time) {
        (self.near_ended, self.far_ended, self.far_cut) = (true, true, true);
        self.ended(now, Leg::Near);
        self.to_near.discard();
        self.near.outbox(&mut self.to_near).discard();
        self.to_far.discard();
    }

    /// Both outboxes are finished, so that nothing more is queued.
    fn abort(&mut self, now: Time, why: &str) {
        self.near.fail(&mut self.to_near, why);
        self.to_far.finish();
        self.until = Some(now + CLOSING_PATIENCE);
    }
}
