//! The flags of `dev`.

use std::path::PathBuf;
use std::time::Duration;

use super::gates::{self, Gates};
use super::node::{self, DRAIN_TIMEOUT, drain_timeout};
use super::pflag::Values;
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP, LOG_LEVEL};

/// Be a small cluster on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dev {
    /// Files with the Pods to run; the demo pod where there are none.
    pub filenames: Vec<String>,
    /// The gateway's port; 0 picks one.
    pub port: u16,
    /// Where to write the kubeconfig; a temporary place where there is none.
    pub kubeconfig: Option<PathBuf>,
    /// Kubernetes feature gates.
    pub gates: Gates,
    /// How many connections a port-forward may have at once.
    pub max_connections_per_forward: usize,
    /// How long output is awaited after a command has ended; `None` for as long as it may come.
    pub output_drain_timeout: Option<Duration>,
    /// `-v`.
    pub verbosity: i32,
}

/// Its table.
pub static COMMAND: Command = Command {
    name: "dev",
    about: "Start a small cluster on this machine's loopback, for any kubectl.",
    text: "A node and a gateway in one process, with as much of the Kubernetes API as kubectl \
           needs to find pods, to run commands in them, to see their logs, to copy files and to \
           reach their ports. Its containers are processes of \
           this machine. \
           Without -f it runs a pod called nginx, a small web server.\n\n\
           The kubeconfig is complete when the ready line is printed. Its context admin may do \
           everything; its context viewer may look but not run commands. Ctrl-C stops all of it.",
    usage: "[-f FILE] [flags]",
    examples: &[
        (
            "Start it, and write the kubeconfig to a place of your choice",
            "{bowline} dev --kubeconfig dev.yaml",
        ),
        ("Use it, from another terminal", "kubectl --kubeconfig dev.yaml exec -it nginx -- sh"),
        ("Run your own pods", "{bowline} dev -f pods.yaml"),
        (
            "See how a client falls back to SPDY",
            "{bowline} dev --feature-gates=TranslateStreamCloseWebsocketRequests=false",
        ),
    ],
    flags: &[
        gates::FLAG,
        Flag::list("filename", "FILE", "Pods in YAML or JSON. May be repeated.").short('f'),
        Flag::text("kubeconfig", "FILE", "Where to write the kubeconfig."),
        node::FORWARD_CONNECTIONS,
        DRAIN_TIMEOUT,
        Flag::port("port", "The port of the API. 0 picks a free one.").default("0"),
        LOG_LEVEL,
        HELP,
    ],
    shared: &[],
    words: Words::None,
};

/// Reads it.
///
/// # Errors
/// [`BadUsage`] for a feature gate that nobody knows, or a time below zero.
pub fn read(values: &Values) -> Result<Dev, BadUsage> {
    Ok(Dev {
        filenames: values.list("filename"),
        port: values.port("port").unwrap_or(0),
        kubeconfig: values.path("kubeconfig"),
        gates: gates::read(values)?,
        max_connections_per_forward: node::forward_connections(values)?,
        output_drain_timeout: drain_timeout(values)?,
        verbosity: values.number(LOG_LEVEL.long).unwrap_or(0),
    })
}
