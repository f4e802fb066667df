//! Sessions that are asked for, to those that may begin, and who looks at them.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use bowline_proto::relay::Tap;

use super::{Ended, Record, Running};

/// Whether a session may begin, and who looks at it: a log, a limit, a metric, a recorder.
pub trait Admission: Debug + Send + Sync {
    /// Is asked once for each session, before anything is done for it. What it gives lives as long
    /// as the session, so that dropping it frees what the session holds. The record has neither
    /// carriers nor a container that the client did not name, yet.
    ///
    /// # Errors
    /// [`Denied`] if there is no room for this session.
    fn admit(&self, record: &Record) -> Result<Box<dyn Hook>, Denied>;
}

/// Looks at one session. Dropped without [`ended`](Self::ended), the session did not come about.
pub trait Hook: Debug + Send + Sync {
    /// It begins; the record is complete.
    fn begun(&mut self, _record: &Record) {}

    /// Looks at its decoded events, where it is relayed; called once, after [`begun`](Self::begun).
    fn tap(&mut self) -> Option<Box<dyn Tap + Send>> {
        None
    }

    /// It has ended.
    fn ended(self: Box<Self>, _ended: &Ended) {}
}

/// There is no room for a session. Its sender may ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// What the sender is told.
    pub why: String,
    /// When it may be worth to ask again.
    pub retry_after: Duration,
}

impl Denied {
    /// When it may be worth to ask again, as `Retry-After` says it.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.retry_after.as_secs().max(1)
    }
}

impl std::error::Error for Denied {}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// A session that may begin. Dropped before, its hooks free what they hold for it.
#[derive(Debug)]
pub struct Pending {
    /// What is known of it. Handshakes add to that.
    pub record: Record,
    hooks: Vec<Box<dyn Hook>>,
}

impl Pending {
    /// Asks each of `admissions`, in order.
    ///
    /// # Errors
    /// The first [`Denied`].
    pub fn by(admissions: &[Arc<dyn Admission>], record: Record) -> Result<Pending, Denied> {
        let hooks = admissions.iter().map(|admission| admission.admit(&record));
        let hooks = hooks.collect::<Result<_, _>>()?;
        Ok(Pending { record, hooks })
    }

    /// Says that it begins.
    #[must_use]
    pub fn begin(self) -> Running {
        Running::new(self.record, self.hooks)
    }
}
