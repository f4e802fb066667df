//! `bowline exec`: what is asked for to a session between this program's ends and a container's.

use std::sync::Arc;

use bowline_client::RemoteCommand;
use bowline_client::kept::KeptCommand;
use bowline_io::stdio::Input;
use bowline_kube::objects::Pod;
use bowline_kube::{container, files, target};

use crate::args::BadUsage;
use crate::args::exec::{Exec, Keep};
use crate::cluster_access::{self, ClusterAccess, env};
use crate::detach;
use crate::keep::{self, Local, MayLack};
use crate::known_sessions::{self, Known, Place};
use crate::outcome::{self, Exit};
use crate::print;
use crate::remote::{self, LocalEnds};
use crate::verbose::Verbose;

/// Runs the command. `program` is the name that the program was called by.
pub fn run(asked: &Exec, program: &str) -> Exit {
    remote::block_on(session(asked, program))
}

async fn session(asked: &Exec, program: &str) -> Result<Exit, Exit> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let cluster = cluster_access::of(&asked.global, program, verbose.clone()).await?;
    let (namespace, pod) = pod(asked, &cluster).await?;
    let choice = container::choose(&pod, asked.container.as_deref()).map_err(Exit::refused)?;
    if let Some(notice) = choice.notice.filter(|_| !asked.quiet) {
        print::line(notice);
    }
    remote::refuse_completed(&pod, "exec into")?;
    let tty = asked.stdin && asked.tty && remote::has_terminal(asked.quiet);
    let name = pod.metadata.name;
    let client = cluster.client(remote::WEBSOCKETS, &asked.global, &verbose).namespace(&*namespace);
    let words = words(asked)?;
    let command = client.exec(&*name, words.clone()).container(&*choice.name);
    let set = |command: RemoteCommand, (name, value): &(String, String)| command.env(name, value);
    let command = asked.env.iter().fold(command, set);
    if let Some(keep) = &asked.keep {
        let command = if tty { command.terminal(None) } else { command };
        let command = command.keep().keep_for(keep.keep_for);
        let known = Known {
            place: Place { namespace, pod: name, container: choice.name, id: command.id() },
            server: cluster.api.server.to_string(),
            command: words,
            stdin: asked.stdin,
            tty,
            started: known_sessions::now(),
            ended: None,
        };
        return kept(asked, keep, command, known, &cluster, program).await;
    }
    let local = LocalEnds {
        stdin: asked.stdin.then(|| Box::new(Input::stdin()) as _),
        raw: tty,
        tty,
        redraws: false,
    };
    let result = remote::run_on_terminal(command, local).await;
    remote::exit_on_broken_pipe(&result);
    let end = outcome::of_exec(result, &cluster.api.authority());
    Ok(cluster_access::with_warnings(end, &asked.global, &verbose))
}

/// The same, over as many connections as it takes.
async fn kept(
    asked: &Exec,
    keep: &Keep,
    mut command: KeptCommand,
    known: Known,
    cluster: &ClusterAccess,
    program: &str,
) -> Result<Exit, Exit> {
    if let Some(hold) = keep::hold_program(keep.program.as_deref())? {
        command = command.program(hold);
    }
    if let Err(error) = known.save() {
        print::line(format_args!("warning: the session cannot be written down: {error}"));
    }
    let (server, tty) = (cluster.api.authority(), known.tty);
    let may_lack = MayLack { what_others_took: false, what_a_terminal_showed: tty };
    if keep.detach {
        let left = command.detach().await.map(|()| None).map_err(remote::Failure::Session);
        if left.is_err() {
            if keep::is_over(&left) {
                known.forget();
            } else {
                print::line(format_args!("The session may be there: {}", known.place));
            }
            return Ok(keep::exit_of(left, &server, may_lack));
        }
        let line = format!("{}\n", known.place);
        return Ok(match print::raw(line.as_bytes()) {
            Ok(()) => Exit::success(),
            Err(error) => Exit::refused(format_args!("write stdout: {error}")),
        });
    }
    let local = Local {
        stdin: asked.stdin,
        tty,
        quiet: asked.quiet,
        detach_keys: detach::keys("").unwrap_or_default(),
        name: known.place.id.name(),
        program: program.to_owned(),
    };
    let result = keep::run(command, local).await;
    // A program that was waited for has had its result.
    if keep::is_over(&result) {
        known.forget();
    } else if !matches!(result, Ok(None)) {
        known.has_ended();
    }
    remote::exit_on_broken_pipe(&result);
    Ok(keep::exit_of(result, &server, may_lack))
}

/// The pod, and the namespace that it is in.
async fn pod(asked: &Exec, cluster: &ClusterAccess) -> Result<(String, Pod), Exit> {
    let wait = asked.pod_running_timeout;
    if let Some(name) = &asked.target {
        if !asked.filenames.is_empty() {
            files::exist(&asked.filenames).map_err(Exit::refused)?;
            return Err(Exit::refused(BadUsage::TargetTwice));
        }
        let pod = target::named(&cluster.api, &cluster.namespace, name, wait).await?;
        return Ok((cluster.namespace.clone(), pod));
    }
    let objects = files::read(&asked.filenames, &env).await.map_err(Exit::refused)?;
    let [object] = &objects[..] else {
        return Err(Exit::refused("cannot exec into multiple objects at a time"));
    };
    let said = object.value["metadata"]["namespace"].as_str().filter(|said| !said.is_empty());
    let namespace = match said {
        Some(said) if cluster.namespace_is_given && said != cluster.namespace => {
            return Err(Exit::refused(format_args!(
                "the namespace from the provided object {said:?} does not match the namespace \
                 {:?}. You must pass '--namespace={said}' to perform this operation.",
                cluster.namespace
            )));
        }
        Some(said) => said.to_owned(),
        None => cluster.namespace.clone(),
    };
    let pod = target::of_object(&cluster.api, &namespace, &object.value, wait).await?;
    Ok((namespace, pod))
}

/// A URL carries text; anything else would reach the container changed.
fn words(asked: &Exec) -> Result<Vec<String>, Exit> {
    let text = |word: &std::ffi::OsString| {
        word.to_str().map(ToOwned::to_owned).ok_or_else(|| {
            Exit::refused(format_args!(
                "{:?} is not UTF-8 and cannot be sent",
                word.to_string_lossy()
            ))
        })
    };
    asked.command.iter().map(text).collect()
}
