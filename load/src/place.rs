//! A directory with certificates and objects, to a gateway and a node that run there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bowline_interop::cluster::Cluster;
use bowline_interop::pki::{Authority, Pair};
use bowline_io::dial::{Endpoint, Tls};
use bowline_io::tls::{self, Identity, Trust};
use tempfile::TempDir;
use url::Url;

use crate::client::Clients;
use crate::server::Server;

/// A container that does nothing.
pub const IDLE: &str = "[{name: box, image: none}]";
/// The one user.
pub const TOKEN: &str = "load";

/// Files that the parts of one line share.
pub struct Place {
    dir: TempDir,
    bowline: PathBuf,
    ca: String,
    share: f64,
}

/// A gateway before a node with the pod `box`.
pub struct Roles {
    pub node: Server,
    pub gateway: Server,
}

impl Place {
    /// `share` is how much of every line's number of sessions is run.
    pub fn new(share: f64) -> Result<Place> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let place = Place { dir, bowline: bowline()?, ca: authority.pem.clone(), share };
        place.write("ca.crt", &authority.pem)?;
        for (name, pair) in [("server", authority.server()?), ("client", authority.client()?)] {
            let Pair { certificate, key } = pair;
            place.write(&format!("{name}.crt"), &certificate)?;
            place.write(&format!("{name}.key"), &key)?;
        }
        place.write("tokens.csv", &format!("{TOKEN},load,load,system:masters\n"))?;
        Ok(place)
    }

    /// This place's share of so many sessions.
    pub fn count(&self, sessions: usize) -> usize {
        ((sessions as f64 * self.share) as usize).max(1)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    pub fn bowline(&self) -> &Path {
        &self.bowline
    }

    /// A gateway that believes the node's certificate, and a node that asks for the gateway's.
    pub fn start(&self, containers: &str) -> Result<Roles> {
        self.write("pod.yaml", &pod(containers))?;
        let node = self.start_node()?;
        let gateway = self.start_gateway(node.port)?;
        Ok(Roles { node, gateway })
    }

    /// The same, with a node that may have so many descriptors.
    pub fn start_with_descriptors(&self, descriptors: u32) -> Result<Roles> {
        self.write("pod.yaml", &pod(IDLE))?;
        let node = self.node();
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors.to_string()]);
        let node = Server::start(limited.arg(node.get_program()).args(node.get_args()))?;
        let gateway = self.start_gateway(node.port)?;
        Ok(Roles { node, gateway })
    }

    fn start_node(&self) -> Result<Server> {
        Server::start(&mut self.node())
    }

    fn node(&self) -> Command {
        let mut node = self.role("node");
        node.args(["--address", "127.0.0.1", "--port", "0", "-f"]).arg(self.path("pod.yaml"));
        node.arg("--client-ca-file").arg(self.path("ca.crt"));
        node
    }

    /// A node as its gateway reaches it.
    pub fn node_endpoint(&self, node: &Server) -> Result<(Endpoint, Url)> {
        let identity = Identity::read(&self.path("client.crt"), &self.path("client.key"))?;
        let config = tls::client(&Trust::Ca(self.ca.as_bytes().to_vec()), Some(&identity))?;
        let server = Url::parse(&format!("https://127.0.0.1:{}", node.port))?;
        let tls = Tls { config, server_name: None };
        Ok((Endpoint::of(&server, Some(tls), None), server))
    }

    /// A gateway before a node at this port.
    pub fn start_gateway(&self, node: u16) -> Result<Server> {
        let pod = pod(IDLE);
        let objects = format!(
            "{pod}---\napiVersion: v1\nkind: Node\nmetadata: {{name: node}}\nstatus: {{addresses: \
             [{{type: InternalIP, address: 127.0.0.1}}], daemonEndpoints: {{kubeletEndpoint: \
             {{Port: {node}}}}}}}\n"
        );
        let mut gateway = self.role("gateway");
        gateway.args(["--bind-address", "127.0.0.1", "--secure-port", "0", "-f"]);
        gateway.arg(self.write("objects.yaml", &objects)?);
        for (flag, file) in [
            ("--token-auth-file", "tokens.csv"),
            ("--kubelet-certificate-authority", "ca.crt"),
            ("--kubelet-client-certificate", "client.crt"),
            ("--kubelet-client-key", "client.key"),
        ] {
            gateway.arg(flag).arg(self.path(file));
        }
        Server::start(&mut gateway)
    }

    /// A gateway before the API server of a real cluster.
    pub fn start_upstream(&self, cluster: &Cluster) -> Result<Server> {
        let mut gateway = self.role("gateway");
        gateway.args(["--bind-address", "127.0.0.1", "--secure-port", "0"]);
        Server::start(gateway.arg("--upstream").arg(cluster.admin()))
    }

    /// A node with the pod `box`, as the kubelet of a real cluster.
    pub fn start_kubelet(&self, cluster: &Cluster) -> Result<Server> {
        let mut node = Command::new(&self.bowline);
        node.args(["node", "--address", "127.0.0.1", "--port", "0", "-f"]);
        node.arg(self.write("pod.yaml", &pod(IDLE))?);
        for (flag, file) in [
            ("--tls-cert-file", "pki/kubelet.crt"),
            ("--tls-private-key-file", "pki/kubelet.key"),
            ("--client-ca-file", "pki/kubelet-client-ca.crt"),
        ] {
            node.arg(flag).arg(cluster.path(file));
        }
        Server::start(&mut node)
    }

    fn role(&self, name: &str) -> Command {
        let mut command = Command::new(&self.bowline);
        command.arg(name).arg("--tls-cert-file").arg(self.path("server.crt"));
        command.arg("--tls-private-key-file").arg(self.path("server.key"));
        command
    }

    /// Clients of a gateway, which they trust by the authority.
    pub fn clients(&self, gateway: &Server) -> Result<Clients> {
        let ca = format!(", certificate-authority: {}", self.path("ca.crt").display());
        let server = format!("https://127.0.0.1:{}", gateway.port);
        let kubeconfig = self.write("kubeconfig", &kubeconfig(&server, &ca))?;
        Clients::new(self.bowline(), kubeconfig, gateway.port, &self.ca)
    }

    /// The way to a server without TLS at this port.
    pub fn plain_kubeconfig(&self, port: u16) -> Result<PathBuf> {
        self.write("plain-kubeconfig", &kubeconfig(&format!("http://127.0.0.1:{port}"), ""))
    }
}

fn kubeconfig(server: &str, ca: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: \
         {{server: \"{server}\"{ca}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: \
         u}}}}]\nusers: [{{name: u, user: {{token: {TOKEN}}}}}]\n"
    )
}

/// The pod `box` on the node `node`.
pub fn pod(containers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: box, namespace: default}}\nspec: {{nodeName: \
         node, containers: {containers}}}\nstatus: {{phase: Running}}\n"
    )
}

/// Next to this program, where `cargo x load` builds both.
fn bowline() -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name("bowline");
    path.canonicalize().with_context(|| format!("{}: run `cargo x load`", path.display()))
}
