//! The flags and words of `cp`, by kubectl's rules.

use std::path::PathBuf;
use std::time::Duration;

use bowline_client::copy;

use super::exec::{self, HOLD_PROGRAM, KEEP, KEEP_FOR};
use super::global::{self, Global};
use super::pflag::{BadValue, Values, bad_value};
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP};

/// Copy files between this machine and containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cp {
    /// From where.
    pub source: Spec,
    /// To where.
    pub target: Spec,
    /// `-c`.
    pub container: Option<String>,
    /// Leave modes and times to the system.
    pub no_preserve: bool,
    /// How often to try again; `None` is without an end.
    pub retries: Option<u64>,
    /// Compare sums at the end.
    pub verify: bool,
    /// Make symbolic links that stay in the tree.
    pub symlinks: bool,
    /// How to show how far it is.
    pub progress: Progress,
    /// `--keep`, and what belongs to it.
    pub keep: Option<Keep>,
    /// How many bytes may come out of a container.
    pub max_bytes: Option<u64>,
    /// How many entries may.
    pub max_entries: Option<u64>,
    /// Which cluster, as whom.
    pub global: Global,
}

/// How the commands of a copy are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long without a client.
    pub keep_for: Duration,
    /// The program for the container.
    pub program: Option<PathBuf>,
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// On this machine.
    Local(String),
    /// In a container.
    Remote {
        /// The pod's namespace, if it is said.
        namespace: Option<String>,
        /// The pod.
        pod: String,
        /// The path.
        path: String,
    },
}

/// How to show how far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A bar, if stderr is a terminal.
    Auto,
    /// Lines of text.
    Plain,
    /// Not at all.
    None,
}

const MAX_BYTES: Flag = Flag::text(
    "max-bytes",
    "BYTES",
    "Take at most so many bytes out of a container, headers with them; more is refused.",
)
.default("1099511627776");
const MAX_ENTRIES: Flag = Flag::text(
    "max-entries",
    "NUMBER",
    "Take at most so many files, directories, links and extended headers out of a container.",
)
.default("10000000");
const PROGRESS: Flag = Flag::text(
    "progress",
    "HOW",
    "How to show how far it is: auto (a bar, if stderr is a terminal), plain (lines), or none.",
)
.default("auto");
const SYMLINKS: Flag = Flag::text(
    "symlinks",
    "HOW",
    "What becomes of symbolic links out of a container: keep makes those that stay in the tree, \
     skip none, as kubectl.",
)
.default("keep");

/// The default of `--keep-for`.
const KEPT_FOR: &str = "5m0s";

fn keep(values: &Values) -> Option<Keep> {
    let keep_for = exec::keep_for(values, copy::Keep::KEEP_FOR);
    values.is_on(KEEP.long).then(|| Keep { keep_for, program: exec::hold_program(values) })
}

/// Its table.
pub static COMMAND: Command = Command {
    name: "cp",
    about: "Copy files between this machine and containers.",
    text: "One side or both are [[NAMESPACE/]POD:]PATH. The target is the name that the copy gets; \
           in a container, a directory that is there gets the copy into it, and what is in a \
           source that ends in . comes there itself. A source that is a symbolic link means what \
           it leads to. Needs tar in the container, and sh for copies into one.\n\n\
           The target gets its name when all is there, and names, kinds and sizes of both sides \
           are the same: until then the copy is in a directory .bowline-cp-… beside it, or in it. \
           What cannot be replaced, because of its directory, is written in place then, with a \
           warning; links, pipes and devices are written through. Modes and times come along. \
           Symbolic links that lead out of the tree are skipped, and so are pipes and sockets, \
           with a warning. What is lost on the way is tried again as often as --retries says, and \
           goes on where it was.\n\n\
           With --keep the commands in the containers survive their connections, as those of \
           exec --keep do: if one is lost, others are made, and nothing is begun again. The node \
           keeps them if that is Bowline's; else a small program is put into the container. What \
           is lost all the same is tried again as often as --retries says.\n\n\
           The exit code is 0 if all was copied, that of the container's tar if that failed, 1 \
           where something was not copied, or has changed meanwhile, 255 where the connection was \
           lost.",
    usage: "SOURCE TARGET [-c CONTAINER] [flags]",
    examples: &[
        ("A file out of a pod", "{bowline} cp web:/etc/nginx/nginx.conf nginx.conf"),
        ("A directory into a pod", "{bowline} cp site web:/usr/share/nginx/html -c nginx"),
        ("From one pod to another", "{bowline} cp prod/db-0:/backup staging/db-0:/backup"),
        (
            "Over a bad connection, and make sure",
            "{bowline} cp web:/data data --retries=-1 --verify",
        ),
        (
            "Whatever happens to the connection, without another beginning",
            "{bowline} cp --keep web:/data data",
        ),
    ],
    flags: &[
        Flag::text(
            "container",
            "NAME",
            "Use this container. Without it: the one that the pod's annotation \
             kubectl.kubernetes.io/default-container names, or the first.",
        )
        .short('c'),
        HOLD_PROGRAM,
        KEEP,
        KEEP_FOR.default(KEPT_FOR),
        MAX_BYTES,
        MAX_ENTRIES,
        Flag::switch("no-preserve", "Leave modes, owners and times of the copy to the system."),
        PROGRESS,
        Flag::number(
            "retries",
            "TIMES",
            "How often to go on after a loss, in either direction; below 0 without an end.",
        )
        .default("0"),
        SYMLINKS,
        Flag::switch("verify", "Compare sha256 of both sides before the target gets its name."),
        HELP,
    ],
    shared: global::FLAGS,
    words: Words::Some,
};

/// Reads it. The order of the checks is kubectl's.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<Cp, BadUsage> {
    let words = values.words();
    let [source, target] = &words[..] else { return Err(BadUsage::CopyWords) };
    let text =
        |word: &std::ffi::OsString| word.to_str().map(ToOwned::to_owned).ok_or(BadUsage::CopyUtf8);
    let (source, target) = (spec(&text(source)?)?, spec(&text(target)?)?);
    if let (Spec::Local(_), Spec::Local(_)) = (&source, &target) {
        return Err(BadUsage::NoRemote);
    }
    for spec in [&source, &target] {
        let (Spec::Local(path) | Spec::Remote { path, .. }) = spec;
        if path.is_empty() {
            return Err(BadUsage::NoPath);
        }
        let is_home = path == "~" || path.starts_with("~/");
        if is_home && matches!(spec, Spec::Remote { .. }) {
            return Err(BadUsage::CopyHome);
        }
    }
    let number = |flag: &Flag| {
        let Some(text) = values.text(flag.long) else { return Ok(None) };
        let bad = |_| {
            let why = BadValue::Number(text.clone(), "invalid syntax");
            bad_value(flag, &text, why)
        };
        text.parse().map(Some).map_err(bad)
    };
    let progress = [("auto", Progress::Auto), ("plain", Progress::Plain), ("none", Progress::None)];
    let progress = values.choice(&PROGRESS, &progress)?;
    Ok(Cp {
        source,
        target,
        container: values.text("container"),
        no_preserve: values.is_on("no-preserve"),
        retries: u64::try_from(values.number("retries").unwrap_or(0)).ok(),
        verify: values.is_on("verify"),
        symlinks: values.choice(&SYMLINKS, &[("keep", true), ("skip", false)])?,
        progress,
        keep: keep(values),
        max_bytes: number(&MAX_BYTES)?,
        max_entries: number(&MAX_ENTRIES)?,
        global: global::read(values)?,
    })
}

/// Reads `[[NAMESPACE/]POD:]PATH`. The first colon counts; kubectl turns backslashes of a remote
/// path into slashes, which makes another path of it, and is not done here. A slash in front of the
/// colon makes a path of this machine of it, unless it is between what can be a namespace and a
/// pod.
fn spec(text: &str) -> Result<Spec, BadUsage> {
    let Some((pod, path)) = text.split_once(':') else {
        return Ok(Spec::Local(text.to_owned()));
    };
    let path = path.to_owned();
    match pod.split_once('/') {
        None if pod.is_empty() => Err(BadUsage::FileSpec),
        None => Ok(Spec::Remote { namespace: None, pod: pod.to_owned(), path }),
        Some((namespace, pod)) if is_label(namespace) && pod.split('.').all(is_label) => {
            let (namespace, pod) = (Some(namespace.to_owned()), pod.to_owned());
            Ok(Spec::Remote { namespace, pod, path })
        }
        Some(_) => Ok(Spec::Local(text.to_owned())),
    }
}

/// RFC 1123, as Kubernetes has it: a namespace is one, a pod's name one or more with dots between.
fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::go_duration::GoDuration;
    use super::*;

    #[test]
    fn what_help_says_is_what_is_done() {
        let shown = GoDuration::parse(KEPT_FOR).unwrap();
        assert_eq!(shown.positive(), Some(copy::Keep::KEEP_FOR));
    }

    #[test]
    fn specs_are_kubectls() {
        let remote = |namespace: Option<&str>, pod: &str, path: &str| {
            let (namespace, pod) = (namespace.map(Into::into), pod.into());
            Ok(Spec::Remote { namespace, pod, path: path.into() })
        };
        assert_eq!(spec("/tmp/x"), Ok(Spec::Local("/tmp/x".into())));
        assert_eq!(spec("p:/tmp/a:b"), remote(None, "p", "/tmp/a:b"));
        assert_eq!(spec("ns/p:x"), remote(Some("ns"), "p", "x"));
        assert_eq!(spec("p:"), remote(None, "p", ""));
        assert_eq!(spec("ns-1/p.q:x"), remote(Some("ns-1"), "p.q", "x"));
        assert_eq!(spec(":x"), Err(BadUsage::FileSpec));
        for local in ["./a:b", "../a:b", "/tmp/a:b", "a/b/c:x", "a/:x", "A/p:x", "a/P:x", "-a/b:x"]
        {
            assert_eq!(spec(local), Ok(Spec::Local(local.into())), "{local}");
        }
    }
}
