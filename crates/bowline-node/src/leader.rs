//! The first process of a group: watched, waited for, and ended with its group when nobody wants
//! it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
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

use crate::census;
use crate::family;
use crate::watched::watch;

/// What is waited for a killed process where no task can wait for it.
const KILLED_SECONDS: i64 = 1;
/// How often to look whether a group without its leader has ended, at first.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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

    /// Of a child that has ended and was not waited for. `None` if the system does not say.
    fn seen(child: &Child) -> Option<Ending> {
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(family::pid(child)?), flags).ok()??;
        let signal = || status.terminating_signal().map(|signal| (signal & 0x7f) as u8);
        let exited = status.exit_status().map(|code| Ending::Exited((code & 0xff) as u8));
        exited.or_else(|| signal().map(Ending::Signaled))
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

/// How processes are ended that nobody wants any more.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// What the group is asked with.
    pub signal: Signal,
    /// Between that and SIGKILL.
    pub grace: Duration,
    /// Ends the grace of all: the runtime ends.
    pub hurry: CancellationToken,
    /// Those who wait for processes without an owner.
    pub undertaker: TaskTracker,
    /// Where they run, wherever the owner was dropped.
    pub tasks: Handle,
}

/// The first process of a group. As long as it was not waited for, its id names nothing else: only
/// then is the group signalled.
#[derive(Debug)]
pub struct Leader {
    watched: Option<Watched>,
    farewell: Farewell,
    ending: Option<Ending>,
    id: u32,
}

#[derive(Debug)]
struct Watched {
    child: Child,
    exits: AsyncFd<OwnedFd>,
}

impl Leader {
    /// Watches a child that [`Home::spawn`](family::Home::spawn) started.
    pub fn new(mut child: Child, farewell: Farewell) -> io::Result<Leader> {
        let id = child.id();
        let exits = family::pid(&child)
            .ok_or(io::ErrorKind::InvalidData.into())
            .and_then(|pid| watch(pidfd_open(pid, PidfdFlags::empty())?));
        match exits {
            Ok(exits) => {
                let watched = Some(Watched { child, exits });
                Ok(Leader { watched, farewell, ending: None, id })
            }
            Err(error) => {
                // Nobody could tell when it ends, so it must not go on.
                let _ = child.kill();
                let _ = family::wait(&mut child);
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
    pub fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        if self.ending.is_none()
            && let Some(watched) = &mut self.watched
        {
            if ready!(watched.exits.poll_read_ready(cx)).is_err() {
                // It cannot be watched any more, and nobody shall wait for it without an end.
                let _ = watched.child.kill();
            }
            self.ending = Ending::seen(&watched.child);
        }
        if self.ending.is_none() {
            self.leave();
        }
        Poll::Ready(self.ending.unwrap_or(Ending::Exited(255)))
    }

    /// Waits for it, once it has ended. What it left behind lives on.
    pub fn leave(&mut self) {
        if let Some(mut watched) = self.watched.take() {
            let ending = family::wait(&mut watched.child).map_or(Ending::Exited(255), Ending::of);
            self.ending.get_or_insert(ending);
        }
    }
}

impl Drop for Leader {
    /// The owner is gone and the process, or what it left behind, may not be: the group is asked to
    /// end, and then made to.
    fn drop(&mut self) {
        let Some(Watched { child, exits }) = self.watched.take() else { return };
        let Some(group) = family::pid(&child) else { return };
        let dying = Dying { child, group, buried: false, exits };
        let farewell = self.farewell.clone();
        let task = farewell.undertaker.track_future(dying.bury(farewell.clone()));
        #[expect(clippy::disallowed_methods, reason = "the undertaker waits for it")]
        drop(farewell.tasks.spawn(task));
    }
}

/// A process that has to end. Dropped before that, as when its task is, it is killed on the spot.
#[derive(Debug)]
struct Dying {
    child: Child,
    group: Pid,
    buried: bool,
    exits: AsyncFd<OwnedFd>,
}

impl Dying {
    async fn bury(mut self, farewell: Farewell) {
        let group = self.group.as_raw_nonzero().get();
        info!(group, signal = farewell.signal.as_raw(), "nobody waits for it: its group is asked");
        let _ = kill_process_group(self.group, farewell.signal);
        let ended = tokio::select! {
            ended = timeout(farewell.grace, self.group_ends()) => ended.is_ok(),
            () = farewell.hurry.cancelled() => false,
        };
        if !ended {
            info!(group, "still there: SIGKILL");
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.exits.readable().await;
        let _ = family::wait(&mut self.child);
        self.buried = true;
    }

    /// The leader, and then whoever else is in the group. Nothing tells of the others' ends, so
    /// they are looked for; most have ended with the leader.
    async fn group_ends(&self) {
        let _ = self.exits.readable().await;
        let mut pause = LOOK_EVERY;
        while census::is_alive(self.group).await {
            sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        if self.buried {
            return;
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let mut exits = [PollFd::from_borrowed_fd(self.exits.as_fd(), PollFlags::IN)];
        let at_most = Timespec { tv_sec: KILLED_SECONDS, tv_nsec: 0 };
        match poll(&mut exits, Some(&at_most)) {
            Ok(1) => drop(family::wait(&mut self.child)),
            _ => warn!(group = self.group.as_raw_nonzero().get(), "killed, and still there"),
        }
    }
}
