//! What the connections and sessions of a server share: who may begin one, what ends all of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::drain::{Phases, UntilClosing};
use super::{Body, Drain, Phase, connections, upgraded};
use crate::record::{Admission, Denied, End, Log, Pending, Record, Refusals, Running, Traffic};
use crate::stream::Upgraded;

/// How long a session may take, once the server ends, to give its client what waits and to close.
pub const CLOSE_PATIENCE: Duration = Duration::from_millis(600);
/// What the connections and sessions of a server share.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Cancelled when the server and its sessions have to end. Without [`drain`](Self::drain)
    /// before, nothing has told that it would.
    pub end: CancellationToken,
    pub(super) phases: Phases,
    /// Logs refusals.
    pub refusals: Arc<Refusals>,
    /// Each is asked whether a session may begin, and told of its end.
    admissions: Arc<[Arc<dyn Admission>]>,
    tracker: TaskTracker,
    connections: TaskTracker,
    begun: Arc<AtomicUsize>,
    long_answer: Arc<Semaphore>,
}

impl Default for Sessions {
    fn default() -> Sessions {
        let phases = Phases::default();
        Sessions {
            end: phases.end.clone(),
            phases,
            refusals: Arc::default(),
            admissions: Arc::new([Arc::new(Log)]),
            tracker: TaskTracker::new(),
            connections: TaskTracker::new(),
            begun: Arc::default(),
            long_answer: Arc::new(Semaphore::new(connections::long_answers())),
        }
    }
}

/// A permit for a long answer. Dropping it frees its place.
#[derive(Debug)]
pub struct LongAnswer {
    _place: OwnedSemaphorePermit,
}

impl Sessions {
    /// Adds one that is asked whether each session may begin, and told of its end. The log comes
    /// before all others.
    #[must_use]
    pub fn with(mut self, admission: Arc<dyn Admission>) -> Sessions {
        self.admissions = self.admissions.iter().cloned().chain([admission]).collect();
        self
    }

    /// Asks whether a session may begin.
    ///
    /// # Errors
    /// [`Denied`] if one of those that are asked refuses, or the server closes.
    pub fn admit(&self, record: Record) -> Result<Pending, Denied> {
        if self.phase() >= Phase::Closing {
            let why = "this server is going away, please try again".to_owned();
            return Err(Denied { why, retry_after: Duration::from_secs(1) });
        }
        Pending::by(&self.admissions, record)
    }

    /// Takes a permit for an answer that may last long, such as that to `logs -f`.
    ///
    /// # Errors
    /// [`Denied`] if there are as many of them as there may be.
    pub fn long_answer(&self) -> Result<LongAnswer, Denied> {
        let place = self.long_answer.clone().try_acquire_owned();
        let denied = |_| Denied {
            why: "too many logs are being read, please try again later".to_owned(),
            retry_after: Duration::from_secs(1),
        };
        place.map(|place| LongAnswer { _place: place }).map_err(denied)
    }

    /// What the server does now. A service tells by it whether the server is ready.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phases.now()
    }

    /// Cancelled once the server [closes](Phase::Closing) after a [`drain`](Self::drain): from then
    /// on no session begins.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.phases.closing
    }

    /// Ends all servers that share this, phase by phase, and cancels [`end`](Self::end) last. That
    /// may be cancelled by others before, which cuts it short.
    pub async fn drain(&self, drain: Drain) {
        let phases = async {
            self.phases.going_away.cancel();
            sleep(drain.delay).await;
            self.phases.closing.cancel();
            let _left = self.ended_within(drain.patience).await;
        };
        tokio::select! {
            () = self.end.cancelled() => {}
            () = phases => self.end.cancel(),
        }
    }

    /// Returns a body that comes to a good end once the server is [closing](Phase::Closing): for an
    /// answer that has no end of its own and can be asked for again from where it has ended, as a
    /// watch, not for a log, of which it would look like the end. It ends where nothing more is
    /// there at once; if it `is_in_lines`, after a whole line only. Its answer must not name a
    /// length.
    #[must_use]
    pub fn until_closing(&self, body: Body, is_in_lines: bool) -> Body {
        UntilClosing::wrap(body, self.phases.closing.clone(), is_in_lines)
    }

    /// Runs a session as a task, which the server waits for when it ends.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.tracker.spawn(session);
    }

    /// Runs a session that has begun, once its 101 was written, and tells its hooks of its end.
    /// `run` gets the connection, and what tells that the server ends. Its future should be small,
    /// as one that awaits a box is: a task has room for it twice.
    pub fn run<F>(
        &self,
        running: Running,
        request: Request<Incoming>,
        run: impl FnOnce(Upgraded, CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = (End, Traffic)> + Send + 'static,
    {
        let sessions = self.clone();
        self.spawn(async move {
            match upgraded(request).await {
                Ok(connection) => {
                    let session = run(connection, sessions.end.clone());
                    // In a task of its own, which has no room for what only the beginning needs.
                    sessions.spawn(async move {
                        let (end, traffic) = session.await;
                        running.end(end, Some(traffic));
                    });
                }
                Err(error) => {
                    running.end(End::ClientGone(error.to_string()), None);
                }
            }
        });
    }

    /// Counts whoever accepts connections as long as what is returned is there: until then, there
    /// may be more.
    pub(super) fn accepting(&self) -> TaskTrackerToken {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.connections.token()
    }

    /// Runs a connection as a task.
    pub(super) fn begin_connection(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.connections.spawn(connection);
    }

    /// Waits until all sessions have ended, and all connections with them. The error is how many
    /// sessions are left after `patience`.
    pub(super) async fn ended_within(&self, patience: Duration) -> Result<(), usize> {
        self.tracker.close();
        self.connections.close();
        let all = async { tokio::join!(self.tracker.wait(), self.connections.wait()) };
        timeout(patience, all).await.map(|_| ()).map_err(|_| self.tracker.len())
    }

    /// How many connections and sessions have ended so far.
    #[must_use]
    pub fn ended(&self) -> usize {
        let lives = self.tracker.len() + self.connections.len();
        self.begun.load(Ordering::Relaxed).saturating_sub(lives)
    }
}
