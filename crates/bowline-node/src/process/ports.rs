//! A port of a pod to a connection: the pods' ports are those of this host.

use std::fmt::{self, Display, Formatter};

use bowline_io::local;
use tokio::net::TcpStream;

use crate::localhost::Sockets;
use crate::runtime::Ports;

/// The ports of a pod.
#[derive(Clone, Debug)]
pub(super) struct HostPorts {
    /// `NAMESPACE/NAME`.
    pub pod: String,
}

impl Display for HostPorts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pod)
    }
}

impl Ports for HostPorts {
    type Stream = TcpStream;

    async fn dial(self, port: u16) -> Result<TcpStream, String> {
        reach(&self.pod, port).await
    }
}

/// Connects as containerd does, and with its words. The node's own ports are refused: it may trust
/// what comes from its own host.
async fn reach(pod: &str, port: u16) -> Result<TcpStream, String> {
    if local::is_own(port) {
        return Err(format!("port {port} is the node's own"));
    }
    Sockets::here().connect(pod, port).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_port_is_worded_as_by_containerd() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let pod = HostPorts { pod: "ns/p".into() };
        let refused = pod.dial(port).await.unwrap_err();
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
            let serving = bowline_io::serve::serve(
                listener,
                None,
                bowline_io::serve::Limits::default(),
                sessions.clone(),
                service,
            );
            let asking = async {
                // Whoever may is let in: it is served by now.
                let connected = TcpStream::connect((host, port)).await;
                let dialled = HostPorts { pod: "ns/p".into() }.dial(port).await;
                sessions.end.cancel();
                (connected.is_ok(), dialled)
            };
            let ((), (connected, dialled)) = tokio::join!(serving, asking);
            assert!(connected, "{address}");
            assert_eq!(dialled.unwrap_err(), format!("port {port} is the node's own"));
        }
    }
}
