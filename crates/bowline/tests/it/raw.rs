//! Clients that write bytes of their own to a node or to a gateway before one.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bowline_interop::pair::{Pair, port};
use bowline_interop::server::{Server, until};
use bowline_io::tls::{self, Trust};
use rustls::{ClientConnection, StreamOwned};

use super::{bowline, children};

/// More than any answer takes: servers wait 10 s for a head, and 30 for streams.
pub const DEADLINE: Duration = Duration::from_secs(45);
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: box, namespace: default}\nspec: \
                   {containers: [{name: box}]}\n";
/// A server that serves this much has not swollen.
const MEMORY_MIB: u64 = 96;

/// Whom they speak to.
pub enum Place {
    /// A node without TLS: what it protects from is no client's bytes.
    Node { server: Server, _pod: tempfile::NamedTempFile },
    /// A gateway, and its node.
    Gateway(Pair),
}

/// A connection.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

impl Place {
    pub fn node() -> Place {
        Place::node_of(bowline())
    }

    /// With these flags as well.
    pub fn node_with(flags: &[&str]) -> Place {
        Place::start_node(bowline(), flags)
    }

    /// By a program that becomes ours.
    pub fn node_of(program: &Path) -> Place {
        Place::start_node(program, &[])
    }

    fn start_node(program: &Path, flags: &[&str]) -> Place {
        let mut pod = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        pod.write_all(POD.as_bytes()).unwrap();
        let mut node = Command::new(program);
        node.arg("node").args(flags);
        node.args(["--runtime", "process", "--plain-http", "--port", "0", "-f"]);
        Place::Node { server: Server::start(node.arg(pod.path())), _pod: pod }
    }

    pub fn gateway() -> Place {
        Place::gateway_of(bowline())
    }

    pub fn gateway_of(program: &Path) -> Place {
        Place::Gateway(Pair::start(program, port))
    }

    pub fn both() -> [Place; 2] {
        [Place::node(), Place::gateway()]
    }

    pub fn name(&self) -> &'static str {
        if matches!(self, Place::Node { .. }) { "node" } else { "gateway" }
    }

    /// Without TLS, even where the server wants it.
    pub fn tcp(&self) -> TcpStream {
        let address = match self {
            Place::Node { server, .. } => server.address(),
            Place::Gateway(pair) => pair.gateway.address(),
        };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    pub fn connect(&self) -> Box<dyn Wire> {
        let tcp = self.tcp();
        if let Place::Node { .. } = self {
            return Box::new(tcp);
        }
        let config = tls::client(&Trust::Anybody, None).unwrap();
        let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
        Box::new(StreamOwned::new(session, tcp))
    }

    /// Sends bytes and gives all that comes until the server closes.
    pub fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // It may close before it has read all of it.
        let _ = stream.write_all(bytes);
        let _ = stream.flush();
        rest(stream)
    }

    /// The head of a request for a shell's command, in the words of this server, without its end.
    pub fn head(&self, method: &str, command: &str) -> String {
        let shell = format!("command=sh&command=-c&command={command}");
        match self {
            Place::Node { .. } => format!(
                "{method} /exec/default/box/box?{shell}&input=1&output=1&error=1 HTTP/1.1\r\nHost: \
                 localhost\r\n"
            ),
            Place::Gateway(_) => format!(
                "{method} /api/v1/namespaces/default/pods/box/exec?container=box&{shell}&stdin=1&\
                 stdout=1&stderr=1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n"
            ),
        }
    }

    /// A request for a WebSocket.
    pub fn websocket(&self, command: &str, protocol: &str) -> Vec<u8> {
        let head = self.head("GET", command);
        format!(
            "{head}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: \
             {protocol}.channel.k8s.io\r\n\r\n"
        )
        .into_bytes()
    }

    /// A request for SPDY.
    pub fn spdy(&self, command: &str) -> Vec<u8> {
        let head = self.head("POST", command);
        format!(
            "{head}Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: \
             v4.channel.k8s.io\r\n\r\n"
        )
        .into_bytes()
    }

    /// A request for a port-forward: over SPDY, or in a WebSocket of this subprotocol.
    pub fn forward(&self, subprotocol: Option<&str>) -> Vec<u8> {
        let method = if subprotocol.is_some() { "GET" } else { "POST" };
        let upgrade = match subprotocol {
            None => "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n".into(),
            Some(name) => format!(
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                 dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {name}\r\n"
            ),
        };
        let path = self.forward_path();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\nConnection: \
                 Upgrade\r\n{upgrade}\r\n"
        )
        .into_bytes()
    }

    /// The same in numbered channels, to one port.
    pub fn channels(&self, port: u16, subprotocol: &str) -> Vec<u8> {
        let name = if matches!(self, Place::Node { .. }) { "port" } else { "ports" };
        let path = self.forward_path();
        let request = String::from_utf8(self.forward(Some(subprotocol))).unwrap();
        request.replacen(path, &format!("{path}?{name}={port}"), 1).into_bytes()
    }

    fn forward_path(&self) -> &'static str {
        match self {
            Place::Node { .. } => "/portForward/default/box",
            Place::Gateway(_) => "/api/v1/namespaces/default/pods/box/portforward",
        }
    }

    fn memory_mib(&self) -> u64 {
        let ids = match self {
            Place::Node { server, .. } => vec![server.id()],
            Place::Gateway(pair) => vec![pair.gateway.id(), pair.node.id()],
        };
        let peak = |id: &rustix::process::Pid| {
            let path = format!("/proc/{}/status", id.as_raw_nonzero());
            let text = std::fs::read_to_string(path).unwrap();
            let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        };
        ids.iter().map(peak).max().unwrap()
    }

    fn node_id(&self) -> i32 {
        let node = match self {
            Place::Node { server, .. } => server,
            Place::Gateway(pair) => &pair.node,
        };
        node.id().as_raw_nonzero().get()
    }

    /// It still serves everybody else, has not swollen, and no process is left.
    pub fn is_well(&self) {
        let bytes = self.answer(&self.websocket("echo+fine", "v4"));
        let out = String::from_utf8_lossy(&bytes);
        assert!(out.contains("fine\n"), "{}: {out:?}", self.name());
        assert!(self.memory_mib() < MEMORY_MIB, "{}: {} MiB", self.name(), self.memory_mib());
        until("no process is left", DEADLINE, || children(self.node_id()).is_empty());
    }
}

/// All that comes until the peer closes or resets.
pub fn rest(mut stream: impl Read) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => return all,
                _ => panic!("no close within {DEADLINE:?}: {error}: {all:?}"),
            },
        }
    }
}

/// A client's WebSocket frame, with a mask of zeros and a length of 16 bits.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 126];
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A frame in its shortest form, as the protocol wants it.
pub fn short(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}
