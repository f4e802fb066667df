//! One process with its ends, as values that a session's task polls; it never outlives its owner's
//! interest, and is never left a zombie. Above: `session`, `runtime`. Below: `spawn`, `terminal`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::drive::{Inflow, Intake};
use bowline_proto::session::{Size, Wants};
use bytes::BytesMut;
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, test_kill_process_group,
};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe::{self, Receiver, Sender};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::manifest::ContainerSpec;
use crate::spawn::{self, Descriptors, StartError};
use crate::terminal::Terminal;
use crate::watched::watch;

/// Pipes of this size cost memory only while they are full, and system calls a sixteenth.
const PIPE_BYTES: usize = 1024 * 1024;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl Ending {
    fn of(status: ExitStatus) -> Ending {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited((code & 0xff) as u8),
            (None, Some(signal)) => Ending::Signaled((signal & 0x7f) as u8),
            // A child that was waited for has ended in one of the two ways.
            (None, None) => Ending::Exited(255),
        }
    }

    /// The code that shells and runtimes give it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Ending::Exited(code) => code,
            Ending::Signaled(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// Process groups that outlived their leaders: background children of commands that have ended.
/// They live on as they would in a container, until the runtime ends.
#[derive(Clone, Debug, Default)]
pub struct Leftovers(Arc<Mutex<Vec<Pid>>>);

impl Leftovers {
    fn keep(&self, group: Pid) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|group| test_kill_process_group(*group).is_ok());
        if test_kill_process_group(group).is_ok() {
            groups.push(group);
        }
    }

    /// Ends all of them.
    pub fn kill(&self) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups.drain(..) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What the processes of one runtime share.
#[derive(Clone, Debug)]
pub struct Household {
    /// Between SIGHUP and SIGKILL.
    pub grace: Duration,
    /// Waits for processes whose owner has gone.
    pub undertaker: TaskTracker,
    /// Groups without a leader.
    pub leftovers: Leftovers,
}

/// A process and its ends.
#[derive(Debug)]
pub struct Process {
    leader: Leader,
    ends: Ends,
    /// Bytes on their way to its input.
    pub stdin: Inflow,
    stdin_state: Stdin,
    line_begun: bool,
    out: Intake,
    err: Intake,
}

#[derive(Debug)]
enum Ends {
    Pipes { stdin: Option<Sender>, stdout: Option<Receiver>, stderr: Option<Receiver> },
    Terminal { terminal: Terminal, open: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stdin {
    Open,
    /// It takes no more: it ended, or we said the end.
    Closed,
}

/// What a process did.
#[derive(Debug)]
pub enum Act {
    /// It wrote to its output.
    Out(BytesMut),
    /// It wrote to its errors.
    Err(BytesMut),
    /// Nobody can write to its output any more.
    OutEnded,
    /// Nobody can write to its errors any more.
    ErrEnded,
    /// It took some input, or refused any more.
    Took,
}

impl Process {
    /// Starts `words` in a container, with the ends that are wanted.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        words: &[String],
        container: &ContainerSpec,
        wants: Wants,
        size: Option<Size>,
        household: &Household,
    ) -> Result<Process, StartError> {
        let (ends, descriptors) = if wants.tty { terminal_ends(size)? } else { pipe_ends(wants)? };
        let child = spawn::spawn(words, container, descriptors)?;
        Ok(Process {
            leader: Leader::new(child, household.clone())?,
            ends,
            stdin: Inflow::default(),
            stdin_state: if wants.stdin { Stdin::Open } else { Stdin::Closed },
            line_begun: false,
            out: Intake::default(),
            err: Intake::default(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.leader.child.as_ref().map_or(0, Child::id)
    }

    /// Whether it still takes input.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        self.stdin_state == Stdin::Open
    }

    /// Tells its terminal the size.
    pub fn resize(&self, size: Size) {
        if let Ends::Terminal { terminal, .. } = &self.ends {
            if let Err(error) = terminal.resize(size) {
                warn!("resize: {error}");
            }
        }
    }

    /// What it does next, reading its output only while `room`.
    pub fn poll(&mut self, cx: &mut Context<'_>, room: bool) -> Poll<Act> {
        if self.poll_stdin(cx).is_ready() {
            return Poll::Ready(Act::Took);
        }
        if !room {
            return Poll::Pending;
        }
        match &mut self.ends {
            Ends::Terminal { terminal, open } if *open => {
                match ready!(self.out.poll(cx, terminal)) {
                    Ok(bytes) if !bytes.is_empty() => Poll::Ready(Act::Out(bytes)),
                    _ => {
                        *open = false;
                        Poll::Ready(Act::OutEnded)
                    }
                }
            }
            Ends::Terminal { .. } => Poll::Pending,
            Ends::Pipes { stdout, stderr, .. } => {
                if let Poll::Ready(bytes) = poll_pipe(cx, stdout, &mut self.out) {
                    return Poll::Ready(bytes.map_or(Act::OutEnded, Act::Out));
                }
                let bytes = ready!(poll_pipe(cx, stderr, &mut self.err));
                Poll::Ready(bytes.map_or(Act::ErrEnded, Act::Err))
            }
        }
    }

    /// Whether all output was read to its end.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match &self.ends {
            Ends::Pipes { stdout, stderr, .. } => stdout.is_none() && stderr.is_none(),
            Ends::Terminal { open, .. } => !open,
        }
    }

    fn poll_stdin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stdin_state == Stdin::Closed {
            self.stdin.discard();
            return Poll::Pending;
        }
        if self.stdin.is_over() {
            self.end_stdin();
            // A terminal's end of input are bytes, and have to be written.
            if self.stdin.is_empty() {
                return Poll::Ready(());
            }
        }
        let last = self.stdin.last_byte();
        let taken = match &mut self.ends {
            Ends::Pipes { stdin: Some(stdin), .. } => ready!(self.stdin.poll_into(cx, stdin)),
            Ends::Terminal { terminal, .. } => ready!(self.stdin.poll_into(cx, terminal)),
            Ends::Pipes { stdin: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
        };
        match taken {
            Ok(_) => self.line_begun = last.map_or(self.line_begun, |byte| byte != b'\n'),
            // It closed its input. What else comes is for nobody; its output goes on.
            Err(_) => self.close_stdin(),
        }
        Poll::Ready(())
    }

    fn end_stdin(&mut self) {
        match &self.ends {
            Ends::Pipes { .. } => self.close_stdin(),
            Ends::Terminal { terminal, .. } => {
                let typed = terminal.end_of_input(self.line_begun);
                self.stdin = Inflow::default();
                self.stdin.push(bytes::Bytes::from_static(typed));
            }
        }
    }

    fn close_stdin(&mut self) {
        self.stdin_state = Stdin::Closed;
        self.stdin.discard();
        if let Ends::Pipes { stdin, .. } = &mut self.ends {
            *stdin = None;
        }
    }

    /// How it ended, once it has. Its zombie is gone then.
    pub fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.leader.poll_ending(cx)
    }
}

fn poll_pipe(
    cx: &mut Context<'_>,
    pipe: &mut Option<Receiver>,
    intake: &mut Intake,
) -> Poll<Option<BytesMut>> {
    let Some(open) = pipe else { return Poll::Pending };
    match ready!(intake.poll(cx, open)) {
        Ok(bytes) if !bytes.is_empty() => Poll::Ready(Some(bytes)),
        _ => {
            *pipe = None;
            Poll::Ready(None)
        }
    }
}

fn terminal_ends(size: Option<Size>) -> io::Result<(Ends, Descriptors)> {
    let (terminal, slave) = Terminal::open(size)?;
    let descriptors = spawn::terminal_descriptors(&slave)?;
    Ok((Ends::Terminal { terminal, open: true }, descriptors))
}

fn pipe_ends(wants: Wants) -> io::Result<(Ends, Descriptors)> {
    let mut descriptors = Descriptors {
        stdin: Stdio::null(),
        stdout: Stdio::null(),
        stderr: Stdio::null(),
        controls: false,
    };
    let (mut stdin, mut stdout, mut stderr) = (None, None, None);
    if wants.stdin {
        let (ours, theirs) = pipe::pipe()?;
        grow(&ours);
        descriptors.stdin = theirs.into_blocking_fd()?.into();
        stdin = Some(ours);
    }
    if wants.stdout {
        let (theirs, ours) = pipe::pipe()?;
        grow(&ours);
        descriptors.stdout = theirs.into_blocking_fd()?.into();
        stdout = Some(ours);
    }
    if wants.stderr {
        let (theirs, ours) = pipe::pipe()?;
        descriptors.stderr = theirs.into_blocking_fd()?.into();
        stderr = Some(ours);
    }
    Ok((Ends::Pipes { stdin, stdout, stderr }, descriptors))
}

/// Best effort: a system may not allow it.
fn grow(pipe: &impl std::os::fd::AsFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}

/// The first process of a group. As long as it was not waited for, its id names nothing else: only
/// then is the group signalled.
#[derive(Debug)]
struct Leader {
    child: Option<Child>,
    exits: Option<AsyncFd<OwnedFd>>,
    household: Household,
    ending: Option<Ending>,
}

impl Leader {
    fn new(mut child: Child, household: Household) -> io::Result<Leader> {
        let watched = pid(&child)
            .ok_or(io::ErrorKind::InvalidData.into())
            .and_then(|pid| Ok(watch(pidfd_open(pid, PidfdFlags::empty())?)?));
        match watched {
            Ok(exits) => {
                Ok(Leader { child: Some(child), exits: Some(exits), household, ending: None })
            }
            Err(error) => {
                // Nobody could tell when it ends, so it must not go on.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if let Some(ending) = self.ending {
            return Poll::Ready(ending);
        }
        if let Some(exits) = &self.exits {
            // An error means that it cannot be watched; then waiting is what is left.
            let _ = ready!(exits.poll_read_ready(cx));
        }
        let ending = self.reap();
        self.ending = Some(ending);
        Poll::Ready(ending)
    }

    /// Waits for the leader, which has ended, and notes what it leaves behind.
    fn reap(&mut self) -> Ending {
        self.exits = None;
        let Some(mut child) = self.child.take() else { return Ending::Exited(255) };
        let status = child.wait();
        if let Some(group) = pid(&child) {
            self.household.leftovers.keep(group);
        }
        status.map_or(Ending::Exited(255), Ending::of)
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

impl Drop for Leader {
    /// The owner is gone and the process is not: the group is asked to end, and then made to.
    fn drop(&mut self) {
        let (Some(mut child), Some(exits)) = (self.child.take(), self.exits.take()) else { return };
        let Some(group) = pid(&child) else { return };
        let household = self.household.clone();
        let mourn = async move {
            info!(group = group.as_raw_nonzero().get(), "the client is gone: SIGHUP");
            let _ = kill_process_group(group, Signal::HUP);
            if timeout(household.grace, exits.readable()).await.is_err() {
                info!(group = group.as_raw_nonzero().get(), "still there: SIGKILL");
            }
            // The leader was not waited for: its group's number is still its own. Whoever is left
            // in it goes too.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = exits.readable().await;
            let _ = child.wait();
        };
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(self.household.undertaker.spawn(mourn)),
            Err(_) => {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}
