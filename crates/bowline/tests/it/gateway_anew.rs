//! What a gateway has for those behind it, in files that change while it runs: certificates for
//! kubelets and their CA, and the token in an upstream's kubeconfig.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use bowline_interop::pki::{Authority, Pair};
use bowline_interop::server::{Server, until};
use bowline_io::tls::{self, Identity, PeerIdentity, Trust};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::bowline;
use super::raw::DEADLINE;

const TOKENS: &str = "t,admin,0,system:masters\n";
const EXEC: &str = "/api/v1/namespaces/default/pods/box/exec?command=id&stdout=1";
const WEBSOCKET: &str = "Authorization: Bearer t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
                         dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

fn identity(pair: &Pair) -> Identity {
    Identity {
        certificate: pair.certificate.clone().into_bytes(),
        key: pair.key.clone().into_bytes(),
    }
}

/// The head of what comes, if one does.
fn head_of(stream: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// A server in TLS, which answers each connection's request by a function of its head and of the
/// name in the client's certificate. Another configuration counts for the next connection.
struct Far {
    address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Far {
    fn start(
        config: Arc<ServerConfig>,
        answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> Far {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(config));
        let (current, answer) = (config.clone(), Arc::new(answer));
        thread::spawn(move || {
            while let Ok((tcp, _)) = listener.accept() {
                let session = ServerConnection::new(current.lock().unwrap().clone()).unwrap();
                let answer = answer.clone();
                thread::spawn(move || {
                    let mut stream = StreamOwned::new(session, tcp);
                    // A client that does not believe the server sends no request.
                    let Some(head) = head_of(&mut stream) else { return };
                    let shown = stream.conn.peer_certificates().and_then(|all| all.first());
                    let name =
                        shown.and_then(PeerIdentity::of).map_or_else(String::new, |it| it.user);
                    let (code, body) = answer(&head, &name);
                    let length = body.len();
                    let _ = write!(
                        stream,
                        "HTTP/1.1 {code} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n\
                         {body}"
                    );
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Far { address, config }
    }

    /// A kubelet that demands a certificate of this CA, and refuses all by the name in it.
    fn kubelet(authority: &Authority, clients: &Authority) -> Far {
        Far::start(kubelet(authority, clients), |_, name| (403, format!("not for {name}")))
    }
}

fn kubelet(authority: &Authority, clients: &Authority) -> Arc<ServerConfig> {
    let ca = Some(clients.pem.as_bytes());
    tls::server(&identity(&authority.server().unwrap()), ca, true).unwrap().config
}

/// An API server, as far as a stream needs it whose pod is on a kubelet's node.
fn api_server(authority: &Authority, kubelet: SocketAddr) -> Far {
    let own = identity(&authority.server().unwrap());
    let config = tls::server(&own, None, false).unwrap().config;
    Far::start(config, move |head, _| {
        let target = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        match &*target {
            "/api/v1/namespaces/default/pods/box" => (200, pod().to_string()),
            "/api/v1/nodes/node" => (200, node(kubelet).to_string()),
            _ => (404, String::new()),
        }
    })
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "box", "namespace": "default"},
        "spec": {"nodeName": "node", "containers": [{"name": "box", "image": "none"}]}})
}

fn node(kubelet: SocketAddr) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "node", "resourceVersion": "1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": kubelet.ip()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}}}})
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A kubeconfig with this token.
    fn write_kubeconfig(&self, server: SocketAddr, token: &str) {
        let text = format!(
            "{{current-context: c, clusters: [{{name: c, cluster: {{server: 'https://{server}', \
             insecure-skip-tls-verify: true}}}}], contexts: [{{name: c, context: {{cluster: c, \
             user: u}}}}], users: [{{name: u, user: {{token: {token}}}}}]}}"
        );
        self.write("kubeconfig", text);
    }

    /// A gateway to which each of these flags names a file.
    fn gateway(&self, flags: &[&str], files: &[(&str, &str)]) -> Server {
        let mut gateway = Command::new(bowline());
        gateway.args(["gateway", "--secure-port=0", "--bind-address=127.0.0.1"]).args(flags);
        for (flag, file) in files {
            gateway.arg(flag).arg(self.path(file));
        }
        Server::start(&mut gateway)
    }
}

/// The whole answer to a request.
fn ask(gateway: &Server, target: &str, lines: &str, client: Option<&Pair>) -> String {
    let tcp = TcpStream::connect(gateway.address()).unwrap();
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let config = tls::client(&Trust::Anybody, client.map(identity).as_ref()).unwrap();
    let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    let end = if lines.contains("Connection") { "" } else { "Connection: close\r\n" };
    let request = format!("GET {target} HTTP/1.1\r\nHost: gateway\r\n{lines}{end}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let head = head_of(&mut stream).unwrap_or_default();
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8_lossy(&body)
}

/// Exchanges, piece by piece, the certificate for kubelets and their CA.
fn exchange(place: &Place, gateway: &Server, far: &Far, authority: &Authority, other: &Authority) {
    let exec = || ask(gateway, EXEC, WEBSOCKET, None);
    let said = exec();
    assert!(said.contains("not for first"), "{said}");
    let second = authority.client_named("second", None).unwrap();
    place.write("gw.crt", &second.certificate);
    until("the fault is told", DEADLINE, || {
        assert!(exec().contains("not for first"), "the old one is used meanwhile");
        gateway.log().contains("cannot be used, the old ones are: private key does not match")
    });
    place.write("gw.key", &second.key);
    until("the second certificate is shown", DEADLINE, || exec().contains("not for second"));

    *far.config.lock().unwrap() = kubelet(other, authority);
    let said = exec();
    assert!(said.contains("error dialing backend: ") && !said.contains("not for"), "{said}");
    place.write("nodes-ca.crt", &other.pem);
    until("the other CA counts", DEADLINE, || exec().contains("not for second"));
}

const KUBELET_FILES: [(&str, &str); 4] = [
    ("--token-auth-file", "tokens.csv"),
    ("--kubelet-client-certificate", "gw.crt"),
    ("--kubelet-client-key", "gw.key"),
    ("--kubelet-certificate-authority", "nodes-ca.crt"),
];

#[test]
fn certificates_for_kubelets_and_their_ca_are_read_anew() {
    let (authority, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    for nodes_of_api_server in [false, true] {
        let far = Far::kubelet(&authority, &authority);
        let place = Place::new();
        let first = authority.client_named("first", None).unwrap();
        place.write("gw.crt", &first.certificate);
        place.write("gw.key", &first.key);
        place.write("nodes-ca.crt", &authority.pem);
        place.write("tokens.csv", TOKENS);
        place.write("objects.yaml", format!("{}\n---\n{}\n", pod(), node(far.address)));
        let server = api_server(&authority, far.address);
        place.write_kubeconfig(server.address, "own");
        let flags = [
            "--backend=nodes",
            "--token-review=false",
            "--authorization-mode=AlwaysAllow",
            "--allow-node-addresses=127.0.0.0/8",
            "--disable-kubelet-cert-cn-validation",
        ];
        let (flags, behind) = if nodes_of_api_server {
            (&flags[..], ("--upstream", "kubeconfig"))
        } else {
            (&[][..], ("--filename", "objects.yaml"))
        };
        let gateway = place.gateway(flags, &[&KUBELET_FILES[..], &[behind]].concat());
        exchange(&place, &gateway, &far, &authority, &other);
    }
}

#[test]
fn the_token_in_an_upstreams_kubeconfig_is_read_anew() {
    let authority = Authority::new().unwrap();
    let own = identity(&authority.server().unwrap());
    let config = tls::server(&own, None, false).unwrap().config;
    let server = Far::start(config, |head, _| (200, head.to_owned()));
    let place = Place::new();
    place.write("ca.crt", &authority.pem);
    place.write_kubeconfig(server.address, "first");
    let files = [("--upstream", "kubeconfig"), ("--client-ca-file", "ca.crt")];
    let gateway = place.gateway(&["--client-identity=impersonate"], &files);
    let jane = authority.client_named("jane", None).unwrap();
    let said = || ask(&gateway, "/api", "", Some(&jane)).to_lowercase();
    let first = said();
    assert!(first.contains("bearer first") && first.contains("impersonate-user: jane"), "{first}");
    place.write("kubeconfig", "{current-context: nowhere");
    until("the fault is told", DEADLINE, || {
        gateway.log().contains("has changed and cannot be used")
    });
    assert!(said().contains("bearer first"), "what there was goes on");
    place.write_kubeconfig(server.address, "second");
    until("the second token is sent", DEADLINE, || said().contains("bearer second"));
    assert!(!gateway.log().contains("second"), "it is a secret");
}
