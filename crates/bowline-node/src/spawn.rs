//! A command to a running child in a session and process group of its own.
//! Above: `process`. Below: `std::process`; the one unsafe call of the node.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{Access, access};
use thiserror::Error;

use crate::manifest::ContainerSpec;

/// Why a command did not start, in the words of the runtimes that people know.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no such program on the container's `PATH`.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotFound(String),
    /// A path that leads nowhere.
    #[error("exec: {0:?}: stat {0}: no such file or directory")]
    NoFile(String),
    /// It is there and may not be run.
    #[error("exec: {0:?}: permission denied")]
    Denied(String),
    /// The container's working directory is not there.
    #[error("chdir to cwd ({dir:?}) set in config.json failed: {error}")]
    WorkingDir {
        /// Which.
        dir: String,
        /// Why.
        error: io::Error,
    },
    /// Nothing to run.
    #[error("args must not be empty")]
    Empty,
    /// The system did not give what a process needs.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// The three standard descriptors of a child.
pub struct Descriptors {
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
pub fn spawn(
    words: &[String],
    container: &ContainerSpec,
    descriptors: Descriptors,
) -> Result<Child, StartError> {
    let (name, arguments) = words.split_first().ok_or(StartError::Empty)?;
    let program = find(name, container)?;
    let mut command = Command::new(program);
    command
        .arg0(OsStr::new(name))
        .args(arguments)
        .env_clear()
        .envs(container.env.iter().map(|pair| (&pair.0, &pair.1)))
        .stdin(descriptors.stdin)
        .stdout(descriptors.stdout)
        .stderr(descriptors.stderr);
    if descriptors.controls && !container.env.iter().any(|pair| pair.0 == "TERM") {
        command.env("TERM", "xterm");
    }
    let dir = container.working_dir.as_deref().unwrap_or("/");
    if let Err(error) = std::fs::metadata(dir) {
        return Err(StartError::WorkingDir { dir: dir.to_owned(), error });
    }
    command.current_dir(dir);
    own_session(&mut command, descriptors.controls);
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::NoFile(name.clone()),
        io::ErrorKind::PermissionDenied => StartError::Denied(name.clone()),
        _ => StartError::System(error),
    })
}

/// What a shell would run: a path as it is, a name from the container's own `PATH`.
fn find(name: &str, container: &ContainerSpec) -> Result<PathBuf, StartError> {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let base = container.working_dir.as_deref().unwrap_or("/");
        let path = Path::new(base).join(name);
        return match () {
            () if runs(&path) => Ok(path),
            () if path.exists() => Err(StartError::Denied(name.to_owned())),
            () => Err(StartError::NoFile(name.to_owned())),
        };
    }
    let path = container.env.iter().find(|pair| pair.0 == "PATH").map_or("", |pair| &*pair.1);
    let found = path.split(':').map(|dir| Path::new(dir).join(name)).find(|path| runs(path));
    found.ok_or_else(|| StartError::NotFound(name.to_owned()))
}

#[allow(unsafe_code, reason = "std has no safe way to run setsid in a child")]
fn own_session(command: &mut Command, controls: bool) {
    let prepare = move || -> io::Result<()> {
        rustix::process::setsid()?;
        if controls {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes two
    // system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Three descriptors of one terminal.
pub fn terminal_descriptors(slave: &OwnedFd) -> io::Result<Descriptors> {
    let again = || -> io::Result<Stdio> { Ok(slave.try_clone()?.into()) };
    Ok(Descriptors { stdin: again()?, stdout: again()?, stderr: again()?, controls: true })
}
