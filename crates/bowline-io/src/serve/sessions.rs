//! What the connections and sessions of a server share: who may begin one, what ends all of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{connections, upgraded};
use crate::record::{Admission, Denied, End, Log, Pending, Record, Refusals, Running, Traffic};
use crate::stream::Upgraded;

/// How long a session may take, once the server ends, to give its client what waits and to close.
pub const CLOSE_PATIENCE: Duration = Duration::from_millis(600);
/// What the connections and sessions of a server share.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Cancelled when the server and its sessions have to end.
    pub end: CancellationToken,
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
        Sessions {
            end: CancellationToken::new(),
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
    /// [`Denied`] if one of those that are asked refuses.
    pub fn admit(&self, record: Record) -> Result<Pending, Denied> {
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
