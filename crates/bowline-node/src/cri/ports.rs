//! Who connects to the ports of a pod: the node, inside of the pod's network, or the runtime.
//!
//! Runtimes end both directions of a connection a second after one of them has ended, in good
//! order, so that nobody behind them can tell what they have cut (docs/protocols/traps.md, T45).
//! The node does not, so it connects by itself where it can enter the network.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::info;

use super::client::{CallError, Client};
use super::info::Network;
use super::netns::{Entrances, NamespaceError, NamespacePorts};
use crate::runtime::Refusal;

/// Who connects to the ports of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortForward {
    /// The node itself, where it can enter the pod's network namespace; the runtime's streaming
    /// server elsewhere.
    #[default]
    Auto,
    /// The runtime's streaming server.
    Runtime,
    /// The node itself, inside of the pod's network namespace. It has to be in the host's network,
    /// with the rights of root.
    Namespace,
}

/// The ports of all pods.
#[derive(Debug)]
pub(super) struct PodPorts {
    by: PortForward,
    entrances: Entrances,
    /// A reason why some were left to the runtime was logged.
    is_told: AtomicBool,
}

impl PodPorts {
    pub(super) fn new(by: PortForward) -> PodPorts {
        PodPorts { by, entrances: Entrances::default(), is_told: AtomicBool::new(false) }
    }

    /// Returns the ports of a sandbox inside of its network, or `None` if they are left to the
    /// runtime. `pod` is its name in logs.
    ///
    /// # Errors
    /// If the runtime does not say which network that is, or it cannot be used although it has to
    /// be.
    pub(super) async fn inside(
        &self,
        client: &Client,
        pod: &str,
        sandbox: &str,
    ) -> Result<Option<NamespacePorts>, Refusal> {
        if self.by == PortForward::Runtime {
            return Ok(None);
        }
        let network = match Network::of(client, sandbox).await {
            // The runtime has better words for it, asked for the stream itself.
            Err(CallError::Status(_)) if self.by == PortForward::Auto => return Ok(None),
            network => network?,
        };
        if self.by == PortForward::Namespace {
            let path = path(network, sandbox)?;
            return Ok(Some(self.open(pod, sandbox, path.as_deref())?));
        }
        match self.enter(client, network, pod, sandbox).await {
            Ok(ports) => Ok(Some(ports)),
            Err(why) => {
                self.tell(&why);
                Ok(None)
            }
        }
    }

    /// Opens a network, if it is certain that it is the pod's, and that it can be entered.
    async fn enter(
        &self,
        client: &Client,
        network: Network,
        pod: &str,
        sandbox: &str,
    ) -> Result<NamespacePorts, NamespaceError> {
        let path = match network {
            // Also the host's: whether this program has the same cannot be seen otherwise.
            Network::Host { pid: pid @ 1.. } => of_process(pid),
            Network::Host { .. } => return Err(NamespaceError::Unknown(sandbox.to_owned())),
            other => path(other, sandbox)?.unwrap_or_default(),
        };
        if path.starts_with("/proc") && !client.names_the_same_processes().await {
            return Err(NamespaceError::Unseen(path));
        }
        let ports = self.open(pod, sandbox, Some(&path))?;
        ports.try_to_enter().await?;
        Ok(ports)
    }

    fn open(
        &self,
        pod: &str,
        sandbox: &str,
        path: Option<&Path>,
    ) -> Result<NamespacePorts, NamespaceError> {
        NamespacePorts::open(pod.to_owned(), sandbox, path, &self.entrances)
    }

    /// Says once why ports are left to the runtime.
    fn tell(&self, why: &NamespaceError) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            info!(
                "port-forwards are left to the runtime's own streaming server, which ends both \
                 directions of a connection soon after one of them has ended: {why}"
            );
        }
    }
}

/// Returns where a network is, by what the runtime says; `None` is the host's.
fn path(network: Network, sandbox: &str) -> Result<Option<PathBuf>, NamespaceError> {
    match network {
        Network::Host { .. } => Ok(None),
        Network::At(path) => Ok(Some(path)),
        Network::OfProcess { pid } => Ok(Some(of_process(pid))),
        Network::Closed => Err(NamespaceError::Closed(sandbox.to_owned())),
        Network::Unknown => Err(NamespaceError::Unknown(sandbox.to_owned())),
    }
}

fn of_process(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}
