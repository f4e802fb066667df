//! A command that containerd has started, or is about to, as a session's task polls it.

use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::drive::WriteQueue;
use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::session::Size;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use super::Containerd;
use super::command::not_started;
use super::ends::{Ends, Input};
use super::hangup::Leftover;
use super::tasks::Task;
use crate::cri::client::CallError;
use crate::cri::hangup::cgroup;
use crate::procfs::{self, Process};
use crate::runtime::{self, Act, BoxFuture, ExitStatus, StartError};

/// How long a connection to containerd that has broken may take to come back. Until then a session
/// goes on: its bytes do not go through containerd, but how it ends is not known without it.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// The time between two attempts.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often containerd is asked whether a command still runs whose output has ended: one that is
/// stuck would not say that it has ended either.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// A command in a container. Dropped, it is hung up.
pub(crate) struct ContainerdProcess {
    containerd: Arc<Containerd>,
    task: Task,
    tty: bool,
    /// There until it is dropped.
    ends: Option<Ends>,
    phase: Phase,
    /// A size that the terminal is to get.
    size: Cell<Option<Size>>,
    /// The end of stdin is to be told.
    closes: bool,
    /// What is asked of containerd now, beside how the command ends: one thing after another, so
    /// that the last size is the last one.
    call: Option<BoxFuture<'static, Result<(), String>>>,
    output_ended: CancellationToken,
    /// Where what is left of it is looked after, wherever it is dropped.
    tasks: Handle,
}

/// How far a command is.
pub(super) enum Phase {
    /// It is about to start. Ready with its first process, if that can be seen.
    Starting(BoxFuture<'static, Result<Option<Process>, Fault>>),
    /// It runs, or may run; ready with how it has ended.
    Running(Option<Process>, BoxFuture<'static, Result<ExitStatus, String>>),
    /// Its first process has ended.
    Ended(Option<Process>, ExitStatus),
    /// Nobody knows whether it has started, or containerd may still know one that has not.
    Doubtful,
    /// Its session has its outcome: what it left behind lives on.
    Released,
    /// It did not start, and nothing is left of it.
    Nothing,
}

/// Why a command did not start.
pub(super) enum Fault {
    /// It did not, and nothing is left of it.
    Refused(StartError),
    /// It did not, and containerd may still know it.
    Left(StartError),
    /// Nobody knows whether it did.
    Unknown(String),
}

impl ContainerdProcess {
    /// Starts it.
    pub(super) fn start(
        containerd: Arc<Containerd>,
        task: Task,
        ends: Ends,
        tty: bool,
        spec: Bytes,
    ) -> ContainerdProcess {
        let starting = start(task.clone(), ends.names(), tty, spec);
        ContainerdProcess {
            containerd,
            task,
            tty,
            ends: Some(ends),
            phase: Phase::Starting(Box::pin(starting)),
            size: Cell::new(None),
            closes: false,
            call: None,
            output_ended: CancellationToken::new(),
            tasks: Handle::current(),
        }
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Act>> {
        let Phase::Starting(starting) = &mut self.phase else { return Poll::Ready(Ok(())) };
        let started = ready!(starting.as_mut().poll(cx));
        let (phase, result) = match started {
            Ok(first) => {
                let wait = wait(self.task.clone(), self.output_ended.clone());
                (Phase::Running(first, Box::pin(wait)), Ok(()))
            }
            Err(Fault::Refused(error)) => (Phase::Nothing, Err(Act::NotStarted(error))),
            Err(Fault::Left(error)) => (Phase::Doubtful, Err(Act::NotStarted(error))),
            Err(Fault::Unknown(why)) => (Phase::Doubtful, Err(Act::Lost(why))),
        };
        self.phase = phase;
        Poll::Ready(result)
    }

    /// Has containerd do what is to be done; ready with why that is lost without which a command
    /// may never end.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            if let Some(call) = &mut self.call {
                let done = ready!(call.as_mut().poll(cx));
                self.call = None;
                if let Err(why) = done {
                    return Poll::Ready(why);
                }
            }
            let task = self.task.clone();
            if let Some(size) = self.size.take() {
                self.call = Some(Box::pin(async move {
                    if let Err(error) = task.resize(size).await {
                        warn!("resize: {error}");
                    }
                    Ok(())
                }));
            } else if std::mem::take(&mut self.closes) {
                self.call = Some(Box::pin(close_stdin(task)));
            } else {
                return Poll::Pending;
            }
        }
    }

    /// Looks whether the command has ended.
    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Act> {
        let Phase::Running(first, wait) = &mut self.phase else { return Poll::Pending };
        match ready!(wait.as_mut().poll(cx)) {
            Ok(exit) => {
                self.phase = Phase::Ended(*first, exit);
                Poll::Pending
            }
            Err(why) => {
                let again = wait_again(self.task.clone());
                self.phase = Phase::Running(*first, Box::pin(again));
                Poll::Ready(Act::Lost(why))
            }
        }
    }
}

impl runtime::Process for ContainerdProcess {
    fn resize(&self, size: Size) {
        if self.tty && size.width > 0 && size.height > 0 {
            self.size.set(Some(size));
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act> {
        if let Err(act) = ready!(self.poll_start(cx)) {
            return Poll::Ready(act);
        }
        if let Poll::Ready(why) = self.poll_calls(cx) {
            if let Poll::Ready(act) = self.poll_wait(cx) {
                return Poll::Ready(act);
            }
            // What has ended needs nothing any more.
            if matches!(self.phase, Phase::Running(..)) {
                return Poll::Ready(Act::Lost(why));
            }
        }
        let Some(ends) = &mut self.ends else { return Poll::Pending };
        match ends.poll_stdin(cx, stdin) {
            Poll::Ready(Input::Ended) => {
                self.closes = true;
                return Poll::Ready(Act::TookInput);
            }
            Poll::Ready(Input::Taken) => return Poll::Ready(Act::TookInput),
            Poll::Ready(Input::Broken(why)) => return Poll::Ready(Act::Broken(why)),
            Poll::Pending => {}
        }
        if room && let Poll::Ready(act) = ends.poll_output(cx) {
            if ends.output_ended() {
                self.output_ended.cancel();
            }
            return Poll::Ready(act);
        }
        self.poll_wait(cx)
    }

    fn output_ended(&self) -> bool {
        self.ends.as_ref().is_none_or(Ends::output_ended)
    }

    fn poll_exit(&mut self, _: &mut Context<'_>) -> Poll<ExitStatus> {
        match &self.phase {
            Phase::Ended(_, exit) => Poll::Ready(*exit),
            _ => Poll::Pending,
        }
    }

    fn release(&mut self) {
        if matches!(self.phase, Phase::Ended(..)) {
            self.phase = Phase::Released;
        }
    }
}

impl Drop for ContainerdProcess {
    fn drop(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Nothing);
        let (Some(ends), false) = (self.ends.take(), matches!(phase, Phase::Nothing)) else {
            return;
        };
        let (task, tty) = (self.task.clone(), self.tty);
        let leftover = Leftover { task, tty, ends, phase };
        self.containerd.leave(leftover, &self.tasks);
    }
}

impl Debug for ContainerdProcess {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerdProcess").field("task", &self.task).finish_non_exhaustive()
    }
}

/// Has containerd create and start a command; returns its first process, if that can be seen.
async fn start(
    task: Task,
    names: [String; 3],
    tty: bool,
    spec: Bytes,
) -> Result<Option<Process>, Fault> {
    let id = task.exec_id().to_owned();
    if let Err(error) = task.create(names, tty, spec).await {
        let why = not_started(&format!("failed to create exec {id:?}: {}", words(&error)));
        let refused = matches!(error, CallError::Status(_));
        return Err(if refused { Fault::Refused(why) } else { Fault::Left(why) });
    }
    match task.start().await {
        Ok(first) => {
            info!(process = first, exec_id = id, "started");
            Ok(visible(first, task.container_id()))
        }
        Err(error @ CallError::Status(_)) => {
            let why = not_started(&format!("failed to start exec {id:?}: {}", words(&error)));
            Err(match task.delete().await {
                Ok(()) => Fault::Refused(why),
                Err(_) => Fault::Left(why),
            })
        }
        Err(error) => Err(Fault::Unknown(lost(&error))),
    }
}

/// Finds a process by its id as containerd has it: one in the container, or else the id means
/// another one here.
pub(super) fn visible(id: u32, container_id: &str) -> Option<Process> {
    let process = procfs::process(i32::try_from(id).ok()?)?.id();
    cgroup::is_in(process.pid, container_id).then_some(process)
}

/// What a call's failure is in containerd's own words: without the code, which it adds as a word.
fn words(error: &CallError) -> String {
    match error {
        CallError::Status(status) => sanitized(status.message(), REASON_BYTES).into_owned(),
        error => error.to_string(),
    }
}

/// Why the outcome is not known, as [`reason`] has it.
fn lost(error: &CallError) -> String {
    warn!("the end of a command is not known: {error}");
    reason(error)
}

/// What has failed, short enough for the reason of a close (123 bytes): the log has all of it.
fn reason(error: &CallError) -> String {
    match error {
        CallError::Status(status) => {
            format!("containerd: {}", sanitized(status.message(), REASON_BYTES))
        }
        CallError::Connection { endpoint, .. } => format!("containerd at {endpoint} is gone"),
        CallError::Late { endpoint, .. } => format!("containerd at {endpoint} does not answer"),
    }
}

/// Tells a command that its input has ended. A connection that breaks has some time to come back.
///
/// # Errors
/// Why a command that still runs may wait for ever.
pub(super) async fn close_stdin(task: Task) -> Result<(), String> {
    let mut broken: Option<Instant> = None;
    let error = loop {
        match task.close_stdin().await {
            Ok(()) => return Ok(()),
            Err(error) if !is_broken(&error) => break error,
            Err(error)
                if broken.get_or_insert_with(Instant::now).elapsed() >= RECONNECT_PATIENCE =>
            {
                break error;
            }
            Err(_) => sleep(RECONNECT_PAUSE).await,
        }
    };
    warn!("the end of stdin: {error}");
    if matches!(error, CallError::Status(_)) {
        match task.get().await {
            Ok(process) if process.may_run() => {}
            // The call that waits for its end will say more.
            Ok(_) | Err(CallError::Status(_)) => return Ok(()),
            Err(_) => {}
        }
    }
    Err(reason(&error))
}

/// Waits until a command has ended. A connection that breaks has some time to come back.
///
/// # Errors
/// Why it will not be known how it has ended.
async fn wait(task: Task, output_ended: CancellationToken) -> Result<ExitStatus, String> {
    let mut broken: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let waited = tokio::select! {
            waited = task.wait() => waited,
            stuck = doubt(&task, &output_ended) => Err(stuck),
        };
        let error = match waited {
            Ok(code) => return Ok(exit(code)),
            Err(error) if !is_broken(&error) => return Err(lost(&error)),
            Err(error) => error,
        };
        // One that was there for a while has broken anew.
        if begun.elapsed() > RECONNECT_PATIENCE {
            broken = None;
        }
        let since = *broken.get_or_insert_with(Instant::now);
        if since.elapsed() >= RECONNECT_PATIENCE {
            return Err(lost(&error));
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

/// As [`wait`], for a command whose session has ended, for as long as it takes.
pub(super) async fn wait_again(task: Task) -> Result<ExitStatus, String> {
    loop {
        match task.wait().await {
            Ok(code) => return Ok(exit(code)),
            Err(error) if !is_broken(&error) => return Err(lost(&error)),
            Err(_) => sleep(DOUBT_INTERVAL).await,
        }
    }
}

/// Once all output has ended, asks now and then whether the command still runs; ready if containerd
/// does not answer.
async fn doubt(task: &Task, output_ended: &CancellationToken) -> CallError {
    output_ended.cancelled().await;
    loop {
        sleep(DOUBT_INTERVAL).await;
        // Whatever it says, the call that waits for the end will say.
        if let Err(late @ CallError::Late { .. }) = task.get().await {
            return late;
        }
    }
}

/// Whether it is the connection that has failed, rather than what was asked for.
pub(super) fn is_broken(error: &CallError) -> bool {
    match error {
        CallError::Status(status) => {
            matches!(status.code(), Code::Unavailable | Code::Cancelled)
        }
        CallError::Connection { .. } => true,
        CallError::Late { .. } => false,
    }
}

fn exit(code: u32) -> ExitStatus {
    ExitStatus::Exited(u8::try_from(code).unwrap_or(u8::MAX))
}
