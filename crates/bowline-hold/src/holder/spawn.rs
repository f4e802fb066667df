//! A request to a running child, or to the reason why not in the runtimes' words.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_proto::kept::Start;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use thiserror::Error;

use super::session::Outside;
use super::terminal;
use crate::system;
use crate::watched::Watched;

/// Why a command did not start, in the words of the runtimes that people know.
#[derive(Debug, Error)]
pub(super) enum SpawnError {
    /// There is no such program on the `PATH`.
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
    /// The kernel cannot run it, or the working directory is not there.
    #[error("exec {program}: {}", text(error))]
    Refused {
        /// The file.
        program: String,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The command has no words.
    #[error("args must not be empty")]
    Empty,
    /// A word has a zero byte.
    #[error("a word, or a variable, has a zero byte in it")]
    Zero,
    /// The system did not give what a process needs.
    #[error("{}", text(.0))]
    System(#[from] io::Error),
}

impl From<Errno> for SpawnError {
    fn from(error: Errno) -> SpawnError {
        SpawnError::System(error.into())
    }
}

/// The text of a system's error without its number, in small letters.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    let mut letters = text.split(" (os error").next().unwrap_or_default().chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A child that was started, and this side of its ends.
pub(super) struct Spawned {
    pub child: Child,
    pub pid: Pid,
    pub stdin: Option<Watched>,
    pub outputs: [Option<Watched>; 2],
}

/// Starts what is asked for, with the environment and the working directory that the holder was
/// started with.
pub(super) fn spawn(start: &Start, outside: &Outside) -> Result<Spawned, SpawnError> {
    let (name, arguments) = start.command.split_first().ok_or(SpawnError::Empty)?;
    let variable = |name: &str| {
        let asked = start.env.iter().rev().find(|pair| pair.0 == name);
        asked.map(|pair| OsString::from(&pair.1)).or_else(|| env::var_os(name))
    };
    let is_bad_name = |name: &str| name.is_empty() || name.contains(['=', '\0']);
    let words = start.command.iter().chain(start.env.iter().map(|pair| &pair.1));
    if words.into_iter().any(|word| word.contains('\0'))
        || start.env.iter().any(|pair| is_bad_name(&pair.0))
    {
        return Err(SpawnError::Zero);
    }
    let program = find(name, &outside.working_dir, variable("PATH"))?;
    let (ours, theirs) = if start.wants.tty { terminal_ends(start)? } else { pipe_ends(start)? };
    #[expect(clippy::disallowed_methods, reason = "the command of a session")]
    let mut command = Command::new(&program);
    command
        .arg0(OsStr::new(name))
        .args(arguments)
        .envs(start.env.iter().map(|pair| (&pair.0, &pair.1)))
        .current_dir(&outside.working_dir);
    if start.wants.tty && variable("TERM").is_none() {
        command.env("TERM", "xterm");
    }
    let [stdin, stdout, stderr] = theirs;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    system::begin_session(&mut command, start.wants.tty, outside.descriptors, outside.umask);
    let child = command.spawn().map_err(|error| match Errno::from_io_error(&error) {
        Some(
            Errno::NOENT
            | Errno::NOEXEC
            | Errno::TOOBIG
            | Errno::ACCESS
            | Errno::LOOP
            | Errno::NOTDIR,
        ) => SpawnError::Refused { program: program.display().to_string(), error },
        _ => SpawnError::System(error),
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(SpawnError::System(io::ErrorKind::InvalidData.into()))?;
    let [stdin, stdout, stderr] = ours;
    Ok(Spawned { child, pid, stdin, outputs: [stdout, stderr] })
}

/// Finds what a shell would run: a path as it is, a name from `PATH`.
fn find(name: &str, dir: &Path, path: Option<OsString>) -> Result<PathBuf, SpawnError> {
    let runs = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if name.contains('/') {
        let path = dir.join(name);
        return match () {
            () if runs(&path) => Ok(path),
            () if path.is_dir() => Err(SpawnError::Directory(name.to_owned())),
            () if path.exists() => Err(SpawnError::Denied(name.to_owned())),
            () => Err(SpawnError::NoFile(name.to_owned())),
        };
    }
    let path = path.unwrap_or_default();
    // Relative entries of PATH are not looked at, as in Go's programs.
    let mut places = env::split_paths(&path).filter(|place| place.is_absolute());
    let found = if name.is_empty() { None } else { places.find(|place| runs(&place.join(name))) };
    let found = found.ok_or_else(|| SpawnError::NotFound(name.to_owned()))?;
    Ok(found.join(name))
}

type Ends = ([Option<Watched>; 3], [Stdio; 3]);

fn terminal_ends(start: &Start) -> Result<Ends, SpawnError> {
    let (master, slave) = terminal::open(start.size)?;
    let again = |fd: &OwnedFd| -> io::Result<OwnedFd> { fd.try_clone() };
    let stdin = if start.wants.stdin { Some(Watched::new(again(&master)?)?) } else { None };
    let stdout = Watched::new(master)?;
    let theirs = [again(&slave)?.into(), again(&slave)?.into(), slave.into()];
    Ok(([stdin, Some(stdout), None], theirs))
}

fn pipe_ends(start: &Start) -> Result<Ends, SpawnError> {
    let wants = start.wants;
    let mut ours = [None, None, None];
    let mut theirs = [Stdio::null(), Stdio::null(), Stdio::null()];
    for (at, wanted) in [wants.stdin, wants.stdout, wants.stderr].into_iter().enumerate() {
        if wanted {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            let (our, their) = if at == 0 { (writer, reader) } else { (reader, writer) };
            ours[at] = Some(Watched::new(our)?);
            theirs[at] = their.into();
        }
    }
    Ok((ours, theirs))
}
