//! A kept session and this program's own ends: words about what happens to it, signals, keys.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bowline_client::kept::{Change, Goodbye, KeptCommand, KeptEnd, Refused, Stream, refused};
use bowline_client::{Ended, Ends, Error};
use bowline_io::stdio::{Input, Output};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::console::{self, Raw};
use crate::detach::Detachable;
use crate::outcome::{self, Exit};
use crate::print;
use crate::remote::Failure;
use crate::shown::Shown;

/// How the program's own ends are used.
pub struct Local {
    /// Whether input is sent.
    pub stdin: bool,
    /// Whether this side has a terminal for the command's, if that has one: it is made raw then.
    pub tty: bool,
    /// Nothing is said of what happens to the connection.
    pub quiet: bool,
    /// What leaves a session with a terminal.
    pub detach_keys: Vec<u8>,
    /// The session, as it is named in what is said.
    pub name: String,
    /// The name that the program was called by.
    pub program: String,
}

/// The program for containers: the one that is named, or the one beside this program.
///
/// # Errors
/// If the one that is named cannot be read.
pub fn hold_program(named: Option<&Path>) -> Result<Option<Vec<u8>>, Exit> {
    let (path, is_named) = match named {
        Some(path) => (path.to_owned(), true),
        None => match beside() {
            Some(path) => (path, false),
            None => return Ok(None),
        },
    };
    match std::fs::read(&path) {
        Ok(program) => Ok(Some(program)),
        Err(_) if !is_named => Ok(None),
        Err(error) => {
            Err(Exit::refused(format_args!("--hold-program {}: {error}", path.display())))
        }
    }
}

/// Containers are taken to be of this machine's kind unless a program is named.
fn beside() -> Option<PathBuf> {
    let name = format!("bowline-hold-{}", std::env::consts::ARCH);
    Some(std::env::current_exe().ok()?.canonicalize().ok()?.with_file_name(name))
}

/// Runs a session to its end, or until it is left.
///
/// # Errors
/// The exit of a session that has no outcome.
pub async fn run(command: KeptCommand, local: Local) -> Result<Option<KeptEnd>, Failure> {
    let failed =
        |error: std::io::Error| Failure::Local(Exit::refused(format_args!("terminal: {error}")));
    let signalled = Arc::new(AtomicI32::new(0));
    let hang_ups = signals(signalled.clone()).map_err(failed)?;
    let raw = Arc::new(Mutex::new(None));
    let mut ends = Ends::default();
    // Whatever has a terminal there, its output may set modes of the one here.
    let shown = console::output_is_terminal().then(|| Shown::new(Output::stdout()));
    ends.stdout = match &shown {
        Some(shown) => Box::new(shown.clone()),
        None => Box::new(Output::stdout()),
    };
    ends.stderr = Box::new(Output::stderr());
    ends.sizes = if local.tty { console::sizes().map_err(failed)? } else { None };
    let mut detached = None;
    if local.stdin && local.tty {
        let (stdin, keys) = Detachable::new(Input::stdin(), local.detach_keys.clone());
        ends.stdin = Some(Box::new(stdin.without_end()));
        detached = Some(keys);
    } else if local.stdin {
        ends.stdin = Some(Box::new(Input::stdin()));
    }
    let tell = said(local.quiet);
    let entered = local.tty.then(|| raw.clone());
    let command = command.ends(ends).on_change(move |change| {
        // Not before: until then Ctrl-C is for this program, and whether the command has a terminal
        // may not be known.
        if let (Some(raw), Change::Up { tty: true, stdin: true, .. }) = (&entered, &change) {
            match Raw::enter() {
                Ok(entered) => *raw.lock().unwrap_or_else(PoisonError::into_inner) = Some(entered),
                Err(error) => print::line(format_args!("warning: terminal: {error}")),
            }
        }
        tell(change);
    });
    let command = if shown.is_some() { command.shown() } else { command };
    let left = left(detached, hang_ups);
    let result = command.run_until(left).await;
    if let Some(shown) = shown {
        shown.leave().await;
    }
    drop(raw.lock().unwrap_or_else(PoisonError::into_inner).take());
    // As every program that such a signal ends, once the command was told.
    let signal = signalled.load(Ordering::Relaxed);
    if signal != 0 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    if matches!(result, Ok(None)) && !local.quiet {
        print::line(format_args!(
            "The session was left. Go on with it: {} session resume {}",
            local.program, local.name
        ));
    }
    result.map_err(Failure::Session)
}

/// Resolves once the user leaves: by keys, or by a signal that would end the program.
async fn left(
    detached: Option<oneshot::Receiver<()>>,
    hang_ups: impl Future<Output = ()>,
) -> Goodbye {
    let keys = async {
        let pressed = match detached {
            Some(detached) => detached.await.is_ok(),
            None => false,
        };
        if !pressed {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = keys => Goodbye::Detach,
        () = hang_ups => Goodbye::HangUp,
    }
}

/// Resolves at Ctrl-C or SIGTERM, and says which: then the command is to end, as without `--keep`.
/// A terminal that is closed is none of them: its session is kept.
fn signals(which: Arc<AtomicI32>) -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        let signal = tokio::select! {
            _ = interrupt.recv() => signal_hook::consts::SIGINT,
            _ = terminate.recv() => signal_hook::consts::SIGTERM,
        };
        which.store(signal, Ordering::Relaxed);
    })
}

/// Says on stderr what happens to the session.
fn said(quiet: bool) -> impl Fn(Change) + Send + Sync {
    move |change| {
        let words = match change {
            Change::Gap(..) => words(&change),
            _ if quiet => None,
            Change::Up { started: false, outputs: [stdout, stderr], .. } => Some(format!(
                "The session goes on at byte {stdout} of stdout and {stderr} of stderr."
            )),
            _ => words(&change),
        };
        if let Some(words) = words {
            print::line(words);
        }
    }
}

/// What is said of a session that goes on, or has lost something.
pub fn words(change: &Change) -> Option<String> {
    match change {
        Change::Gap(stream, bytes) => {
            let name = if *stream == Stream::Stderr { "stderr" } else { "stdout" };
            Some(format!("{bytes} bytes of {name} are missing here."))
        }
        Change::Lost(loss) => Some(format!("The connection is lost: {loss}. The command runs on.")),
        Change::Restored(away) => Some(format!("The session goes on after {}.", seconds(*away))),
        _ => None,
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Which output may be missing of a session that counts as complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MayLack {
    /// What other clients have taken, since all that is kept is asked for again.
    pub what_others_took: bool,
    /// What the command's terminal has shown before: this side has a terminal as well. Of a command
    /// that has none, all of the output counts, whatever is here.
    pub what_a_terminal_showed: bool,
}

/// The exit of a session. `server` is the API server's address.
pub fn exit_of(result: Result<Option<KeptEnd>, Failure>, server: &str, may_lack: MayLack) -> Exit {
    let missing = |end: &KeptEnd| match may_lack {
        MayLack { what_a_terminal_showed: true, .. } if end.tty => 0,
        MayLack { what_others_took: true, .. } => end.untaken_bytes,
        _ => end.missed_bytes,
    };
    match result {
        Ok(Some(end)) => match (missing(&end), end.ended) {
            (bytes @ 1.., Ended::Known(outcome)) => {
                let end = match outcome.code() {
                    Some(code) => format!("the command ended with exit code {code}"),
                    None => "the command could not be run".to_owned(),
                };
                let line = format!("error: {bytes} bytes of output are missing; {end}");
                Exit { code: outcome::LOST, lines: vec![line] }
            }
            (_, ended) => outcome::of_exec(Ok(ended), server),
        },
        Ok(None) => Exit::success(),
        Err(Failure::Session(Error::NotKept(Refused { code, text }))) => match code {
            // Said of no session that was there.
            refused::BAD_REQUEST | refused::CONFLICT | refused::TOO_MANY | refused::NOT_STARTED => {
                Exit::refused(text)
            }
            _ => Exit { code: outcome::LOST, lines: vec![format!("error: {text}")] },
        },
        Err(failure) => outcome::of_exec(Err(failure), server),
    }
}

/// Whether whoever would keep the session does not know it.
pub fn is_unknown(result: &Result<Option<KeptEnd>, Failure>) -> bool {
    let is_unknown = |refused: &Refused| refused.code == refused::UNKNOWN;
    matches!(result, Err(Failure::Session(Error::NotKept(refused))) if is_unknown(refused))
}

/// Whether nobody can come back to a session that ended so for its client: it has ended, is not
/// known, or never began.
pub fn is_over(result: &Result<Option<KeptEnd>, Failure>) -> bool {
    match result {
        Ok(Some(end)) => matches!(end.ended, Ended::Known(_)),
        Err(Failure::Session(Error::NotKept(refused))) => matches!(
            refused.code,
            refused::UNKNOWN
                | refused::BAD_REQUEST
                | refused::CONFLICT
                | refused::TOO_MANY
                | refused::NOT_STARTED
        ),
        Err(Failure::Session(error)) => {
            matches!(error, Error::Upgrade(_) | Error::NoProgram | Error::NoPlace(_))
        }
        Ok(None) | Err(Failure::Local(_)) => false,
    }
}
