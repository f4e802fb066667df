//! `bowline session`: to what was started before, from here or from elsewhere.

use std::sync::Arc;

use bowline_client::kept::KeptCommand;

use crate::args::session::{Action, Session};
use crate::cluster_access::{self, ClusterAccess};
use crate::keep::{self, Local, MayLack};
use crate::known_sessions::{self, Known, Place};
use crate::outcome::Exit;
use crate::print;
use crate::remote;
use crate::verbose::Verbose;

/// Runs the command. `program` is the name that the program was called by.
pub fn run(asked: &Session, program: &str) -> Exit {
    let text = match &asked.action {
        Action::List => return list(),
        Action::Resume(text) | Action::Result(text) | Action::End(text) => text,
    };
    match found(text) {
        Ok((place, known)) => remote::block_on(resume(asked, place, known, program)),
        Err(refused) => refused,
    }
}

fn list() -> Exit {
    let all = known_sessions::all();
    if all.is_empty() {
        print::line("No sessions were started from here.");
        return Exit::success();
    }
    let mut text = format!("{:<10}{:<8}{:<32}COMMAND\n", "NAME", "AGE", "CONTAINER");
    for Known { place, command, started, .. } in all {
        let age = known_sessions::now().duration_since(started).unwrap_or_default().as_secs();
        let age = match age {
            0..60 => format!("{age}s"),
            60..3600 => format!("{}m", age / 60),
            3600..86400 => format!("{}h", age / 3600),
            _ => format!("{}d", age / 86400),
        };
        let container = format!("{}/{}/{}", place.namespace, place.pod, place.container);
        let command: Vec<_> = command.iter().map(|word| word.escape_debug().to_string()).collect();
        let line = format!("{:<10}{age:<8}{container:<32}{}", place.id.name(), command.join(" "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    match print::raw(text.as_bytes()) {
        Ok(()) => Exit::success(),
        Err(error) => Exit::refused(format_args!("write stdout: {error}")),
    }
}

/// The session that is meant: by what was printed, or by a beginning of its name or id.
fn found(text: &str) -> Result<(Place, Option<Known>), Exit> {
    let all = known_sessions::all();
    if let Some(place) = Place::parse(text) {
        let known = all.into_iter().find(|known| known.place == place);
        return Ok((place, known));
    }
    let is_meant = |known: &Known| {
        let id = known.place.id;
        !text.is_empty() && (id.name().starts_with(text) || id.secret().starts_with(text))
    };
    let mut meant = all.into_iter().filter(is_meant);
    match (meant.next(), meant.next()) {
        (Some(known), None) => Ok((known.place.clone(), Some(known))),
        (Some(_), Some(_)) => {
            Err(Exit::refused(format_args!("more than one session begins with {text:?}")))
        }
        (None, _) => Err(Exit::refused(format_args!(
            "no session that was started from here begins with {text:?}; from elsewhere it is \
             named as exec --detach has printed it: NAMESPACE/POD/CONTAINER/ID"
        ))),
    }
}

async fn resume(
    asked: &Session,
    place: Place,
    known: Option<Known>,
    program: &str,
) -> Result<Exit, Exit> {
    let verbose = Arc::new(Verbose::new(asked.global.verbosity));
    let cluster = cluster_access::of(&asked.global, program, verbose.clone()).await?;
    let server = cluster.api.server.as_str();
    if let Some(known) = &known
        && known.server != server
    {
        return Err(Exit::refused(format_args!(
            "the session is at {}, and this is {server}: choose its --context",
            known.server
        )));
    }
    let command = command(asked, &place, &cluster, &verbose)?;
    let is_resumed = matches!(asked.action, Action::Resume(_));
    let takes = is_resumed && !asked.read_only;
    let (stdin, tty) = known.as_ref().map_or((true, true), |known| (known.stdin, known.tty));
    // Of one that was started elsewhere, whether it has a terminal is not known before it is there.
    let is_on_terminal = is_resumed && tty && crate::console::input_is_terminal();
    let local = Local {
        stdin: takes && stdin,
        tty: is_on_terminal && takes,
        quiet: asked.quiet,
        detach_keys: asked.detach_keys.clone(),
        name: place.id.name(),
        program: program.to_owned(),
    };
    let result = if let Action::End(_) = asked.action {
        command.hang_up().await.map(|()| None).map_err(remote::Failure::Session)
    } else {
        keep::run(command, local).await
    };
    let is_ended = matches!(asked.action, Action::End(_)) && result.is_ok();
    match known {
        Some(known) if is_ended || keep::is_unknown(&result) => known.forget(),
        // Its result may be asked for again.
        Some(known) if matches!(result, Ok(Some(_))) => known.has_ended(),
        _ => {}
    }
    let may_lack =
        MayLack { what_others_took: from_start(asked), what_a_terminal_showed: is_on_terminal };
    Ok(keep::exit_of(result, &cluster.api.authority(), may_lack))
}

fn command(
    asked: &Session,
    place: &Place,
    cluster: &ClusterAccess,
    verbose: &Arc<Verbose>,
) -> Result<KeptCommand, Exit> {
    let client = cluster.client(remote::WEBSOCKETS, &asked.global, verbose);
    let client = client.namespace(&*place.namespace);
    let mut command = client.resume(&*place.pod, place.id).container(&*place.container);
    if let Some(hold) = keep::hold_program(asked.program.as_deref())? {
        command = command.program(hold);
    }
    if from_start(asked) {
        command = command.from([0; 2]);
    }
    if asked.read_only || matches!(asked.action, Action::Result(_)) {
        command = command.read_only();
    }
    Ok(command)
}

/// Whether all that is kept is wanted, however much of it another client has taken.
fn from_start(asked: &Session) -> bool {
    asked.from_start || matches!(asked.action, Action::Result(_))
}
