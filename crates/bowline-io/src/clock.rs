//! The one place that reads the clock, and turns instants into the machines' [`Time`].

use std::time::Duration;

use bowline_proto::Time;
use tokio::time::Instant;

/// The time since one connection began.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Starts the clock.
    #[must_use]
    pub fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Returns the instant of `time`; of one that the system cannot tell, one that is a year away.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        let after = Duration::from_micros(time.as_micros());
        self.began.checked_add(after).unwrap_or_else(|| Instant::now() + FAR)
    }
}
