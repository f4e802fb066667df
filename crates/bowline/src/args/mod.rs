//! The words of a command line to what is asked for, as plain data.

pub mod attach;
pub mod completion;
pub mod config_file;
pub mod cp;
pub mod cri;
pub mod dev;
pub mod exec;
pub mod gates;
pub mod gateway;
pub mod gateway_nodes;
pub mod global;
pub mod living;

pub mod go_duration;
pub mod kept;
pub mod node;
pub mod node_access;
pub mod pflag;
pub mod port_forward;
pub mod session;
pub mod suggestions;
pub mod table;
pub mod upstream;

use std::ffi::OsString;

use thiserror::Error;

use self::pflag::BadFlag;
use self::table::{Command, Flag, Kind, Words};

/// What is asked for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a command in a container.
    Exec(Box<exec::Exec>),
    /// Attach to a container's main process.
    Attach(Box<attach::Attach>),
    /// Come back to a kept session.
    Session(Box<session::Session>),
    /// Copy files.
    Cp(Box<cp::Cp>),
    /// Forward local ports to a pod.
    PortForward(Box<port_forward::PortForward>),
    /// Be a node.
    Node(Box<node::Node>),
    /// Be a gateway.
    Gateway(Box<gateway::Gateway>),
    /// Be a small cluster on loopback.
    Dev(dev::Dev),
    /// Show what this is.
    Demo,
    /// Say which version this is.
    Version,
    /// Print a completion script.
    Completion(completion::Shell),
    /// Explain a command.
    Help(&'static Command),
}

/// A command line that cannot be followed.
#[derive(Debug)]
pub struct Refusal {
    /// The command that it was meant for.
    pub command: &'static Command,
    /// What is wrong with it.
    pub usage: BadUsage,
}

/// What is wrong with a command line. Where kubectl has words for it, they are kubectl's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadUsage {
    /// A flag.
    #[error(transparent)]
    Flag(#[from] BadFlag),
    /// No such command.
    #[error("unknown command {0:?}")]
    Command(String),
    /// `exec POD ls` instead of `exec POD -- ls`.
    #[error("exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead")]
    NoDashes,
    /// Exec needs to know where.
    #[error("pod, type/name or --filename must be specified")]
    NoTarget,
    /// Exec needs to know what.
    #[error("you must specify at least one command for the container")]
    NoCommand,
    /// Session needs to know what to do.
    #[error("say list, or resume, result or end and one session")]
    SessionWords,
    /// Attach needs to know where.
    #[error("at least 1 argument is required for attach")]
    NoAttachTarget,
    /// Attach knows two words at most.
    #[error("expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {0}: [{1}]")]
    AttachWords(usize, String),
    /// Keys that there are none of.
    #[error(transparent)]
    DetachKeys(#[from] crate::detach::UnknownKey),
    /// Copies have two ends.
    #[error("source and destination are required")]
    CopyWords,
    /// An end of a copy that is no text.
    #[error("a file specification must be UTF-8")]
    CopyUtf8,
    /// Not `[[NAMESPACE/]POD:]PATH`.
    #[error("filespec must match the canonical format: [[namespace/]pod:]file/path")]
    FileSpec,
    /// Two ends on this machine.
    #[error("one of src or dest must be a remote file specification")]
    NoRemote,
    /// An end without a path.
    #[error("filepath can not be empty")]
    NoPath,
    /// A home, which no copy knows.
    #[error("~ means no home in a container: write the path, or ./~ for a directory of that name")]
    CopyHome,
    /// Port-forward needs to know where to listen.
    #[error("you must specify at least 1 address")]
    NoAddress,
    /// Port-forward needs to know where and what.
    #[error("TYPE/NAME and list of ports are required for port-forward")]
    NoPorts,
    /// A target by name and by file at once.
    #[error("resource/name arguments cannot be provided when a path is specified")]
    TargetTwice,
    /// The time for a pod to appear.
    #[error("--pod-running-timeout must be higher than zero")]
    PodRunningTimeout,
    /// `--request-timeout`.
    #[error(
        "Invalid timeout value. Timeout must be a single integer in seconds, or an integer \
         followed by a corresponding time unit (e.g. 1s | 2m | 3h)"
    )]
    RequestTimeout,
    /// Not one of the shells with completion.
    #[error("choose a shell: {}", completion::SHELLS.join(", "))]
    Shell,
    /// One of a pair of files.
    #[error("--{given} needs --{missing} as well")]
    Pair {
        /// The flag that was given.
        given: &'static str,
        /// The flag without which it means nothing.
        missing: &'static str,
    },
    /// Two flags that contradict each other.
    #[error("--{0} and --{1} exclude each other")]
    Conflict(&'static str, &'static str),
    /// A server that would let in everybody.
    #[error(
        "--address {0} needs --client-ca-file or --kubeconfig: without them, only loopback is \
         served"
    )]
    OpenToAll(std::net::IpAddr),
    /// A configuration file.
    #[error(transparent)]
    Config(#[from] config_file::BadConfig),
    /// A feature gate.
    #[error(transparent)]
    Gate(#[from] bowline_gateway::gates::GateError),
    /// A server without something to serve.
    #[error("--filename must say which objects there are")]
    NoObjects,
    /// A gateway without anything behind it.
    #[error("--upstream or --filename must say what is behind the gateway")]
    NothingBehind,
    /// A flag for container runtimes without one.
    #[error("--{0} needs --runtime=cri or --cri-listen")]
    NoContainerRuntime(&'static str),
}

impl BadUsage {
    /// Where the message points the reader to, as kubectl does.
    pub fn hint(&self) -> Hint {
        match self {
            BadUsage::Flag(_) => Hint::Usage,
            BadUsage::Command(_) => Hint::Commands,
            BadUsage::NoTarget
            | BadUsage::NoCommand
            | BadUsage::NoAttachTarget
            | BadUsage::AttachWords(..)
            | BadUsage::CopyWords
            | BadUsage::NoAddress
            | BadUsage::TargetTwice
            | BadUsage::FileSpec
            | BadUsage::NoRemote
            | BadUsage::NoPath
            | BadUsage::CopyHome
            | BadUsage::CopyUtf8
            | BadUsage::RequestTimeout => Hint::None,
            _ => Hint::HelpAndExamples,
        }
    }
}

/// The line below a usage error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// None.
    None,
    /// `See 'bowline exec --help' for usage.`
    Usage,
    /// For which program there is no such command, and which one may be meant.
    Commands,
    /// `See 'bowline exec -h' for help and examples`
    HelpAndExamples,
}

/// `-h` is taken by every command.
pub const HELP: Flag = Flag::switch("help", "Show this help.").short('h');

/// `-v` is taken by every command that talks to someone.
pub const VERBOSITY: Flag = Flag::number(
    "v",
    "LEVEL",
    "How much to say about what is going on. 6 shows requests, 8 their headers as well, 9 all.",
)
.short('v')
.default("0");

/// `-v` of the servers.
pub const LOG_LEVEL: Flag = Flag::number(
    "v",
    "LEVEL",
    "How much to log on stderr. 0: every session and refusal, with who, from where and what (of a \
     command, the program alone); 4: requests and the words of commands as well; 6: everything; \
     below 0: warnings.",
)
.short('v')
.default("0");

/// The program itself.
pub static ROOT: Command = Command {
    name: "",
    about: "Streaming for Kubernetes: run commands in containers, reach their ports, and serve \
            those who do.",
    text: "A session either ends with its true outcome, or bowline says that it does not know it. \
           Sessions travel over WebSocket as Kubernetes does it since 1.31, and over SPDY where \
           the other side is older.",
    usage: "COMMAND [flags]",
    examples: &[
        ("See all of it work, on this machine alone", "{bowline} demo"),
        ("Run a command in a pod", "{bowline} exec nginx -- date"),
        ("Copy a directory out of a pod", "{bowline} cp nginx:/etc/nginx conf"),
        ("Reach a pod's port from here", "{bowline} port-forward nginx 8080:80"),
        ("Start a cluster of one pod that any kubectl can talk to", "{bowline} dev"),
    ],
    flags: &[Flag::switch("version", "Say which version this is."), HELP],
    shared: global::FLAGS,
    words: Words::None,
};

static VERSION: Command = Command {
    name: "version",
    about: "Say which version this is.",
    text: "",
    usage: "",
    examples: &[],
    flags: &[HELP],
    shared: &[],
    words: Words::None,
};

static DEMO: Command = Command {
    name: "demo",
    about: "Show a session of each kind, on this machine alone.",
    text: "Starts what `{bowline} dev` starts, on free ports; runs a command over WebSocket with \
           its headers shown, one with input, output, errors and an exit code, the same over \
           SPDY, a port-forward, an attach and a copy; then stops everything. Needs no cluster \
           and leaves nothing behind.",
    usage: "",
    examples: &[("From nothing to a session in seconds", "{bowline} demo")],
    flags: &[HELP],
    shared: &[],
    words: Words::None,
};

static HELP_COMMAND: Command = Command {
    name: "help",
    about: "Explain a command.",
    text: "",
    usage: "[COMMAND]",
    examples: &[],
    flags: &[HELP],
    shared: &[],
    words: Words::Some,
};

/// All commands, in the order of the help.
pub static COMMANDS: [&Command; 12] = [
    &exec::COMMAND,
    &attach::COMMAND,
    &session::COMMAND,
    &cp::COMMAND,
    &port_forward::COMMAND,
    &dev::COMMAND,
    &DEMO,
    &gateway::COMMAND,
    &node::COMMAND,
    &completion::COMMAND,
    &HELP_COMMAND,
    &VERSION,
];

/// Reads a command line, without the program's name.
///
/// # Errors
/// [`Refusal`] for the first thing that cannot be followed.
pub fn read(args: &[OsString]) -> Result<Invocation, Refusal> {
    let Some(at) = command_position(args) else {
        return read_root(args).map_err(|usage| Refusal { command: &ROOT, usage });
    };
    let name = args[at].to_string_lossy().into_owned();
    let Some(command) = named(&name) else {
        return Err(Refusal { command: &ROOT, usage: BadUsage::Command(name) });
    };
    // Flags may stand before the command's name as well as after it.
    let rest: Vec<OsString> = [&args[..at], &args[at + 1..]].concat();
    read_command(command, &rest).map_err(|usage| Refusal { command, usage })
}

fn read_root(args: &[OsString]) -> Result<Invocation, BadUsage> {
    let values = pflag::read(&ROOT, args)?;
    let version = values.is_on("version") && !values.is_on(HELP.long);
    Ok(if version { Invocation::Version } else { Invocation::Help(&ROOT) })
}

fn read_command(command: &'static Command, args: &[OsString]) -> Result<Invocation, BadUsage> {
    let values = pflag::read(command, args)?;
    if values.is_on(HELP.long) {
        return Ok(Invocation::Help(command));
    }
    Ok(match command.name {
        "exec" => Invocation::Exec(Box::new(exec::read(&values)?)),
        "attach" => Invocation::Attach(Box::new(attach::read(&values)?)),
        "session" => Invocation::Session(Box::new(session::read(&values)?)),
        "cp" => Invocation::Cp(Box::new(cp::read(&values)?)),
        "port-forward" => Invocation::PortForward(Box::new(port_forward::read(&values)?)),
        "node" => Invocation::Node(Box::new(node::read(&values)?)),
        "gateway" => Invocation::Gateway(Box::new(gateway::read(&values)?)),
        "dev" => Invocation::Dev(dev::read(&values)?),
        "demo" => Invocation::Demo,
        "version" => Invocation::Version,
        "completion" => Invocation::Completion(completion::read(&values)?),
        _ => Invocation::Help(explained(&values)?),
    })
}

fn explained(values: &pflag::Values) -> Result<&'static Command, BadUsage> {
    let words = values.words();
    let Some(word) = words.first() else { return Ok(&ROOT) };
    let name = word.to_string_lossy();
    named(&name).ok_or_else(|| BadUsage::Command(name.into_owned()))
}

fn named(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().copied().find(|command| command.name == name)
}

/// Where the command's name stands: the first word that is neither a flag nor a flag's value. As in
/// cobra, a flag that nobody knows is taken to have a value.
fn command_position(args: &[OsString]) -> Option<usize> {
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let text = arg.to_string_lossy();
        if text == "--" {
            return None;
        }
        if !text.starts_with('-') || text == "-" {
            return Some(at);
        }
        at += if takes_next(&text) { 2 } else { 1 };
    }
    None
}

fn takes_next(arg: &str) -> bool {
    let is_switch = |flag: Option<&Flag>| flag.is_some_and(|flag| flag.kind == Kind::Bool);
    let find = |test: &dyn Fn(&Flag) -> bool| ROOT.all_flags().find(|flag| test(flag));
    match arg.strip_prefix("--") {
        Some(name) => !name.contains('=') && !is_switch(find(&|flag| flag.long == name)),
        None => {
            // `-n x`, but not `-nx` and not `-h`.
            let mut letters = arg.chars().skip(1);
            let letter = letters.next();
            letters.next().is_none() && !is_switch(find(&|flag| flag.short == letter))
        }
    }
}
