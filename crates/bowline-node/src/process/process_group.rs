//! A child to its process group: the first process is watched and waited for, and ended with its
//! group when nobody wants it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Child};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::async_fd::register;
use super::{descendants, procfs};
use crate::runtime::ExitStatus;

/// What is waited for a killed process where no task can wait for it.
const KILLED_SECONDS: i64 = 1;
/// How often to look whether a group without its leader has ended, at first.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What is not known of a child's end.
const UNKNOWN: ExitStatus = ExitStatus::Exited(255);

/// How a child ended that was waited for.
fn waited(status: process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Exited((code & 0xff) as u8),
        (None, Some(signal)) => ExitStatus::Signaled((signal & 0x7f) as u8),
        // A child that was waited for has ended in one of the two ways.
        (None, None) => UNKNOWN,
    }
}

/// How a child ended that was not waited for. `None` if the system does not say.
fn seen(child: &Child) -> Option<ExitStatus> {
    let flags = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(descendants::pid(child)?), flags).ok()??;
    let signal = || status.terminating_signal().map(|signal| (signal & 0x7f) as u8);
    let exited = status.exit_status().map(|code| ExitStatus::Exited((code & 0xff) as u8));
    exited.or_else(|| signal().map(ExitStatus::Signaled))
}

/// How processes are ended that nobody wants any more.
#[derive(Clone, Debug)]
pub struct Termination {
    /// What the group is asked with.
    pub signal: Signal,
    /// Between that and SIGKILL.
    pub grace: Duration,
    /// Ends the grace of all, when the runtime ends.
    pub kill_now: CancellationToken,
    /// Those who wait for processes without an owner.
    pub reaper: TaskTracker,
    /// Where they run, wherever the owner was dropped.
    pub tasks: Handle,
}

/// A process group, by its first process. As long as that was not waited for, its id names nothing
/// else: only then is the group signalled.
#[derive(Debug)]
pub struct ProcessGroup {
    watched: Option<Watched>,
    termination: Termination,
    exit: Option<ExitStatus>,
    id: u32,
}

#[derive(Debug)]
struct Watched {
    child: Child,
    exits: AsyncFd<OwnedFd>,
}

impl ProcessGroup {
    /// Watches a child that was started with
    /// [`ContainerProcesses::spawn`](descendants::ContainerProcesses::spawn).
    pub fn new(mut child: Child, termination: Termination) -> io::Result<ProcessGroup> {
        let id = child.id();
        let exits = descendants::pid(&child)
            .ok_or(io::ErrorKind::InvalidData.into())
            .and_then(|pid| register(pidfd_open(pid, PidfdFlags::empty())?));
        match exits {
            Ok(exits) => {
                let watched = Some(Watched { child, exits });
                Ok(ProcessGroup { watched, termination, exit: None, id })
            }
            Err(error) => {
                // Nobody could tell when it ends, so it must not go on.
                let _ = child.kill();
                let _ = descendants::wait(&mut child);
                Err(error)
            }
        }
    }

    /// Its process id, also after its end.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How it ended, once it has. Its group can still be signalled then: until
    /// [`leave`](Self::leave).
    pub fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus> {
        if self.exit.is_none()
            && let Some(watched) = &mut self.watched
        {
            if ready!(watched.exits.poll_read_ready(cx)).is_err() {
                // It cannot be watched any more, and nobody shall wait for it without an end.
                let _ = watched.child.kill();
            }
            self.exit = seen(&watched.child);
        }
        if self.exit.is_none() {
            self.leave();
        }
        Poll::Ready(self.exit.unwrap_or(UNKNOWN))
    }

    /// Waits for it, once it has ended. What it left behind lives on.
    pub fn leave(&mut self) {
        if let Some(mut watched) = self.watched.take() {
            let exit = descendants::wait(&mut watched.child).map_or(UNKNOWN, waited);
            self.exit.get_or_insert(exit);
        }
    }
}

impl Drop for ProcessGroup {
    /// The owner is gone and the process, or what it left behind, may not be: the group is asked to
    /// end, and then made to.
    fn drop(&mut self) {
        let Some(Watched { child, exits }) = self.watched.take() else { return };
        let Some(group) = descendants::pid(&child) else { return };
        let dying = Dying { child, group, reaped: false, exits };
        let termination = self.termination.clone();
        let task = termination.reaper.track_future(dying.reap(termination.clone()));
        #[expect(clippy::disallowed_methods, reason = "the reaper waits for it")]
        drop(termination.tasks.spawn(task));
    }
}

/// A process that has to end. Dropped before that, as when its task is, it is killed on the spot.
#[derive(Debug)]
struct Dying {
    child: Child,
    group: Pid,
    reaped: bool,
    exits: AsyncFd<OwnedFd>,
}

impl Dying {
    async fn reap(mut self, termination: Termination) {
        let group = self.group.as_raw_nonzero().get();
        info!(
            group,
            signal = termination.signal.as_raw(),
            "nobody waits for it: its group is asked"
        );
        let _ = kill_process_group(self.group, termination.signal);
        let ended = tokio::select! {
            ended = timeout(termination.grace, self.group_ends()) => ended.is_ok(),
            () = termination.kill_now.cancelled() => false,
        };
        if !ended {
            info!(group, "still there: SIGKILL");
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.exits.readable().await;
        let _ = descendants::wait(&mut self.child);
        self.reaped = true;
    }

    /// The leader, and then whoever else is in the group. Nothing tells of the others' ends, so
    /// they are looked for; most have ended with the leader.
    async fn group_ends(&self) {
        let _ = self.exits.readable().await;
        let mut pause = LOOK_EVERY;
        while procfs::is_alive(self.group).await {
            sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let mut exits = [PollFd::from_borrowed_fd(self.exits.as_fd(), PollFlags::IN)];
        let at_most = Timespec { tv_sec: KILLED_SECONDS, tv_nsec: 0 };
        match poll(&mut exits, Some(&at_most)) {
            Ok(1) => drop(descendants::wait(&mut self.child)),
            _ => warn!(group = self.group.as_raw_nonzero().get(), "killed, and still there"),
        }
    }
}
