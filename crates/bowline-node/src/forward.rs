//! One port-forward: joins an upgraded connection with the ports of a pod.
//! Above: `kubelet`. Below: `bowline_io::forward`, `bowline_proto::portforward`.

use std::collections::HashSet;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bowline_io::crowd::{Failure, Local};
use bowline_io::forward::{Happening, Pump};
use bowline_io::local;
use bowline_io::record::End;
use bowline_io::stream::{Connection, Upgraded};
use bowline_io::text::of_system;
use bowline_proto::portforward::{Forward, Id};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// How long a port may take to accept a connection. It is on this host.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// A pod whose ports can be reached. It shows itself as a log names it.
pub trait Ports: Display + Clone + Send + 'static {
    /// What a connection is.
    type Stream: Local + Send + 'static;

    /// Connects to one of its ports.
    ///
    /// # Errors
    /// Why not, in words for the user.
    fn dial(self, port: u16) -> impl Future<Output = Result<Self::Stream, String>> + Send;
}

/// A pod of this host: its ports are the host's own.
#[derive(Clone, Debug)]
pub struct HostPod {
    /// `NAMESPACE/NAME`.
    pub name: String,
}

impl Display for HostPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Ports for HostPod {
    type Stream = TcpStream;

    /// IPv4 first, as containerd, and with its words. Whoever may only reach a pod's ports must not
    /// reach the node itself, which could believe what comes from its own host.
    async fn dial(self, port: u16) -> Result<TcpStream, String> {
        if local::is_own(port) {
            return Err(format!("port {port} is the node's own"));
        }
        let four = match connect((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => of_system(&error),
        };
        let six = match connect((Ipv6Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => of_system(&error),
        };
        Err(format!(
            "failed to connect to localhost:{port} inside namespace {:?}, IPv4: dial tcp4 \
             127.0.0.1:{port}: connect: {four} IPv6 dial tcp6 [::1]:{port}: connect: {six} ",
            self.name
        ))
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout");
    let stream = timeout(DIAL_PATIENCE, TcpStream::connect(address)).await.map_err(late)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Runs a port-forward for the client at the other end of `connection`, until it has gone or `end`.
/// Gives how it ended.
pub async fn run<S: Connection, P: Ports>(
    pod: P,
    forward: Forward,
    connection: Upgraded<S>,
    end: CancellationToken,
) -> End {
    let mut pump: Pump<S, P::Stream> = Pump::new(forward, connection);
    let mut dials: JoinSet<(Id, u16, Dialled<P::Stream>)> = JoinSet::new();
    // Those that were not given up while they were being made.
    let mut wanted: HashSet<Id> = HashSet::new();
    let mut ended = End::Over;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => {
                pump.leave("the node shuts down").await;
                return End::Shutdown;
            }
            Some(Ok((id, port, dialled))) = dials.join_next() => match dialled {
                Ok(mut fresh) if wanted.remove(&id) => {
                    if let Some(stream) = fresh.0.take() {
                        pump.attach(id, stream);
                    }
                }
                Err(error) if wanted.remove(&id) => {
                    // What kubectl's users know from the kubelet; the uid is empty there, too.
                    let why = format!("error forwarding port {port} to pod {pod}, uid : {error}");
                    info!("{why}");
                    pump.fail(id, &why);
                }
                _ => {}
            },
            happening = pump.next() => match happening {
                None => return ended,
                Some(Happening::Asked(id, port)) => {
                    debug!("{pod}: connection {} to port {port}", id.number());
                    wanted.insert(id);
                    let pod = pod.clone();
                    dials.spawn(async move {
                        (id, port, pod.dial(port).await.map(|stream| Fresh(Some(stream))))
                    });
                }
                Some(Happening::Reset(id)) => {
                    wanted.remove(&id);
                }
                Some(Happening::Broken(id, error)) => {
                    debug!("{pod}: connection {}: {error}", id.number());
                }
                Some(Happening::Lost(loss)) => {
                    ended = End::ClientGone(loss.to_string());
                    wanted.clear();
                    dials.abort_all();
                }
            },
        }
    }
}

type Dialled<L> = Result<Fresh<L>, String>;

/// A connection that nobody has taken yet. Given up, it must not look like one that had nothing to
/// say.
struct Fresh<L: Local>(Option<L>);

impl<L: Local> Drop for Fresh<L> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.abort(Failure::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_port_is_worded_as_by_containerd() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let refused = HostPod { name: "ns/p".into() }.dial(port).await.unwrap_err();
        let expected = format!(
            "failed to connect to localhost:{port} inside namespace \"ns/p\", IPv4: dial tcp4 \
             127.0.0.1:{port}: connect: connection refused IPv6 dial tcp6 [::1]:{port}: connect: "
        );
        assert!(refused.starts_with(&expected), "{refused}");
    }

    #[tokio::test]
    async fn a_port_that_this_process_serves_is_not_forwarded_to() {
        for (address, host) in
            [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1")]
        {
            // Where this host has IPv6 at all.
            let bound = tokio::net::TcpListener::bind((address, 0)).await;
            let Ok(listener) = bound else { continue };
            let port = listener.local_addr().unwrap().port();
            let sessions = bowline_io::serve::Sessions::default();
            let service = |_, _| async { http::Response::new(bowline_io::serve::body("")) };
            let serving = bowline_io::serve::serve(listener, None, sessions.clone(), service);
            let asking = async {
                // Whoever may is let in: it is served by now.
                let connected = TcpStream::connect((host, port)).await;
                let dialled = HostPod { name: "ns/p".into() }.dial(port).await;
                sessions.end.cancel();
                (connected.is_ok(), dialled)
            };
            let ((), (connected, dialled)) = tokio::join!(serving, asking);
            assert!(connected, "{address}");
            assert_eq!(dialled.unwrap_err(), format!("port {port} is the node's own"));
        }
    }
}
