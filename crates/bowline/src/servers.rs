//! The servers' mains: options to listeners, a ready line, and an end by signal.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use bowline_io::serve::{Drain, Sessions};
use bowline_io::tls::OwnIdentity;
use bowline_io::{descriptors, shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::args;
use crate::args::node::Pair;
use crate::certificates::Authority;
use crate::dev::{self, Dev};
use crate::{logging, memory, print};

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

/// What every server does first: it logs, has as many descriptors as it may, and gives what ends
/// it.
pub(crate) fn start(verbosity: i32) -> Result<CancellationToken> {
    logging::start(verbosity);
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!("the limit of descriptors stays as it is: {error}");
    }
    Ok(shutdown::on_signal()?)
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

/// Runs a server until the token, and then to its own end. A second signal leaves out what is left
/// of the drain.
pub(crate) async fn until(
    end: CancellationToken,
    sessions: &Sessions,
    drain: Drain,
    server: impl Future<Output = ()>,
) {
    let all = sessions.clone();
    #[expect(clippy::disallowed_methods, reason = "it waits for the end of the run")]
    tokio::spawn(async move {
        end.cancelled().await;
        let again = shutdown::on_signal().unwrap_or_default();
        tokio::select! {
            () = all.drain(drain) => {}
            () = again.cancelled() => all.end.cancel(),
        }
    });
    tokio::select! {
        () = server => {}
        () = memory::trim_after_sessions(sessions) => {}
    }
}
