//! Whose certificates open a node whose CA signs others as well.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use bowline_interop::pki::{Authority, Pair};
use bowline_interop::server::Server;
use bowline_io::tls::{self, Identity, Trust};
use rustls::{ClientConnection, StreamOwned};

use super::bowline;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: box, namespace: default}\nspec: \
                   {containers: [{name: box, image: none}]}\n";

fn node(files: &Path, flags: &[&str]) -> Server {
    let file = |name: &str| files.join(name);
    let mut node = Command::new(bowline());
    node.args(["node", "--port", "0", "--address", "127.0.0.1", "-f"]).arg(file("pod.yaml"));
    node.arg("--client-ca-file").arg(file("ca.crt"));
    Server::start(node.args(flags))
}

/// The status code that a container's log is answered with.
fn code(node: &Server, pair: Option<&Pair>) -> String {
    let identity = pair.map(|pair| Identity {
        certificate: pair.certificate.clone().into_bytes(),
        key: pair.key.clone().into_bytes(),
    });
    let config = tls::client(&Trust::Anybody, identity.as_ref()).unwrap();
    let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, TcpStream::connect(node.address()).unwrap());
    let request = "GET /containerLogs/default/nope/box HTTP/1.1\r\nHost: localhost\r\nConnection: \
                   close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_certificate_of_the_ca_is_not_enough() {
    let authority = Authority::new().unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("pod.yaml"), POD).unwrap();
    std::fs::write(files.path().join("ca.crt"), &authority.pem).unwrap();
    let server = authority.client().unwrap();
    let master = authority.client_named("admin", Some("system:masters")).unwrap();
    let jane = authority.client_named("jane", Some("users")).unwrap();
    let gateway = authority.client_named("gw", None).unwrap();
    for (flags, expected) in [
        (&[][..], ["401", "404", "404", "403", "403"]),
        (&["--authorization-mode=AlwaysAllow"], ["401", "404", "404", "404", "404"]),
        (&["--client-name=gw"], ["401", "403", "403", "403", "404"]),
        (&["--client-group=users", "--client-name=gw"], ["401", "403", "403", "404", "404"]),
    ] {
        let node = node(files.path(), flags);
        let clients = [None, Some(&server), Some(&master), Some(&jane), Some(&gateway)];
        assert_eq!(clients.map(|client| code(&node, client)), expected, "{flags:?}");
    }
}
