//! The flags and words of `exec`, by kubectl's rules.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::global::{self, Global};
use super::go_duration::GoDuration;
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
    /// `--keep`, `--detach` and what belongs to them.
    pub keep: Option<Keep>,
    /// How long to wait for the first pod of a target that is no pod.
    pub pod_running_timeout: Duration,
    /// Which cluster, as whom.
    pub global: Global,
}

/// How a session is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Print the session and leave it at once.
    pub detach: bool,
    /// How long without a client, and after its end.
    pub keep_for: Duration,
    /// The program for the container.
    pub program: Option<PathBuf>,
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
           the command may still be running.\n\n\
           With --keep the session survives its connections: if one is lost, others are made, and \
           nothing is missing or comes twice. The node keeps it if that is Bowline's; else a small \
           program is put into the container. See {bowline} session --help.",
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
        ("Survive whatever happens to the connection", "{bowline} exec --keep web -- ./long-job"),
        ("Start a job, and come back for its result", "{bowline} exec --detach web -- ./long-job"),
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
        DETACH,
        ENV,
        Flag::list("filename", "FILE", "Take the target from a file, a directory or a URL.")
            .short('f'),
        HOLD_PROGRAM,
        KEEP,
        KEEP_FOR,
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

const DETACH: Flag =
    Flag::switch("detach", "Start the command, print its session and leave it; see session.");

/// Whether one is kept.
pub const KEEP: Flag = Flag::switch("keep", "Let the session survive its connections.");

/// How long a session is kept.
pub const KEEP_FOR: Flag = Flag::duration(
    "keep-for",
    "How long a kept session waits for a client that has vanished, and its result after its end.",
)
.default("10m0s");

/// The program for containers of nodes that are not ours.
pub const HOLD_PROGRAM: Flag = Flag::text(
    "hold-program",
    "FILE",
    "The static program that keeps a session in a container whose node does not. Without it: \
     bowline-hold-ARCH beside this program.",
);

/// The default of `--keep-for`.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// Reads `--keep-for`, which is else this long.
pub fn keep_for(values: &Values, otherwise: Duration) -> Duration {
    values.duration(KEEP_FOR.long).and_then(GoDuration::positive).unwrap_or(otherwise)
}

/// Reads `--hold-program`.
pub fn hold_program(values: &Values) -> Option<PathBuf> {
    values.text(HOLD_PROGRAM.long).map(PathBuf::from)
}

fn keep(values: &Values) -> Result<Option<Keep>, BadUsage> {
    let detach = values.is_on("detach");
    if detach && values.is_on("stdin") {
        return Err(BadUsage::Conflict("detach", "stdin"));
    }
    if !detach && !values.is_on(KEEP.long) {
        return Ok(None);
    }
    let (keep_for, program) = (keep_for(values, KEPT_FOR), hold_program(values));
    Ok(Some(Keep { detach, keep_for, program }))
}

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
        keep: keep(values)?,
        stdin: values.is_on("stdin"),
        tty: values.is_on("tty"),
        quiet: values.is_on("quiet"),
        pod_running_timeout,
        global: global::read(values)?,
    })
}
