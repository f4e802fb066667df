//! The servers' mains: options to listeners, a ready line, and an end by signal.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use bowline_gateway::callers::checked::Checked;
use bowline_gateway::clusters::Clusters;
use bowline_gateway::components::Components;
use bowline_gateway::files::api::Api;
use bowline_gateway::files::cluster::Cluster;
use bowline_gateway::files::policies::Policies;
use bowline_gateway::files::tokens::Tokens;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::server::Gateway;
use bowline_io::serve::{Limits, Sessions, Settings, serve};
use bowline_io::tls::{self, Identity, OwnIdentity, ServerFiles};
use bowline_io::{descriptors, objects, shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::args::node::Pair;
use crate::certificates::Authority;
use crate::dev::{self, Dev};
use crate::{logging, memory, print, upstreams};

/// `bowline dev`.
pub async fn dev(asked: args::dev::Dev) -> Result<()> {
    let end = start(asked.verbosity)?;
    let config = dev::Config {
        files: asked.filenames.iter().map(PathBuf::from).collect(),
        port: asked.port,
        kubeconfig: asked.kubeconfig,
        gates: asked.gates,
        forward_connections: Some(asked.max_connections_per_forward),
        drain: asked.output_drain_timeout,
    };
    let dev = Dev::start(&config).await?;
    print::notice(format_args!(
        "serving on https://{}, kubeconfig: {}",
        dev.address,
        dev.kubeconfig.display()
    ));
    tokio::select! {
        () = end.cancelled() => {}
        () = dev.give_back() => {}
    }
    dev.stop().await;
    Ok(())
}

/// `bowline gateway`.
pub async fn gateway(asked: args::gateway::Gateway) -> Result<()> {
    let end = start(asked.verbosity)?;
    let identity = identity(asked.certificate.as_ref(), asked.bind_address, "bowline")?;
    let tls = ServerFiles { identity, client_ca: asked.client_ca.clone() }.server()?;
    let (listener, address) = listen(asked.bind_address, asked.secure_port).await?;
    let mut sessions = Sessions::default();
    if let Some(caps) = asked.sessions.caps() {
        sessions = sessions.with(Arc::new(caps));
    }
    let living = asked.sessions.living;
    let clusters = if asked.upstreams.servers.is_empty() {
        let gateway = Gateway::new(of_files(&asked, address)?, asked.gates, sessions.clone());
        let gateway = gateway.living(living);
        Clusters::new([(String::new(), gateway)])
    } else {
        upstreams::clusters(&asked, &sessions).await?
    };
    print::notice(format_args!("serving on https://{address}"));
    let service = move |peer, request| clusters.clone().answer(peer, request);
    let settings = Settings {
        limits: Limits::new(asked.unauthenticated_per_address),
        request_bodies: !asked.upstreams.servers.is_empty(),
    };
    until(end, &sessions, serve(listener, Some(tls), settings, sessions.clone(), service)).await;
    Ok(())
}

/// A cluster that is described by files.
fn of_files(asked: &args::gateway::Gateway, address: SocketAddr) -> Result<Components> {
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
        tls: Some(kubelet_tls(asked.kubelet_ca.as_deref(), asked.kubelet_client.as_ref())?),
        gates: asked.gates,
        checks: NodeChecks::default(),
    };
    Ok(Components {
        callers: Arc::new(Checked {
            authenticator: Arc::new(tokens.unwrap_or_default()),
            authorizer: Arc::new(policies.unwrap_or_default()),
            vouching: None,
        }),
        backend: Arc::new(nodes),
        rest: Arc::new(Api { cluster, address: address.to_string() }),
    })
}

/// What every server does first: it logs, has as many descriptors as it may, and gives what ends
/// it.
pub(crate) fn start(verbosity: i32) -> Result<CancellationToken> {
    logging::start(verbosity);
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!("the limit of descriptors stays as it is: {error}");
    }
    Ok(shutdown::on_signal()?)
}

/// As kube-apiserver: without a CA the kubelets' certificates are not checked.
pub(crate) fn kubelet_tls(
    ca: Option<&std::path::Path>,
    client: Option<&Pair>,
) -> Result<Arc<rustls::ClientConfig>> {
    let trust = match ca {
        Some(path) => tls::Trust::Ca(tls::read(path)?),
        None => tls::Trust::Anybody,
    };
    let client = client.map(|pair| Identity::read(&pair.certificate, &pair.key)).transpose()?;
    Ok(tls::client(&trust, client.as_ref())?)
}

/// The certificate that was given, or one of our own of this name for this address.
pub(crate) fn identity(given: Option<&Pair>, address: IpAddr, name: &str) -> Result<OwnIdentity> {
    match given.cloned() {
        Some(Pair { certificate, key }) => Ok(OwnIdentity::Files { certificate, key }),
        None => {
            let local = IpAddr::from(Ipv4Addr::LOCALHOST);
            let authority = Authority::new("bowline").context("make a certificate")?;
            Ok(OwnIdentity::Made(authority.server(name, &["localhost"], &[address, local])?))
        }
    }
}

pub(crate) async fn listen(address: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let wanted = SocketAddr::new(address, port);
    let listener = TcpListener::bind(wanted).await;
    let listener = listener.with_context(|| format!("listen on {wanted}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Runs a server until the token, and then to its own end.
pub(crate) async fn until(
    end: CancellationToken,
    sessions: &Sessions,
    server: impl Future<Output = ()>,
) {
    let all = sessions.end.clone();
    #[expect(clippy::disallowed_methods, reason = "it waits for the end of the run")]
    tokio::spawn(async move {
        end.cancelled().await;
        all.cancel();
    });
    tokio::select! {
        () = server => {}
        () = memory::trim_after_sessions(sessions) => {}
    }
}
