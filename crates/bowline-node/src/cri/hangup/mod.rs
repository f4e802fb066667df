//! The loss of a client to the end of its command, which runtimes leave running: SIGHUP to the
//! processes of its exec, and SIGKILL after the grace.
//!
//! Which they are is told by [`events`] of the runtime, of which [`starts`] makes that of each
//! session. Where that cannot be known, nothing is ended; nor is it where a client goes before the
//! runtime has added its exec. It costs a session that ends well a look at two files in `/proc`,
//! and its turn: as long as the runtime has not added the exec of another one in the same
//! container.

pub(super) mod cgroup;
mod events;
pub(super) mod processes;
mod row;
mod starts;
mod words;

use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::process::RawPid;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use self::events::{Events, EventsError, ExecEvent, Step};
use self::processes::Ended;
use self::row::Verdict;
use self::starts::{START_PATIENCE, Starts};
use self::words::{Asked, Seen};
use crate::procfs::Process;

/// How long a session may hold up those that ask after it in the same container: its client may be
/// slow.
const TURN: Duration = Duration::from_millis(500);
/// How long a session waits for its turn. Without it, less is known.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited for that no others are being started in a lost session's container.
const QUIET_PATIENCE: Duration = Duration::from_secs(2);
/// The pause between two looks for the process of a lost session, unless there is news.
const VERDICT_PAUSE: Duration = Duration::from_millis(50);
/// The pause before events are asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long a new process may have other words than were asked for. A script's interpreter takes
/// less to be started.
const WORDS_PATIENCE: Duration = Duration::from_millis(200);
/// The first pause between two looks at a new process; it doubles.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// How many new processes are looked at at a time. Each may hold up who looks.
const LOOKS: usize = 8;

/// What ends the commands of lost clients.
#[derive(Debug)]
pub(crate) struct Hangups {
    shared: Arc<Shared>,
    /// Follows the events, once anybody has asked.
    follower: Mutex<JoinSet<()>>,
}

struct Shared {
    grace: Duration,
    starts: Mutex<Starts>,
    /// Who may ask next, by container.
    turns: Mutex<Places>,
    /// Told when something is known that was not before.
    news: Notify,
    looks: Arc<Semaphore>,
    /// Whose processes are looked at, by container: each may hold up one look, and no more.
    looked_at: Mutex<Places>,
    endings: TaskTracker,
    kill_now: CancellationToken,
}

/// One place for each container where anybody wants it.
type Places = HashMap<String, Weak<Semaphore>>;

/// A session whose command is to be ended if its client is lost. Dropped, it is forgotten.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    container: String,
    number: u64,
    tasks: Handle,
}

impl Hangups {
    /// Makes what ends commands. SIGKILL follows SIGHUP after `grace`.
    pub(crate) fn new(grace: Duration) -> Hangups {
        let shared = Shared {
            grace,
            starts: Mutex::default(),
            turns: Mutex::default(),
            news: Notify::new(),
            looks: Arc::new(Semaphore::new(LOOKS)),
            looked_at: Mutex::default(),
            endings: TaskTracker::new(),
            kill_now: CancellationToken::new(),
        };
        Hangups { shared: Arc::new(shared), follower: Mutex::default() }
    }

    /// Sees to it that the events of the runtime behind `channel` are followed. Until it has the
    /// request takes a moment, so this comes as early as it is known that the runtime streams
    /// commands. What it starts in that moment is not seen, and so not ended.
    pub(crate) fn prepare(&self, channel: impl FnOnce() -> Channel) {
        let mut follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        if follower.is_empty() {
            follower.spawn(follow(self.shared.clone(), channel()));
        }
    }

    /// Registers a session that is about to have its command started, when it is its turn.
    pub(crate) async fn before_start(
        &self,
        container: &str,
        words: Vec<String>,
        tty: bool,
    ) -> Watch {
        let turn = timeout(TURN_PATIENCE, self.shared.wait_for_turn(container)).await;
        let turn = turn.ok().flatten();
        let asked = Asked { words, tty };
        let number = self.shared.starts().ask(container, asked, turn, Instant::now());
        let container = container.to_owned();
        Watch { shared: self.shared.clone(), container, number, tasks: Handle::current() }
    }

    /// Waits until all that is to be ended has ended; what is in its grace is killed.
    pub(crate) async fn shut_down(&self) {
        self.shared.kill_now.cancel();
        self.shared.endings.close();
        self.shared.endings.wait().await;
    }
}

impl Watch {
    /// Ends what the runtime has started for this session.
    pub(crate) fn end(self) {
        let tasks = self.tasks.clone();
        let task = self.shared.endings.clone().track_future(self.end_processes());
        #[expect(clippy::disallowed_methods, reason = "the tracker waits for it")]
        drop(tasks.spawn(task));
    }

    async fn end_processes(self) {
        let container = &self.container;
        let process = match self.process().await {
            Ok(process) => process,
            Err(why) => {
                warn!(container, "the command of a lost client is left as it is: {why}");
                return;
            }
        };
        let Shared { grace, kill_now, .. } = &*self.shared;
        info!(container, pid = process.pid, "the client is lost: its command is hung up");
        match processes::end(process, container, *grace, kill_now).await {
            Ended::Asked => debug!(container, pid = process.pid, "it has ended"),
            Ended::Killed => info!(container, pid = process.pid, "it was killed after the grace"),
            Ended::NotAll => warn!(container, pid = process.pid, "killed, and still there"),
        }
    }

    /// Finds the process, also one that is added, and still to be started.
    async fn process(&self) -> Result<Process, &'static str> {
        let lost = Instant::now();
        self.shared.starts().lost(&self.container, self.number);
        loop {
            let news = self.shared.news.notified();
            let now = Instant::now();
            let is_urgent = now >= lost + QUIET_PATIENCE;
            match self.shared.starts().verdict(&self.container, self.number, is_urgent, now) {
                Verdict::Process(process) => return Ok(process),
                Verdict::Unknown(why) => return Err(why),
                Verdict::Waiting if now >= lost + START_PATIENCE => {
                    return Err("nothing was told of its start");
                }
                Verdict::Waiting => {}
            }
            // Time alone may tell as well.
            let _ = timeout(VERDICT_PAUSE, news).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.starts().leave(&self.container, self.number);
        // Others may know more without it.
        self.shared.news.notify_waiters();
    }
}

impl Shared {
    fn starts(&self) -> MutexGuard<'_, Starts> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other session of the container has its turn, or has had it for too long.
    async fn wait_for_turn(&self, container: &str) -> Option<OwnedSemaphorePermit> {
        let mut turn = pin!(place(&self.turns, container).acquire_owned());
        loop {
            match timeout(TURN, turn.as_mut()).await {
                Ok(turn) => return turn.ok(),
                Err(_) => self.starts().pass_turns(container, TURN, Instant::now()),
            }
        }
    }

    fn miss(&self) {
        self.starts().missed(Instant::now());
        self.news.notify_waiters();
    }

    /// Takes in an event. New processes are looked at in `looks`.
    fn take(self: &Arc<Shared>, event: ExecEvent, looks: &mut JoinSet<()>) {
        let ExecEvent { container, exec, step } = event;
        match step {
            Step::Added => self.starts().added(&container, &exec, Instant::now()),
            Step::Started(pid) if self.starts().is_wanted(&container, &exec) => {
                looks.spawn(self.clone().look(container, exec, pid));
            }
            Step::Started(_) => {}
        }
    }

    async fn look(self: Arc<Shared>, container: String, exec: String, pid: RawPid) {
        let seen = timeout(START_PATIENCE, self.look_until_asked(&container, &exec, pid));
        let seen = seen.await.ok().flatten();
        self.starts().started(&container, &exec, seen.as_ref());
        self.news.notify_waiters();
    }

    /// Looks at the process of an exec until it has words that were asked for, or others for a
    /// while. At first it has those of the runtime's own program, which it is made of.
    async fn look_until_asked(&self, container: &str, exec: &str, pid: RawPid) -> Option<Seen> {
        let begun = Instant::now();
        let mut pause = SHORTEST_PAUSE;
        loop {
            let seen = self.look_once(container, pid).await?;
            let is_late = !seen.is_being_made() && begun.elapsed() >= WORDS_PATIENCE;
            if is_late || self.starts().is_asked(container, exec, &seen) {
                return Some(seen);
            }
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    async fn look_once(&self, container: &str, pid: RawPid) -> Option<Seen> {
        let place = place(&self.looked_at, container).acquire_owned().await.ok()?;
        let permit = self.looks.clone().acquire_owned().await.ok()?;
        let container = container.to_owned();
        let look = move || {
            let seen = Seen::look(pid, &container);
            // Held for as long as it takes, whoever still waits.
            drop((place, permit));
            seen
        };
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        spawn_blocking(look).await.ok().flatten()
    }
}

/// Returns where those who want the place of a container wait for it.
fn place(places: &Mutex<Places>, container: &str) -> Arc<Semaphore> {
    let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = places.get(container).and_then(Weak::upgrade) {
        return place;
    }
    places.retain(|_, place| place.strong_count() > 0);
    let place = Arc::new(Semaphore::new(1));
    places.insert(container.to_owned(), Arc::downgrade(&place));
    place
}

/// Follows the events of the runtime for as long as it has some.
async fn follow(shared: Arc<Shared>, channel: Channel) {
    let mut looks = JoinSet::new();
    loop {
        let error = follow_once(&shared, &channel, &mut looks).await;
        shared.miss();
        match error {
            EventsError::Unsupported => {
                info!("{error}: the commands of lost clients are left as they are");
                return;
            }
            EventsError::Interrupted(_) => debug!("{error}"),
        }
        sleep(RETRY_PAUSE).await;
        // What was added until now was missed as well.
        shared.miss();
    }
}

async fn follow_once(
    shared: &Arc<Shared>,
    channel: &Channel,
    looks: &mut JoinSet<()>,
) -> EventsError {
    let mut events = match Events::subscribe(channel.clone()).await {
        Ok(events) => events,
        Err(error) => return error,
    };
    loop {
        tokio::select! {
            event = events.next() => match event {
                Ok(event) => shared.take(event, looks),
                Err(error) => return error,
            },
            Some(_) = looks.join_next() => {}
        }
    }
}

impl Debug for Shared {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("grace", &self.grace).finish_non_exhaustive()
    }
}

impl Debug for Watch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("container", &self.container).finish_non_exhaustive()
    }
}
