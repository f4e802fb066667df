//! A container of a pod as something to copy out of or into, and the copies that a [`Client`]
//! makes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{CopyError, Options, Remote, Sink, Stdin, Watcher, down, up};
use crate::client::Client;
use crate::error::Error;
use crate::session::{Ended, Ends};

/// A container of a pod, which must have `tar` and `sh` in it.
#[derive(Clone, Debug)]
pub struct Container {
    client: Client,
    pod: String,
    name: Option<String>,
}

impl Container {
    /// The container of this name; without one, the pod's only one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Container {
        self.name = Some(name.into());
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
        let ends = Ends { stdin, stdout, stderr, ..Ends::default() };
        let command = self.client.exec(&self.pod, words).ends(ends);
        match &self.name {
            Some(name) => command.container(name).run().await,
            None => command.run().await,
        }
    }
}

impl Client {
    /// A container of a pod, for [`down()`], [`up()`] and [`between()`](super::between()).
    /// [`Container::name`] says which one.
    #[must_use]
    pub fn container(&self, pod: impl Into<String>) -> Container {
        Container { client: self.clone(), pod: pod.into(), name: None }
    }

    /// A copy of what is at `source` in a pod to `target` here: into it, if that is a directory.
    pub fn copy_from(
        &self,
        pod: impl Into<String>,
        source: impl Into<String>,
        target: impl AsRef<Path>,
    ) -> Copy {
        Copy::new(self.container(pod), Direction::From, source.into(), target.as_ref())
    }

    /// A copy of what is at `source` here to `target` in a pod: into it, if that is a directory.
    pub fn copy_to(
        &self,
        pod: impl Into<String>,
        source: impl AsRef<Path>,
        target: impl Into<String>,
    ) -> Copy {
        Copy::new(self.container(pod), Direction::To, target.into(), source.as_ref())
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
    there: String,
    /// The path on this side.
    here: PathBuf,
    options: Options,
    watcher: Arc<dyn Watcher>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Copy");
        shown.field("there", &self.there).field("here", &self.here).finish_non_exhaustive()
    }
}

impl Copy {
    fn new(container: Container, direction: Direction, there: String, here: &Path) -> Copy {
        let (options, watcher, stop) = (Options::default(), Arc::new(()), CancellationToken::new());
        Copy { container, direction, there, here: here.to_owned(), options, watcher, stop }
    }

    /// The container; without one, the pod's only one.
    pub fn container(mut self, name: impl Into<String>) -> Copy {
        self.container.name = Some(name.into());
        self
    }

    /// How the copy is made.
    pub fn options(mut self, options: Options) -> Copy {
        self.options = options;
        self
    }

    /// Tells `watcher` how it goes.
    pub fn watcher(mut self, watcher: Arc<dyn Watcher>) -> Copy {
        self.watcher = watcher;
        self
    }

    /// Ends the copy once this is cancelled, and removes what was begun in the container.
    pub fn stop_at(mut self, stop: CancellationToken) -> Copy {
        self.stop = stop;
        self
    }

    /// Copies.
    ///
    /// A future that is dropped leaves nothing behind on this side. In the container it may leave a
    /// directory `.bowline-cp-…` beside the target: [`stop_at`](Self::stop_at) does not.
    ///
    /// # Errors
    /// [`CopyError`] if not all of it has the target's name.
    pub async fn run(self) -> Result<(), CopyError> {
        let Copy { container, direction, there, here, options, watcher, stop } = self;
        match direction {
            Direction::From => {
                let copy = down(&container, &there, &here, &options, watcher);
                stop.run_until_cancelled(copy).await.unwrap_or(Err(CopyError::Stopped))
            }
            Direction::To => up(&container, &here, &there, &options, watcher, &stop).await,
        }
    }
}
