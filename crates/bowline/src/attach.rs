//! `bowline attach`: this program's ends to the console of a container's main process.

use std::sync::Arc;
use std::time::Duration;

use bowline_client::{Ended, Error, Outcome};
use bowline_io::stdio::Input;
use bowline_kube::objects::Pod;
use bowline_kube::{container, target};
use tokio::io::AsyncRead;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::args::attach::Attach;
use crate::cluster_access;
use crate::console;
use crate::detach::Detachable;
use crate::outcome::{self, Exit};
use crate::print;
use crate::remote::{self, Failure, LocalEnds};
use crate::verbose::Verbose;

/// Once the keys were pressed: how long the server may take to end the session.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

/// Runs the command. `program` is the name that the program was called by.
pub fn run(asked: &Attach, program: &str) -> Exit {
    remote::block_on(session(asked, program))
}

async fn session(asked: &Attach, program: &str) -> Result<Exit, Exit> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let cluster = cluster_access::of(&asked.global, program, verbose.clone()).await?;
    let wait = asked.pod_running_timeout;
    let (api, namespace, name) = (&cluster.api, &cluster.namespace, &asked.target);
    let pod = match &asked.kind {
        Some(kind) => target::of_kind(api, namespace, kind, name, wait).await?,
        None => target::named(api, namespace, name, wait).await?,
    };
    remote::refuse_completed(&pod, "attach")?;
    let choice = container::choose(&pod, asked.container.as_deref());
    let choice = choice
        .map_err(|none| Exit::refused(format_args!("cannot attach to the container: {none}")))?;
    let talks = !asked.quiet;
    if let Some(notice) = choice.notice.filter(|_| talks) {
        print::line(notice);
    }
    let console = Console::of(&pod, &choice.name);
    if asked.tty && !console.tty && talks {
        print::line(format_args!(
            "error: Unable to use a TTY - container {} did not allocate one",
            choice.name
        ));
    }
    // The process has a terminal or it has none, whatever is asked for. Here it is used where there
    // is one.
    let raw = console.tty
        && asked.stdin
        && if asked.tty { remote::has_terminal(asked.quiet) } else { console::input_is_terminal() };
    if asked.stdin && !console.stdin && talks {
        print::line(format_args!(
            "warning: container {} takes no input (stdin: false)",
            choice.name
        ));
    }
    let name = pod.metadata.name.clone();
    let client = cluster.client(remote::WEBSOCKETS, &asked.global, &verbose);
    let mut command = client.attach(&name).container(&choice.name);
    if let Some(lines) = asked.replay {
        command = command.replay(lines);
    }
    if talks {
        print::line(
            "All commands and output from this session will be recorded in container logs, \
             including credentials and sensitive information passed through the command prompt.",
        );
        print::line("If you don't see a command prompt, try pressing enter.");
    }
    let (stdin, detached) = input(asked, raw);
    let local = LocalEnds { stdin, raw, tty: console.tty, redraws: true };
    let result = tokio::select! {
        result = remote::run_on_terminal(command, local) => result,
        // Some servers keep a session whose input has ended.
        () = detach_timeout(detached) => Ok(Ended::Known(Outcome::Success)),
    };
    remote::exit_on_broken_pipe(&result);
    if matches!(result, Err(Failure::Session(Error::NoReplay))) {
        return Err(Exit::refused(format_args!(
            "this cluster's node cannot begin with lines of the log; see them with: kubectl logs \
             --tail={} {name} -c {} -n {}",
            asked.replay.unwrap_or_default(),
            choice.name,
            cluster.namespace
        )));
    }
    let went_well = matches!(result, Ok(Ended::Known(Outcome::Success)));
    let end = outcome::of_attach(result, &cluster.api.authority());
    if went_well && raw && talks {
        let again =
            format!("{program} attach {name} -c {} -n {} -i -t", choice.name, cluster.namespace);
        let line = if console.ephemeral {
            format!(
                "Session ended, the ephemeral container will not be restarted but may be \
                 reattached using '{again}' if it is still running"
            )
        } else {
            format!("Session ended, resume using '{again}' command")
        };
        print::notice(line);
    }
    Ok(cluster_access::with_warnings(end, &asked.global, &verbose))
}

type Stdin = Option<Box<dyn AsyncRead + Send + Unpin>>;

/// Input, and what resolves once its keys were pressed.
fn input(asked: &Attach, raw: bool) -> (Stdin, Option<oneshot::Receiver<()>>) {
    if !asked.stdin {
        return (None, None);
    }
    if !raw {
        return (Some(Box::new(Input::stdin())), None);
    }
    let (stdin, detached) = Detachable::new(Input::stdin(), asked.detach_keys.clone());
    (Some(Box::new(stdin)), Some(detached))
}

async fn detach_timeout(detached: Option<oneshot::Receiver<()>>) {
    match detached {
        None => std::future::pending().await,
        Some(detached) => match detached.await {
            Ok(()) => sleep(DETACH_PATIENCE).await,
            Err(_) => std::future::pending().await,
        },
    }
}

/// What a pod's spec says of a container's console.
struct Console {
    stdin: bool,
    tty: bool,
    ephemeral: bool,
}

impl Console {
    fn of(pod: &Pod, name: &str) -> Console {
        if let Some(one) = pod.regular_and_initial().find(|one| one.name == name) {
            return Console { stdin: one.stdin, tty: one.tty, ephemeral: false };
        }
        let found = pod.spec.ephemeral_containers.iter().find(|one| one.name == name);
        let (stdin, tty) = found.map_or((false, false), |one| (one.stdin, one.tty));
        Console { stdin, tty, ephemeral: true }
    }
}
