//! Pods to processes of this host: a runtime without images or namespaces, for development and
//! tests.

mod attach;
mod child;
mod command;
mod console;
mod container;
mod descendants;
mod log;
pub mod manifest;
mod ports;
mod process_group;
mod records;
mod spawn;
mod terminal;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::objects::ObjectsError;
use rustix::process::Signal;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::attach::Attach;
use self::command::Exec;
use self::container::supervise;
pub use self::container::{Container, State};
use self::descendants::ContainerProcesses;
use self::manifest::{ContainerSpec, PodSpec};
use self::ports::HostPorts;
use self::process_group::Termination;
use crate::runtime::{
    Answer, AttachRequest, Attachment, BoxFuture, ExecRequest, Forwarding, Log, LogRequest,
    PodTarget, Refusal, Runtime, Session, Target,
};

/// How long processes have to end at the runtime's end before they are killed.
const END_GRACE: Duration = Duration::from_millis(300);
/// How long the runtime waits for processes that were killed. With [`END_GRACE`] it ends within a
/// second.
const END_PATIENCE: Duration = Duration::from_millis(500);
/// The least time between two looks for orphans that have ended: each reads all of `/proc`.
const REAP_INTERVAL: Duration = Duration::from_millis(100);
/// The time between two looks for orphans while their end is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How processes are ended and drained.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// After a client has gone: the time between SIGHUP and SIGKILL for its process group. Default:
    /// 2 s.
    pub hangup_grace: Duration,
    /// After a command has ended: how long its output is read on while something else holds the
    /// other end; `None`, the default, is for as long as that does, as with containerd and CRI-O.
    pub drain: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { hangup_grace: Duration::from_secs(2), drain: None }
    }
}

/// The pods of this host. Dropped without [`shut_down`](Runtime::shut_down) it ends them as well,
/// but nobody waits for that.
///
/// Main processes that have ended are not started again, whatever `restartPolicy` says. A command
/// may leave processes behind: they live until their container's main process ends, or the runtime.
#[derive(Debug)]
pub struct ProcessRuntime {
    pods: Vec<RunningPod>,
    settings: Settings,
    /// How the processes of a client that has gone are ended.
    termination: Termination,
    end: CancellationToken,
    /// The tasks that run main processes.
    supervisors: TaskTracker,
}

/// One pod and its containers.
#[derive(Debug)]
pub struct RunningPod {
    spec: PodSpec,
    containers: Vec<Arc<Container>>,
}

/// Why a request names nothing that is here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum NotFound {
    /// There is no such pod, or it has another uid.
    #[error("pod does not exist")]
    Pod,
    /// The pod has no such container.
    #[error("container not found (\"{0}\")")]
    Container(String),
    /// The container's main process has ended.
    #[error("container is in CONTAINER_EXITED state")]
    Exited,
}

impl From<NotFound> for Refusal {
    fn from(missing: NotFound) -> Refusal {
        let code = if missing == NotFound::Pod { 404 } else { 500 };
        Refusal::new(code, missing.to_string())
    }
}

impl RunningPod {
    /// Returns what its manifest says.
    #[must_use]
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Returns its containers.
    #[must_use]
    pub fn containers(&self) -> &[Arc<Container>] {
        &self.containers
    }

    fn container(&self, name: &str) -> Result<Arc<Container>, NotFound> {
        let found = self.containers.iter().find(|known| known.spec.name == name);
        found.cloned().ok_or_else(|| NotFound::Container(name.to_owned()))
    }
}

impl ProcessRuntime {
    /// Starts the main processes of `pods`, and makes this program the parent of what its children
    /// leave behind.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in one without I/O or time.
    #[must_use]
    pub fn start(pods: Vec<PodSpec>, settings: Settings) -> ProcessRuntime {
        descendants::adopt_orphans();
        let termination = Termination {
            signal: Signal::HUP,
            grace: settings.hangup_grace,
            kill_now: CancellationToken::new(),
            reaper: TaskTracker::new(),
            tasks: Handle::current(),
        };
        let (end, supervisors) = (CancellationToken::new(), TaskTracker::new());
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime")]
        tokio::spawn(reap_orphans(end.clone()));
        let begin = |spec: &ContainerSpec| {
            let container = Container::idle(spec.clone());
            if !spec.command.is_empty() {
                let termination =
                    Termination { signal: Signal::TERM, grace: END_GRACE, ..termination.clone() };
                let (container, end) = (container.clone(), end.clone());
                supervisors.spawn(supervise(container, termination, end));
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
        ProcessRuntime { pods, settings, termination, end, supervisors }
    }

    /// Reads manifests and starts what they describe.
    ///
    /// # Errors
    /// [`ObjectsError`] if a file cannot be read, holds anything else than Pods, or two Pods have
    /// one name. Nothing was started then.
    pub fn from_files(
        files: &[impl AsRef<Path>],
        settings: Settings,
    ) -> Result<ProcessRuntime, ObjectsError> {
        let mut pods = Vec::new();
        for file in files {
            manifest::read_into(file.as_ref(), &mut pods)?;
        }
        Ok(ProcessRuntime::start(pods, settings))
    }

    /// Returns the pods.
    #[must_use]
    pub fn pods(&self) -> &[RunningPod] {
        &self.pods
    }

    /// Returns the pod of this name.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&RunningPod> {
        let is_it = |pod: &&RunningPod| pod.spec.namespace == namespace && pod.spec.name == name;
        self.pods.iter().find(is_it)
    }

    /// Returns a container, in whatever state it is.
    fn container(&self, target: &Target) -> Result<Arc<Container>, NotFound> {
        let PodTarget { namespace, name, uid } = &target.pod;
        let pod = self.pod(namespace, name);
        let pod = pod.filter(|pod| uid.as_ref().is_none_or(|uid| *uid == pod.spec.uid));
        pod.ok_or(NotFound::Pod)?.container(&target.container)
    }

    /// Returns a container that runs.
    fn running(&self, target: &Target) -> Result<Arc<Container>, NotFound> {
        let found = self.container(target)?;
        match found.state() {
            State::Running { .. } => Ok(found),
            State::Exited { .. } | State::Failed { .. } => Err(NotFound::Exited),
        }
    }

    fn find_exec(&self, target: &Target, request: ExecRequest) -> Result<Session, Refusal> {
        let ExecRequest { command, wants, env } = request;
        Ok(Session::Local(Box::new(Exec {
            container: self.running(target)?,
            words: command,
            env,
            wants,
            termination: self.termination.clone(),
            patience: self.settings.drain,
        })))
    }

    fn find_attach(&self, target: &Target, request: AttachRequest) -> Result<Attachment, Refusal> {
        let AttachRequest { wants, replay } = request;
        let container = self.running(target).map_err(|missing| match missing {
            // The kubelet's words for it differ from those of exec.
            NotFound::Container(container) => {
                let PodTarget { namespace, name, .. } = &target.pod;
                let text = format!("container {container} not found in pod {name}_{namespace}");
                Refusal::new(500, text)
            }
            missing => missing.into(),
        })?;
        let attach = Attach::new(container, wants, replay)?;
        Ok(Attachment { session: Session::Local(Box::new(attach)), replay })
    }

    fn find_ports(&self, target: &PodTarget) -> Result<Forwarding, Refusal> {
        let PodTarget { namespace, name, uid } = target;
        let found = self.pod(namespace, name).ok_or(NotFound::Pod)?;
        if uid.as_ref().is_some_and(|uid| *uid != found.spec.uid) {
            return Err(Refusal::new(404, "pod not found"));
        }
        let ports = HostPorts { pod: format!("{namespace}/{name}") };
        Ok(Forwarding::Local(Box::new(ports)))
    }

    fn find_log(&self, target: &Target, request: LogRequest) -> Result<Log, Refusal> {
        let found = self.container(target);
        let found = found.map_err(|missing| Refusal::new(404, missing.to_string()))?;
        if request.previous {
            // Nothing is started again here.
            let (container, pod) = (&target.container, &target.pod.name);
            let text =
                format!("previous terminated container {container:?} in pod {pod:?} not found");
            return Err(Refusal::new(400, text));
        }
        Ok(records::answer(&found.console, request))
    }

    async fn end(&self) {
        self.end.cancel();
        self.supervisors.close();
        self.supervisors.wait().await;
        self.processes().for_each(ContainerProcesses::terminate_orphans);
        let reaper = &self.termination.reaper;
        reaper.close();
        if timeout(END_GRACE, reaper.wait()).await.is_err() {
            self.termination.kill_now.cancel();
        }
        self.processes().for_each(ContainerProcesses::end);
        let killed = Instant::now();
        while descendants::reap_orphans() + reaper.len() > 0 && killed.elapsed() < END_PATIENCE {
            sleep(POLL_INTERVAL).await;
        }
        let left = descendants::reap_orphans() + reaper.len();
        if left > 0 {
            warn!("{left} processes were killed and are still there");
        }
    }

    fn processes(&self) -> impl Iterator<Item = &ContainerProcesses> {
        self.pods.iter().flat_map(|pod| &pod.containers).map(|container| &container.processes)
    }
}

impl Runtime for ProcessRuntime {
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session> {
        Box::pin(async move { self.find_exec(target, request) })
    }

    fn attach<'a>(&'a self, target: &'a Target, request: AttachRequest) -> Answer<'a, Attachment> {
        Box::pin(async move { self.find_attach(target, request) })
    }

    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        _ports: &'a [u16],
    ) -> Answer<'a, Forwarding> {
        Box::pin(async move { self.find_ports(target) })
    }

    fn logs<'a>(&'a self, target: &'a Target, request: LogRequest) -> Answer<'a, Log> {
        Box::pin(async move { self.find_log(target, request) })
    }

    /// Asks all processes to end, and kills those that have not ended after a grace: within a
    /// second.
    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Looks after orphans whenever children have ended, until the runtime ends.
async fn reap_orphans(end: CancellationToken) {
    let mut deaths = match signal(SignalKind::child()) {
        Ok(deaths) => deaths,
        Err(error) => return warn!("orphans are looked after at the end only: {error}"),
    };
    while end.run_until_cancelled(deaths.recv()).await.flatten().is_some() {
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        let _ = spawn_blocking(descendants::reap_orphans).await;
        let _ = end.run_until_cancelled(sleep(REAP_INTERVAL)).await;
    }
}
