//! What a port-forward does as time passes: pairs that expire, pings, and the end of closing.

use alloc::format;

use super::{OverSpdy, State};
use crate::limits;
use crate::portforward::Event;
use crate::session::Side;
use crate::time::{Time, earlier};

impl OverSpdy {
    pub(super) fn tick(&mut self, now: Time) -> Option<Time> {
        match self.state {
            State::Open => {
                let pair = self.expire(now);
                earlier(pair, self.beat(now))
            }
            State::Closing(deadline) if now >= deadline || self.has_nothing_to_wait_for() => {
                self.state = State::Over;
                None
            }
            State::Closing(deadline) => Some(deadline),
            State::Over => None,
        }
    }

    /// Whether a closing connection can be dropped. A client owes its server nothing but the bytes
    /// that wait; a server reads on until the client has closed, so that no reset overtakes what it
    /// sent last.
    fn has_nothing_to_wait_for(&self) -> bool {
        self.unsent() == 0 && (self.side == Side::Client || self.input_ended)
    }

    fn expire(&mut self, now: Time) -> Option<Time> {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if now < deadline {
                return Some(deadline);
            }
            self.await_no_more(id);
            let Some(pair) = self.pairs.get(&id) else { continue };
            match self.side {
                Side::Server if pair.announced => {}
                Side::Server => {
                    let request = &pair.request;
                    let why = format!("(request={request}) timed out waiting for streams");
                    self.fail(now, id, &why);
                }
                Side::Client if pair.announced => {
                    self.reset(now, id);
                    self.events.push_back(Event::Reset(id));
                }
                Side::Client => self.give_up(id, "Timeout occurred"),
            }
        }
        None
    }

    fn beat(&mut self, now: Time) -> Option<Time> {
        if self.side == Side::Server {
            return None;
        }
        let has_room = self.unsent() < limits::OUTBOX_BYTES;
        let ping = || if has_room { self.spdy.ping() } else { None };
        let beat = self.heartbeat.beat(now, ping);
        beat.map_err(|loss| self.lost(now, loss)).ok()
    }
}
