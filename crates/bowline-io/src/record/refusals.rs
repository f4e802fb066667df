//! A server's refusals to the lines that a log gets of them, and a bound for those.

use std::sync::Mutex;
use std::time::Duration;

use bowline_proto::Time;
use tracing::{info, warn};

use super::Requester;
use super::log::REASON_BYTES;
use crate::clock::Clock;
use crate::text::sanitized;

/// So many refusals are logged a minute, each of senders that are known and that are not: whoever
/// may nothing must not fill a disk, nor hide what the others did.
pub(super) const REFUSALS: u32 = 100;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// A server's refusals to a log that they cannot fill.
#[derive(Debug)]
pub struct Refusals {
    clock: Clock,
    /// Of senders that are known, and of all others.
    minutes: [Mutex<Minute>; 2],
}

#[derive(Debug, Default)]
pub(super) struct Minute {
    until: Time,
    logged: u32,
    left_out: u64,
}

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals { clock: Clock::start(), minutes: Default::default() }
    }
}

impl Refusals {
    /// Logs one: who asked for what, and why it was refused. `path` is without the query, which
    /// holds commands.
    pub fn log(&self, requester: &Requester, method: &str, path: &str, code: u16, why: &str) {
        let minute = &self.minutes[usize::from(requester.user.is_none())];
        let Ok(mut minute) = minute.lock() else { return };
        let Some(left_out) = minute.take(self.clock.now()) else { return };
        drop(minute);
        if left_out > 0 {
            warn!("{left_out} refusals of the last minute are not in this log");
        }
        let (path, why) = (sanitized(path, REASON_BYTES), sanitized(why, REASON_BYTES));
        let (user, by) = (requester.name(), requester.by());
        let (user, by, peer) = (user.as_deref(), by.as_deref(), requester.peer);
        let (path, why) = (&*path, &*why);
        match code {
            401 | 403 => warn!(%peer, user, by, method, path, code, why, "refused"),
            _ => info!(%peer, user, by, method, path, code, why, "refused"),
        }
    }
}

impl Minute {
    /// Whether one more is logged, and how many were not, in the minute that is over.
    pub(super) fn take(&mut self, now: Time) -> Option<u64> {
        let mut left_out = 0;
        if now >= self.until {
            left_out = self.left_out;
            *self = Minute { until: now + MINUTE, ..Minute::default() };
        }
        if self.logged == REFUSALS {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(left_out)
    }
}
