//! A gateway and a node of ours as processes of their own, so that each can be killed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::Client;
use crate::server::Server;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: box, namespace: default}\nspec: \
                   {nodeName: node, containers: [{name: box}]}\nstatus: {phase: Running}\n";

/// A gateway before a node with the pod `box`.
#[derive(Debug)]
pub struct Pair {
    /// The node.
    pub node: Server,
    /// The gateway.
    pub gateway: Server,
    /// What a node that is [started anew](Self::restart_node) is told besides.
    pub node_flags: Vec<String>,
    bowline: PathBuf,
    place: tempfile::TempDir,
}

impl Pair {
    /// Starts both. `port_of` says at which port the gateway finds the node that serves at an
    /// address: its own, or that of something in between.
    #[must_use]
    pub fn start(bowline: &Path, port_of: impl FnOnce(&str) -> u16) -> Pair {
        let place = tempfile::tempdir().expect("a temporary directory can be had");
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, text).expect("a temporary file can be written");
            path
        };
        let node = start_node(bowline, &write("pod.yaml", POD), 0, &[]);
        let port = port_of(&node.address());
        let objects = format!(
            "{POD}---\napiVersion: v1\nkind: Node\nmetadata: {{name: node}}\nstatus: {{addresses: \
             [{{type: InternalIP, address: 127.0.0.1}}], daemonEndpoints: {{kubeletEndpoint: \
             {{Port: {port}}}}}}}\n"
        );
        let mut gateway = Command::new(bowline);
        gateway.args(["gateway", "--secure-port", "0", "--bind-address", "127.0.0.1", "-v=2"]);
        gateway.arg("-f").arg(write("objects.yaml", &objects));
        let tokens = write("tokens.csv", "t,admin,admin,system:masters\n");
        let gateway = Server::start(gateway.arg("--token-auth-file").arg(tokens));
        write("kubeconfig", &kubeconfig(&gateway, "insecure-skip-tls-verify: true", "t"));
        Pair { node, gateway, node_flags: Vec::new(), bowline: bowline.to_owned(), place }
    }

    /// Another node in the place of one that was killed, at the same address.
    pub fn restart_node(&mut self) {
        let port = port(&self.node.address());
        let pod = self.place.path().join("pod.yaml");
        self.node = start_node(&self.bowline, &pod, port, &self.node_flags);
    }

    /// A client of the gateway.
    #[must_use]
    pub fn client(&self, name: &str, program: &Path) -> Client {
        let kubeconfig = self.place.path().join("kubeconfig");
        Client::new(name, program, &kubeconfig.to_string_lossy(), &["box"])
    }
}

fn start_node(bowline: &Path, pod: &Path, port: u16, flags: &[String]) -> Server {
    let mut node = Command::new(bowline);
    node.args(["node", "--runtime", "process", "-v=2", "--port", &port.to_string()]);
    // All sessions are in its one container.
    node.arg("--max-kept-sessions-per-container=1024").args(flags);
    node.arg("--kept-sessions-file").arg(pod.with_file_name("kept-sessions")).arg("-f");
    Server::start(node.arg(pod))
}

/// A kubeconfig for a gateway: whom to trust, as a cluster's entry says it, and a token.
#[must_use]
pub fn kubeconfig(gateway: &Server, trust: &str, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: \
         {{server: \"https://{}\", {trust}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: \
         u}}}}]\nusers: [{{name: u, user: {{token: {token}}}}}]\n",
        gateway.address()
    )
}

/// The port of an address.
#[must_use]
pub fn port(address: &str) -> u16 {
    let port = address.rsplit(':').next().unwrap_or_default();
    port.parse().expect("an address has a port")
}
