//! `bowline gateway`: its configuration to a listener and what answers behind it, and to others of
//! the latter when the configuration changes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::clusters::Clusters;
use bowline_gateway::components::Components;
use bowline_gateway::files::api::Api;
use bowline_gateway::files::cluster::Cluster;
use bowline_gateway::files::policies::Policies;
use bowline_gateway::files::tokens::Tokens;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::server;
use bowline_io::objects;
use bowline_io::serve::{Limits, Sessions, Settings, serve};
use bowline_io::tls::{self, ClientFiles, ServerFiles};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::args::gateway::{self as args, Gateway};
use crate::args::node::Pair;
use crate::args::upstream::IN_CLUSTER;
use crate::servers::{identity, listen, start, until};
use crate::{print, upstreams};

/// How often the files of a configuration are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// `bowline gateway`.
pub async fn gateway(asked: Gateway) -> Result<()> {
    let end = start(asked.verbosity)?;
    let identity = identity(asked.certificate.as_ref(), asked.bind_address, "bowline")?;
    let tls = ServerFiles { identity, client_ca: asked.client_ca.clone() }.server()?;
    let mut sessions = Sessions::default();
    if let Some(caps) = asked.sessions.caps() {
        sessions = sessions.with(Arc::new(caps));
    }
    if asked.check {
        let address = SocketAddr::new(asked.bind_address, asked.secure_port);
        clusters(&asked, address, &sessions).await?;
        return say(&asked);
    }
    let (listener, address) = listen(asked.bind_address, asked.secure_port).await?;
    // A cluster of files has nothing that a request with a body could change.
    let is_before_servers = !asked.upstreams.servers.is_empty();
    let settings = Settings {
        limits: Limits::new(asked.unauthenticated_per_address),
        request_bodies: is_before_servers,
        http2: is_before_servers,
        http2_websockets: is_before_servers && asked.upstreams.http2_websockets,
    };
    let current = Arc::new(Current {
        clusters: Mutex::new(clusters(&asked, address, &sessions).await?),
        sessions: sessions.clone(),
        address,
    });
    print::notice(format_args!("serving on https://{address}"));
    let answering = current.clone();
    let service = move |peer, request| answering.clusters().answer(peer, request);
    let server = serve(listener, Some(tls), settings, sessions.clone(), service);
    tokio::select! {
        () = until(end, &sessions, asked.sessions.drain, server) => {}
        () = current.follow(asked) => {}
    }
    Ok(())
}

/// What answers now.
struct Current {
    clusters: Mutex<Clusters>,
    sessions: Sessions,
    address: SocketAddr,
}

impl Current {
    fn clusters(&self) -> Clusters {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks after the files of the configuration for ever, and has what they say answer from then
    /// on. Where they cannot be used, all stays as it is. Sessions that run go on.
    async fn follow(&self, mut asked: Gateway) {
        let mut known = contents(&asked).await;
        let mut fault = None;
        loop {
            sleep(LOOK_EVERY).await;
            if contents(&asked).await == known {
                continue;
            }
            match self.changed(&asked).await {
                Ok(next) => {
                    info!("the configuration has changed, and counts from now on");
                    (asked, fault) = (next, None);
                    known = contents(&asked).await;
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if fault.as_ref() != Some(&text) {
                        warn!("the configuration has changed and cannot be used: {text}");
                    }
                    // It is tried again: of several files that belong together one comes first.
                    fault = Some(text);
                }
            }
        }
    }

    async fn changed(&self, asked: &Gateway) -> Result<Gateway> {
        let next = args::read(&asked.line)?;
        let clusters = clusters(&next, self.address, &self.sessions).await?;
        for field in next.fixed_changes(asked) {
            warn!("{field} has changed: that counts after a restart");
        }
        *self.clusters.lock().unwrap_or_else(PoisonError::into_inner) = clusters;
        Ok(next)
    }
}

/// What is in the files of a configuration, each empty if it cannot be read.
async fn contents(asked: &Gateway) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let kubeconfigs = asked.upstreams.servers.iter().map(|server| &*server.kubeconfig);
    let kubeconfigs = kubeconfigs.filter(|file| *file != IN_CLUSTER).map(PathBuf::from);
    let own = [&asked.config, &asked.token_auth_file, &asked.authorization_policy_file];
    let files = own.into_iter().flatten().cloned().chain(kubeconfigs);
    let files: Vec<PathBuf> = files.collect();
    let read = |file: PathBuf| (file.clone(), std::fs::read(file).ok());
    #[expect(clippy::disallowed_methods, reason = "it only reads a few files")]
    let read = spawn_blocking(move || files.into_iter().map(read).collect());
    read.await.unwrap_or_default()
}

async fn clusters(asked: &Gateway, address: SocketAddr, sessions: &Sessions) -> Result<Clusters> {
    if !asked.upstreams.servers.is_empty() {
        return upstreams::clusters(asked, sessions).await;
    }
    let components = of_files(asked, address)?;
    let gateway = server::Gateway::new(components, asked.gates, sessions.clone());
    Ok(Clusters::new([(String::new(), gateway.living(asked.sessions.living))]))
}

/// A cluster that is described by files.
fn of_files(asked: &Gateway, address: SocketAddr) -> Result<Components> {
    let mut cluster = Cluster::default();
    for file in &asked.filenames {
        for object in objects::read(file.as_ref())? {
            cluster.add(object)?;
        }
    }
    let tokens = asked.token_auth_file.as_deref().map(Tokens::read).transpose()?;
    let policies = asked.authorization_policy_file.as_deref().map(Policies::read).transpose()?;
    let cluster = Arc::new(cluster);
    let nodes = Nodes {
        facts: cluster.clone(),
        address_types: asked.kubelet_preferred_address_types.clone(),
        tls: Some(kubelet_tls(asked)?),
        gates: asked.gates,
        checks: NodeChecks::default(),
    };
    Ok(Components {
        callers: Arc::new(Checked {
            authenticator: Arc::new(tokens.unwrap_or_default()),
            authorizer: Arc::new(policies.unwrap_or_default()),
            token_reviewer: None,
            vouching: None,
        }),
        backend: Arc::new(nodes),
        rest: Arc::new(Api { cluster, address: address.to_string() }),
    })
}

/// As kube-apiserver: without a CA the kubelets' certificates are not checked.
pub(crate) fn kubelet_tls(asked: &Gateway) -> Result<tls::Client> {
    let identity = asked.kubelet_client.clone();
    let identity = identity.map(|Pair { certificate, key }| (certificate, key));
    Ok(ClientFiles { identity, ca: asked.kubelet_ca.clone() }.client()?)
}

/// Says what would run.
fn say(asked: &Gateway) -> Result<()> {
    print::notice(format_args!(
        "would serve on https://{}:{}",
        asked.bind_address, asked.secure_port
    ));
    for server in &asked.upstreams.servers {
        let name = if server.name.is_empty() {
            "the cluster".to_owned()
        } else {
            format!("cluster {}", server.name)
        };
        let context = server.context.as_ref().map(|context| format!(", context {context}"));
        print::notice(format_args!("{name}: {}{}", server.kubeconfig, context.unwrap_or_default()));
    }
    for file in &asked.filenames {
        print::notice(format_args!("pods and nodes: {file}"));
    }
    Ok(())
}
