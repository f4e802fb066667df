//! A remote command, and this program's own ends for it: terminal, signals, pipes.

use bowline_client::{EndError, Ended, Ends, Error, RemoteCommand, Size};
use bowline_io::stdio::Output;
use bowline_kube::objects::Pod;
use tokio::io::AsyncRead;
use tokio::sync::watch;

use crate::console::{self, Raw};
use crate::outcome::{self, Exit};
use crate::print;

/// kubectl's environment variable that switches WebSocket off.
pub const WEBSOCKETS: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";

/// Runs a command's future on a new single-threaded runtime.
pub fn block_on(task: impl Future<Output = Result<Exit, Exit>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Exit::refused(format_args!("start: {error}")),
    };
    let end = runtime.block_on(task).unwrap_or_else(|end| end);
    // A pending read of stdin must not keep the program from ending.
    runtime.shutdown_background();
    end
}

/// The program's own ends of a session.
pub struct LocalEnds {
    /// Input for the command.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Whether the local terminal is made raw, so that every key is sent to the command.
    pub raw: bool,
    /// Whether the command has a terminal, whose size follows the local one's.
    pub tty: bool,
    /// See [`Ends::redraws`].
    pub redraws: bool,
}

/// Why a session has no outcome.
pub enum Failure {
    /// The session could not be started, or a signal ended the program.
    Local(Exit),
    /// The session itself failed.
    Session(Error),
}

/// Runs a session with the terminal in the state that it needs, which is restored at the end. A
/// signal ends the session.
pub async fn run_on_terminal(command: RemoteCommand, local: LocalEnds) -> Result<Ended, Failure> {
    let interactive = local.stdin.is_some() && console::input_is_terminal();
    let failed =
        |error: std::io::Error| Failure::Local(Exit::refused(format_args!("terminal: {error}")));
    let termination =
        if interactive { Some(console::termination().map_err(failed)?) } else { None };
    let raw = if local.raw { Some(Raw::enter().map_err(failed)?) } else { None };
    let sizes = if local.tty { console::sizes().map_err(failed)? } else { None };
    let command = with_ends(command, local, sizes);
    let session = command.run();
    let result = match termination {
        None => session.await,
        Some(termination) => tokio::select! {
            result = session => result,
            // kubectl's code for it; the terminal is restored on the way out.
            () = termination => return Err(Failure::Local(Exit::silent(outcome::REFUSED))),
        },
    };
    drop(raw);
    result.map_err(Failure::Session)
}

fn with_ends(
    command: RemoteCommand,
    local: LocalEnds,
    sizes: Option<watch::Receiver<Size>>,
) -> RemoteCommand {
    let mut ends = Ends::default();
    ends.stdin = local.stdin;
    ends.stdout = Box::new(Output::stdout());
    ends.stderr = Box::new(Output::stderr());
    ends.redraws = local.redraws;
    let command = command.ends(ends);
    if local.tty { command.terminal(sizes) } else { command }
}

/// Ends the program by SIGPIPE if its output was closed, as every filter does.
pub fn exit_on_broken_pipe<T>(result: &Result<T, Failure>) {
    if let Err(Failure::Session(Error::End(EndError::Write(_, error)))) = result
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    }
}

/// Refuses a completed pod, which has no running container. `what` is the action in kubectl's text.
pub fn refuse_completed(pod: &Pod, what: &str) -> Result<(), Exit> {
    match &*pod.status.phase {
        phase @ ("Succeeded" | "Failed") => Err(Exit::refused(format_args!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

/// Whether stdin is a terminal, as `-t` needs; prints kubectl's warning if not.
pub fn has_terminal(quiet: bool) -> bool {
    let is_terminal = console::input_is_terminal();
    if !is_terminal && !quiet {
        print::line("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    is_terminal
}
