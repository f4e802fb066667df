//! The one place that looks at a watch: instants to the machines' [`Time`].

use std::time::Duration;

use bowline_proto::Time;
use tokio::time::Instant;

/// Counts from the beginning of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    /// Begins to count.
    #[must_use]
    pub fn start() -> Clock {
        Clock { began: Instant::now() }
    }

    /// How late it is.
    #[must_use]
    pub fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The instant at which it is `time`; a far one if it is out of reach.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        self.began + Duration::from_micros(time.as_micros()).min(FAR)
    }
}
