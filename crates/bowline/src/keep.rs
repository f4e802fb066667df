//! A kept session and this program's own ends: words about what happens to it, signals, keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_client::kept::{Change, Goodbye, KeptCommand, KeptEnd, Refused, Stream};
use bowline_client::{Ends, Error};
use bowline_io::stdio::{Input, Output};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::console::{self, Raw};
use crate::detach::Detachable;
use crate::outcome::{self, Exit};
use crate::print;
use crate::remote::Failure;

/// How the program's own ends are used.
pub struct Local {
    /// Whether input is sent.
    pub stdin: bool,
    /// Whether the command has a terminal, and this side's is made raw.
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
    let hang_ups = signals().map_err(failed)?;
    let raw = if local.tty { Some(Raw::enter().map_err(failed)?) } else { None };
    let mut ends = Ends::default();
    ends.stdout = Box::new(Output::stdout());
    ends.stderr = Box::new(Output::stderr());
    ends.sizes = if local.tty { console::sizes().map_err(failed)? } else { None };
    let mut detached = None;
    if local.stdin && local.tty {
        let (stdin, keys) = Detachable::new(Input::stdin(), local.detach_keys.clone());
        ends.stdin = Some(Box::new(stdin));
        detached = Some(keys);
    } else if local.stdin {
        ends.stdin = Some(Box::new(Input::stdin()));
    }
    let command = command.ends(ends).on_change(said(local.quiet));
    let left = left(detached, hang_ups);
    let result = command.run_until(left).await;
    drop(raw);
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

/// Resolves at Ctrl-C or SIGTERM: then the command is to end, as without `--keep`. A terminal that
/// is closed is none of them: its session is kept.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Says on stderr what happens to the session.
fn said(quiet: bool) -> impl Fn(Change) + Send + Sync {
    move |change| {
        if quiet {
            return;
        }
        match change {
            Change::Lost(loss) => {
                print::line(format_args!("The connection is lost: {loss}. The command runs on."));
            }
            Change::StillLost(_) => {}
            Change::Restored(away) => {
                print::line(format_args!("The session goes on after {}.", seconds(away)));
            }
            Change::Gap(stream, bytes) => {
                let name = if stream == Stream::Stderr { "stderr" } else { "stdout" };
                print::line(format_args!("{bytes} bytes of {name} are missing here."));
            }
            Change::Up { started: false, outputs: [stdout, stderr] } => {
                print::line(format_args!(
                    "The session goes on at byte {stdout} of stdout and {stderr} of stderr."
                ));
            }
            _ => {}
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The exit of a session. `server` is the API server's address.
pub fn exit_of(result: Result<Option<KeptEnd>, Failure>, server: &str) -> Exit {
    match result {
        Ok(Some(end)) => outcome::of_exec(Ok(end.ended), server),
        // By keys it is a success; by a signal the shell's code is the signal's matter.
        Ok(None) => Exit::success(),
        Err(Failure::Session(Error::NotKept(Refused { text, .. }))) => {
            Exit { code: outcome::LOST, lines: vec![format!("error: {text}")] }
        }
        Err(failure) => outcome::of_exec(Err(failure), server),
    }
}
