//! Pods to running containers: main processes, their state, and what exec needs to find.

use std::fmt::{self, Display, Formatter};
use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bowline_io::drive::take_turns;
use bowline_io::objects::ObjectsError;
use bowline_proto::session::{Size, Wants};
use bytes::Bytes;
use rustix::process::Signal;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::console::{Console, Next, Turn};
use crate::family::{self, Home};
use crate::leader::Farewell;
use crate::log::Log;
use crate::manifest::{self, ContainerSpec, PodSpec};
use crate::process::{HostProcess, Process, StartError};
use crate::session::Command;

/// What a runtime waits for its processes at its end before they are killed.
const END_GRACE: Duration = Duration::from_millis(300);
/// What it waits for those that were killed. With the grace, a runtime ends within a second.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// After a main process has ended: how long its output is read on while something else holds the
/// other end.
const END_DRAIN: Duration = Duration::from_secs(2);
/// Between two looks for orphans that have ended: looking reads all of `/proc`.
const TEND_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// The same while they are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How processes are ended and drained.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// After a client has gone: between SIGHUP and SIGKILL for its process group.
    pub hangup_grace: Duration,
    /// After a command has ended: how long its output is read on while something else holds the
    /// other end; `None` for as long as that does, as containerd and CRI-O do.
    pub drain: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { hangup_grace: Duration::from_secs(2), drain: None }
    }
}

/// The pods of this host. Dropped without [`shut_down`](Self::shut_down) it ends them as well, but
/// nobody waits for that.
///
/// Main processes that have ended are not started again, whatever `restartPolicy` says. A command
/// may leave processes behind: they live until their container's main process ends, or the runtime.
#[derive(Debug)]
pub struct Runtime {
    pods: Vec<RunningPod>,
    settings: Settings,
    /// What is said to the processes of clients that have gone.
    farewell: Farewell,
    end: CancellationToken,
    mains: TaskTracker,
}

/// One pod and its containers.
#[derive(Debug)]
pub struct RunningPod {
    spec: PodSpec,
    containers: Vec<Arc<Container>>,
}

/// One container: what its manifest says, and how its main process is.
#[derive(Debug)]
pub struct Container {
    /// What its manifest says.
    pub spec: ContainerSpec,
    state: Mutex<State>,
    /// Its main process, for those who look at it.
    pub(crate) console: Arc<Console>,
    home: Home,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its main process runs, or it has none and idles.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// Its main process has ended; it is not started again.
    Exited {
        /// Its code, 128 + N for death by signal N.
        code: u8,
        /// Since when it ran.
        since: SystemTime,
        /// When it ended.
        at: SystemTime,
    },
    /// Its main process could not be started.
    Failed {
        /// What the system said.
        why: String,
        /// When that was tried.
        at: SystemTime,
    },
}

/// A command to run in a container.
#[derive(Debug)]
pub struct Exec {
    /// What runs it.
    pub runtime: Arc<Runtime>,
    /// Where it runs.
    pub container: Arc<Container>,
    /// Its words.
    pub words: Vec<String>,
    /// The channels that the client wants.
    pub wants: Wants,
}

impl Display for Exec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = self.words.first().map(String::as_str).unwrap_or_default();
        write!(f, "exec {word:?} in {}", self.container.spec.name)
    }
}

impl Command for Exec {
    type Process = HostProcess;

    fn start(&mut self, size: Option<Size>) -> Result<HostProcess, StartError> {
        let Exec { runtime, container, words, wants } = self;
        let (home, farewell) = (&container.home, runtime.farewell.clone());
        let process = HostProcess::start(words, &container.spec, *wants, size, home, farewell)?;
        info!(process = process.id(), "{self}");
        Ok(process)
    }

    fn words(&self) -> &[String] {
        &self.words
    }

    fn drain_patience(&self) -> Option<Duration> {
        self.runtime.settings.drain
    }
}

/// Why an exec has no container to run in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotFound {
    /// No such pod, or one with another uid.
    #[error("pod does not exist")]
    Pod,
    /// The pod has no such container.
    #[error("container not found (\"{0}\")")]
    Container(String),
    /// Its main process has ended.
    #[error("container is in CONTAINER_EXITED state")]
    Exited,
}

impl Container {
    /// How it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its main process writes first, once it has; `None` if it never will.
    pub async fn first_output(&self) -> Option<Bytes> {
        let view = self.console.reader(Log::begin);
        match poll_fn(|cx| view.poll_next(cx, None)).await {
            Next::Piece(_, _, bytes) => Some(bytes),
            Next::Over | Next::GivenUp => None,
        }
    }

    /// One without a main process.
    pub(crate) fn idle(spec: ContainerSpec) -> Arc<Container> {
        Arc::new(Container {
            spec,
            #[expect(clippy::disallowed_methods, reason = "its status has a date")]
            state: Mutex::new(State::Running { since: SystemTime::now() }),
            console: Arc::default(),
            home: Home::new(),
        })
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl RunningPod {
    /// What its manifest says.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Its containers.
    #[must_use]
    pub fn containers(&self) -> &[Arc<Container>] {
        &self.containers
    }
}

impl Runtime {
    /// Starts the main processes of `pods`. Must be called in a tokio runtime with I/O and time.
    /// Makes this program the parent of what its children leave behind.
    #[must_use]
    pub fn start(pods: Vec<PodSpec>, settings: Settings) -> Runtime {
        family::adopt_orphans();
        let farewell = Farewell {
            signal: Signal::HUP,
            grace: settings.hangup_grace,
            hurry: CancellationToken::new(),
            undertaker: TaskTracker::new(),
            tasks: Handle::current(),
        };
        let (end, mains) = (CancellationToken::new(), TaskTracker::new());
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime")]
        tokio::spawn(tend(end.clone()));
        let begin = |spec: &ContainerSpec| {
            let container = Container::idle(spec.clone());
            if !spec.command.is_empty() {
                let farewell =
                    Farewell { signal: Signal::TERM, grace: END_GRACE, ..farewell.clone() };
                let (container, end) = (container.clone(), end.clone());
                mains.spawn(supervise(container, farewell, end));
            }
            container
        };
        let pods = pods
            .into_iter()
            .map(|spec| RunningPod {
                containers: spec.containers.iter().map(begin).collect(),
                spec,
            })
            .collect();
        Runtime { pods, settings, farewell, end, mains }
    }

    /// Reads manifests and starts what they describe.
    ///
    /// # Errors
    /// [`ObjectsError`]; nothing was started then.
    pub fn from_files(
        files: &[impl AsRef<Path>],
        settings: Settings,
    ) -> Result<Runtime, ObjectsError> {
        let mut pods = Vec::new();
        for file in files {
            manifest::read_into(file.as_ref(), &mut pods)?;
        }
        Ok(Runtime::start(pods, settings))
    }

    /// The pods.
    #[must_use]
    pub fn pods(&self) -> &[RunningPod] {
        &self.pods
    }

    /// How processes are ended and drained.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The pod of this name, and of this uid where one is given.
    ///
    /// # Errors
    /// [`NotFound::Pod`].
    pub fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<&RunningPod, NotFound> {
        let pod = self
            .pods
            .iter()
            .find(|pod| pod.spec.namespace == namespace && pod.spec.name == name)
            .filter(|pod| uid.is_none_or(|uid| uid == pod.spec.uid));
        pod.ok_or(NotFound::Pod)
    }

    /// A container, however it is.
    ///
    /// # Errors
    /// [`NotFound`].
    pub fn container(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Result<Arc<Container>, NotFound> {
        let pod = self.pod(namespace, pod, uid)?;
        let found = pod.containers.iter().find(|known| known.spec.name == container);
        found.cloned().ok_or_else(|| NotFound::Container(container.to_owned()))
    }

    /// A container that runs, so that a command can be run in it, or its console be looked at.
    ///
    /// # Errors
    /// [`NotFound`].
    pub fn find(
        &self,
        namespace: &str,
        pod: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Result<Arc<Container>, NotFound> {
        let found = self.container(namespace, pod, uid, container)?;
        match found.state() {
            State::Running { .. } => Ok(found),
            State::Exited { .. } | State::Failed { .. } => Err(NotFound::Exited),
        }
    }

    /// Ends everything that runs, within a second: asks, waits, kills. All sessions must have
    /// ended.
    pub async fn shut_down(&self) {
        self.end.cancel();
        self.mains.close();
        self.mains.wait().await;
        self.homes().for_each(Home::ask_orphans);
        let undertaker = &self.farewell.undertaker;
        undertaker.close();
        if timeout(END_GRACE, undertaker.wait()).await.is_err() {
            self.farewell.hurry.cancel();
        }
        self.homes().for_each(Home::end);
        let killed = Instant::now();
        while family::tend() + undertaker.len() > 0 && killed.elapsed() < END_PATIENCE {
            sleep(LOOK_EVERY).await;
        }
        let left = family::tend() + undertaker.len();
        if left > 0 {
            warn!("{left} processes were killed and are still there");
        }
    }

    fn homes(&self) -> impl Iterator<Item = &Home> {
        self.pods.iter().flat_map(|pod| &pod.containers).map(|container| &container.home)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Looks after orphans whenever children have ended, until the runtime ends.
async fn tend(end: CancellationToken) {
    let mut deaths = match signal(SignalKind::child()) {
        Ok(deaths) => deaths,
        Err(error) => return warn!("orphans are looked after at the end only: {error}"),
    };
    while end.run_until_cancelled(deaths.recv()).await.flatten().is_some() {
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let _ = spawn_blocking(family::tend).await;
        let _ = end.run_until_cancelled(sleep(TEND_AT_MOST_EVERY)).await;
    }
}

/// Runs a container's main process to its end, which is the end of all that runs in it.
async fn supervise(container: Arc<Container>, farewell: Farewell, end: CancellationToken) {
    let (spec, console) = (&container.spec, &container.console);
    // Its stdin stays open for whoever attaches.
    let wants = Wants { stdin: spec.stdin, stdout: true, stderr: !spec.tty, tty: spec.tty };
    #[expect(clippy::disallowed_methods, reason = "its status has a date")]
    let since = SystemTime::now();
    let started = HostProcess::start(&spec.command, spec, wants, None, &container.home, farewell);
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            warn!(container = spec.name, "cannot be started: {error}");
            #[expect(clippy::disallowed_methods, reason = "its status has a date")]
            let (why, at) = (error.to_string(), SystemTime::now());
            container.set(State::Failed { why, at });
            console.end();
            return container.home.end();
        }
    };
    let running = run(console, &mut process, |process, cx| process.poll_ending(cx));
    let Some(ended) = end.run_until_cancelled(running).await else { return };
    info!(container = spec.name, code = ended.code(), "the main process has ended");
    #[expect(clippy::disallowed_methods, reason = "its status has a date")]
    container.set(State::Exited { code: ended.code(), since, at: SystemTime::now() });
    process.leave();
    container.home.end();
    // What it wrote is read. All that ran beside it was killed; what has left the container's
    // sessions, as none can in a real one, has a while to end.
    let mut until = None;
    let dry = run(console, &mut process, |process, cx| {
        if process.is_silent() {
            return Poll::Ready(true);
        }
        let until = until.get_or_insert_with(|| Box::pin(sleep(END_DRAIN)));
        until.as_mut().poll(cx).map(|()| false)
    });
    match end.run_until_cancelled(dry).await {
        None => return,
        Some(true) => {}
        Some(false) => warn!(container = spec.name, "others still hold its output: it is cut off"),
    }
    console.end();
}

/// Lets a process go on until `over` says so. That is asked whenever the process has nothing to do
/// and waits for nobody.
async fn run<T>(
    console: &Console,
    process: &mut HostProcess,
    mut over: impl FnMut(&mut HostProcess, &mut Context<'_>) -> Poll<T>,
) -> T {
    let mut held = Box::pin(sleep(Duration::ZERO));
    loop {
        let step = poll_fn(|cx| {
            loop {
                match console.poll_process(cx, process) {
                    Poll::Ready(Turn::Acted(moved)) => return Poll::Ready(Err(moved)),
                    Poll::Ready(Turn::Held(until)) => {
                        held.as_mut().reset(until);
                        ready!(held.as_mut().poll(cx));
                    }
                    Poll::Pending => return over(process, cx).map(Ok),
                }
            }
        });
        match step.await {
            Ok(result) => return result,
            Err(moved) => take_turns(moved).await,
        }
    }
}
