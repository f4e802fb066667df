//! A child to its process group: the first process is watched and waited for, and the group is
//! ended when its owner is dropped.

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

use super::descendants;
use crate::async_fd::register;
use crate::procfs;
use crate::runtime::ExitStatus;

/// How long a killed process is waited for where no task can wait for it.
const KILLED_SECONDS: i64 = 1;
/// The first pause between two looks whether a group without its leader has ended; it doubles.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The exit status of a child whose end is not known.
const UNKNOWN: ExitStatus = ExitStatus::Exited(255);

/// Converts the status of a child that was waited for.
fn exit_status(status: process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Exited((code & 0xff) as u8),
        (None, Some(signal)) => ExitStatus::Signaled((signal & 0x7f) as u8),
        // A child that was waited for has ended in one of the two ways.
        (None, None) => UNKNOWN,
    }
}

/// Returns how a child ended without waiting for it; `None` if the system does not say.
fn peek_exit(child: &Child) -> Option<ExitStatus> {
    let flags = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(descendants::pid(child)?), flags).ok()??;
    let signal = || status.terminating_signal().map(|signal| (signal & 0x7f) as u8);
    let exited = status.exit_status().map(|code| ExitStatus::Exited((code & 0xff) as u8));
    exited.or_else(|| signal().map(ExitStatus::Signaled))
}

/// How the processes of a group are ended once its owner is dropped.
#[derive(Clone, Debug)]
pub(super) struct Termination {
    /// The signal that asks the group to end.
    pub signal: Signal,
    /// The time between that signal and SIGKILL.
    pub grace: Duration,
    /// Ends the grace of all groups, when the runtime ends.
    pub kill_now: CancellationToken,
    /// The tasks that wait for processes without an owner.
    pub reaper: TaskTracker,
    /// Where those tasks run, wherever the owner was dropped.
    pub tasks: Handle,
}

/// A process group, by its first process. As long as that was not waited for, its id names nothing
/// else: only then is the group signalled.
#[derive(Debug)]
pub(super) struct ProcessGroup {
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
    pub(super) fn new(mut child: Child, termination: Termination) -> io::Result<ProcessGroup> {
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

    /// Returns the id of its first process, also after that has ended.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Waits until the first process has ended, and returns how. The group can still be signalled
    /// then, until [`release`](Self::release).
    pub(super) fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus> {
        if self.exit.is_none()
            && let Some(watched) = &mut self.watched
        {
            if ready!(watched.exits.poll_read_ready(cx)).is_err() {
                // It cannot be watched any more: killed, it is not waited for without an end.
                let _ = watched.child.kill();
            }
            self.exit = peek_exit(&watched.child);
        }
        if self.exit.is_none() {
            self.release();
        }
        Poll::Ready(self.exit.unwrap_or(UNKNOWN))
    }

    /// Reaps the first process, once it has ended. What it left behind lives on.
    pub(super) fn release(&mut self) {
        if let Some(mut watched) = self.watched.take() {
            let exit = descendants::wait(&mut watched.child).map_or(UNKNOWN, exit_status);
            self.exit.get_or_insert(exit);
        }
    }
}

impl Drop for ProcessGroup {
    /// Asks the group to end, and then kills it.
    fn drop(&mut self) {
        let Some(Watched { child, exits }) = self.watched.take() else { return };
        let Some(group) = descendants::pid(&child) else { return };
        let terminating = Terminating { child, group, reaped: false, exits };
        let termination = self.termination.clone();
        let task = termination.reaper.track_future(terminating.reap(termination.clone()));
        #[expect(clippy::disallowed_methods, reason = "the reaper waits for it")]
        drop(termination.tasks.spawn(task));
    }
}

/// A group that was asked to end. Dropped before it has, as when its task is, it is killed at once.
#[derive(Debug)]
struct Terminating {
    child: Child,
    group: Pid,
    reaped: bool,
    exits: AsyncFd<OwnedFd>,
}

impl Terminating {
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

    /// Waits for the leader, and then for the rest of the group. Nothing tells of their ends, so
    /// they are looked for; most have ended with the leader.
    async fn group_ends(&self) {
        let _ = self.exits.readable().await;
        let mut pause = POLL_INTERVAL;
        while procfs::is_alive(self.group).await {
            sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Drop for Terminating {
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
