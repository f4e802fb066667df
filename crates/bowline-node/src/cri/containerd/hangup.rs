//! What becomes of a command once its session has ended: it is hung up where its client has gone,
//! and containerd forgets it in any case.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::course::{Fault, close_stdin, is_broken, visible, wait_again};
use super::ends::Ends;
use super::running::Phase;
use super::tasks::Task;
use crate::cri::client::CallError;
use crate::cri::hangup::processes;
use crate::procfs::Process;
use crate::runtime::{BoxFuture, ExitStatus};

/// How long a killed command is waited for.
const KILLED_PATIENCE: Duration = Duration::from_secs(5);
/// The first pause between two attempts to have containerd forget a command; it doubles.
const DELETE_PAUSE: Duration = Duration::from_millis(100);
/// How many attempts there are: containerd may be about to start again.
const DELETE_ATTEMPTS: u32 = 9;

/// The first pause between two attempts to learn whether a command runs; it doubles.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_LOOK_PAUSE: Duration = Duration::from_secs(10);

/// How a command ends, once somebody waits for it.
type Exit = BoxFuture<'static, Result<ExitStatus, String>>;

/// A command without a session.
pub(super) struct Leftover {
    pub(super) task: Task,
    pub(super) tty: bool,
    pub(super) ends: Ends,
    pub(super) phase: Phase,
}

impl Leftover {
    /// Ends it, and returns once nothing is left of it. Without a `grace` it runs on as long as it
    /// likes.
    pub(super) async fn end(self, grace: Option<Duration>, kill_now: CancellationToken) {
        let Leftover { task, tty, mut ends, phase } = self;
        // The shim opens the pipes by their names once it has made the process. Without them the
        // start fails, and nobody knows of the process any more.
        let under_way = ends.discard_while(under_way(phase, &task)).await;
        ends.hang_up();
        let ending = async {
            match (under_way, grace) {
                (UnderWay::Nothing, _) => return,
                (UnderWay::Over, _) => {}
                (UnderWay::Runs(first, exit), Some(grace)) => {
                    hang_up(&task, first, exit, grace, &kill_now).await;
                }
                (UnderWay::Runs(_, exit), None) => {
                    let ended = kill_now.run_until_cancelled(run_on(&task, tty, exit));
                    if ended.await.is_none() {
                        return;
                    }
                }
            }
            forget(&task).await;
        };
        ends.discard_while(ending).await;
    }
}

enum UnderWay {
    Nothing,
    /// It has ended, or never began: containerd is to forget it.
    Over,
    /// Its first process, if that can be seen, and what tells of its end; `None` if that was told.
    Runs(Option<Process>, Option<Exit>),
}

/// Waits for a start that is under way: what it starts has to be ended.
async fn under_way(phase: Phase, task: &Task) -> UnderWay {
    match phase {
        Phase::Starting(starting) => match starting.await {
            Ok(first) => UnderWay::Runs(first, Some(exit_of(task))),
            Err(Fault::Refused(_)) => UnderWay::Nothing,
            Err(Fault::Left(_) | Fault::Unknown(_)) => look(task).await,
        },
        Phase::Running(first, exit) => UnderWay::Runs(first, Some(exit)),
        Phase::Ended(first, _) => UnderWay::Runs(first, None),
        Phase::Doubtful => look(task).await,
        Phase::Released => UnderWay::Over,
        Phase::Nothing => UnderWay::Nothing,
    }
}

fn exit_of(task: &Task) -> Exit {
    Box::pin(wait_again(task.clone()))
}

/// Asks whether a command runs of which that is not known, for as long as it takes to be told.
async fn look(task: &Task) -> UnderWay {
    let mut pause = LOOK_PAUSE;
    loop {
        match task.get().await {
            Ok(process) if process.may_run() => {
                let first = visible(process.pid, task.container_id());
                return UnderWay::Runs(first, Some(exit_of(task)));
            }
            Ok(_) => return UnderWay::Over,
            Err(error @ CallError::Status(_)) if !is_broken(&error) => return UnderWay::Over,
            Err(_) => sleep(pause).await,
        }
        pause = LONGEST_LOOK_PAUSE.min(pause * 2);
    }
}

/// Lets a command run to its end, as containerd does: input that is no terminal's ends.
async fn run_on(task: &Task, tty: bool, exit: Option<Exit>) {
    if !tty {
        // The log has why it may wait for its input.
        let _ = close_stdin(task.clone()).await;
    }
    if let Some(exit) = exit {
        let _ = exit.await;
    }
}

/// Ends a command whose client has gone: all that belongs to its first process where that can be
/// seen, else that process alone.
async fn hang_up(
    task: &Task,
    first: Option<Process>,
    exit: Option<Exit>,
    grace: Duration,
    kill_now: &CancellationToken,
) {
    info!(exec_id = task.exec_id(), "nobody waits for it: its processes get SIGHUP");
    if let Some(first) = first {
        let ended = processes::end(first, task.container_id(), grace, kill_now).await;
        info!(exec_id = task.exec_id(), ?ended, "its processes were ended");
    }
    let Some(mut exit) = exit else { return };
    if first.is_none() {
        // That it has ended meanwhile is no fault.
        let _ = task.kill(Signal::HUP).await;
        tokio::select! {
            ended = timeout(grace, &mut exit) => if ended.is_ok() { return },
            () = kill_now.cancelled() => {}
        }
        info!(exec_id = task.exec_id(), "still there: SIGKILL");
        let _ = task.kill(Signal::KILL).await;
    }
    let _ = timeout(KILLED_PATIENCE, exit).await;
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
