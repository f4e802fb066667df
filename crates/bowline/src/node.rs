//! The main of `bowline node`: a kubelet's paths, and a socket in front of a container runtime's.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use anyhow::{Context, Result};
use bowline_io::serve::{Drain, Limits, Sessions, serve};
use bowline_io::tls::{OwnIdentity, ServerFiles};
use bowline_node::cri::{CriRuntime, CriSettings, Endpoint, Face, Hangup};
use bowline_node::forward::Slots;
use bowline_node::health::Readiness;
use bowline_node::kept::Keeper;
use bowline_node::kubelet::Kubelet;
use bowline_node::process::{ProcessRuntime, Settings};
use bowline_node::runtime::Runtime;
use bowline_node::streaming::Streaming;

use crate::args::cri::Cri;
use crate::args::kept::Kept;
use crate::args::node::{self, Node, Pair};
use crate::servers::{identity, listen, start, until};
use crate::{node_access, print};

/// A server, to be run to its end.
type Server = Pin<Box<dyn Future<Output = ()>>>;

/// What all servers of a node have in common.
struct Shared {
    sessions: Sessions,
    forwards: Slots,
    keeper: Keeper,
    limits: Limits,
}

/// Runs `bowline node` to its end.
pub async fn node(asked: Node) -> Result<()> {
    let end = start(asked.verbosity)?;
    let sessions = Sessions::default();
    let shared = Shared {
        keeper: keeper(&asked.kept, &sessions)?,
        sessions,
        forwards: Slots::new(asked.max_connections_per_forward),
        limits: Limits::new(asked.unauthenticated_per_address),
    };
    let cri = asked.cri.as_ref().map(|cri| Arc::new(CriRuntime::new(settings(&asked, cri))));
    let runtime: Option<Arc<dyn Runtime>> = match &asked.runtime {
        None => None,
        Some(node::Runtime::Process(files)) => {
            let settings = Settings {
                hangup_grace: asked.stream_hangup_grace,
                drain: asked.output_drain_timeout,
            };
            Some(Arc::new(ProcessRuntime::from_files(files, settings)?))
        }
        Some(node::Runtime::Cri) => cri.clone().map(|cri| cri as Arc<dyn Runtime>),
    };
    let mut servers: Vec<Server> = Vec::new();
    if let Some(runtime) = &runtime {
        servers.push(kubelet(&asked, runtime.clone(), &shared).await?);
    }
    if let (Some(flags), Some(cri)) = (&asked.cri, &cri)
        && let Some(at) = &flags.listen
    {
        servers.extend(face(flags, at, cri, &shared).await?);
    }
    until(end, &shared.sessions, Drain::default(), all(servers)).await;
    // It is there without paths of a kubelet as well.
    if let Some(runtime) = runtime.or(cri.map(|cri| cri as Arc<dyn Runtime>)) {
        runtime.shut_down().await;
    }
    Ok(())
}

fn keeper(asked: &Kept, sessions: &Sessions) -> Result<Keeper> {
    let Kept { limits, file } = asked;
    let Some(file) = file else { return Ok(Keeper::new(sessions.clone(), *limits)) };
    let keeper = Keeper::recording(sessions.clone(), *limits, file);
    keeper.with_context(|| format!("--kept-sessions-file {}", file.display()))
}

fn settings(asked: &Node, cri: &Cri) -> CriSettings {
    let grace = asked.stream_hangup_grace;
    CriSettings {
        exec: cri.exec,
        hangup: if cri.hangs_up { Hangup::End { grace } } else { Hangup::None },
        drain: asked.output_drain_timeout,
        port_forward: cri.port_forward,
        ..CriSettings::new(cri.endpoint.clone())
    }
}

/// A kubelet's paths.
async fn kubelet(asked: &Node, runtime: Arc<dyn Runtime>, shared: &Shared) -> Result<Server> {
    let node_name = node_access::node_name(&asked.access);
    let access = node_access::access(&asked.access, asked.client_ca.is_some(), &node_name).await?;
    let tls = if asked.plain_http {
        None
    } else {
        let name = format!("system:node:{node_name}");
        let identity = identity(asked.certificate.as_ref(), asked.address, &name)?;
        Some(ServerFiles { identity, client_ca: asked.client_ca.clone() }.server()?)
    };
    let (listener, address) = listen(asked.address, asked.port).await?;
    let open = if access.is_some() { "" } else { " (loopback only: no --client-ca-file)" };
    let scheme = if tls.is_some() { "https" } else { "http" };
    print::notice(format_args!("serving on {scheme}://{address}{open}"));
    let (sessions, forwards) = (shared.sessions.clone(), shared.forwards.clone());
    let (keeper, readiness) = (shared.keeper.clone(), Readiness::new(runtime.clone()));
    let all = sessions.clone();
    let kubelet = Kubelet { runtime, sessions: all, access, forwards, keeper, readiness };
    let service = move |peer, request| kubelet.clone().answer(peer, request);
    Ok(Box::pin(serve(listener, tls, shared.limits, sessions, service)))
}

/// A socket in front of a container runtime's, and the server of its streams.
async fn face(
    flags: &Cri,
    at: &Endpoint,
    cri: &Arc<CriRuntime>,
    shared: &Shared,
) -> Result<[Server; 2]> {
    let pair = flags.streaming_certificate.clone();
    let files = pair.map(|Pair { certificate, key }| ServerFiles {
        identity: OwnIdentity::Files { certificate, key },
        client_ca: None,
    });
    let tls = files.map(ServerFiles::server).transpose()?;
    let (listener, address) = listen(flags.streaming_address, flags.streaming_port).await?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{}", reachable(address));
    let sessions = shared.sessions.clone();
    let (readiness, forwards) = (Readiness::new(cri.clone()), shared.forwards.clone());
    let streaming = Streaming::new(&base, sessions.clone(), forwards, readiness);
    let streaming = streaming.keeping(shared.keeper.clone());
    let face = Face::bind(at, cri, streaming.clone(), sessions.end.clone());
    let face = face.with_context(|| format!("listen on {at}"))?;
    print::notice(format_args!(
        "serving the container runtime interface on {at}, streams on {base}"
    ));
    let service = move |peer, request| streaming.clone().answer(peer, request);
    let streams = serve(listener, tls, shared.limits, sessions, service);
    Ok([Box::pin(face.serve()), Box::pin(streams)])
}

/// Runs servers until the last of them has ended.
async fn all(mut servers: Vec<Server>) {
    poll_fn(|cx| {
        servers.retain_mut(|server| server.as_mut().poll(cx).is_pending());
        if servers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// An address by which this host reaches a listener of its own.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}
