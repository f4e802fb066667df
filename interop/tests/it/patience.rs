//! What takes real time: a reader that pauses, a network that is cut. All in one test's time, side
//! by side, since waiting costs nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, left};
use bowline_interop::pair::Pair;
use bowline_interop::server::Server;

use crate::parts::{bowline, ours};

#[test]
fn a_reader_that_pauses_for_75_seconds_gets_every_byte() {
    let dev = Server::dev(&bowline(), &[]);
    let client = ours(&dev.kubeconfig(), &["nginx"]);
    thread::scope(|scope| {
        for client in [client.clone(), client.over_spdy()] {
            scope.spawn(move || {
                let mut shell = Command::new("sh");
                let words = client.process(&[], &["head", "-c", "100000000", "/dev/zero"]);
                shell.args(["-c", "\"$@\" | (sleep 75; wc -c)", "sh"]).arg(words.get_program());
                shell.args(words.get_args()).envs(client.env.iter().cloned());
                shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let left = left(shell.spawn().unwrap(), Input::Nothing, true).unwrap();
                let text = String::from_utf8_lossy(&left.stdout).trim().to_owned();
                assert_eq!(text, "100000000", "{}: {}", client.name, left.stderr);
            });
        }
    });
}

/// A wire between two programs that can be cut: nothing passes any more, and nobody is told.
struct Wire {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(server: String) -> Wire {
        Wire::with(server, None)
    }

    /// One that cuts whoever says nothing for so long, as boxes do.
    fn with(server: String, idle: Option<Duration>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = cut.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = TcpStream::connect(&server).unwrap();
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                near.set_read_timeout(idle).unwrap();
                far.set_read_timeout(idle).unwrap();
                for (from, to) in [(near, far), (far_too, near_too)] {
                    let is_cut = is_cut.clone();
                    thread::spawn(move || pass(from, to, &is_cut));
                }
            }
        });
        Wire { address, cut }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        // The bytes get lost, and the connection stays open.
        if !is_cut.load(Ordering::Relaxed) && to.write_all(&piece[..read]).is_err() {
            return;
        }
    }
    if !is_cut.load(Ordering::Relaxed) {
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
}

#[test]
fn a_box_that_cuts_the_silent_lets_a_quiet_command_live() {
    let dev = Server::dev(&bowline(), &[]);
    let wire = Wire::with(dev.address(), Some(Duration::from_secs(8)));
    let client = ours(&dev.kubeconfig(), &["nginx"]);
    let client = client.with(&format!("--server=https://{}", wire.address));
    thread::scope(|scope| {
        for client in [client.clone(), client.over_spdy()] {
            scope.spawn(move || {
                let left = client.run(&[], &["sh", "-c", "sleep 20; exit 6"], Input::Nothing);
                assert_eq!(left.status.code(), Some(6), "{}: {left:?}", client.name);
            });
        }
    });
}

/// What an outcome may take that nobody announces: the heartbeat's 30 s of silence at the gateway.
const PATIENCE: Duration = Duration::from_secs(45);

#[test]
fn a_cut_network_between_gateway_and_node_is_a_loss() {
    let mut wire = None;
    let pair = Pair::start(&bowline(), |node| {
        let wire = wire.insert(Wire::to(node.to_owned()));
        wire.address.port()
    });
    let wire = wire.unwrap();
    let client = pair.client("bowline", &bowline());
    let clients = [client.clone(), client.over_spdy()];
    thread::scope(|scope| {
        let running: Vec<_> = clients
            .iter()
            .flat_map(|client| [(client, "echo up; exec sleep 60"), (client, "echo up; exec yes")])
            .map(|(client, script)| {
                let (child, line) = client.begin(&[], script);
                assert_eq!(line, "up");
                (client, script, child)
            })
            .collect();
        wire.cut.store(true, Ordering::Relaxed);
        let cut = Instant::now();
        for (client, script, child) in running {
            scope.spawn(move || is_lost(client, script, child, cut));
        }
    });
}

fn is_lost(client: &Client, script: &str, child: std::process::Child, since: Instant) {
    let left = left(child, Input::Nothing, false).unwrap();
    let took = since.elapsed();
    println!("{}: {script}: {took:.1?}: {}", client.name, left.stderr.trim());
    assert_eq!(left.status.code(), Some(255), "{}: {script}: {left:?}", client.name);
    assert!(left.stderr.contains("gateway to node"), "{}: {script}: {left:?}", client.name);
    assert!(left.stderr.contains("may still be running"), "{}: {left:?}", client.name);
    assert!(took < PATIENCE, "{}: {script}: {took:?}", client.name);
}
