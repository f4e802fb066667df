//! The flags and words of `attach`, by kubectl's rules.

use std::time::Duration;

use super::global::{self, Global};
use super::pflag::{BadValue, Values, bad_value};
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP, exec};
use crate::detach;

/// Attach to a container's main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// `TYPE` where it stands alone.
    pub kind: Option<String>,
    /// `POD` or `TYPE/NAME`; `NAME` where `TYPE` stands alone.
    pub target: String,
    /// `-c`.
    pub container: Option<String>,
    /// `-i`.
    pub stdin: bool,
    /// `-t`.
    pub tty: bool,
    /// `-q`.
    pub quiet: bool,
    /// What leaves the session.
    pub detach_keys: Vec<u8>,
    /// With how many lines of the log to begin.
    pub replay: Option<u64>,
    /// How long to wait for the first pod of a target that is no pod.
    pub pod_running_timeout: Duration,
    /// Which cluster, as whom.
    pub global: Global,
}

const REPLAY: Flag = Flag::number(
    "replay",
    "LINES",
    "Begin with so many lines of the container's log; nothing comes twice and nothing is missing. \
     Needs Bowline's node.",
);

/// Its table.
pub static COMMAND: Command = Command {
    name: "attach",
    about: "Attach to a container's main process.",
    text: "Shows what the process writes from now on, and with -i sends it this program's input. \
           Several can be attached at once. Whether there is a terminal is the container's own \
           matter (tty in its spec); with -i it is used from here.\n\n\
           The session ends when the process does, or with Ctrl-C; from a terminal that belongs to \
           the process, Ctrl-C goes to it, and --detach-keys leave it running. The exit code is 0 \
           if the session ended as it should, 1 where it was refused or could not go on, 255 where \
           the connection was lost.",
    usage: "(POD | TYPE/NAME | TYPE NAME) [-c CONTAINER] [flags]",
    examples: &[
        ("See what a pod's process writes", "{bowline} attach web"),
        ("Use the shell that runs as a container's main process", "{bowline} attach -it web -c sh"),
        ("Begin with the last 20 lines of its log", "{bowline} attach web --replay 20"),
        ("Leave it with Ctrl-A d", "{bowline} attach -it web --detach-keys ctrl-a,d"),
    ],
    flags: &[
        Flag::text(
            "container",
            "NAME",
            "Attach to this container. Without it: the one that the pod's annotation \
             kubectl.kubernetes.io/default-container names, or the first.",
        )
        .short('c'),
        Flag::text(
            "detach-keys",
            "KEYS",
            "What leaves the session, one after the other: characters, ctrl- and a character, or \
             DEL.",
        )
        .default(detach::DEFAULT),
        Flag::duration("pod-running-timeout", "How long to wait until TYPE/NAME has a pod.")
            .default("1m0s"),
        Flag::switch("quiet", "Print only what the process prints, and errors.").short('q'),
        REPLAY,
        Flag::switch("stdin", "Send this program's input to the process.").short('i'),
        Flag::switch("tty", "Use the container's terminal. Needs -i, and a terminal on this side.")
            .short('t'),
        HELP,
    ],
    shared: global::FLAGS,
    words: Words::Some,
};

/// Reads it.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Attach, BadUsage> {
    let words: Vec<String> =
        values.words().iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (kind, target) = match &words[..] {
        [] => return Err(BadUsage::NoAttachTarget),
        [target] => (None, target.clone()),
        [kind, name] => (Some(kind.clone()), name.clone()),
        more => return Err(BadUsage::AttachWords(more.len(), more.join(" "))),
    };
    let replay = values.number(REPLAY.long).map(|lines| {
        let negative = |_| bad_value(&REPLAY, &lines.to_string(), BadValue::Negative);
        u64::try_from(lines).map_err(negative)
    });
    let replay = replay.transpose()?;
    let pod_running_timeout = exec::pod_running_timeout(values)?;
    Ok(Attach {
        kind,
        target,
        container: values.text("container"),
        stdin: values.is_on("stdin"),
        tty: values.is_on("tty"),
        quiet: values.is_on("quiet"),
        detach_keys: detach::keys(&values.text("detach-keys").unwrap_or_default())?,
        replay,
        pod_running_timeout,
        global: global::read(values)?,
    })
}
