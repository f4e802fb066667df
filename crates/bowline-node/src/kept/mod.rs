//! Commands that outlive their clients' connections: what of [`bowline_proto::kept`] is a node's.
//!
//! A request that asks for it is a connection of its own (`visit`): it says whom it wants, and
//! is taken to the task of that session, which has the process, and a seat for each client that is
//! connected. The [`Keeper`] knows all sessions by their ids, and for how long.

mod job;
mod line;
mod question;
mod records;
mod registry;
mod session;
mod shares;
mod visit;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::random;
use bowline_io::serve::Sessions;
use bowline_proto::Time;
use bowline_proto::kept::{Bounds, Entry, Host, Id, Instance, Start, is_question, refused};
use bowline_proto::limits::{KEPT_LONGEST, KEPT_REPLAY_BYTES};
use bowline_proto::negotiate;
use bowline_proto::session::Wants;
use bowline_proto::session::protocol::KEPT;
use tokio::sync::mpsc;

pub use self::job::Job;
pub(crate) use self::question::Question;
use self::records::{Past, Records};
use self::registry::{Known, Registry};
use self::session::{Entrant, KeptSession};
pub(crate) use self::visit::visit;
use crate::runtime::{self, LocalSession};

/// How many clients may wait until the task of a session takes them.
const WAITING: usize = 4;

/// How many sessions are kept, how much of each, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one container, those that have ended left out. 0 here or in what follows keeps none: the
    /// node then answers as one that does not know what that is.
    pub per_container: usize,
    /// Of the node: of those that run, and again of those that have ended. Beyond that, the
    /// container that has the most of these gives its oldest.
    pub per_node: usize,
    /// How much of each output is kept for a client that has not acknowledged it.
    pub replay_bytes: usize,
    /// The longest time for which a session is kept without a client, however the last one has
    /// left, or after its end.
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            per_container: 256,
            per_node: 1024,
            replay_bytes: KEPT_REPLAY_BYTES,
            longest: KEPT_LONGEST,
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
    records: Option<Mutex<Records>>,
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

    /// Whether the request says that it is one of these questions.
    fn is_question(&self, words: &[&str]) -> bool {
        let word = self.command.get(1).map(String::as_str);
        is_question(&self.command) && word.is_some_and(|word| words.contains(&word))
    }
}

/// What a client is told of a session that is not here.
const UNKNOWN: &str = "this container has no such session: it never began, is over for long, or \
                       was lost with its node";

/// The start of a session of a node before, as far as it counts yet: nobody can start it again.
fn past_start(id: Id, wants: Wants, kept: Duration) -> Start {
    Start {
        id,
        instance: Instance([0; 16]),
        wants,
        keep_for: kept.as_secs(),
        size: None,
        command: Vec::new(),
        env: Vec::new(),
    }
}

/// The answer of a node whose runtime has the process itself: that of one that knows nothing of
/// kept sessions.
pub(crate) fn not_kept() -> runtime::Refusal {
    let offered = vec![KEPT.name.to_owned()];
    negotiate::Refusal::Subprotocol { offered }.into()
}

/// The way to the task of a session. What is in it is in boxes, since it has room for many.
type Door = mpsc::Sender<Box<Entrant>>;

/// Why a client does not get to a session: a code of [`refused`], and words.
type Refusal = (u64, String);

impl Keeper {
    /// Keeps nothing yet. What it keeps runs as tasks of `sessions`, and ends with them.
    #[must_use]
    pub fn new(sessions: Sessions, limits: Limits) -> Keeper {
        Keeper::with(sessions, limits, None)
    }

    /// Goes on with what a node before has written to a file, and writes there what becomes of
    /// sessions, so that clients can be told after a restart.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn recording(sessions: Sessions, limits: Limits, path: &Path) -> io::Result<Keeper> {
        let records = Records::open(path, limits.per_node)?;
        Ok(Keeper::with(sessions, limits, Some(Mutex::new(records))))
    }

    fn with(sessions: Sessions, limits: Limits, records: Option<Mutex<Records>>) -> Keeper {
        Keeper(Arc::new(Inner {
            instance: Instance(random::bytes()),
            limits,
            sessions,
            clock: Clock::start(),
            registry: Mutex::default(),
            records,
        }))
    }

    /// Whether there is room for a session at all.
    pub(crate) fn keeps(&self) -> bool {
        let Limits { per_container, per_node, replay_bytes, longest } = self.0.limits;
        [per_container, per_node, replay_bytes].iter().all(|&limit| limit > 0) && !longest.is_zero()
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
        let Limits { replay_bytes, longest, .. } = self.0.limits;
        let host = Host::new(self.now(), start.clone(), Bounds { replay_bytes, longest });
        if let Some(mut records) = self.records() {
            records.began(host.start(), place);
        }
        self.spawn(KeptSession::new(self.clone(), host, Some(job()), entrants, shown));
        Ok((door, true))
    }

    /// The way to the task of a session of this container.
    fn find(&self, place: &Place, id: &Id) -> Result<Door, Refusal> {
        let mut registry = self.registry();
        if let Some(door) = registry.find(place, id) {
            return Ok(door);
        }
        let unknown = |text: &str| Err((refused::UNKNOWN, text.to_owned()));
        let past = self.records().and_then(|records| records.past(id, place));
        let (left, wants, kept) = match past {
            _ if registry.has(id) => return unknown(UNKNOWN),
            None => return unknown(UNKNOWN),
            Some(Past::Lost(why)) => return unknown(why),
            Some(Past::Ended { left, wants, kept }) => (left, wants, kept),
        };
        let (door, entrants) = mpsc::channel(WAITING);
        let known = Known::new(place.clone(), &[], door.clone());
        let shown = known.shown.clone();
        registry.begin(*id, known);
        registry.ended(*id, &self.0.limits);
        drop(registry);
        let host = Host::past(self.now(), past_start(*id, wants, kept), left);
        self.spawn(KeptSession::new(self.clone(), host, None, entrants, shown));
        Ok(door)
    }

    fn records(&self) -> Option<MutexGuard<'_, Records>> {
        let records = self.0.records.as_ref()?;
        Some(records.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn spawn(&self, session: KeptSession) {
        let sessions = &self.0.sessions;
        sessions.spawn(Box::pin(session.run(sessions.end.clone())));
    }

    /// The sessions of a container.
    fn list(&self, place: &Place) -> Vec<Entry> {
        self.registry().list(place)
    }

    fn ended(&self, host: &Host) {
        self.registry().ended(host.id(), &self.0.limits);
        self.record(host);
    }

    /// Writes down how a session has ended, and what its clients have taken until now.
    fn record(&self, host: &Host) {
        if let (Some(mut records), Some(left)) = (self.records(), host.left()) {
            records.ended(&host.id(), &left);
        }
    }

    fn forget(&self, id: Id) {
        self.registry().forget(id);
    }
}
