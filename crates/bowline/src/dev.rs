//! A small cluster on loopback in one process: a node, a gateway before it, and a kubeconfig.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::components::Components;
use bowline_gateway::files::api::Api;
use bowline_gateway::files::cluster::Cluster;
use bowline_gateway::files::policies::Policies;
use bowline_gateway::files::tokens::Tokens;
use bowline_gateway::gates::Gates;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::server::Gateway;
use bowline_io::auth::allowed_clients::{API_SERVER, AllowedClients};
use bowline_io::auth::in_order::Certificates;
use bowline_io::auth::{MASTERS, User};
use bowline_io::objects::Object;
use bowline_io::serve::{Limits, Sessions, serve};
use bowline_io::{random, tls};
use bowline_node::forward::Slots;
use bowline_node::health::Readiness;
use bowline_node::kept::{self, Keeper};
use bowline_node::kubelet::{Access, Kubelet};
use bowline_node::process::{ProcessRuntime, RunningPod, Settings, manifest};
use bowline_node::runtime::Runtime as _;
use bowline_proto::limits::FORWARD_CONNECTIONS;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::certificates::Authority;
use crate::{memory, pod_status, web};

/// The name of the only node.
const NODE: &str = "dev";
/// What the demo pod's server takes to listen at most, on the slowest machine.
const DEMO_PATIENCE: Duration = Duration::from_secs(30);

/// What `dev` is asked for.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Pods to run; the demo pod where there are none.
    pub files: Vec<PathBuf>,
    /// The API's port; 0 picks one.
    pub port: u16,
    /// Where to write the kubeconfig; a temporary place where there is none.
    pub kubeconfig: Option<PathBuf>,
    /// The gateway's gates.
    pub gates: Gates,
    /// How many connections a port-forward may have; as many as without a flag where there is no
    /// number.
    pub forward_connections: Option<usize>,
    /// How long output is awaited after a command has ended; `None` for as long as it may come.
    pub drain: Option<Duration>,
}

/// A running cluster. [`stop`](Dev::stop) it: dropping leaves processes to the operating system.
pub struct Dev {
    /// The API.
    pub address: SocketAddr,
    /// How to get in.
    pub kubeconfig: PathBuf,
    runtime: Arc<ProcessRuntime>,
    gateway: (Sessions, JoinHandle<()>),
    node: (Sessions, JoinHandle<()>),
    /// Keeps the demo pod's port.
    _reserved: TcpSocket,
    /// Holds a temporary kubeconfig.
    _place: Option<tempfile::TempDir>,
}

impl Dev {
    /// Starts everything; when this returns, the kubeconfig is complete and the API answers.
    pub async fn start(config: &Config) -> Result<Dev> {
        let authority = Authority::new("bowline-dev").context("make a CA")?;
        // The demo pod's port is its server's alone, also before that listens.
        let reserved = web::reserve((Ipv4Addr::LOCALHOST, 0).into())?;
        let (objects, specs) = objects(&config.files, reserved.local_addr()?.port())?;
        let runtime = Arc::new(ProcessRuntime::start(
            specs,
            Settings { drain: config.drain, ..Settings::default() },
        ));
        if config.files.is_empty() {
            demo_listens(&runtime).await?;
        }
        let (node_address, node) = start_node(&authority, runtime.clone(), config).await?;

        let mut cluster = Cluster::default();
        for object in objects {
            cluster.add(object)?;
        }
        cluster.add(node_object(node_address.port()))?;
        let known = runtime.clone();
        let cluster = cluster.refreshed_by(Arc::new(move |pod| pod_status::refresh(&known, pod)));
        let client = authority.client(API_SERVER, MASTERS)?;
        let trust = tls::Trust::Ca(authority.pem().as_bytes().to_vec());
        let cluster = Arc::new(cluster);
        let nodes = Nodes {
            facts: cluster.clone(),
            address_types: vec!["Hostname".into()],
            tls: Some(tls::client(&trust, Some(&client))?.into()),
            gates: config.gates,
            checks: NodeChecks::default(),
        };
        let (admin, viewer) = (token(), token());
        let (address, gateway) =
            start_gateway(&authority, cluster, nodes, config.port, &admin, &viewer).await?;

        let (path, place) = match &config.kubeconfig {
            Some(path) => (path.clone(), None),
            None => {
                let place = tempfile::Builder::new().prefix("bowline-dev-").tempdir()?;
                (place.path().join("kubeconfig"), Some(place))
            }
        };
        let kubeconfig = kubeconfig(&address, authority.pem(), &admin, &viewer);
        write_private(&path, &kubeconfig).with_context(|| format!("write {}", path.display()))?;
        Ok(Dev {
            address,
            kubeconfig: path,
            runtime,
            gateway,
            node,
            _reserved: reserved,
            _place: place,
        })
    }

    /// Gives memory back for as long as it serves.
    pub async fn give_back(&self) {
        tokio::join!(
            memory::trim_after_sessions(&self.gateway.0),
            memory::trim_after_sessions(&self.node.0)
        );
    }

    /// Ends sessions, servers and every process: within a second, and within three where clients
    /// do not take the goodbye.
    pub async fn stop(self) {
        for (sessions, server) in [self.gateway, self.node] {
            sessions.end.cancel();
            if let Err(error) = server.await {
                tracing::warn!("a server ended badly: {error}");
            }
        }
        self.runtime.shut_down().await;
    }
}

async fn start_node(
    authority: &Authority,
    runtime: Arc<ProcessRuntime>,
    config: &Config,
) -> Result<(SocketAddr, (Sessions, JoinHandle<()>))> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let identity = authority.server(
        &format!("system:node:{NODE}"),
        &["localhost"],
        &[Ipv4Addr::LOCALHOST.into()],
    )?;
    let tls = tls::server(&identity, Some(authority.pem().as_bytes()), true)?;
    let sessions = Sessions::default();
    let forwards = Slots::new(config.forward_connections.unwrap_or(FORWARD_CONNECTIONS));
    // Clients must show a certificate, and the CA signs nothing but what is made here.
    let access = Access {
        authenticator: Arc::new(Certificates),
        authorizer: Arc::new(AllowedClients::default()),
        node_name: NODE.to_owned(),
        allow_get_streams: false,
    };
    let keeper = Keeper::new(sessions.clone(), kept::Limits::default());
    let (access, readiness) = (Some(access), Readiness::new(runtime.clone()));
    let all = sessions.clone();
    let kubelet = Kubelet { runtime, sessions: all, access, forwards, keeper, readiness };
    let service = move |peer, request| kubelet.clone().answer(peer, request);
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    let server =
        tokio::spawn(serve(listener, Some(tls), Limits::default(), sessions.clone(), service));
    Ok((address, (sessions, server)))
}

async fn start_gateway(
    authority: &Authority,
    cluster: Arc<Cluster>,
    nodes: Nodes,
    port: u16,
    admin: &str,
    viewer: &str,
) -> Result<(SocketAddr, (Sessions, JoinHandle<()>))> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.with_context(|| format!("listen on 127.0.0.1:{port}"))?;
    let address = listener.local_addr()?;
    let identity = authority.server("bowline", &["localhost"], &[Ipv4Addr::LOCALHOST.into()])?;
    let tls = tls::server(&identity, Some(authority.pem().as_bytes()), false)?;
    let mut tokens = Tokens::default();
    tokens.add(admin, User::new("admin", ["system:masters".to_owned()]));
    tokens.add(viewer, User::new("viewer", ["viewers".to_owned()]));
    let policy = json!({
        "apiVersion": "abac.authorization.kubernetes.io/v1beta1",
        "kind": "Policy",
        "spec": {
            "user": "viewer", "namespace": "*", "resource": "*", "apiGroup": "*", "readonly": true,
        },
    });
    let policies = Policies::parse(&policy.to_string())?;
    let sessions = Sessions::default();
    let gates = nodes.gates;
    let components = Components {
        callers: Arc::new(Checked {
            authenticator: Arc::new(tokens),
            authorizer: Arc::new(policies),
            token_reviewer: None,
            vouching: None,
        }),
        backend: Arc::new(nodes),
        rest: Arc::new(Api { cluster, address: address.to_string() }),
    };
    let gateway = Gateway::new(components, gates, sessions.clone());
    let service = move |peer, request| gateway.clone().answer(peer, request);
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    let server =
        tokio::spawn(serve(listener, Some(tls), Limits::default(), sessions.clone(), service));
    Ok((address, (sessions, server)))
}

/// What the API shows, and the pods as the runtime runs them.
fn objects(files: &[PathBuf], demo_port: u16) -> Result<(Vec<Object>, Vec<manifest::PodSpec>)> {
    let mut found = Vec::new();
    for file in files {
        found.extend(bowline_io::objects::read(file)?);
    }
    if files.is_empty() {
        found.push(demo_pod(demo_port)?);
        found.push(demo_service());
    }
    let mut specs = Vec::new();
    for object in &mut found {
        // What is neither is refused by name when it is added to the cluster.
        if object.kind() == "Pod" {
            object.value["spec"]["nodeName"] = NODE.into();
            specs.push(manifest::pod(object)?);
        }
    }
    Ok((found, specs))
}

/// `default/nginx`: a small web server of ours, on this port.
fn demo_pod(port: u16) -> Result<Object> {
    let program = std::env::current_exe().context("find this program")?;
    let program = program.to_str().context("this program's path is not text")?;
    let value = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "nginx", "namespace": "default", "labels": { "app": "nginx" } },
        "spec": {
            "containers": [{
                "name": "nginx",
                "image": "bowline.example/web",
                "command": [program, web::COMMAND, format!("127.0.0.1:{port}")],
                "ports": [{ "name": "http", "containerPort": port, "protocol": "TCP" }],
            }],
        },
    });
    Ok(Object { value, path: "the demo pod".into(), document: 1 })
}

/// Resolves once the demo pod's server can be reached: when `dev` is ready, so is its pod.
async fn demo_listens(runtime: &ProcessRuntime) -> Result<()> {
    let containers = runtime.pods().iter().flat_map(RunningPod::containers);
    for container in containers {
        let said = timeout(DEMO_PATIENCE, container.first_output()).await.ok().flatten();
        let said = said.unwrap_or_default();
        if !said.starts_with(web::READY.as_bytes()) {
            let said = String::from_utf8_lossy(&said);
            bail!("the demo pod's server does not start: {}", said.trim());
        }
    }
    Ok(())
}

/// `default/nginx` as a service: port 80 goes to the pod's port by its name.
fn demo_service() -> Object {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "nginx", "namespace": "default", "labels": { "app": "nginx" } },
        "spec": {
            "selector": { "app": "nginx" },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }],
        },
    });
    Object { value, path: "the demo service".into(), document: 1 }
}

fn node_object(port: u16) -> Object {
    let value = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODE },
        "status": {
            "addresses": [{ "type": "Hostname", "address": "127.0.0.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": { "kubeletVersion": concat!(
                "v1.37.0+bowline-",
                env!("CARGO_PKG_VERSION"),
            ) },
        },
    });
    Object { value, path: "the node".into(), document: 1 }
}

fn token() -> String {
    random::hex::<16>()
}

fn kubeconfig(address: &SocketAddr, ca: &str, admin: &str, viewer: &str) -> Value {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let user = |name: &str, token: &str| json!({ "name": name, "user": { "token": token } });
    let context =
        |user: &str| json!({ "name": user, "context": { "cluster": "dev", "user": user } });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "dev",
            "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": ca,
            },
        }],
        "users": [user("admin", admin), user("viewer", viewer)],
        "contexts": [context("admin"), context("viewer")],
        "current-context": "admin",
    })
}

/// Complete or not there at all, and for its owner only: it holds tokens.
fn write_private(path: &Path, kubeconfig: &Value) -> io::Result<()> {
    use std::io::Write;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(serde_json::to_string_pretty(kubeconfig)?.as_bytes())?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listens(script: &str) -> Result<()> {
        let value = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "nginx" },
            "spec": { "containers": [{ "name": "nginx", "command": ["sh", "-c", script] }] },
        });
        let pod = manifest::pod(&Object { value, path: "a test".into(), document: 1 })?;
        let runtime = ProcessRuntime::start(vec![pod], Settings::default());
        let result = demo_listens(&runtime).await;
        runtime.shut_down().await;
        result
    }

    #[tokio::test]
    async fn it_is_ready_once_its_pod_is() {
        assert!(listens("echo serving on http://127.0.0.1:1; exec sleep 60").await.is_ok());
        for (script, said) in [("echo address already in use >&2", ": address"), ("exit 3", ": ")] {
            let error = listens(script).await.unwrap_err().to_string();
            let expected = format!("the demo pod's server does not start{said}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
