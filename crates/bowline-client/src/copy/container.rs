//! A [`Client`] to the containers that it can copy from and to, and to such copies.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_io::record::{End, Pending, Record};
use bowline_proto::session::Outcome;
use tokio_util::sync::CancellationToken;

use super::{CopyError, Keep, Options, Remote, Sink, Stdin, Watcher, download, upload};
use crate::client::Client;
use crate::error::Error;
use crate::kept::Found;
use crate::session::{Ended, Ends};

/// A container of a pod. To be copied from or to, it must have `tar` and `sh`.
#[derive(Clone, Debug)]
pub struct Container {
    client: Client,
    pod: String,
    name: Option<String>,
    keep: Option<Keep>,
    /// Where commands of this container are kept.
    found: Found,
}

impl Container {
    /// Sets the container's name. Without one, the server takes the pod's only container.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Container {
        self.name = Some(name.into());
        self.found = Found::default();
        self
    }

    /// Lets each command survive its connections: one that is lost is made again, and the command
    /// goes on. What is lost all the same is a loss as without it.
    ///
    /// A command that is not waited for any more is hung up by a task of its own, for which
    /// [`Keep::settled`] waits; where it cannot be told, it is hung up within [`Keep::keep_for`].
    #[must_use]
    pub fn keep(mut self, keep: Keep) -> Container {
        self.keep = Some(keep);
        self
    }
}

impl Remote for Container {
    async fn run(
        &self,
        words: Vec<String>,
        stdin: Stdin,
        stdout: Sink,
        stderr: Sink,
    ) -> Result<Ended, Error> {
        let command = self.client.inside().exec(&self.pod, words);
        let command = match &self.name {
            Some(name) => command.container(name),
            None => command,
        };
        match &self.keep {
            Some(keep) => keep.run(command, &self.found, (stdin, stdout, stderr)).await,
            None => command.ends(Ends { stdin, stdout, stderr, ..Ends::default() }).run().await,
        }
    }
}

impl Client {
    /// Returns a container of a pod, for [`download()`], [`upload()`] and
    /// [`between()`](super::between()). [`Container::name`] says which one.
    #[must_use]
    pub fn container(&self, pod: impl Into<String>) -> Container {
        let (name, keep, found) = (None, None, Found::default());
        Container { client: self.clone(), pod: pod.into(), name, keep, found }
    }

    /// Returns a copy of what is at `source` in a pod to the local path `target`, to be run. A
    /// directory is merged into one that is at `target`.
    pub fn copy_from(
        &self,
        pod: impl Into<String>,
        source: impl Into<String>,
        target: impl AsRef<Path>,
    ) -> Copy {
        Copy::new(self.container(pod), Direction::From, source.into(), target.as_ref())
    }

    /// Returns a copy of what is at the local path `source` to `target` in a pod, to be run. If
    /// there is a directory at `target`, the copy goes into it under the source's name.
    pub fn copy_to(
        &self,
        pod: impl Into<String>,
        source: impl AsRef<Path>,
        target: impl Into<String>,
    ) -> Copy {
        Copy::new(self.container(pod), Direction::To, target.into(), source.as_ref())
    }
}

/// What a copy's hooks are told of its end.
fn end_of(copied: &Result<(), CopyError>) -> End {
    match copied {
        Ok(()) => End::Outcome(Outcome::Success),
        Err(CopyError::Stopped) => End::ClientGone("it was stopped".to_owned()),
        Err(error) if error.is_loss() => End::Lost(error.to_string()),
        Err(error) => {
            let message = error.to_string();
            End::Outcome(Outcome::Failed { message, code: None, reason: String::new() })
        }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    From,
    To,
}

/// A copy between this side and a container, made by [`Client::copy_from`] or [`Client::copy_to`].
#[must_use = "nothing is copied before it is run"]
pub struct Copy {
    container: Container,
    direction: Direction,
    /// The path in the container.
    remote_path: String,
    /// The path on this side.
    local_path: PathBuf,
    options: Options,
    watcher: Arc<dyn Watcher>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Copy");
        shown
            .field("remote_path", &self.remote_path)
            .field("local_path", &self.local_path)
            .finish_non_exhaustive()
    }
}

impl Copy {
    fn new(
        container: Container,
        direction: Direction,
        remote_path: String,
        local_path: &Path,
    ) -> Copy {
        let (options, watcher, stop) = (Options::default(), Arc::new(()), CancellationToken::new());
        Copy {
            container,
            direction,
            remote_path,
            local_path: local_path.to_owned(),
            options,
            watcher,
            stop,
        }
    }

    /// Sets the container's name. Without one, the server takes the pod's only container.
    pub fn container(mut self, name: impl Into<String>) -> Copy {
        self.container = self.container.name(name);
        self
    }

    /// Lets each command of the copy survive its connections; see [`Container::keep`].
    pub fn keep(mut self, keep: Keep) -> Copy {
        self.container = self.container.keep(keep);
        self
    }

    /// Sets the options of the copy.
    pub fn options(mut self, options: Options) -> Copy {
        self.options = options;
        self
    }

    /// Sets what gets the copy's progress and problems. By default nothing does.
    pub fn watcher(mut self, watcher: Arc<dyn Watcher>) -> Copy {
        self.watcher = watcher;
        self
    }

    /// Ends the copy once `stop` is cancelled, and removes its staging directory.
    pub fn stop_at(mut self, stop: CancellationToken) -> Copy {
        self.stop = stop;
        self
    }

    /// Runs the copy.
    ///
    /// A future that is dropped leaves nothing behind on this machine. In the container it may
    /// leave a directory `.bowline-cp-…` beside the target; [`stop_at`](Self::stop_at) leaves
    /// nothing.
    ///
    /// # Errors
    /// [`CopyError`] if the target is not a complete copy.
    pub async fn run(self) -> Result<(), CopyError> {
        let running = self.admitted()?.begin();
        let Copy { container, direction, remote_path, local_path, options, watcher, stop } = self;
        let copied = match direction {
            Direction::From => {
                let copy = download(&container, &remote_path, &local_path, &options, watcher);
                stop.run_until_cancelled(copy).await.unwrap_or(Err(CopyError::Stopped))
            }
            Direction::To => {
                upload(&container, &local_path, &remote_path, &options, watcher, &stop).await
            }
        };
        if let Some(keep) = &container.keep {
            keep.settled().await;
        }
        running.end(end_of(&copied), None);
        copied
    }

    fn admitted(&self) -> Result<Pending, CopyError> {
        let Container { client, pod, name, .. } = &self.container;
        let container = name.clone().unwrap_or_default();
        let pending = client.admit(Record { container, ..client.record("cp", pod) });
        pending.map_err(|error| CopyError::Exec(error.into()))
    }
}
