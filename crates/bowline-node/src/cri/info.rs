//! What a runtime says of a container or a sandbox beyond the interface: the JSON of a verbose
//! status.
//!
//! containerd has `config`, as the container was asked for, and `runtimeSpec`, the specification of
//! OCI; CRI-O has the latter. Both leave out what is false. Whatever else is there, or is not what
//! it should be, is as if nothing were said.

use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use tonic::Code;

use super::client::{ANSWER_PATIENCE, CallError, Client};
use super::messages::{
    CONTAINER_RUNNING, ContainerStatusRequest, ContainerStatusResponse, PodSandboxStatusRequest,
    PodSandboxStatusResponse, Strings,
};

/// What is known of a container's process; `None` is what was not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContainerInfo {
    /// Whether it has a terminal.
    pub tty: Option<bool>,
    /// Whether it has a stdin.
    pub stdin: Option<bool>,
}

#[derive(Deserialize)]
struct Verbose {
    config: Option<Config>,
    #[serde(rename = "runtimeSpec")]
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    tty: bool,
    #[serde(default)]
    stdin: bool,
}

#[derive(Deserialize)]
struct Spec {
    process: Option<Process>,
}

#[derive(Deserialize)]
struct Process {
    #[serde(default)]
    terminal: bool,
}

impl ContainerInfo {
    /// Asks for what is known of a container.
    ///
    /// # Errors
    /// [`CallError`] if the runtime does not answer.
    pub(super) async fn of(
        client: &Client,
        container_id: &str,
    ) -> Result<ContainerInfo, CallError> {
        Ok(ContainerInfo::read(&status(client, container_id, true).await?.info))
    }

    fn read(info: &Strings) -> ContainerInfo {
        let text = info.get("info").map_or("", String::as_str);
        let Ok(Verbose { config, spec }) = serde_json::from_str(text) else {
            return ContainerInfo::default();
        };
        let terminal = spec.and_then(|spec| spec.process).map(|process| process.terminal);
        ContainerInfo {
            tty: config.as_ref().map(|config| config.tty).or(terminal),
            stdin: config.map(|config| config.stdin),
        }
    }
}

/// Asks for a container's status.
///
/// # Errors
/// [`CallError`] if the runtime does not answer.
pub(super) async fn status(
    client: &Client,
    container_id: &str,
    verbose: bool,
) -> Result<ContainerStatusResponse, CallError> {
    let request = ContainerStatusRequest { container_id: container_id.to_owned(), verbose };
    client.call("ContainerStatus", request, Some(ANSWER_PATIENCE)).await
}

/// Asks whether a container runs. One that the runtime does not know any more does not.
///
/// # Errors
/// If the runtime does not answer.
pub(super) async fn is_running(client: &Client, container_id: &str) -> io::Result<bool> {
    match status(client, container_id, false).await {
        Ok(answer) => Ok(answer.status.is_some_and(|status| status.state == CONTAINER_RUNNING)),
        Err(CallError::Status(status)) if status.code() == Code::NotFound => Ok(false),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The network of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// The host's, which is also that of the sandbox's process; 0 is none.
    Host { pid: u32 },
    /// The one at this path.
    At(PathBuf),
    /// The one that was made with the sandbox's process.
    OfProcess { pid: u32 },
    /// It has gone, by the runtime's own word.
    Closed,
    /// Nothing was said that could be understood.
    Unknown,
}

#[derive(Deserialize)]
struct VerboseSandbox {
    #[serde(default)]
    pid: u32,
    #[serde(default, rename = "netNamespaceClosed")]
    is_closed: bool,
    #[serde(rename = "runtimeSpec")]
    spec: SandboxSpec,
}

#[derive(Deserialize)]
struct SandboxSpec {
    linux: Linux,
}

#[derive(Deserialize)]
struct Linux {
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: PathBuf,
}

impl Network {
    /// Asks for the network of a sandbox.
    ///
    /// # Errors
    /// [`CallError`] if the runtime does not answer.
    pub(super) async fn of(client: &Client, pod_sandbox_id: &str) -> Result<Network, CallError> {
        let request =
            PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse =
            client.call("PodSandboxStatus", request, Some(ANSWER_PATIENCE)).await?;
        Ok(Network::read(&answer.info))
    }

    fn read(info: &Strings) -> Network {
        let text = info.get("info").map_or("", String::as_str);
        let Ok(VerboseSandbox { pid, is_closed, spec }) = serde_json::from_str(text) else {
            return Network::Unknown;
        };
        let mut namespaces = spec.linux.namespaces.into_iter();
        match namespaces.find(|namespace| namespace.kind == "network") {
            Some(_) if is_closed => Network::Closed,
            Some(Namespace { path, .. }) if !path.as_os_str().is_empty() => Network::At(path),
            Some(_) if pid > 0 => Network::OfProcess { pid },
            Some(_) => Network::Unknown,
            None => Network::Host { pid },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_only_where_it_is_said() {
        let read = |text: &str| Network::read(&[("info".to_owned(), text.to_owned())].into());
        let spec = |namespaces: &str| {
            format!(r#"{{"pid":7,"runtimeSpec":{{"linux":{{"namespaces":[{namespaces}]}}}}}}"#)
        };
        let pid = r#"{"type":"pid"}"#;
        assert_eq!(read(&spec(pid)), Network::Host { pid: 7 });
        let at = format!(r#"{pid},{{"type":"network","path":"/run/netns/x"}}"#);
        assert_eq!(read(&spec(&at)), Network::At("/run/netns/x".into()));
        let new = r#"{"type":"network"}"#;
        assert_eq!(read(&spec(new)), Network::OfProcess { pid: 7 });
        let closed = spec(&at).replace(r#""pid":7"#, r#""netNamespaceClosed":true"#);
        assert_eq!(read(&closed), Network::Closed);
        for nothing in ["", "{}", "[]", r#"{"runtimeSpec":{}}"#, r#"{"runtimeSpec":{"linux":{}}}"#]
        {
            assert_eq!(read(nothing), Network::Unknown, "{nothing}");
        }
    }

    #[test]
    fn each_runtime_says_it_in_its_own_way() {
        let read = |text: &str| {
            let info = ContainerInfo::read(&[("info".to_owned(), text.to_owned())].into());
            (info.tty, info.stdin)
        };
        for (text, expected) in [
            // containerd
            (r#"{"pid":1,"config":{"tty":true,"stdin":true}}"#, (Some(true), Some(true))),
            (r#"{"config":{},"runtimeSpec":{"process":{}}}"#, (Some(false), Some(false))),
            // CRI-O
            (r#"{"runtimeSpec":{"process":{"terminal":true}},"pid":1}"#, (Some(true), None)),
            (r#"{"runtimeSpec":{"process":{"args":[]}}}"#, (Some(false), None)),
            // Nobody
            ("{}", (None, None)),
            ("", (None, None)),
            ("[]", (None, None)),
            (r#"{"config":null,"runtimeSpec":{"process":null}}"#, (None, None)),
            (r#"{"config":{"tty":"yes"}}"#, (None, None)),
            (r#"{"config":{"tty":true}"#, (None, None)),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(read(&"[".repeat(100_000)), (None, None));
        assert_eq!(ContainerInfo::read(&Strings::new()), ContainerInfo::default());
    }
}
