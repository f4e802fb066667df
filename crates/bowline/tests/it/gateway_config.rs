//! A gateway's configuration file: what it says counts, also later, and what it cannot say is told.

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bowline_interop::server::{Server, until};
use bowline_io::tls::{self, Trust};
use rustls::{ClientConnection, StreamOwned};

use super::bowline;
use super::raw::rest;

const PATIENCE: Duration = Duration::from_secs(20);
const HEAD: &str = "apiVersion: bowline/v1alpha1\nkind: GatewayConfiguration\nsecurePort: 0\n\
                    bindAddress: 127.0.0.1\n";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("objects.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node}\n");
        place.write("tokens.csv", "first,jane,1,system:masters\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// A configuration with these lines beside its head.
    fn config(&self, lines: &str) -> PathBuf {
        self.write("gateway.yaml", &format!("{HEAD}{lines}"))
    }

    fn files(&self) -> String {
        let (objects, tokens) = (self.path("objects.yaml"), self.path("tokens.csv"));
        format!("filename: [{}]\ntokenAuthFile: {}\n", objects.display(), tokens.display())
    }
}

fn gateway(config: &Path) -> Command {
    let mut command = Command::new(bowline());
    command.arg("gateway").arg("--config").arg(config);
    command
}

fn check(config: &Path) -> Output {
    gateway(config).arg("--check").output().unwrap()
}

/// The code of what a user with this token gets.
fn code(server: &Server, token: &str) -> String {
    let tcp = TcpStream::connect(server.address()).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = tls::client(&Trust::Anybody, None).unwrap();
    let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    let request = format!(
        "GET /api/v1/nodes HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nAuthorization: \
         Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let answer = String::from_utf8_lossy(&rest(stream)).into_owned();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn what_changes_in_the_files_counts_and_what_is_wrong_there_does_not() {
    let place = Place::new();
    let config = place.config(&place.files());
    let server = Server::start(&mut gateway(&config));
    assert_eq!((code(&server, "first"), code(&server, "second")), ("200".into(), "401".into()));
    place.write("tokens.csv", "second,jane,1,system:masters\n");
    until("the second token counts", PATIENCE, || code(&server, "second") == "200");
    assert_eq!(code(&server, "first"), "401");
    place.config(&format!("{}drian: 1s\n", place.files()));
    until("the fault is told", PATIENCE, || server.log().contains("unknown field drian"));
    assert_eq!(code(&server, "second"), "200", "what there was goes on");
    place.write("other.csv", "third,jane,1,system:masters\n");
    let files = place.files().replace("tokens.csv", "other.csv");
    place.config(&format!("{files}drain: 9s\n"));
    until("the third token counts", PATIENCE, || code(&server, "third") == "200");
    assert!(server.log().contains("or drain has changed: that counts after a restart"));
    assert!(!server.log().contains("second,") && !server.log().contains("third,"));
}

#[test]
fn a_check_says_what_would_run_or_why_nothing_would() {
    let place = Place::new();
    let good = check(&place.config(&place.files()));
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success(), "{good:?}");
    assert!(said.starts_with("would serve on https://127.0.0.1:0\n"), "{said}");
    for (lines, expected) in [
        ("", "--upstream or --filename must say what is behind the gateway"),
        ("filename: [/nowhere]\n", "/nowhere"),
        ("upstreams: [{kubeconfig: /nowhere}]\n", "/nowhere"),
        ("securePort: 0\nidleTimeout: soon\n", "line 6: idleTimeout: time: invalid duration"),
    ] {
        let bad = check(&place.config(lines));
        let said = String::from_utf8_lossy(&bad.stderr).into_owned();
        assert!(!bad.status.success() && said.contains(expected), "{said}");
    }
}
