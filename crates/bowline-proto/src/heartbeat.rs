//! Turns time and traffic into pings and, where a peer that should answer stays silent, into the
//! verdict that it is dead.
//!
//! Three kinds of silence say nothing about the peer:
//!
//! - We have stopped reading, and what it says is not heard (see [`Heartbeat::paused`]).
//! - We had stopped for long, and read again. Where several connections carry what comes, one far
//!   away may not have learnt that: TCP asks a reader that had no room at intervals that double up
//!   to two minutes, and the reader's own word, which should come before, is not always heard.
//!   Between a stock runtime and a stock kubelet all stood still for as long as the pause had been.
//! - It has yet to read bulk data of ours before it gets to our ping. There the owner's socket
//!   tells: a host that is gone stops acknowledging, one that merely does not read goes on
//!   answering window probes.

use alloc::format;
use core::time::Duration;

use crate::session::{Cause, Loss};
use crate::time::{Time, earlier};

/// The shortest pause that counts. Those between pieces of a fast transfer close no window for
/// long.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// The longest interval at which TCP asks a reader that had no room (`TCP_RTO_MAX`).
const LONGEST_PROBE: Duration = Duration::from_secs(120);

/// What a [`Heartbeat`] asks its owner to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Send a ping now, and say so with [`Heartbeat::pinged`].
    Ping,
    /// The peer is dead.
    Dead,
    /// Nothing until this moment.
    Wait(Time),
}

/// Decides when a client pings its server, and when a silent server is dead.
#[derive(Debug)]
pub struct Heartbeat {
    every: Duration,
    patience: Duration,
    next_ping: Time,
    /// When the oldest unanswered ping was sent, of those that no bulk data of ours can hold up.
    asked: Option<Time>,
    /// How many pieces of bulk data were sent.
    bulk_sent: u64,
    /// The number of an unanswered ping, and how many pieces were sent before it.
    bulk_asked: Option<(u32, u64)>,
    /// How many pieces the peer is known to have read. While that is less than `bulk_sent`, a ping
    /// may be held up.
    bulk_read: u64,
    /// Since when we have not read.
    paused: Option<Time>,
    /// How long we have not read, in pauses that may have an echo still.
    pauses: Duration,
    /// Until when what comes may stand still because of them.
    echo_ends: Time,
}

impl Heartbeat {
    /// Pings after `every` without a byte of the peer, which is dead if it answers with none within
    /// `patience`.
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
            paused: None,
            pauses: Duration::ZERO,
            echo_ends: Time::ZERO,
        }
    }

    /// Records that bytes of any kind came. A peer that speaks need not be pinged, and must not be:
    /// a server that has sent all and closed answers anything that still comes with a reset, which
    /// destroys what we have not read yet.
    pub fn heard(&mut self, now: Time) {
        self.next_ping = now + self.every;
        if self.asked.is_some() {
            self.asked = Some(now);
        }
    }

    /// Records that the ping with this number was answered: the peer has read everything that we
    /// sent before it. Of what was sent after the ping the answer says nothing.
    pub fn answered(&mut self, number: u32) {
        self.asked = None;
        if let Some((_, bulk)) = self.bulk_asked.take_if(|(asked, _)| *asked <= number) {
            self.bulk_read = bulk;
        }
    }

    /// Records that a piece of bulk data was sent: the next ping may have to wait behind it.
    pub fn sent_bulk(&mut self) {
        self.bulk_sent += 1;
    }

    /// Records that a ping was queued, with a number above those of all before; `None` if none
    /// could be.
    pub fn pinged(&mut self, now: Time, number: Option<u32>) {
        self.next_ping = now + self.every;
        let Some(number) = number else { return };
        self.bulk_asked.get_or_insert((number, self.bulk_sent));
        if self.bulk_sent == self.bulk_read {
            self.asked.get_or_insert(now);
        }
    }

    /// Records that we stopped reading, or read again. While we do not read, no silence is judged;
    /// nor is it for as long again, two minutes at most.
    pub fn paused(&mut self, now: Time, paused: bool) {
        if paused {
            self.paused.get_or_insert(now);
            return;
        }
        let Some(since) = self.paused.take() else { return };
        self.heard(now);
        let pause = now.since(since);
        if pause < LONG_PAUSE {
            return;
        }
        if since >= self.echo_ends {
            self.pauses = Duration::ZERO;
        }
        self.pauses = (self.pauses + pause).min(LONGEST_PROBE);
        self.echo_ends = now + self.pauses;
    }

    /// Returns when the peer was heard last, where it was never pinged.
    #[must_use]
    pub fn heard_at(&self) -> Time {
        Time::ZERO + self.next_ping.since(Time::ZERO).saturating_sub(self.every)
    }

    /// Whether we have stopped reading, so that nothing of the peer can be heard.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Pings where that is due, by `ping`, which returns the ping's number or has no room for one.
    /// Returns the next deadline.
    ///
    /// # Errors
    /// [`Loss`] if the peer is dead.
    pub fn beat(&mut self, now: Time, mut ping: impl FnMut() -> Option<u32>) -> Result<Time, Loss> {
        loop {
            match self.poll(now) {
                Beat::Wait(until) => return Ok(until),
                Beat::Ping => self.pinged(now, ping()),
                Beat::Dead => {
                    let silence = now.since(self.asked.unwrap_or(now)).as_secs();
                    let why = format!("no answer to a ping for {silence} s");
                    return Err(Loss::new(Cause::Silent, why));
                }
            }
        }
    }

    /// What is due at `now`.
    #[must_use]
    pub fn poll(&self, now: Time) -> Beat {
        let death = |asked: Time| asked.max(self.echo_ends) + self.patience;
        let death = self.asked.map(death).filter(|_| !self.is_paused());
        if death.is_some_and(|death| now >= death) {
            return Beat::Dead;
        }
        // What the peer has said may be waiting unread, so it is not pinged either.
        if self.is_paused() {
            return Beat::Wait(now + self.every);
        }
        if now >= self.next_ping {
            return Beat::Ping;
        }
        Beat::Wait(earlier(Some(self.next_ping), death).unwrap_or(self.next_ping))
    }
}

/// Decides when a server pings a client that is quiet, so that nothing between them closes the
/// connection. It judges nobody: a client that does not read cannot answer, and is not dead for
/// that.
#[derive(Debug)]
pub struct KeepAlive {
    every: Duration,
    pinged: Time,
}

impl KeepAlive {
    /// Pings after `every` without a byte of the client.
    #[must_use]
    pub fn new(every: Duration) -> KeepAlive {
        KeepAlive { every, pinged: Time::ZERO }
    }

    /// Pings where that is due, by `ping`, a client that was heard at `heard`. Returns the next
    /// deadline.
    pub fn beat(&mut self, now: Time, heard: Time, ping: impl FnOnce()) -> Time {
        if now >= self.pinged.max(heard) + self.every {
            self.pinged = now;
            ping();
        }
        self.pinged.max(heard) + self.every
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
    fn silence_behind_a_pause_may_last_as_long_as_the_pause() {
        let after = |pauses: &[(u64, u64)]| {
            let mut heartbeat = Heartbeat::new(Time::ZERO, EVERY, PATIENCE);
            let mut resumed = 0;
            for &(from, until) in pauses {
                heartbeat.paused(seconds(from), true);
                heartbeat.paused(seconds(until), true);
                heartbeat.paused(seconds(until), false);
                resumed = until;
            }
            // What was on its way comes, and then nothing.
            heartbeat.heard(seconds(resumed + 1));
            dies(&mut heartbeat, 2000).unwrap() - resumed
        };
        assert_eq!(after(&[(0, 75)]), 75 + 30);
        assert_eq!(after(&[(0, 1000)]), 120 + 30);
        assert_eq!(after(&[(0, 20), (30, 50), (60, 80)]), 60 + 30, "they have one echo");
        assert_eq!(after(&[(0, 75), (200, 210)]), 10 + 30, "the first one's has ended");
        assert_eq!(after(&[(0, 0), (1, 1)]), 1 + 5 + 30);
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

    #[test]
    fn a_quiet_client_is_pinged_and_never_judged() {
        let mut keep_alive = KeepAlive::new(EVERY);
        let pings = |keep_alive: &mut KeepAlive, heard: u64, from: u64, until: u64| {
            let mut pings = alloc::vec::Vec::new();
            for second in from..until {
                keep_alive.beat(seconds(second), seconds(heard), || pings.push(second));
            }
            pings
        };
        assert_eq!(pings(&mut keep_alive, 0, 0, 11), [5, 10]);
        assert_eq!(pings(&mut keep_alive, 12, 12, 1000).first(), Some(&17));
    }
}
