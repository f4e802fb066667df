//! A command that containerd has started, or is about to, as a session's task polls it.

use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bowline_io::drive::WriteQueue;
use bowline_proto::session::Size;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Containerd;
use super::course::{Fault, close_stdin, start, wait, wait_again};
use super::ends::{Ends, Input};
use super::hangup::Leftover;
use super::tasks::Task;
use crate::procfs::Process;
use crate::runtime::{self, Act, BoxFuture, ExitStatus};

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
