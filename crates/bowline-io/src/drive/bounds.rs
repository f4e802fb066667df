//! How long two joined sockets may be silent, how old they may become, and how fast they may be.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use bowline_proto::limits::READ_BYTES;
use bowline_proto::time::earlier;
use bowline_proto::{Leg, Time};

/// The smallest piece that a slow session is read in: less would cost more than it holds back.
const PIECE_BYTES: u64 = 2 * 1024;
/// How many pieces of a session with a bandwidth come in a second. Each is waited for, so that
/// pings and the other direction have their turn in between.
const PIECES_PER_SECOND: u64 = 16;

/// The bounds of a session between two sockets. Each may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// How long nothing may pass in either direction. Pings do not count where the machine reads
    /// them.
    pub idle: Option<Duration>,
    /// How long the client may send nothing at all, no ping and no answer to one, while it is read.
    pub silence: Option<Duration>,
    /// How old the session may become.
    pub age: Option<Duration>,
    /// How many bytes a second are read from each of the sides.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// Which bound a session has reached. Its `Display` is for both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// Nothing passed for that long.
    Idle(Duration),
    /// The client sent nothing for that long.
    Silence(Duration),
    /// It is that old.
    Age(Duration),
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exceeded::Idle(limit) => write!(f, "the session was idle for {} s", limit.as_secs()),
            Exceeded::Silence(limit) => {
                write!(f, "the client sent nothing for {} s", limit.as_secs())
            }
            Exceeded::Age(limit) => {
                write!(f, "the session has reached its age of {} s", limit.as_secs())
            }
        }
    }
}

/// Where a session stands within its bounds.
#[derive(Debug)]
pub(super) struct Watch {
    bounds: Bounds,
    near_heard: Time,
    near: Allowance,
    far: Allowance,
}

impl Watch {
    pub(super) fn new(bounds: Bounds) -> Watch {
        let (near, far) = (Allowance::default(), Allowance::default());
        Watch { bounds, near_heard: Time::ZERO, near, far }
    }

    /// The most that is read at once.
    pub(super) fn read_bytes(bounds: &Bounds) -> usize {
        let Some(rate) = bounds.bytes_per_second else { return READ_BYTES };
        let piece = (rate.get() / PIECES_PER_SECOND).max(PIECE_BYTES);
        usize::try_from(piece).unwrap_or(READ_BYTES).min(READ_BYTES)
    }

    /// Records bytes of a side.
    pub(super) fn read(&mut self, now: Time, leg: Leg, bytes: usize) {
        if leg == Leg::Near {
            self.near_heard = now;
        }
        if let Some(rate) = self.bounds.bytes_per_second {
            self.allowance(leg).take(now, bytes, rate);
        }
    }

    /// Records that the client is not read, so that its silence says nothing.
    pub(super) fn not_listening(&mut self, now: Time) {
        self.near_heard = now;
    }

    /// Whether a side may be read now.
    pub(super) fn may_read(&mut self, now: Time, leg: Leg) -> bool {
        now >= self.allowance(leg).until
    }

    fn allowance(&mut self, leg: Leg) -> &mut Allowance {
        match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        }
    }

    /// Returns the next deadline, of a session in which something passed last at `used`.
    ///
    /// # Errors
    /// The bound that is reached.
    pub(super) fn check(&self, now: Time, used: Time) -> Result<Option<Time>, Exceeded> {
        let Bounds { idle, silence, age, .. } = self.bounds;
        let reached = |since: Time, limit: Option<Duration>| limit.map(|limit| since + limit);
        let ends = [
            (reached(Time::ZERO, age), Exceeded::Age(age.unwrap_or_default())),
            (reached(used, idle), Exceeded::Idle(idle.unwrap_or_default())),
            (reached(self.near_heard, silence), Exceeded::Silence(silence.unwrap_or_default())),
        ];
        let mut next = None;
        for (end, exceeded) in ends {
            if end.is_some_and(|end| now >= end) {
                return Err(exceeded);
            }
            next = earlier(next, end);
        }
        for allowance in [&self.near, &self.far] {
            if allowance.until > now {
                next = earlier(next, Some(allowance.until));
            }
        }
        Ok(next)
    }
}

/// What a side may send within its bandwidth.
#[derive(Debug)]
struct Allowance {
    /// When the next bytes may be read.
    until: Time,
}

impl Default for Allowance {
    fn default() -> Allowance {
        Allowance { until: Time::ZERO }
    }
}

impl Allowance {
    /// Bytes take their time from when they came, or from when those before them have taken theirs.
    fn take(&mut self, now: Time, bytes: usize, rate: NonZeroU64) {
        let micros = (bytes as u64).saturating_mul(1_000_000) / rate;
        self.until = self.until.max(now) + Duration::from_micros(micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn each_bound_has_its_own_clock() {
        let seconds = |count| Some(Duration::from_secs(count));
        let bounds = Bounds {
            idle: seconds(10),
            silence: seconds(20),
            age: seconds(100),
            ..Bounds::default()
        };
        let mut watch = Watch::new(bounds);
        assert_eq!(watch.check(at(9), at(0)), Ok(Some(at(10))));
        assert_eq!(watch.check(at(10), at(0)), Err(Exceeded::Idle(Duration::from_secs(10))));
        assert_eq!(watch.check(at(19), at(15)), Ok(Some(at(20))));
        assert_eq!(watch.check(at(20), at(15)), Err(Exceeded::Silence(Duration::from_secs(20))));
        watch.read(at(20), Leg::Far, 1);
        assert!(watch.check(at(20), at(20)).is_err(), "the other side is not the client");
        watch.read(at(20), Leg::Near, 1);
        assert_eq!(watch.check(at(20), at(20)), Ok(Some(at(30))));
        watch.not_listening(at(90));
        assert_eq!(watch.check(at(95), at(95)), Ok(Some(at(100))));
        assert_eq!(watch.check(at(100), at(95)), Err(Exceeded::Age(Duration::from_secs(100))));
        assert_eq!(Watch::new(Bounds::default()).check(at(1_000_000), at(0)), Ok(None));
    }

    #[test]
    fn a_bandwidth_is_kept_on_each_side_for_itself() {
        let bounds = Bounds { bytes_per_second: NonZeroU64::new(1000), ..Bounds::default() };
        let mut watch = Watch::new(bounds);
        assert!(watch.may_read(at(0), Leg::Near));
        watch.read(at(0), Leg::Near, 3000);
        assert!(!watch.may_read(at(2), Leg::Near) && watch.may_read(at(0), Leg::Far));
        assert_eq!(watch.check(at(1), at(1)), Ok(Some(at(3))));
        assert!(watch.may_read(at(3), Leg::Near));
        // What was not used is not saved.
        watch.read(at(100), Leg::Near, 1000);
        assert!(!watch.may_read(at(100), Leg::Near) && watch.may_read(at(101), Leg::Near));
        assert_eq!(Watch::read_bytes(&bounds), 2048);
        assert_eq!(Watch::read_bytes(&Bounds::default()), READ_BYTES);
    }
}
