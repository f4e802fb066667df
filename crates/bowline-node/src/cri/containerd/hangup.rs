//! What becomes of a command once its session has ended: it is hung up where its client has gone,
//! and containerd forgets it in any case.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Containerd;
use super::ends::Ends;
use super::processes::Processes;
use super::running::{Fault, Phase};
use super::tasks::Task;
use crate::runtime::{BoxFuture, ExitStatus};

/// How long a killed command is waited for.
const KILLED_PATIENCE: Duration = Duration::from_secs(5);
/// The first pause between two looks whether a command's processes have ended; it doubles, up to
/// the longest.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The first pause between two attempts to have containerd forget a command; it doubles.
const DELETE_PAUSE: Duration = Duration::from_millis(100);
/// How many attempts there are: containerd may be about to start again.
const DELETE_ATTEMPTS: u32 = 9;

/// How a command ends, once somebody waits for it.
type Exit = BoxFuture<'static, Result<ExitStatus, String>>;

/// A command without a session.
pub(super) struct Leftover {
    pub(super) containerd: Arc<Containerd>,
    pub(super) task: Task,
    /// The id of the container's main process, as containerd has it.
    pub(super) main: u32,
    pub(super) tty: bool,
    pub(super) ends: Ends,
    pub(super) phase: Phase,
}

impl Leftover {
    /// Ends it, and returns once nothing is left of it. Without a `grace` it runs on as long as it
    /// likes.
    pub(super) async fn end(self, grace: Option<Duration>, kill_now: CancellationToken) {
        let Leftover { containerd, task, main, tty, mut ends, phase } = self;
        ends.hang_up();
        // Whoever writes is not held up by output that nobody wants.
        let discarding = async {
            ends.discard().await;
            std::future::pending::<()>().await;
        };
        let ending = async {
            let (first, exit) = match under_way(phase, &task).await {
                UnderWay::Nothing => return,
                UnderWay::Released => return forget(&task).await,
                UnderWay::Runs(first, exit) => (first, exit),
            };
            match grace {
                Some(grace) => {
                    let same_ids = containerd.has_same_ids().await;
                    let processes =
                        first.filter(|_| same_ids).and_then(|first| Processes::of(first, main));
                    let hung_up = HungUp { task: &task, processes, exit };
                    hung_up.end(grace, &kill_now).await;
                }
                None => run_on(&task, tty, exit).await,
            }
            forget(&task).await;
        };
        tokio::select! {
            () = ending => {}
            () = discarding => {}
        }
    }
}

enum UnderWay {
    Nothing,
    Released,
    /// The id of its first process, and what tells of its end; `None` if that has ended.
    Runs(Option<u32>, Option<Exit>),
}

/// Waits for a start that is under way: what it starts has to be ended.
async fn under_way(phase: Phase, task: &Task) -> UnderWay {
    let wait = || -> Exit { Box::pin(super::running::wait_again(task.clone())) };
    match phase {
        Phase::Starting(starting) => match starting.await {
            Ok(first) => UnderWay::Runs(Some(first), Some(wait())),
            Err(Fault::Refused(_)) => UnderWay::Nothing,
            Err(Fault::Left(_) | Fault::Unknown(_)) => UnderWay::Runs(None, Some(wait())),
        },
        Phase::Running(first, exit) => UnderWay::Runs(first, Some(exit)),
        Phase::Ended(first, _) => UnderWay::Runs(first, None),
        Phase::Released => UnderWay::Released,
        Phase::Nothing => UnderWay::Nothing,
    }
}

/// Lets a command run to its end, as containerd does: input that is no terminal's ends.
async fn run_on(task: &Task, tty: bool, exit: Option<Exit>) {
    if !tty && let Err(error) = task.close_stdin().await {
        warn!("the end of stdin: {error}");
    }
    if let Some(exit) = exit {
        let _ = exit.await;
    }
}

/// A command whose client has gone.
struct HungUp<'a> {
    task: &'a Task,
    /// All of its processes, where they can be seen.
    processes: Option<Processes>,
    exit: Option<Exit>,
}

impl HungUp<'_> {
    async fn end(mut self, grace: Duration, kill_now: &CancellationToken) {
        info!(exec_id = self.task.exec_id(), "nobody waits for it: its processes get SIGHUP");
        self.signal(Signal::HUP).await;
        let ended = tokio::select! {
            ended = timeout(grace, self.ends()) => ended.is_ok(),
            () = kill_now.cancelled() => false,
        };
        if !ended {
            info!(exec_id = self.task.exec_id(), "still there: SIGKILL");
            self.signal(Signal::KILL).await;
            let _ = timeout(KILLED_PATIENCE, self.ends()).await;
        }
    }

    /// Signals all processes that can be seen, else the first one.
    async fn signal(&mut self, signal: Signal) {
        if let Some(processes) = &self.processes
            && processes.signal(Some(signal)).await > 0
        {
            return;
        }
        // That it has ended meanwhile is no fault.
        if self.exit.is_some() {
            let _ = self.task.kill(signal).await;
        }
    }

    /// Waits for the first process, and then for all others. Nothing tells of their ends, so they
    /// are looked for; most have ended with the first.
    async fn ends(&mut self) {
        if let Some(exit) = &mut self.exit {
            let _ = pin!(exit).await;
            self.exit = None;
        }
        let Some(processes) = &self.processes else { return };
        let mut pause = PAUSE;
        while processes.signal(None).await > 0 {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Has containerd forget a command that has ended.
async fn forget(task: &Task) {
    let mut pause = DELETE_PAUSE;
    for attempt in 1..=DELETE_ATTEMPTS {
        match task.delete().await {
            Ok(()) => return,
            Err(error) if attempt == DELETE_ATTEMPTS => {
                warn!(exec_id = task.exec_id(), "the container runtime still has it: {error}");
            }
            Err(_) => sleep(pause).await,
        }
        pause *= 2;
    }
}
