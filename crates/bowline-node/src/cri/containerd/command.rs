//! A command of a client's in a container of containerd's.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::sync::Arc;

use bowline_io::random;
use bowline_io::text::go_error;
use bowline_proto::session::{Size, Wants};
use tracing::info;

use super::Containerd;
use super::ends::Ends;
use super::fifos::Fifos;
use super::running::ContainerdProcess;
use super::spec::ProcessSpec;
use super::tasks::Task;
use crate::pipes::PIPE_BYTES;
use crate::runtime::{Command, Drain, StartError};

/// The most bytes that the shim can have of one output: in its pipe from the command, which is as
/// big as the system makes them, and in its hands.
const SHIM_BYTES: usize = 128 * 1024;
/// The most bytes of a command's two outputs that are on their way when it ends.
const HELD_BYTES: usize = 2 * (PIPE_BYTES + SHIM_BYTES);

/// A command to run in a container, by containerd's own interface.
#[derive(Debug)]
pub(crate) struct ContainerdExec {
    pub(super) containerd: Arc<Containerd>,
    pub(super) container_id: String,
    pub(super) words: Vec<String>,
    pub(super) wants: Wants,
    pub(super) spec: ProcessSpec,
    /// Where its pipes are made.
    pub(super) directory: PathBuf,
}

impl Display for ContainerdExec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = self.words.first().map(String::as_str).unwrap_or_default();
        write!(f, "exec {word:?} in {}", self.container_id)
    }
}

impl Command for ContainerdExec {
    type Process = ContainerdProcess;

    fn start(&mut self, size: Option<Size>) -> Result<ContainerdProcess, StartError> {
        // As long as containerd's own.
        let exec_id = random::hex::<32>();
        let has = (self.wants.stdin, !self.wants.tty);
        let name = format!("bowline-{}", &exec_id[..16]);
        let made = Fifos::make(&self.directory, &name, has).map_err(|error| {
            let why = format!("failed to create exec {exec_id:?}: {}", go_error(&error));
            not_started(&why)
        });
        let (fifos, stdout, stderr) = made?;
        info!(exec_id, "{self}");
        let task = Task::new(self.containerd.client.clone(), &self.container_id, exec_id);
        let ends = Ends::new(fifos, (stdout, stderr), self.wants);
        let spec = self.spec.json(size);
        let (containerd, tty) = (self.containerd.clone(), self.wants.tty);
        Ok(ContainerdProcess::start(containerd, task, ends, tty, spec))
    }

    fn words(&self) -> &[String] {
        &self.words
    }

    fn drain(&self) -> Drain {
        Drain { patience: self.containerd.drain, held_bytes: HELD_BYTES }
    }
}

/// Puts the beginning of the kubelet's and containerd's messages in front of the reason.
pub(super) fn not_started(why: &str) -> StartError {
    StartError(format!("error executing command in container: failed to exec in container: {why}"))
}
