//! A remote command, and this program's own ends for it: terminal, signals, pipes.

use std::sync::Arc;

use bowline_client::{EndError, Ended, Ends, ExecError, Wants};
use bowline_io::stdio::Output;
use bowline_kube::objects::Pod;
use tokio::io::AsyncRead;
use url::Url;

use crate::console::{self, Raw};
use crate::outcome::{self, End};
use crate::place::{self, Place};
use crate::say;
use crate::verbose::Verbose;

/// kubectl's switch: only `false`, in any case, means no.
const WEBSOCKETS: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";

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

/// The request for a stream.
pub fn request(
    place: &Place,
    url: Url,
    wants: Wants,
    observer: Arc<Verbose>,
) -> bowline_client::Exec {
    bowline_client::Exec {
        access: place.api.access.clone(),
        url,
        headers: place.api.headers.clone(),
        wants,
        websocket: place::is_switched_on(WEBSOCKETS),
        replay: false,
        observer: Some(observer),
    }
}

/// What this side gives to a session.
pub struct Here {
    /// Its input.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Every key goes to the other side.
    pub raw: bool,
    /// See [`Ends::redraws`].
    pub redraws: bool,
}

/// Runs the session with the terminal in the state that it needs; a signal ends both.
pub async fn attended(
    request: &bowline_client::Exec,
    here: Here,
) -> Result<Result<Ended, ExecError>, End> {
    let interactive = here.stdin.is_some() && console::input_is_terminal();
    let failed = |error: std::io::Error| End::refused(format_args!("terminal: {error}"));
    let asked_to_end =
        if interactive { Some(console::asked_to_end().map_err(failed)?) } else { None };
    let raw = if here.raw { Some(Raw::enter().map_err(failed)?) } else { None };
    let ends = Ends {
        stdin: here.stdin,
        stdout: Box::new(Output::stdout()),
        stderr: Box::new(Output::stderr()),
        sizes: if request.wants.tty { console::sizes().map_err(failed)? } else { None },
        redraws: here.redraws,
    };
    let session = bowline_client::exec(request, ends);
    let result = match asked_to_end {
        None => session.await,
        Some(asked_to_end) => tokio::select! {
            result = session => result,
            // kubectl's code for it; the terminal is restored on the way out.
            () = asked_to_end => return Err(End::silent(outcome::REFUSED)),
        },
    };
    drop(raw);
    Ok(result)
}

/// Ends as every filter does when its reader has had enough. It does not come back.
pub fn follow_a_reader_that_left(result: &Result<Ended, ExecError>) {
    if let Err(ExecError::End(EndError::Write(_, error))) = result
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
