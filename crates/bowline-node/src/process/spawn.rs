//! A command to a running child, or to the reason why not in the runtimes' words.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_io::text::go_error;
use rustix::fs::{Access, access};
use thiserror::Error;

use super::child::begin_session;
use super::descendants::ContainerProcesses;
use super::manifest::ContainerSpec;
use crate::runtime::StartError;

/// Why a command did not start, in the words of the runtimes that people know.
#[derive(Debug, Error)]
pub(crate) enum SpawnError {
    /// There is no such program on the container's `PATH`.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    /// There is no such file.
    #[error("exec: {0:?}: stat {0}: no such file or directory")]
    NoFile(String),
    /// The file is there and may not be run.
    #[error("exec: {0:?}: permission denied")]
    Denied(String),
    /// A directory cannot be run.
    #[error("exec: {0:?}: is a directory")]
    Directory(String),
    /// The kernel cannot run it: it is no program, what interprets it is missing, or the command is
    /// too long.
    #[error("exec {program}: {}", go_error(error))]
    Refused {
        /// The file.
        program: String,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The container's working directory is not there.
    #[error("chdir to cwd ({dir:?}) set in config.json failed: {}", go_error(error))]
    WorkingDir {
        /// The directory.
        dir: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The command has no words.
    #[error("args must not be empty")]
    Empty,
    /// The system did not give what a process needs.
    #[error("{}", go_error(.0))]
    System(#[from] io::Error),
}

impl From<SpawnError> for StartError {
    /// Puts the beginning of the runtimes' messages in front of the reason.
    fn from(error: SpawnError) -> StartError {
        StartError(format!(
            "error executing command in container: exec failed: unable to start container \
             process: {error}"
        ))
    }
}

/// The three standard descriptors of a child.
pub(super) struct Descriptors {
    /// Its input.
    pub stdin: Stdio,
    /// Its output.
    pub stdout: Stdio,
    /// Its errors.
    pub stderr: Stdio,
    /// Whether stdin is the terminal that is to control its session.
    pub controls: bool,
}

/// Starts `words` with a container's environment and working directory.
pub(super) fn spawn(
    words: &[String],
    container: &ContainerSpec,
    descriptors: Descriptors,
    processes: &ContainerProcesses,
) -> Result<Child, SpawnError> {
    let (name, arguments) = words.split_first().ok_or(SpawnError::Empty)?;
    let dir = container.working_dir.as_deref().unwrap_or("/");
    if let Err(error) = working_dir(dir) {
        return Err(SpawnError::WorkingDir { dir: dir.to_owned(), error });
    }
    let program = find(name, dir, container)?;
    #[expect(clippy::disallowed_methods, reason = "the command of a session")]
    let mut command = Command::new(&program);
    command
        .arg0(OsStr::new(name))
        .args(arguments)
        .env_clear()
        .envs(container.env.iter().map(|pair| (&pair.0, &pair.1)))
        .current_dir(dir)
        .stdin(descriptors.stdin)
        .stdout(descriptors.stdout)
        .stderr(descriptors.stderr);
    if descriptors.controls && !container.env.iter().any(|pair| pair.0 == "TERM") {
        command.env("TERM", "xterm");
    }
    begin_session(&mut command, descriptors.controls);
    processes.spawn(&mut command).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOEXEC | libc::E2BIG | libc::EACCES | libc::ELOOP) => {
            SpawnError::Refused { program: program.display().to_string(), error }
        }
        _ => SpawnError::System(error),
    })
}

fn working_dir(dir: &str) -> io::Result<()> {
    if !std::fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(dir, Access::EXEC_OK)?)
}

/// Finds what a shell would run: a path as it is, a name from the container's own `PATH`.
fn find(name: &str, dir: &str, container: &ContainerSpec) -> Result<PathBuf, SpawnError> {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let path = Path::new(dir).join(name);
        return match () {
            () if runs(&path) => Ok(path),
            () if path.is_dir() => Err(SpawnError::Directory(name.to_owned())),
            () if path.exists() => Err(SpawnError::Denied(name.to_owned())),
            () => Err(SpawnError::NoFile(name.to_owned())),
        };
    }
    let path = container.env.iter().find(|pair| pair.0 == "PATH").map_or("", |pair| &*pair.1);
    // Relative entries of PATH are not looked at, as in Go's programs.
    let places = path.split(':').filter(|place| place.starts_with('/'));
    let mut candidates = places.map(|place| Path::new(place).join(name));
    let found = if name.is_empty() { None } else { candidates.find(|path| runs(path)) };
    found.ok_or_else(|| SpawnError::NotFound(name.to_owned()))
}

/// Makes the standard descriptors of a process from its side of a terminal.
pub(super) fn terminal_descriptors(slave: &OwnedFd) -> io::Result<Descriptors> {
    let again = || -> io::Result<Stdio> { Ok(slave.try_clone()?.into()) };
    Ok(Descriptors { stdin: again()?, stdout: again()?, stderr: again()?, controls: true })
}
