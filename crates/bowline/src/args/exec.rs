//! The flags and words of `exec`, by kubectl's rules.

use std::ffi::OsString;
use std::time::Duration;

use super::global::{self, Global};
use super::pflag::{BadFlag, BadValue, Values, bad_value};
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP};

/// Run a command in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// `POD` or `TYPE/NAME`; `None` where `filenames` say it. Both is an error, but one that
    /// kubectl sees only after it has read the files.
    pub target: Option<String>,
    /// `-f`: files, directories or URLs that name the target.
    pub filenames: Vec<String>,
    /// The command and its arguments; never empty.
    pub command: Vec<OsString>,
    /// `-c`.
    pub container: Option<String>,
    /// `--env`: names and values.
    pub env: Vec<(String, String)>,
    /// `-i`.
    pub stdin: bool,
    /// `-t`.
    pub tty: bool,
    /// `-q`.
    pub quiet: bool,
    /// How long to wait for the first pod of a target that is no pod.
    pub pod_running_timeout: Duration,
    /// Which cluster, as whom.
    pub global: Global,
}

/// Its table.
pub static COMMAND: Command = Command {
    name: "exec",
    about: "Run a command in a container.",
    text: "What comes after -- runs in the container as it stands, without a shell in between. Its \
           output, errors and exit code become those of this program. With -i it gets this \
           program's input, and with -it a terminal.\n\n\
           The exit code is the command's own; 1 where the command was refused or could not be \
           started; 255 where the connection ended before the outcome was known, in which case \
           the command may still be running.",
    usage: "(POD | TYPE/NAME) [-c CONTAINER] [flags] -- COMMAND [args...]",
    examples: &[
        ("Run a command in the pod's default container", "{bowline} exec nginx -- date"),
        ("Open a shell", "{bowline} exec -it nginx -- sh"),
        (
            "Name the container; flags after -- belong to the command",
            "{bowline} exec web -c app -- ls -l /tmp",
        ),
        ("Let Kubernetes choose a pod of a deployment", "{bowline} exec deploy/web -- env"),
        (
            "Use a shell's own words: quote them once",
            "{bowline} exec web -- sh -c 'echo $HOSTNAME'",
        ),
        ("Send a directory", "tar cf - conf | {bowline} exec -i web -- tar xf - -C /etc/web"),
        ("See the requests and answers that make the session", "{bowline} exec -v=8 nginx -- date"),
    ],
    flags: &[
        Flag::text(
            "container",
            "NAME",
            "Run in this container. Without it: the one that the pod's annotation \
             kubectl.kubernetes.io/default-container names, or the first.",
        )
        .short('c'),
        ENV,
        Flag::list("filename", "FILE", "Take the target from a file, a directory or a URL.")
            .short('f'),
        Flag::duration("pod-running-timeout", "How long to wait until TYPE/NAME has a pod.")
            .default("1m0s"),
        Flag::switch("quiet", "Print only what the command prints, and errors.").short('q'),
        Flag::switch("stdin", "Send this program's input to the command.").short('i'),
        Flag::switch("tty", "Give the command a terminal. Needs -i, and a terminal on this side.")
            .short('t'),
        HELP,
    ],
    shared: global::FLAGS,
    words: Words::AndCommand,
};

/// `--env`, of KEP-6035.
const ENV: Flag = Flag::each(
    "env",
    "NAME=VALUE",
    "Set a variable of the command. May be repeated. Where a server on the way does not know it, \
     nothing is begun.",
);

/// kubectl's default for `--pod-running-timeout`.
const POD_RUNNING_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads `--pod-running-timeout`.
///
/// # Errors
/// [`BadUsage::PodRunningTimeout`].
pub fn pod_running_timeout(values: &Values) -> Result<Duration, BadUsage> {
    match values.duration("pod-running-timeout") {
        None => Ok(POD_RUNNING_TIMEOUT),
        Some(duration) => duration.positive().ok_or(BadUsage::PodRunningTimeout),
    }
}

fn env(values: &Values) -> Result<Vec<(String, String)>, BadFlag> {
    let pair = |text: String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(bad_value(&ENV, &text, BadValue::Pair)),
    };
    values.each(ENV.long).into_iter().map(pair).collect()
}

/// Reads it. The order of the checks is kubectl's.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Exec, BadUsage> {
    let words = values.words();
    let command = values.command();
    let filenames = values.list("filename");
    // Without dashes or with too many words before them: kubectl 1.37 takes neither.
    let is_command = |words: &[OsString]| {
        words.len() > 1 || (words.len() == 1 && !filenames.is_empty() && command.is_empty())
    };
    if is_command(&words) {
        return Err(BadUsage::NoDashes);
    }
    let pod_running_timeout = pod_running_timeout(values)?;
    let target = words.first().map(|word| word.to_string_lossy().into_owned());
    let target = target.filter(|target| !target.is_empty());
    if target.is_none() && filenames.is_empty() {
        return Err(BadUsage::NoTarget);
    }
    if command.is_empty() {
        return Err(BadUsage::NoCommand);
    }
    Ok(Exec {
        target,
        filenames,
        command,
        container: values.text("container"),
        env: env(values)?,
        stdin: values.is_on("stdin"),
        tty: values.is_on("tty"),
        quiet: values.is_on("quiet"),
        pod_running_timeout,
        global: global::read(values)?,
    })
}
