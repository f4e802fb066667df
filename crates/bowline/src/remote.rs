//! A remote command, and this program's own ends for it: terminal, signals, pipes.

use bowline_client::{EndError, Ended, Ends, Error, RemoteCommand, Size};
use bowline_io::stdio::Output;
use bowline_kube::objects::Pod;
use tokio::io::AsyncRead;
use tokio::sync::watch;

use crate::console::{self, Raw};
use crate::outcome::{self, End};
use crate::say;

/// kubectl's switch.
pub const WEBSOCKETS: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";

/// Runs a command's task on a runtime of its own.
pub fn until_its_end(task: impl Future<Output = Result<End, End>>) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return End::refused(format_args!("start: {error}")),
    };
    let end = runtime.block_on(task).unwrap_or_else(|end| end);
    // A read of stdin that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    end
}

/// What this side gives to a session.
pub struct LocalEnds {
    /// Its input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Every key goes to the other side.
    pub raw: bool,
    /// The other side has a terminal, whose size follows this side's.
    pub tty: bool,
    /// See [`Ends::redraws`].
    pub redraws: bool,
}

/// Why a session has no end of its own.
pub enum Failure {
    /// This side could not begin it, or was asked to end.
    Here(End),
    /// The session.
    Session(Error),
}

/// Runs the session with the terminal in the state that it needs; a signal ends both.
pub async fn attended(command: RemoteCommand, local: LocalEnds) -> Result<Ended, Failure> {
    let interactive = local.stdin.is_some() && console::input_is_terminal();
    let failed =
        |error: std::io::Error| Failure::Here(End::refused(format_args!("terminal: {error}")));
    let asked_to_end =
        if interactive { Some(console::asked_to_end().map_err(failed)?) } else { None };
    let raw = if local.raw { Some(Raw::enter().map_err(failed)?) } else { None };
    let sizes = if local.tty { console::sizes().map_err(failed)? } else { None };
    let command = with_ends(command, local, sizes);
    let session = command.run();
    let result = match asked_to_end {
        None => session.await,
        Some(asked_to_end) => tokio::select! {
            result = session => result,
            // kubectl's code for it; the terminal is restored on the way out.
            () = asked_to_end => return Err(Failure::Here(End::silent(outcome::REFUSED))),
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

/// Ends as every filter does when its reader has had enough. It does not come back.
pub fn follow_a_reader_that_left(result: &Result<Ended, Failure>) {
    if let Err(Failure::Session(Error::End(EndError::Write(_, error)))) = result
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    }
}

/// A pod that is over has nobody to talk to. `what` is what was to be done, in kubectl's words.
pub fn refuse_completed(pod: &Pod, what: &str) -> Result<(), End> {
    match &*pod.status.phase {
        phase @ ("Succeeded" | "Failed") => Err(End::refused(format_args!(
            "cannot {what} a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

/// `-t` means something with a terminal on this side.
pub fn has_terminal(quiet: bool) -> bool {
    let is_terminal = console::input_is_terminal();
    if !is_terminal && !quiet {
        say::line("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    is_terminal
}
