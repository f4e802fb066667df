//! A container of this host: its manifest, the state of its main process, and what runs that to its
//! end.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bowline_io::drive::take_turns;
use bowline_proto::session::Wants;
use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::command::HostProcess;
use super::console::{Console, Next, Turn};
use super::descendants::ContainerProcesses;
use super::log::LogBuffer;
use super::manifest::ContainerSpec;
use super::process_group::Termination;
use crate::runtime::Process;

/// After a main process has ended: how long its output is read on while something else holds the
/// other end.
const END_DRAIN: Duration = Duration::from_secs(2);

/// One container: its manifest, and the state of its main process.
#[derive(Debug)]
pub struct Container {
    /// What its manifest says.
    pub spec: ContainerSpec,
    state: Mutex<State>,
    /// The output and the input of its main process.
    pub(super) console: Arc<Console>,
    pub(super) processes: ContainerProcesses,
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its main process runs, or it has none and idles.
    Running {
        /// Since when.
        since: SystemTime,
    },
    /// Its main process has ended; it is not started again.
    Exited {
        /// Its exit code, 128 + N where signal N ended it.
        code: u8,
        /// Since when it ran.
        since: SystemTime,
        /// When it ended.
        at: SystemTime,
    },
    /// Its main process could not be started.
    Failed {
        /// What the system said.
        why: String,
        /// When the start was tried.
        at: SystemTime,
    },
}

impl Container {
    /// Returns its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the first output of its main process, and returns it; `None` if there is none.
    /// Cancel safe.
    pub async fn first_output(&self) -> Option<Bytes> {
        let reader = self.console.reader(LogBuffer::begin);
        match poll_fn(|cx| reader.poll_next(cx, None)).await {
            Next::Piece(_, _, bytes) => Some(bytes),
            Next::Over | Next::GivenUp => None,
        }
    }

    /// Makes a container without a main process.
    pub(super) fn idle(spec: ContainerSpec) -> Arc<Container> {
        Arc::new(Container {
            spec,
            #[expect(clippy::disallowed_methods, reason = "its status has a date")]
            state: Mutex::new(State::Running { since: SystemTime::now() }),
            console: Arc::default(),
            processes: ContainerProcesses::new(),
        })
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// Runs a container's main process to its end, which is the end of all that runs in it.
pub(super) async fn supervise(
    container: Arc<Container>,
    termination: Termination,
    end: CancellationToken,
) {
    let (spec, console) = (&container.spec, &container.console);
    // Its stdin stays open for whoever attaches.
    let wants = Wants { stdin: spec.stdin, stdout: true, stderr: !spec.tty, tty: spec.tty };
    #[expect(clippy::disallowed_methods, reason = "its status has a date")]
    let since = SystemTime::now();
    let started =
        HostProcess::start(&spec.command, spec, wants, None, &container.processes, termination);
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            warn!(container = spec.name, "cannot be started: {error}");
            #[expect(clippy::disallowed_methods, reason = "its status has a date")]
            let (why, at) = (error.to_string(), SystemTime::now());
            container.set(State::Failed { why, at });
            console.end();
            return container.processes.end();
        }
    };
    let running = run(console, &mut process, |process, cx| process.poll_exit(cx));
    let Some(ended) = end.run_until_cancelled(running).await else { return };
    info!(container = spec.name, code = ended.code(), "the main process has ended");
    #[expect(clippy::disallowed_methods, reason = "its status has a date")]
    container.set(State::Exited { code: ended.code(), since, at: SystemTime::now() });
    process.release();
    container.processes.end();
    // What it wrote is read. All that ran beside it was killed; what has left the container's
    // sessions, as none can in a real one, has a while to end.
    let mut until = None;
    let dry = run(console, &mut process, |process, cx| {
        if process.output_ended() {
            return Poll::Ready(true);
        }
        let until = until.get_or_insert_with(|| Box::pin(sleep(END_DRAIN)));
        until.as_mut().poll(cx).map(|()| false)
    });
    match end.run_until_cancelled(dry).await {
        None => return,
        Some(true) => {}
        Some(false) => warn!(container = spec.name, "others still hold its output: it is cut off"),
    }
    console.end();
}

/// Lets a process go on until `over` says so. That is asked whenever the process has nothing to do
/// and waits for nobody.
async fn run<T>(
    console: &Console,
    process: &mut HostProcess,
    mut over: impl FnMut(&mut HostProcess, &mut Context<'_>) -> Poll<T>,
) -> T {
    let mut held = Box::pin(sleep(Duration::ZERO));
    loop {
        let step = poll_fn(|cx| {
            loop {
                match console.poll_process(cx, process) {
                    Poll::Ready(Turn::Acted(moved)) => return Poll::Ready(Err(moved)),
                    Poll::Ready(Turn::Held(until)) => {
                        held.as_mut().reset(until);
                        ready!(held.as_mut().poll(cx));
                    }
                    Poll::Pending => return over(process, cx).map(Ok),
                }
            }
        });
        match step.await {
            Ok(result) => return result,
            Err(moved) => take_turns(moved).await,
        }
    }
}
