//! What takes real time: a reader that pauses, a network that is cut, a server that takes its time
//! to end. These tests run side by side, since waiting costs nothing.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, left_within};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::pair::Pair;
use bowline_interop::server::Server;
use rustix::process::Signal;

use crate::ends::{both_carriers, is_lost, up};
use crate::parts::{bowline, ours};
use crate::real::{gateway, kubeconfig, kubelet};
use crate::wire::{Break, Wire};

/// A reader's pause, and then a hundred megabytes on a machine that has more to do.
const READS: Duration = Duration::from_secs(240);

/// `bowline exec` over both carriers at `dev` and in each pod of a real cluster.
fn everywhere(dev: &Server, cluster: &Cluster) -> Vec<Client> {
    let at_dev = ours(&dev.kubeconfig(), &["nginx"]).named("dev");
    let clients = PODS.map(|pod| ours(&cluster.admin(), &[pod]).named(pod));
    let clients = clients.into_iter().chain([at_dev]);
    clients.flat_map(|client| [client.over_spdy(), client]).collect()
}

#[test]
fn a_reader_that_pauses_for_75_seconds_gets_every_byte() {
    let (dev, cluster) = (Server::dev(&bowline(), &[]), Cluster::shared());
    thread::scope(|scope| {
        for client in everywhere(&dev, &cluster) {
            scope.spawn(move || {
                let mut shell = Command::new("sh");
                let words = client.process(&[], &["head", "-c", "100000000", "/dev/zero"]);
                shell.args(["-c", "\"$@\" | (sleep 75; wc -c)", "sh"]).arg(words.get_program());
                shell.args(words.get_args()).envs(client.env.iter().cloned());
                shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let left = left_within(READS, shell.spawn().unwrap(), Input::Nothing, true);
                let left = left.unwrap_or_else(|| panic!("{} did not end", client.name));
                let text = String::from_utf8_lossy(&left.stdout).trim().to_owned();
                assert_eq!(text, "100000000", "{}: {}", client.name, left.stderr);
            });
        }
    });
}

#[test]
fn a_box_that_cuts_the_silent_lets_a_quiet_command_live() {
    let (dev, cluster) = (Server::dev(&bowline(), &[]), Cluster::shared());
    let idle = Some(Duration::from_secs(8));
    let to_dev = Wire::with(&dev.address(), idle).address;
    let to_cluster = Wire::with(&cluster.address(), idle).address;
    thread::scope(|scope| {
        for client in everywhere(&dev, &cluster) {
            let wire = if client.name.contains("dev") { to_dev } else { to_cluster };
            let client = client.with(&format!("--server=https://{wire}"));
            scope.spawn(move || {
                let left = client.run(&[], &["sh", "-c", "sleep 20; exit 6"], Input::Nothing);
                assert_eq!(left.status.code(), Some(6), "{}: {left:?}", client.name);
            });
        }
    });
}

/// What an outcome may take that nobody announces: 30 s of silence behind a ping, and as long again
/// as output was not read.
const PATIENCE: Duration = Duration::from_secs(45);

/// Breaks a wire without a word under sessions that are silent and under busy ones.
fn cut(clients: &[Client], wire: &Wire, hop: &str) {
    thread::scope(|scope| {
        let begun = Instant::now();
        let running: Vec<_> = clients
            .iter()
            .flat_map(|client| ["exec sleep 60", "exec yes"].map(|script| (client, script)))
            .map(|(client, script)| (client, script, up(client, script)))
            .collect();
        wire.breaks(Break::Silence);
        let (cut, unread) = (Instant::now(), begun.elapsed());
        for (client, script, child) in running {
            scope.spawn(move || {
                is_lost(client, child, hop);
                let took = cut.elapsed();
                println!("{}: {script}: {took:.1?}", client.name);
                assert!(took < PATIENCE + unread, "{}: {script}: {took:?}", client.name);
            });
        }
    });
}

#[test]
fn a_cut_network_between_gateway_and_node_is_a_loss() {
    let mut wire = None;
    let pair = Pair::start(&bowline(), |node| {
        let wire = wire.insert(Wire::to(node));
        wire.address.port()
    });
    cut(&both_carriers(&pair.client("bowline", &bowline())), &wire.unwrap(), "gateway to node");
}

#[test]
fn a_cut_network_between_gateway_and_real_kubelet_is_a_loss() {
    let cluster = Cluster::shared();
    let wire = Wire::to(&format!("127.0.0.1:{}", kubelet(&cluster)));
    for declared in [true, false] {
        let gateway = gateway(&cluster, wire.address.port(), declared, &PODS);
        let kubeconfig = kubeconfig(&cluster, &gateway);
        let clients = PODS.map(|pod| both_carriers(&ours(&kubeconfig, &[pod]).named(pod)));
        cut(&clients.concat(), &wire, "gateway to node");
        wire.heals();
    }
}

#[test]
fn a_cut_network_before_a_real_api_server_is_a_loss() {
    let cluster = Cluster::shared();
    let wire = Wire::to(&cluster.address());
    let server = format!("--server=https://{}", wire.address);
    let client = |pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod).with(&server));
    cut(&PODS.map(client).concat(), &wire, "on the way to");
}

#[test]
fn an_api_server_that_is_asked_to_end_is_a_loss_too() {
    let cluster = Cluster::up(&[]);
    let clients =
        PODS.map(|pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod))).concat();
    let running: Vec<_> = clients.iter().map(|client| (client, up(client, "sleep 300"))).collect();
    cluster.signal("kube-apiserver", Signal::TERM);
    // It lets sessions live for about a minute, and then cuts them.
    for (client, child) in running {
        is_lost(client, child, "");
    }
}

/// Most of what these tests of the runtimes do is to wait for containers.
#[test]
fn the_runtimes_own_tests_pass_through_our_face() {
    crate::critest::through_our_face();
}
