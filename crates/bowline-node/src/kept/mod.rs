//! Commands that outlive their clients' connections: what of
//! [`bowline_proto::kept`] is a node's.
//!
//! A request that asks for it is a connection of its own ([`visit`]): it says whom it wants, and is
//! taken to the task of that session, which has the process, and a seat for each client that is
//! connected. The [`Keeper`] knows all sessions by their ids, and for how long.

mod job;
mod line;
mod question;
mod registry;
mod session;
mod visit;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::random;
use bowline_io::serve::Sessions;
use bowline_proto::Time;
use bowline_proto::kept::{Entry, Id, Instance, Start};
use bowline_proto::limits::KEPT_REPLAY_BYTES;
use bowline_proto::negotiate;
use bowline_proto::session::Wants;
use bowline_proto::session::protocol::KEPT;
use tokio::sync::mpsc;

pub use self::job::Job;
pub(crate) use self::question::Question;
use self::registry::{Known, Registry};
use self::session::{Entrant, KeptSession};
pub(crate) use self::visit::visit;
use crate::runtime::{self, LocalSession};

/// The first word of what asks for a kept session, and not for a command.
pub(crate) const WORD: &str = "@bowline";
/// How many clients may wait until the task of a session takes them.
const WAITING: usize = 4;

/// How many sessions are kept, how much of each, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one container, those that have ended left out.
    pub per_container: usize,
    /// Of the node: of those that run, and again of those that have ended. Of these the oldest goes.
    pub per_node: usize,
    /// How much of each output is kept for a client that has not acknowledged it.
    pub replay_bytes: usize,
    /// The longest time for which a session is kept without a client, or after its end.
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            per_container: 1024,
            per_node: 4096,
            replay_bytes: KEPT_REPLAY_BYTES,
            longest: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// All kept sessions of a node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    instance: Instance,
    limits: Limits,
    sessions: Sessions,
    clock: Clock,
    registry: Mutex<Registry>,
}

/// The container that a session belongs to, as requests name it. Only those for the same one get
/// to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// The uid of its pod, where it was given.
    pub(crate) uid: Option<String>,
}

impl Place {
    fn is(&self, other: &Place) -> bool {
        let is_uid = match (&self.uid, &other.uid) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.name == other.name && is_uid
    }
}

/// A request that asks for a kept session: what it names, and which command is its.
pub(crate) struct Asking {
    pub(crate) place: Place,
    pub(crate) command: Vec<String>,
    pub(crate) wants: Wants,
    pub(crate) env: Vec<(String, String)>,
    /// Who would run the command; nobody where the request is for sessions that there are.
    pub(crate) session: Option<Box<dyn LocalSession>>,
}

impl Asking {
    /// Whether a START is for what the request says itself: who keeps records of requests has to
    /// see what runs.
    fn is_for(&self, start: &Start) -> bool {
        let Asking { command, wants, env, .. } = self;
        (command, wants, env) == (&start.command, &start.wants, &start.env)
    }
}

/// Whether a command's words ask for sessions that there are.
pub(crate) fn is_question(command: &[String]) -> bool {
    command.first().is_some_and(|first| first == WORD)
}

/// The answer of a node whose runtime has the process itself: that of one that knows nothing of kept
/// sessions.
pub(crate) fn not_kept() -> runtime::Refusal {
    let offered = vec![KEPT.name.to_owned()];
    negotiate::Refusal::Subprotocol { offered }.into()
}

/// The way to the task of a session. What is in it is in boxes, since it has room for many.
type Door = mpsc::Sender<Box<Entrant>>;

/// Why a client does not get to a session: a code of [`refused`](bowline_proto::kept::refused), and
/// words.
type Refusal = (u64, String);

impl Keeper {
    /// Keeps nothing yet. What it keeps runs as tasks of `sessions`, and ends with them.
    #[must_use]
    pub fn new(sessions: Sessions, limits: Limits) -> Keeper {
        Keeper(Arc::new(Inner {
            instance: Instance(random::bytes()),
            limits,
            sessions,
            clock: Clock::start(),
            registry: Mutex::default(),
        }))
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn now(&self) -> Time {
        self.0.clock.now()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session, unless it has begun. Returns the way to its task, and whether this was its
    /// beginning.
    fn start(
        &self,
        place: &Place,
        start: &Start,
        job: impl FnOnce() -> Job,
    ) -> Result<(Door, bool), Refusal> {
        let mut registry = self.registry();
        if let Some(door) = registry.known(place, start)? {
            return Ok((door, false));
        }
        registry.check_room(place, &self.0.limits)?;
        let (door, entrants) = mpsc::channel(WAITING);
        let known = Known::new(place.clone(), &start.command, door.clone());
        let shown = known.shown.clone();
        registry.begin(start.id, known);
        drop(registry);
        let keep_for = start.keep_for.min(self.0.limits.longest.as_secs());
        let start = Start { keep_for, ..start.clone() };
        let session = KeptSession::new(self.clone(), start, job(), entrants, shown);
        let Inner { sessions, .. } = &*self.0;
        sessions.spawn(Box::pin(session.run(sessions.end.clone())));
        Ok((door, true))
    }

    /// The way to the task of a session of this container.
    fn find(&self, place: &Place, id: &Id) -> Option<Door> {
        self.registry().find(place, id)
    }

    /// The sessions of a container.
    fn list(&self, place: &Place) -> Vec<Entry> {
        self.registry().list(place)
    }

    fn ended(&self, id: Id) {
        self.registry().ended(id, &self.0.limits);
    }

    fn forget(&self, id: Id) {
        self.registry().forget(id);
    }
}
