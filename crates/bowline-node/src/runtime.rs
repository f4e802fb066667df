//! Pods to running containers: main processes, their state, and what exec needs to find.
//! Above: `kubelet`, `dev`. Below: `process`, `manifest`.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bowline_io::objects::ObjectsError;
use bowline_proto::session::{Size, Wants};
use bytes::BytesMut;
use thiserror::Error;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::manifest::{self, ContainerSpec, PodSpec};
use crate::process::{Act, Household, Leftovers, Process};
use crate::spawn::StartError;

/// What is kept of a main process's output, so that it never blocks.
const LOG_BYTES: usize = 64 * 1024;
/// What a runtime waits for its processes at its end before they are killed.
const END_GRACE: Duration = Duration::from_millis(300);

/// How processes are ended and drained.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// After a client has gone: between SIGHUP and SIGKILL for its process group.
    pub hangup_grace: Duration,
    /// After a process has ended: how long its output is read on while something else holds the
    /// other end.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { hangup_grace: Duration::from_secs(2), drain: Duration::from_secs(2) }
    }
}

/// The pods of this host.
#[derive(Debug)]
pub struct Runtime {
    pods: Vec<RunningPod>,
    settings: Settings,
    household: Household,
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
    log: Mutex<VecDeque<u8>>,
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
        /// Why.
        why: String,
        /// When.
        at: SystemTime,
    },
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

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// The end of what its main process wrote.
    #[must_use]
    pub fn log(&self) -> Vec<u8> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn record(&self, bytes: &[u8]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(LOG_BYTES)..];
        let excess = (log.len() + bytes.len()).saturating_sub(LOG_BYTES);
        log.drain(..excess);
        log.extend(bytes);
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
    /// Starts the main processes of `pods`. Must be called in a tokio runtime.
    #[must_use]
    pub fn start(pods: Vec<PodSpec>, settings: Settings) -> Runtime {
        let household = Household {
            grace: settings.hangup_grace,
            undertaker: TaskTracker::new(),
            leftovers: Leftovers::default(),
        };
        let (end, mains) = (CancellationToken::new(), TaskTracker::new());
        let begin = |spec: &ContainerSpec| {
            let container = Arc::new(Container {
                spec: spec.clone(),
                state: Mutex::new(State::Running { since: SystemTime::now() }),
                log: Mutex::new(VecDeque::new()),
            });
            if !spec.command.is_empty() {
                let (container, end) = (container.clone(), end.clone());
                mains.spawn(supervise(container, household.clone(), settings.drain, end));
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
        Runtime { pods, settings, household, end, mains }
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
            pods.extend(manifest::read(file.as_ref())?);
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

    /// A container in which a command can be run.
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
        let pod = self.pod(namespace, pod, uid)?;
        let found = pod.containers.iter().find(|known| known.spec.name == container);
        let found = found.ok_or_else(|| NotFound::Container(container.to_owned()))?;
        match found.state() {
            State::Running { .. } => Ok(found.clone()),
            State::Exited { .. } | State::Failed { .. } => Err(NotFound::Exited),
        }
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// [`StartError`], in the words of container runtimes.
    pub fn exec(
        &self,
        container: &Container,
        words: &[String],
        wants: Wants,
        size: Option<Size>,
    ) -> Result<Process, StartError> {
        Process::start(words, &container.spec, wants, size, &self.household)
    }

    /// Ends everything that runs. All sessions must have ended.
    pub async fn shut_down(&self) {
        self.end.cancel();
        self.mains.close();
        self.mains.wait().await;
        self.household.undertaker.close();
        let ended = timeout(END_GRACE, self.household.undertaker.wait()).await;
        if ended.is_err() {
            warn!("{} processes outlive the node", self.household.undertaker.len());
        }
        self.household.leftovers.kill();
    }
}

/// Runs a container's main process to its end.
async fn supervise(
    container: Arc<Container>,
    household: Household,
    drain: Duration,
    end: CancellationToken,
) {
    let spec = &container.spec;
    // Its stdin stays open for whoever attaches.
    let wants = Wants { stdin: spec.stdin, stdout: true, stderr: !spec.tty, tty: spec.tty };
    let household = Household { grace: END_GRACE / 2, ..household };
    let since = SystemTime::now();
    let mut process = match Process::start(&spec.command, spec, wants, None, &household) {
        Ok(process) => process,
        Err(error) => {
            warn!(container = spec.name, "cannot be started: {error}");
            let (why, at) = (error.to_string(), SystemTime::now());
            return container.set(State::Failed { why, at });
        }
    };
    let ended = tokio::select! {
        () = end.cancelled() => return,
        ended = run(&container, &mut process) => ended,
    };
    let _ = timeout(drain, run_dry(&container, &mut process)).await;
    info!(container = spec.name, code = ended.code(), "the main process has ended");
    container.set(State::Exited { code: ended.code(), since, at: SystemTime::now() });
}

async fn run(container: &Container, process: &mut Process) -> crate::process::Ending {
    poll_fn(|cx| {
        while let Poll::Ready(act) = process.poll(cx, true) {
            record(container, act);
        }
        process.poll_ending(cx)
    })
    .await
}

async fn run_dry(container: &Container, process: &mut Process) {
    poll_fn(|cx| {
        while !process.is_silent() {
            let act = std::task::ready!(process.poll(cx, true));
            record(container, act);
        }
        Poll::Ready(())
    })
    .await;
}

fn record(container: &Container, act: Act) {
    let bytes: BytesMut = match act {
        Act::Out(bytes) | Act::Err(bytes) => bytes,
        Act::OutEnded | Act::ErrEnded | Act::Took => return,
    };
    container.record(&bytes);
}
