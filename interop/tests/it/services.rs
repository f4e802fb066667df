//! What people forward ports to, through `bowline port-forward`: PostgreSQL, Redis, gRPC, WebSocket
//! and SSH.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use bowline_interop::client::{Input, PATIENCE, left, noise, noise_digest};
use bowline_interop::forward::Forward;
use bowline_interop::server::{Server, until};
use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_tungstenite::tungstenite::Message;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::parts::{bowline, ours};

/// A program that serves until it is dropped, and the signal that it ends at.
struct Service(Child, Signal);

impl Service {
    fn start(command: &mut Command, port: u16, end: Signal) -> Service {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let service = Service(child, end);
        until("the service listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        service
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), self.1);
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A forward to a port of this machine, and the port that leads there.
fn forward(dev: &Server, remote: u16) -> (Forward, u16) {
    let client = ours(&dev.kubeconfig(), &["nginx"]).forwarding();
    let forward = Forward::start(&client, &[remote]);
    let port = forward.ports[0];
    (forward, port)
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn postgresql() {
    let place = tempfile::Builder::new().prefix("bowline-pg-").tempdir_in("/tmp").unwrap();
    let programs = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let programs = programs.map(|entry| entry.unwrap().path().join("bin")).max().unwrap();
    // It refuses to run as root.
    let as_nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        command.arg(programs.join(program)).current_dir(place.path());
        command
    };
    ok(Command::new("chown").arg("nobody").arg(place.path()).output().unwrap());
    let data = place.path().join("data");
    ok(as_nobody("initdb").args(["-A", "trust", "-U", "p", "-D"]).arg(&data).output().unwrap());
    let port = free_port();
    let mut server = as_nobody("postgres");
    server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "fsync=off"]);
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    // At TERM it would wait for its clients.
    let _server = Service::start(&mut server, port, Signal::INT);
    let dev = Server::dev(&bowline(), &[]);
    let (_forward, local) = forward(&dev, port);
    let psql = |words: &[&str], input: Input<'_>| {
        let mut psql = Command::new("psql");
        let local = local.to_string();
        psql.args(["-h", "127.0.0.1", "-p", &local, "-U", "p", "-d", "postgres", "-At"]);
        psql.args(["-v", "ON_ERROR_STOP=1"]).args(words);
        psql.stdin(if matches!(input, Input::Nothing) { Stdio::null() } else { Stdio::piped() });
        psql.stdout(Stdio::piped()).stderr(Stdio::piped());
        let left = left(psql.spawn().unwrap(), input, true).expect("psql ends");
        assert!(left.status.success(), "{left:?}");
        String::from_utf8(left.stdout).unwrap()
    };
    until("the server takes queries", PATIENCE, || {
        let mut ready = Command::new("pg_isready");
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status().unwrap().success()
    });
    // In: a hundred thousand rows; out: their sum, and all of them.
    psql(&["-c", "create table t (n int, text text)"], Input::Nothing);
    let rows: String = (0..100_000).map(|n| format!("{n}\trow number {n}\n")).collect();
    psql(&["-c", "copy t from stdin"], Input::Bytes(rows.as_bytes()));
    let sum = psql(&["-c", "select count(*), sum(n) from t"], Input::Nothing);
    assert_eq!(sum, "100000|4999950000\n");
    assert!(psql(&["-c", "copy (select * from t order by n) to stdout"], Input::Nothing) == rows);
}

#[test]
fn redis() {
    let port = free_port();
    let place = tempfile::tempdir().unwrap();
    let mut server = Command::new("redis-server");
    server.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    let _server = Service::start(server.current_dir(place.path()), port, Signal::TERM);
    let dev = Server::dev(&bowline(), &[]);
    let (_forward, local) = forward(&dev, port);
    let cli = |words: &[&str], input: &[u8]| {
        let mut cli = Command::new("redis-cli");
        cli.args(["-p", &local.to_string()]).args(words);
        cli.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let left = left(cli.spawn().unwrap(), Input::Bytes(input), true).expect("it ends");
        assert!(left.status.success(), "{left:?}");
        left.stdout
    };
    assert_eq!(cli(&["ping"], b""), b"PONG\n");
    let value = vec![b'v'; 5_000_000];
    assert_eq!(cli(&["-x", "set", "big"], &value), b"OK\n");
    let got = cli(&["get", "big"], b"");
    assert!(got.len() == value.len() + 1 && got.starts_with(&value), "{} bytes", got.len());
    // Ten thousand commands in one stream.
    let commands: Vec<u8> =
        (0..10_000).flat_map(|n| format!("incrby sum {n}\r\n").into_bytes()).collect();
    let said = String::from_utf8(cli(&["--pipe"], &commands)).unwrap();
    assert!(said.contains("errors: 0, replies: 10000"), "{said}");
    assert_eq!(cli(&["get", "sum"], b""), b"49995000\n");
}

#[test]
fn ssh() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    for key in ["host", "user"] {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        ok(keygen.arg(file(key)).output().unwrap());
    }
    std::fs::copy(file("user.pub"), file("authorized")).unwrap();
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
         PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\n",
        file("host").display(),
        file("authorized").display()
    );
    std::fs::write(file("config"), config).unwrap();
    std::fs::create_dir_all("/run/sshd").unwrap();
    let mut server = Command::new("/usr/sbin/sshd");
    let _server = Service::start(server.args(["-D", "-f"]).arg(file("config")), port, Signal::TERM);
    let dev = Server::dev(&bowline(), &[]);
    let (_forward, local) = forward(&dev, port);
    let ssh = |script: &str, input: Input<'_>| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o"]);
        ssh.arg(format!("UserKnownHostsFile={}", file("known").display()));
        ssh.arg("-i").arg(file("user")).args(["-p", &local.to_string(), "root@127.0.0.1", script]);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        left(ssh.spawn().unwrap(), input, true).expect("ssh ends")
    };
    let left = ssh("sha256sum; exit 7", Input::Noise(5_000_000));
    let said = String::from_utf8_lossy(&left.stdout).into_owned();
    assert_eq!(said, format!("{}  -\n", noise_digest(5_000_000)), "{left:?}");
    assert_eq!(left.status.code(), Some(7), "{left:?}");
    let left = ssh("head -c 5000000 /dev/zero", Input::Nothing);
    assert_eq!((left.bytes, left.status.code()), (5_000_000, Some(0)), "{}", left.stderr);
}

/// Runs on a server's side until the test ends.
async fn listener() -> (tokio::net::TcpListener, u16) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc() {
    let (listener, port) = listener().await;
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("bowline", tonic_health::ServingStatus::Serving).await;
    let server = tonic::transport::Server::builder().add_service(service);
    let server = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let dev = Server::dev(&bowline(), &[]);
    let (_forward, local) = forward(&dev, port);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{local}"));
    let mut client = HealthClient::new(channel.unwrap().connect().await.unwrap());
    let request = || HealthCheckRequest { service: "bowline".into() };
    // A stream that stays open beside a hundred calls, and hears of a change.
    let mut changes = client.watch(request()).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    for _ in 0..100 {
        assert_eq!(client.check(request()).await.unwrap().into_inner().status, 1);
    }
    reporter.set_service_status("bowline", tonic_health::ServingStatus::NotServing).await;
    assert_eq!(changes.message().await.unwrap().unwrap().status, 2);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket() {
    let (listener, port) = listener().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_binary() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let dev = Server::dev(&bowline(), &[]);
    let (_forward, local) = forward(&dev, port);
    let stream = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
    let url = format!("ws://127.0.0.1:{local}/");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let mut bytes = Vec::new();
    noise(1_000_000, |piece| bytes.write_all(piece)).unwrap();
    for length in [0, 1, 125, 126, 65_536, 1_000_000] {
        let message = Message::binary(bytes[..length].to_vec());
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message, "{length} bytes");
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    server.await.unwrap();
}
