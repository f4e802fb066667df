//! Commands by containerd's own interface, which it serves on the same socket as that for
//! Kubernetes.
//!
//! Over the interface for Kubernetes a command is streamed by containerd itself, with defects that
//! nobody behind it can mend, or even see (docs/protocols/traps.md, T6 and T7): input that is lost
//! once stdout has ended, a terminal that gets its size too late, an end that is not told, a
//! process that outlives its client. All of them are in what containerd does with the pipes of a
//! command. So the node does that part itself: it asks for the process as containerd's own part for
//! Kubernetes does (`container_execsync.go`), with named pipes of its own, and waits for its end.
//! Nothing goes through containerd but the calls: bytes go between the shim and this program.
//!
//! Where that cannot be done, the runtime streams as ever: it is no containerd, the container has
//! another shim than runc's, or its pipes cannot be seen from here.

mod command;
mod course;
mod ends;
mod fifos;
mod hangup;
mod messages;
mod running;
mod spec;
mod tasks;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_proto::session::Wants;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::info;

pub(crate) use self::command::ContainerdExec;
use self::messages::{Container, GetContainerRequest, GetContainerResponse, RUNNING};
use self::spec::ProcessSpec;
use self::tasks::{NAMESPACE, Task};
use super::client::{ANSWER_PATIENCE, CallError, Client};
use crate::runtime::Refusal;

const CONTAINERS: &str = "containerd.services.containers.v1.Containers";
/// The names of runc's shims begin with this.
const RUNC: &str = "io.containerd.runc.";

/// Who runs the commands of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecBy {
    /// The node does, by the runtime's own interface, where it has one that is known here; the
    /// runtime's streaming server elsewhere.
    #[default]
    Auto,
    /// The runtime's streaming server does.
    Runtime,
}

/// What the node needs to run commands by containerd's own interface.
#[derive(Debug)]
pub(crate) struct Containerd {
    client: Arc<Client>,
    /// It is known that commands are to be left to the runtime's streaming server.
    is_left: AtomicBool,
    /// A reason why one was left was logged.
    is_told: AtomicBool,
    /// How long a command whose client has gone may take to end; `None` lets it run on.
    grace: Option<Duration>,
    /// How long the output of a command is read on after it has ended, while others hold it.
    drain: Option<Duration>,
    /// The tasks that look after commands whose session has ended.
    leftovers: TaskTracker,
    /// Ends every grace.
    kill_now: CancellationToken,
}

impl Containerd {
    pub(super) fn new(
        client: Arc<Client>,
        by: ExecBy,
        grace: Option<Duration>,
        drain: Option<Duration>,
    ) -> Containerd {
        Containerd {
            client,
            is_left: AtomicBool::new(by == ExecBy::Runtime),
            is_told: AtomicBool::new(false),
            grace,
            drain,
            leftovers: TaskTracker::new(),
            kill_now: CancellationToken::new(),
        }
    }

    /// Prepares a command in a container that runs. Nothing begins. `None` if the runtime's
    /// streaming server has to run it, or to say why it cannot be run.
    ///
    /// # Errors
    /// If containerd does not answer.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        container_id: &str,
        words: &[String],
        env: &[(String, String)],
        wants: Wants,
    ) -> Result<Option<ContainerdExec>, Refusal> {
        if self.is_left.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let found = tokio::try_join!(self.spec(container_id), self.directory(container_id));
        let (spec, directory) = match found {
            Ok(found) => found,
            Err(Left::Because(why)) => {
                self.tell(why);
                return Ok(None);
            }
            Err(Left::Unknown) => return Ok(None),
            Err(Left::Call(error)) => return Err(error.into()),
        };
        let Some(spec) = ProcessSpec::of(&spec, words, env, wants.tty) else {
            self.tell("the container's specification cannot be read");
            return Ok(None);
        };
        Ok(Some(ContainerdExec {
            containerd: self.clone(),
            container_id: container_id.to_owned(),
            words: words.to_vec(),
            wants,
            spec,
            directory,
        }))
    }

    /// Whether commands are known to be left to the runtime's streaming server, all or some.
    pub(crate) fn leaves_some(&self) -> bool {
        self.is_left.load(Ordering::Relaxed) || self.is_told.load(Ordering::Relaxed)
    }

    /// Asks for the container's OCI specification.
    async fn spec(&self, container_id: &str) -> Result<bytes::Bytes, Left> {
        let request = GetContainerRequest { id: container_id.to_owned() };
        let method = (CONTAINERS, "Get");
        let patience = Some(ANSWER_PATIENCE);
        let asked = self.client.call_other(method, NAMESPACE, request, patience);
        let answer: GetContainerResponse = match asked.await {
            Ok(answer) => answer,
            Err(CallError::Status(status)) if status.code() == Code::Unimplemented => {
                self.is_left.store(true, Ordering::Relaxed);
                return Err(Left::Because("it has no interface of its own that is known here"));
            }
            Err(error) => return Err(error.into()),
        };
        let Container { runtime, spec } = answer.container.unwrap_or_default();
        if !runtime.is_some_and(|runtime| runtime.name.starts_with(RUNC)) {
            return Err(Left::Because("the container has another shim than runc's"));
        }
        Ok(spec.unwrap_or_default().value)
    }

    /// Finds where a command's pipes can be.
    async fn directory(&self, container_id: &str) -> Result<PathBuf, Left> {
        let main = Task::new(self.client.clone(), container_id, String::new()).get().await?;
        if main.status != RUNNING {
            return Err(Left::Unknown);
        }
        let why = "the pipes of its containers are not to be seen from here";
        fifos::directory(&main.stdout).ok_or(Left::Because(why))
    }

    /// Says once why commands are left to the runtime.
    fn tell(&self, why: &str) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            info!("commands are left to the runtime's own streaming server: {why}");
        }
    }

    /// Looks after a command whose session has ended.
    fn leave(&self, leftover: hangup::Leftover, tasks: &Handle) {
        let task = leftover.end(self.grace, self.kill_now.clone());
        self.leftovers.spawn_on(task, tasks);
    }

    /// Ends all commands whose client has gone, but for those that run on, and waits until they
    /// have ended. All sessions have by then.
    pub(crate) async fn shut_down(&self) {
        self.kill_now.cancel();
        self.leftovers.close();
        self.leftovers.wait().await;
    }
}

/// Why a command is left to the runtime's streaming server.
enum Left {
    /// For this reason, which is said once.
    Because(&'static str),
    /// The container does not run, or has another name there: the runtime has words for it.
    Unknown,
    /// The runtime does not answer.
    Call(CallError),
}

impl From<CallError> for Left {
    fn from(error: CallError) -> Left {
        match error {
            CallError::Status(status) if status.code() == Code::NotFound => Left::Unknown,
            CallError::Status(_) => Left::Because("its own interface refuses to be asked"),
            error => Left::Call(error),
        }
    }
}
