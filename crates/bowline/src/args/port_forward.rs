//! The flags and words of `port-forward`, by kubectl's rules.

use std::time::Duration;

use super::global::{self, Global};
use super::pflag::Values;
use super::table::{Command, Flag, Words};
use super::{BadUsage, HELP, exec};

/// Forward local ports to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// `POD` or `TYPE/NAME`.
    pub target: String,
    /// `[LOCAL:]REMOTE`, as they were given; never empty.
    pub ports: Vec<String>,
    /// Where to listen: `localhost` and addresses, as they were given.
    pub addresses: Vec<String>,
    /// How long to wait for the first pod of a target that is no pod.
    pub pod_running_timeout: Duration,
    /// End when the connection is lost, as kubectl does.
    pub exit_on_lost: bool,
    /// How long a local connection waits while there is none to a pod.
    pub reconnect_wait: Duration,
    /// Which cluster, as whom.
    pub global: Global,
}

/// Its table.
pub static COMMAND: Command = Command {
    name: "port-forward",
    about: "Forward local ports to a pod.",
    text: "Listens on this machine and carries each connection to a port of the pod, until Ctrl-C. \
           Ports are [LOCAL:]REMOTE: a number, or a name that the pod gives to one of its ports; \
           with :REMOTE the system chooses the local one. For a service the ports are the \
           service's.\n\n\
           A connection that fails ends alone: its local peer gets a reset, and one line says why. \
           When the connection to the pod is lost, the listeners stay: open connections are reset, \
           new ones wait while {bowline} connects again, to another ready pod if the target is not \
           a pod itself. kubectl ends in both cases; --exit-on-lost does so in the second.",
    usage: "TYPE/NAME [flags] [LOCAL_PORT:]REMOTE_PORT...",
    examples: &[
        ("Reach port 80 of a pod at localhost:8080", "{bowline} port-forward nginx 8080:80"),
        ("Let the system choose the local port", "{bowline} port-forward nginx :80"),
        (
            "Several ports, one of them by its name",
            "{bowline} port-forward pod/db 5432 9187:metrics",
        ),
        ("A port of a service", "{bowline} port-forward svc/web 8080:http"),
        (
            "Let other machines in",
            "{bowline} port-forward --address localhost,10.19.21.23 deploy/web 8080:80",
        ),
    ],
    flags: &[
        Flag::list(
            "address",
            "ADDRESS",
            "Listen here: IP addresses, or localhost for both of its addresses, of which one has \
             to be free.",
        )
        .default("localhost"),
        Flag::switch(
            "exit-on-lost",
            "End with 1 when the connection to the pod is lost, as kubectl does.",
        ),
        Flag::duration("pod-running-timeout", "How long to wait until TYPE/NAME has a pod.")
            .default("1m0s"),
        Flag::duration(
            "reconnect-wait",
            "How long a local connection waits while there is none to a pod.",
        )
        .default("30s"),
        HELP,
    ],
    shared: global::FLAGS,
    words: Words::Some,
};

const RECONNECT_WAIT: Duration = Duration::from_secs(30);

/// Reads it.
///
/// # Errors
/// [`BadUsage`] for the first rule that is broken.
pub fn read(values: &Values) -> Result<PortForward, BadUsage> {
    let words = values.words();
    let mut words = words.iter().map(|word| word.to_string_lossy().into_owned());
    let (target, ports) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
    if ports.is_empty() {
        return Err(BadUsage::NoPorts);
    }
    let default = || vec!["localhost".to_owned()];
    let addresses = if values.is_given("address") { values.items("address") } else { default() };
    if addresses.is_empty() {
        return Err(BadUsage::NoAddress);
    }
    let reconnect_wait = values.duration("reconnect-wait").map(|duration| duration.positive());
    Ok(PortForward {
        target,
        ports,
        addresses,
        pod_running_timeout: exec::pod_running_timeout(values)?,
        exit_on_lost: values.is_on("exit-on-lost"),
        reconnect_wait: reconnect_wait.map_or(RECONNECT_WAIT, Option::unwrap_or_default),
        global: global::read(values)?,
    })
}
