//! Passes bytes between two sockets without parsing them. A side in a tunnel has its bytes taken
//! out of WebSocket messages and put into some; any other has them passed as they are. Whoever is
//! quiet may be pinged, also between messages that are not of here.
//!
//! The end of one side ends the other, once that has what waits for it. No end is invented: a SPDY
//! connection that was cut ends without a GOAWAY, and a tunnel whose far side broke is not closed
//! as if all were well.

use core::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::ends::{Ends, Waiting};
use crate::heartbeat::KeepAlive;
use crate::limits::OUTBOX_BYTES;
use crate::machine::{Intermediary, Leg, Next};
use crate::outbox::Outbox;
use crate::time::{Time, earlier};
use crate::tunnel::{Incoming, Wire};
use crate::websocket::{Closed, Passing};

/// Which side ended first.
pub type Ending = Leg;

/// Two byte streams as one machine with two sockets.
#[derive(Debug)]
pub struct Splice {
    near: Wire,
    far: Wire,
    /// Bytes for the near side that are not in its tunnel's messages yet.
    to_near: Outbox,
    /// The same for the far side.
    to_far: Outbox,
    ends: Ends,
    /// The far side's connection ended by a fault, or its tunnel without a Close.
    far_broke: bool,
    /// The near side, in no tunnel, is to see that its connection broke.
    near_cut: bool,
    /// The close reason for a client in a tunnel whose far side broke.
    failure_text: &'static str,
    pings: Option<Pings>,
}

/// Pings for a client over WebSocket.
#[derive(Debug)]
struct Pings {
    keep_alive: KeepAlive,
    heard: Time,
    /// The far side's messages, where these are passed to the client as they are.
    passing: Passing,
}

/// A ping without a payload, as a server sends it.
const PING: [u8; 2] = [0x89, 0];

impl Splice {
    /// Joins `near`, the client's side, and a far side without a tunnel.
    #[must_use]
    pub fn new(near: Wire) -> Splice {
        Splice {
            near,
            far: Wire::plain(),
            to_near: Outbox::new(),
            to_far: Outbox::new(),
            ends: Ends::default(),
            far_broke: false,
            near_cut: false,
            failure_text: "the connection to the node broke",
            pings: None,
        }
    }

    /// Sets how bytes travel on the far side, for one in a tunnel.
    #[must_use]
    pub fn with_far(mut self, far: Wire) -> Splice {
        self.far = far;
        self
    }

    /// Sets the close reason for a client in a tunnel whose far side breaks. The default speaks of
    /// a node.
    #[must_use]
    pub fn with_failure_text(mut self, failure_text: &'static str) -> Splice {
        self.failure_text = failure_text;
        self
    }

    /// Has a client over WebSocket pinged after `every` without a byte of it, so that nothing in
    /// between takes its connection for a dead one. Also one whose messages are passed unread: its
    /// answer goes to the far side, which passes over it, as RFC 6455 (5.5.3) has it.
    #[must_use]
    pub fn with_pings(mut self, every: Duration) -> Splice {
        let (keep_alive, passing) = (KeepAlive::new(every), Passing::default());
        self.pings = Some(Pings { keep_alive, heard: Time::ZERO, passing });
        self
    }

    /// Pings where that is due; when to look again.
    fn ping(&mut self, now: Time) -> Option<Time> {
        if self.ends.has_ended(Leg::Near) || self.ends.has_ended(Leg::Far) {
            return None;
        }
        let is_quiet = self.unsent(Leg::Near) == 0;
        let pings = self.pings.as_mut()?;
        Some(pings.keep_alive.beat(now, pings.heard, || match &mut self.near {
            // What waits says as much.
            _ if !is_quiet => {}
            Wire::Tunnel { websocket, .. } => websocket.ping(&[]),
            Wire::Plain { .. } if pings.passing.is_between() => {
                self.to_near.frame(&PING, Bytes::new());
            }
            Wire::Plain { .. } => {}
        }))
    }

    fn unsent(&self, leg: Leg) -> usize {
        match leg {
            Leg::Near => self.to_near.len() + self.near.unsent(),
            Leg::Far => self.to_far.len() + self.far.unsent(),
        }
    }

    /// Moves what came from the far side, if something did.
    fn take_from_far(&mut self, now: Time) -> bool {
        match self.far.poll() {
            None => return false,
            Some(Incoming::Bytes(_)) if !self.keeps(Leg::Near) => {}
            Some(Incoming::Bytes(bytes)) => {
                if let (Some(pings), Wire::Plain { .. }) = (&mut self.pings, &self.near) {
                    pings.passing.pass(&bytes);
                }
                self.to_near.frame(&[], bytes);
            }
            Some(Incoming::Closed(closed)) => {
                // A tunnel ends by a Close. In front of an end of ours, who hears nothing more is
                // cut; behind one, whoever has said all may go without a word.
                self.far_broke |= matches!(self.far, Wire::Tunnel { .. })
                    && !matches!(closed, Closed::CloseFrame { .. })
                    && !self.ends.has_ended(Leg::Near);
                self.ends.end(now, Leg::Far);
                let is_plain = matches!(self.near, Wire::Plain { .. });
                if self.far_broke && is_plain {
                    // Nothing on the way says that this is no good end, but the connection.
                    self.near_cut = true;
                } else if self.far_broke {
                    self.near.fail(&mut self.to_near, self.failure_text);
                } else {
                    self.to_near.finish();
                }
            }
        }
        true
    }

    /// Moves what came from the near side, if something did.
    fn take_from_near(&mut self, now: Time) -> bool {
        match self.near.poll() {
            None => return false,
            Some(Incoming::Bytes(_)) if !self.keeps(Leg::Far) => {}
            Some(Incoming::Bytes(bytes)) => self.to_far.frame(&[], bytes),
            Some(Incoming::Closed(_)) => {
                self.ends.end(now, Leg::Near);
                self.to_far.finish();
            }
        }
        true
    }

    fn keeps(&mut self, leg: Leg) -> bool {
        let unsent = self.unsent(leg);
        self.ends.keeps(leg, unsent)
    }
}

impl Intermediary for Splice {
    type Ending = Ending;

    fn receive(&mut self, now: Time, leg: Leg, input: BytesMut) {
        match leg {
            Leg::Near => {
                self.to_far.begin_read(input.len());
                self.near.receive(input);
                if let Some(pings) = &mut self.pings {
                    pings.heard = now;
                }
            }
            Leg::Far => {
                self.to_near.begin_read(input.len());
                self.far.receive(input);
                while self.take_from_far(now) {}
            }
        }
    }

    fn receive_end(&mut self, now: Time, leg: Leg, broken: bool) {
        match leg {
            Leg::Near => self.near.receive_end(),
            Leg::Far => {
                self.far_broke |= broken;
                self.far.receive_end();
                while self.take_from_far(now) {}
            }
        }
    }

    fn poll(&mut self, now: Time) -> Next<Ending> {
        while self.take_from_near(now) {}
        let waiting = Waiting {
            near_undelivered: self.near.is_undelivered(&self.to_near),
            far_undelivered: self.to_far.undelivered() + self.far.unsent(),
            flushed: self.unsent(Leg::Near) == 0 && self.unsent(Leg::Far) == 0,
        };
        match self.ends.poll(now, waiting) {
            Next::Idle(deadline) => Next::Idle(earlier(deadline, self.ping(now))),
            next => next,
        }
    }

    fn outbox(&mut self, leg: Leg) -> &mut Outbox {
        match leg {
            Leg::Near => self.near.outbox(&mut self.to_near),
            Leg::Far => self.far.outbox(&mut self.to_far),
        }
    }

    fn wants_read(&mut self, leg: Leg) -> bool {
        let other = match leg {
            Leg::Near => Leg::Far,
            Leg::Far => Leg::Near,
        };
        self.ends.has_ended(other) || self.unsent(other) < OUTBOX_BYTES
    }

    fn is_cut(&self, leg: Leg) -> bool {
        self.ends.is_cut(leg)
            || leg == Leg::Near && self.near_cut
            || leg == Leg::Far && self.far.is_undelivered(&self.to_far)
    }

    fn client_grace(&self) -> Duration {
        Ends::GRACE
    }

    /// What waits for either side is dropped: the client has gone, and the far side takes nothing.
    fn client_gone(&mut self, now: Time) {
        self.ends.client_gone(now);
        self.to_near.discard();
        self.near.outbox(&mut self.to_near).discard();
        self.to_far.discard();
        self.far.outbox(&mut self.to_far).discard();
    }

    /// Both outboxes are finished, so that nothing more is queued.
    fn abort(&mut self, now: Time, why: &str) {
        self.near.fail(&mut self.to_near, why);
        self.far.fail(&mut self.to_far, why);
        self.ends.abort(now);
    }
}
