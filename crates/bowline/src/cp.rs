//! `bowline cp`: what is asked for to a copy, and what became of it to an exit code.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bowline_archive::unpack::UnpackError;
use bowline_client::Outcome;
use bowline_client::copy::{self, Container, CopyError, Keep, Limits, Options, Watcher};
use bowline_io::shutdown::Hangup;
use bowline_io::text::{go_error, sanitized};
use bowline_kube::{container, target};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::args::cp::{Cp, Spec};
use crate::cluster_access::{self, ClusterAccess};
use crate::keep;
use crate::memory;
use crate::outcome::{self, Exit};
use crate::print;
use crate::progress::ProgressDisplay;
use crate::remote;
use crate::verbose::Verbose;

/// How much of what a runtime says is shown.
const MESSAGE_BYTES: usize = 4096;

/// Runs the command. `program` is the name that the program was called by.
pub fn run(asked: &Cp, program: &str) -> Exit {
    memory::retain_freed();
    remote::block_on(copied(asked, program))
}

async fn copied(asked: &Cp, program: &str) -> Result<Exit, Exit> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let cluster = cluster_access::of(&asked.global, program, verbose.clone()).await?;
    let shown = Arc::new(ProgressDisplay::new(asked.progress));
    let kept = kept(asked, &shown)?;
    let stop = CancellationToken::new();
    let stopped = stop_at_signals(stop.clone())?;
    let find = Find { asked, cluster: &cluster, verbose: &verbose, kept: kept.as_ref() };
    let copy = copy(&find, shown.clone(), &stop);
    let result = tokio::select! {
        biased;
        result = copy => result,
        // Copies out of a container leave nothing behind when they are dropped.
        () = stop.cancelled(), if matches!(asked.target, Spec::Local(_)) => {
            Err(Failure::Copy(CopyError::Stopped))
        }
    };
    shown.finish();
    if let Some(kept) = kept {
        kept.settled().await;
    }
    if let Err(Failure::Copy(CopyError::Stopped)) = result
        && let Ok(signal) = stopped.await
    {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    let end = end_of(result, asked, &cluster.api.authority(), program);
    Ok(cluster_access::with_warnings(end, &asked.global, &verbose))
}

/// Why there is no copy, or not all of it.
enum Failure {
    /// It did not begin.
    Before(Exit),
    /// The copy itself.
    Copy(CopyError),
}

/// Stops what goes on at the first signal, and tells which it was. What is removed after that may
/// take its time; the second signal ends it.
fn stop_at_signals(stop: CancellationToken) -> Result<oneshot::Receiver<i32>, Exit> {
    let no_signals = |error: io::Error| Exit::refused(format_args!("signals: {error}"));
    let on = |kind| signal(kind).map_err(no_signals);
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = Hangup::watch().map_err(no_signals)?;
    let (tell, first) = oneshot::channel();
    #[expect(clippy::disallowed_methods, reason = "it waits for signals for the whole run")]
    tokio::spawn(async move {
        let mut tell = Some(tell);
        loop {
            let signal = tokio::select! {
                _ = interrupt.recv() => SIGINT,
                _ = terminate.recv() => SIGTERM,
                () = hangup.recv() => SIGHUP,
            };
            stop.cancel();
            let sent = tell.take().is_some_and(|tell| tell.send(signal).is_ok());
            if !sent {
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    });
    Ok(first)
}

/// How commands are kept, if they are. What happens to their connections is said.
fn kept(asked: &Cp, shown: &Arc<ProgressDisplay>) -> Result<Option<Keep>, Exit> {
    let Some(wanted) = &asked.keep else { return Ok(None) };
    let shown = shown.clone();
    let kept = Keep::new().keep_for(wanted.keep_for).on_change(move |change| {
        if let Some(words) = keep::words(&change) {
            shown.note(&words);
        }
    });
    let program = keep::hold_program(wanted.program.as_deref())?;
    Ok(Some(match program {
        Some(program) => kept.program(program),
        None => kept,
    }))
}

async fn copy(
    find: &Find<'_>,
    shown: Arc<ProgressDisplay>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let asked = find.asked;
    let limits = Limits {
        bytes: asked.max_bytes.unwrap_or(Limits::default().bytes),
        entries: asked.max_entries.unwrap_or(Limits::default().entries),
    };
    let mut options = Options::default();
    options.preserve = !asked.no_preserve;
    options.retries = asked.retries;
    options.verify = asked.verify;
    options.symlinks = asked.symlinks;
    options.limits = limits;
    let sides = async {
        let source = find.side(&asked.source).await?;
        Ok::<_, Exit>((source, find.side(&asked.target).await?))
    };
    let Some(found) = stop.run_until_cancelled(sides).await else {
        return Err(Failure::Copy(CopyError::Stopped));
    };
    let copied = match found.map_err(Failure::Before)? {
        (Side::Pod(from, path), Side::Local(target)) => {
            copy::download(&*from, path, Path::new(target), &options, shown).await
        }
        (Side::Local(source), Side::Pod(to, path)) => {
            copy::upload(&*to, Path::new(source), path, &options, shown, stop).await
        }
        (Side::Pod(from, source), Side::Pod(to, target)) => {
            copy::between(&*from, source, &*to, target, &options, shown, stop).await
        }
        (Side::Local(_), Side::Local(_)) => Err(CopyError::Nothing),
    };
    copied.map_err(Failure::Copy)
}

/// One end of the copy.
enum Side<'a> {
    Local(&'a str),
    Pod(Box<Container>, &'a str),
}

/// What the ends of the copy are found by.
struct Find<'a> {
    asked: &'a Cp,
    cluster: &'a ClusterAccess,
    verbose: &'a Arc<Verbose>,
    kept: Option<&'a Keep>,
}

impl Find<'_> {
    /// The container that one end of the copy is in, if it is in one.
    async fn side<'a>(&self, spec: &'a Spec) -> Result<Side<'a>, Exit> {
        let Find { asked, cluster, verbose, kept } = self;
        let (namespace, name, path) = match spec {
            Spec::Local(path) => return Ok(Side::Local(path)),
            Spec::Remote { namespace, pod, path } => (namespace, pod, path),
        };
        let namespace = namespace.as_ref().unwrap_or(&cluster.namespace);
        let pod = target::pod(&cluster.api, namespace, name).await?;
        let choice = container::choose(&pod, asked.container.as_deref()).map_err(Exit::refused)?;
        if let Some(notice) = choice.notice {
            print::line(notice);
        }
        remote::refuse_completed(&pod, "exec into")?;
        let client = cluster.client(remote::WEBSOCKETS, &asked.global, verbose);
        let container = client.namespace(namespace).container(name).name(choice.name);
        let container = match kept {
            Some(kept) => container.keep((*kept).clone()),
            None => container,
        };
        Ok(Side::Pod(Box::new(container), path))
    }
}

fn end_of(result: Result<(), Failure>, asked: &Cp, server: &str, program: &str) -> Exit {
    let error = match result {
        Ok(()) => return Exit::success(),
        Err(Failure::Before(end)) => return end,
        Err(Failure::Copy(error)) => error,
    };
    let dropped = |retries: u64| {
        // kubectl's words, on its stream; and then the error.
        print::notice(format_args!("Dropping out copy after {retries} retries"));
    };
    match error {
        CopyError::Exec(error) => outcome::of_exec(Err(remote::Failure::Session(error)), server),
        CopyError::Lost { loss, bytes, retries } => {
            dropped(retries);
            let line = format!(
                "error: the connection to {server} was lost: {loss}, after {bytes} bytes of files; \
                 nothing has the target's name (--retries goes on after a loss)"
            );
            Exit { code: outcome::LOST, lines: vec![line] }
        }
        CopyError::Unknown { loss, retries } => {
            dropped(retries);
            let line = format!(
                "error: the connection to {server} was lost: {loss}; it is not known whether the \
                 target has its name (--retries goes on after a loss)"
            );
            Exit { code: outcome::LOST, lines: vec![line] }
        }
        CopyError::Cut { retries } => {
            dropped(retries);
            Exit::refused("unexpected EOF")
        }
        CopyError::Remote { outcome, stderr_text, published } => {
            let said = sanitized(&stderr_text, MESSAGE_BYTES);
            let rest = if published { "; the rest was copied" } else { "" };
            match outcome {
                Outcome::Exited(code) if published || said.is_empty() => Exit {
                    code,
                    lines: vec![format!("command terminated with exit code {code}{rest}")],
                },
                Outcome::Exited(code) => Exit {
                    code,
                    lines: vec![
                        format!("error: {said}"),
                        format!("command terminated with exit code {code}"),
                    ],
                },
                Outcome::Failed { message, .. } => {
                    Exit::refused(sanitized(&message, MESSAGE_BYTES))
                }
                Outcome::Success => Exit::refused(said),
            }
        }
        CopyError::NoTar => {
            let pod = match (&asked.source, &asked.target) {
                (Spec::Remote { pod, .. }, _) | (_, Spec::Remote { pod, .. }) => pod.as_str(),
                _ => "POD",
            };
            Exit::refused(format_args!(
                "there is no tar in the container (or no sh): add a container that has them with \
                 kubectl debug {pod} --image=busybox --target=CONTAINER and name it with -c, or \
                 copy one file with {program} exec {pod} -- cat FILE >FILE"
            ))
        }
        CopyError::Unpack(UnpackError::Io { path, error }) | CopyError::Local { path, error } => {
            let path = path.to_string_lossy();
            Exit::refused(format_args!("{}: {}", sanitized(&path, MESSAGE_BYTES), go_error(&error)))
        }
        CopyError::Stopped => Exit::refused("interrupted"),
        error => Exit::refused(sanitized(&error.to_string(), MESSAGE_BYTES)),
    }
}
