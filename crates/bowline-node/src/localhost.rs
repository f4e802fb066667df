//! Two sockets of one network to a connection with a port of its localhost, in containerd's words.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bowline_io::text::go_error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a port may take to accept a connection. It is on this host.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// Sockets that are not connected yet. A network may be without one of the two kinds.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub four: io::Result<TcpSocket>,
    pub six: io::Result<TcpSocket>,
}

impl Sockets {
    /// Makes sockets of this thread's own network.
    pub(crate) fn here() -> Sockets {
        Sockets { four: TcpSocket::new_v4(), six: TcpSocket::new_v6() }
    }

    /// Connects over IPv4 first, as containerd does.
    ///
    /// # Errors
    /// Why neither could be connected. `namespace` is how the text names the network.
    pub(crate) async fn connect(self, namespace: &str, port: u16) -> Result<TcpStream, String> {
        let four = match connect(self.four, (Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => go_error(&error),
        };
        let six = match connect(self.six, (Ipv6Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => go_error(&error),
        };
        Err(format!(
            "failed to connect to localhost:{port} inside namespace {namespace:?}, IPv4: dial tcp4 \
             127.0.0.1:{port}: connect: {four} IPv6 dial tcp6 [::1]:{port}: connect: {six} "
        ))
    }
}

async fn connect(socket: io::Result<TcpSocket>, address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout");
    let stream = timeout(DIAL_PATIENCE, socket?.connect(address)).await.map_err(late)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
