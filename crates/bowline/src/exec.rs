//! `bowline exec`: what is asked for to a session between this program's ends and a container's.
//! Above: `main`. Below: `bowline-kube` for where, `bowline-client` for the session.

use std::sync::Arc;

use bowline_client::{EndError, Ends, ExecError, Wants};
use bowline_io::stdio::{Input, Output};
use bowline_kube::stream_url::ExecQuery;
use bowline_kube::{container, files, stream_url, target};
use k8s_openapi::api::core::v1::Pod;

use crate::args::BadUsage;
use crate::args::exec::Exec;
use crate::console::{self, Raw};
use crate::memory;
use crate::outcome::{self, End};
use crate::place::{self, Place, env};
use crate::verbose::{Verbose, say};

/// kubectl's switch: only `false`, in any case, means no.
const WEBSOCKETS: &str = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS";

/// Runs it to its end. `program` is the name that it was called by.
pub fn run(asked: &Exec, program: &str) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return End::refused(format_args!("start: {error}")),
    };
    let end = runtime.block_on(session(asked, program)).unwrap_or_else(|end| end);
    // A read of stdin that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    end
}

async fn session(asked: &Exec, program: &str) -> Result<End, End> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let place = place::of(&asked.global, program, verbose.clone())?;
    let (namespace, pod) = pod(asked, &place).await?;
    let choice = container::choose(&pod, asked.container.as_deref()).map_err(End::refused)?;
    if let Some(notice) = choice.notice.filter(|_| !asked.quiet) {
        say(&format!("{notice}\n"));
    }
    refuse_completed(&pod)?;
    let tty = wants_terminal(asked);
    let wants = Wants { stdin: asked.stdin, stdout: true, stderr: !tty, tty };
    let name = pod.metadata.name.unwrap_or_default();
    let query = ExecQuery {
        command: words(asked)?,
        container: choice.name,
        stdin: wants.stdin,
        stdout: wants.stdout,
        stderr: wants.stderr,
        tty,
        timeout: asked.global.request_timeout.map(|time| time.to_string()),
    };
    let url = stream_url::exec(&place.api.server, &namespace, &name, &query);
    let request = bowline_client::Exec {
        endpoint: place.api.access.endpoint.clone(),
        url,
        headers: [&place.api.headers[..], &place.api.access.headers].concat(),
        wants,
        websocket: place::is_switched_on(WEBSOCKETS),
        observer: Some(verbose.clone()),
    };
    let result = attended(&request, asked.stdin).await?;
    if let Err(ExecError::End(EndError::Write(_, error))) = &result
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        // As every filter does when its reader has had enough. It does not come back.
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    }
    let end = outcome::of_exec(result, &place.api.authority());
    Ok(place::with_warnings(end, &asked.global, &verbose))
}

/// Runs the session with the terminal in the state that it needs; a signal ends both.
async fn attended(
    request: &bowline_client::Exec,
    stdin: bool,
) -> Result<Result<bowline_client::Ended, ExecError>, End> {
    let interactive = stdin && console::input_is_terminal();
    let failed = |error: std::io::Error| End::refused(format_args!("terminal: {error}"));
    let asked_to_end =
        if interactive { Some(console::asked_to_end().map_err(failed)?) } else { None };
    let raw = if request.wants.tty { Some(Raw::enter().map_err(failed)?) } else { None };
    let ends = Ends {
        stdin: stdin.then(|| Box::new(Input::stdin()) as _),
        stdout: Box::new(Output::stdout()),
        stderr: Box::new(Output::stderr()),
        sizes: if request.wants.tty { console::sizes().map_err(failed)? } else { None },
    };
    let session = async {
        tokio::select! {
            result = bowline_client::exec(request, ends) => result,
            never = memory::forget_the_start() => match never {},
        }
    };
    let result = match asked_to_end {
        None => session.await,
        Some(asked_to_end) => tokio::select! {
            result = session => result,
            // kubectl's code for it; the terminal is restored on the way out.
            () = asked_to_end => return Err(End { code: outcome::REFUSED, text: String::new() }),
        },
    };
    drop(raw);
    Ok(result)
}

/// The pod, and the namespace that it is in.
async fn pod(asked: &Exec, place: &Place) -> Result<(String, Pod), End> {
    let wait = asked.pod_running_timeout;
    let objects = files::read(&asked.filenames, &env).await.map_err(End::refused)?;
    if let Some(name) = &asked.target {
        if !asked.filenames.is_empty() {
            return Err(End::refused(BadUsage::TargetTwice));
        }
        let pod = target::named(&place.api, &place.namespace, name, wait).await?;
        return Ok((place.namespace.clone(), pod));
    }
    let [object] = &objects[..] else {
        return Err(End::refused("cannot exec into multiple objects at a time"));
    };
    let said = object.value["metadata"]["namespace"].as_str().filter(|said| !said.is_empty());
    let namespace = match said {
        Some(said) if place.namespace_is_given && said != place.namespace => {
            return Err(End::refused(format_args!(
                "the namespace from the provided object {said:?} does not match the namespace \
                 {:?}. You must pass '--namespace={said}' to perform this operation.",
                place.namespace
            )));
        }
        Some(said) => said.to_owned(),
        None => place.namespace.clone(),
    };
    let pod = target::of_object(&place.api, &namespace, &object.value, wait).await?;
    Ok((namespace, pod))
}

fn refuse_completed(pod: &Pod) -> Result<(), End> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    match phase {
        Some(phase @ ("Succeeded" | "Failed")) => Err(End::refused(format_args!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        ))),
        _ => Ok(()),
    }
}

/// `-t` means something with `-i` and a terminal on this side.
fn wants_terminal(asked: &Exec) -> bool {
    if !(asked.stdin && asked.tty) {
        return false;
    }
    let is_terminal = console::input_is_terminal();
    if !is_terminal && !asked.quiet {
        say("Unable to use a TTY - input is not a terminal or the right kind of file\n");
    }
    is_terminal
}

/// A URL carries text; anything else would reach the container changed.
fn words(asked: &Exec) -> Result<Vec<String>, End> {
    let text = |word: &std::ffi::OsString| {
        word.to_str().map(ToOwned::to_owned).ok_or_else(|| {
            End::refused(format_args!(
                "{:?} is not UTF-8 and cannot be sent",
                word.to_string_lossy()
            ))
        })
    };
    asked.command.iter().map(text).collect()
}
