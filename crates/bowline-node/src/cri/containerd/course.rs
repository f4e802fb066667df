//! What containerd is asked in the course of a command: to start it, to end its input, and how it
//! has ended.

use std::time::Duration;

use bowline_io::text::sanitized;
use bowline_proto::limits::REASON_BYTES;
use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use super::command::not_started;
use super::tasks::Task;
use crate::cri::client::CallError;
use crate::cri::hangup::cgroup;
use crate::procfs::{self, Process};
use crate::runtime::{ExitStatus, StartError};

/// How long a connection to containerd that has broken may take to come back. Until then a session
/// goes on: its bytes do not go through containerd, but how it ends is not known without it.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// The time between two attempts.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often containerd is asked whether a command still runs whose output has ended: one that is
/// stuck would not say that it has ended either.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// Why a command did not start.
pub(super) enum Fault {
    /// It did not, and nothing is left of it.
    Refused(StartError),
    /// It did not, and containerd may still know it.
    Left(StartError),
    /// Nobody knows whether it did.
    Unknown(String),
}

/// Has containerd create and start a command; returns its first process, if that can be seen.
pub(super) async fn start(
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
pub(super) async fn wait(
    task: Task,
    output_ended: CancellationToken,
) -> Result<ExitStatus, String> {
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
