//! Turns time and traffic into pings and, where a peer stays silent that should speak, into a
//! verdict.
//!
//! Silence is death only when it was not asked for. Two kinds of silence are: we stopped reading
//! (the driver then does not poll the deadline against the peer: see [`Heartbeat::paused`]), and
//! the peer may be blocked on bulk data of ours that sits before our ping. The kernel watches the
//! second kind: a host that is gone stops acknowledging (`TCP_USER_TIMEOUT`, keepalive), a peer
//! that merely does not read goes on answering window probes.

use core::time::Duration;

use crate::time::{Time, earlier};

/// What the heartbeat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Send a ping now, and say so with [`Heartbeat::pinged`].
    Ping,
    /// The peer is dead.
    Dead,
    /// Nothing until this moment.
    Wait(Time),
}

/// The client's side of keeping a session alive.
#[derive(Debug)]
pub struct Heartbeat {
    every: Duration,
    patience: Duration,
    next_ping: Time,
    /// When the oldest ping was sent that is still unanswered and that nothing can hold up.
    asked: Option<Time>,
    /// How much bulk data was sent, how much of it before an open ping with this number, and how
    /// much of it the peer is known to have read. While the first and the last differ, a ping may
    /// be stuck.
    bulk_sent: u64,
    bulk_asked: Option<(u32, u64)>,
    bulk_read: u64,
    paused: bool,
}

impl Heartbeat {
    /// Pings `every` so often, waits with `patience`.
    #[must_use]
    pub fn new(now: Time, every: Duration, patience: Duration) -> Heartbeat {
        let next_ping = now + every;
        Heartbeat {
            every,
            patience,
            next_ping,
            asked: None,
            bulk_sent: 0,
            bulk_asked: None,
            bulk_read: 0,
            paused: false,
        }
    }

    /// Bytes of any kind came. Who speaks need not be asked, and must not be: a server that has
    /// sent all and closed answers anything that still comes with a reset, and the reset destroys
    /// what we have not read yet.
    pub fn heard(&mut self, now: Time) {
        self.next_ping = now + self.every;
        if self.asked.is_some() {
            self.asked = Some(now);
        }
    }

    /// The ping with this number was answered: everything that we sent before it was read. What
    /// was sent behind it a late answer knows nothing of.
    pub fn answered(&mut self, number: u32) {
        self.asked = None;
        if let Some((_, bulk)) = self.bulk_asked.take_if(|(asked, _)| *asked <= number) {
            self.bulk_read = bulk;
        }
    }

    /// Bulk data was sent: behind it a ping may have to wait.
    pub fn sent_bulk(&mut self) {
        self.bulk_sent += 1;
    }

    /// A ping was queued, with a number above those of all before; or none could be.
    pub fn pinged(&mut self, now: Time, number: Option<u32>) {
        self.next_ping = now + self.every;
        let Some(number) = number else { return };
        self.bulk_asked.get_or_insert((number, self.bulk_sent));
        if self.bulk_sent == self.bulk_read {
            self.asked.get_or_insert(now);
        }
    }

    /// We stopped reading, or read again. What the peer says while we do not read is not heard.
    pub fn paused(&mut self, now: Time, paused: bool) {
        if self.paused && !paused {
            self.heard(now);
        }
        self.paused = paused;
    }

    /// Whether we do not read. Nothing that the peer still owes us can come meanwhile.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// What is due.
    #[must_use]
    pub fn poll(&self, now: Time) -> Beat {
        let death = self.asked.map(|asked| asked + self.patience).filter(|_| !self.paused);
        if death.is_some_and(|death| now >= death) {
            return Beat::Dead;
        }
        // Nor is a peer asked whose words wait unread.
        if self.paused {
            return Beat::Wait(now + self.every);
        }
        if now >= self.next_ping {
            return Beat::Ping;
        }
        Beat::Wait(earlier(Some(self.next_ping), death).unwrap_or(self.next_ping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);
    const PATIENCE: Duration = Duration::from_secs(30);

    fn seconds(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    /// Runs with a ping at every chance and no answers; gives the second of death.
    fn dies(heartbeat: &mut Heartbeat, until: u64) -> Option<u64> {
        (0..=until).find(|&second| {
            loop {
                match heartbeat.poll(seconds(second)) {
                    Beat::Ping => heartbeat.pinged(seconds(second), Some(second as u32)),
                    Beat::Dead => return true,
                    Beat::Wait(_) => return false,
                }
            }
        })
    }

    #[test]
    fn silence_after_a_ping_is_death_within_the_patience() {
        let mut heartbeat = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        assert_eq!(dies(&mut heartbeat, 100), Some(35));
    }

    #[test]
    fn any_byte_is_a_sign_of_life() {
        let mut heartbeat = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        assert_eq!(dies(&mut heartbeat, 34), None);
        heartbeat.heard(seconds(34));
        assert_eq!(heartbeat.poll(seconds(63)), Beat::Ping);
        heartbeat.pinged(seconds(63), Some(63));
        assert_eq!(heartbeat.poll(seconds(64)), Beat::Dead);
    }

    #[test]
    fn silence_that_we_asked_for_is_not_death() {
        let mut paused = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        paused.pinged(seconds(5), Some(5));
        paused.paused(seconds(6), true);
        assert_eq!(dies(&mut paused, 500), None);
        assert_eq!(paused.poll(seconds(500)), Beat::Wait(seconds(505)));
        paused.paused(seconds(500), false);
        assert_eq!(paused.poll(seconds(501)), Beat::Wait(seconds(505)));

        let mut blocked = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        blocked.sent_bulk();
        assert_eq!(dies(&mut blocked, 500), None);
        blocked.answered(500);
        assert_eq!(dies(&mut blocked, 1000), Some(535));

        let mut later = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        later.pinged(seconds(5), Some(5));
        later.sent_bulk();
        later.answered(5);
        assert_eq!(dies(&mut later, 500), None, "the answer says nothing of what came after");
    }

    #[test]
    fn an_answer_says_nothing_of_what_was_sent_behind_its_ping() {
        let mut heartbeat = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        heartbeat.sent_bulk();
        heartbeat.pinged(seconds(5), Some(1));
        heartbeat.pinged(seconds(10), Some(2));
        heartbeat.answered(1);
        heartbeat.sent_bulk();
        heartbeat.pinged(seconds(15), Some(3));
        heartbeat.answered(2);
        assert_eq!(dies(&mut heartbeat, 500), None, "the second answer is none to the third ping");
        heartbeat.answered(3);
        assert_eq!(dies(&mut heartbeat, 1000), Some(535));
    }

    #[test]
    fn a_ping_that_could_not_be_sent_asks_for_nothing() {
        let mut heartbeat = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
        heartbeat.pinged(seconds(5), None);
        assert_eq!(heartbeat.poll(seconds(9)), Beat::Wait(seconds(10)));
        assert_eq!(heartbeat.poll(seconds(100)), Beat::Ping);
    }
}
