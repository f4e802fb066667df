//! Ends of a session over a container runtime: a runtime that is killed, and clients that are gone,
//! through the socket in front of the runtime's and through our node.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::Instant;

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::server::{Server, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::cri::{face, in_the_kubelets_place};
use crate::cri_face::streams;
use crate::cri_kinds::{Kinds, Ports, SOON, are_lost, run_talker};
use crate::ends::{both_carriers, is_lost, up};
use crate::legs::{FORWARD_SPDY, Legs, SPDY, TUNNEL, V5};
use crate::parts::{KUBECTLS, bowline, kubectl, ours};

/// The runtime streams commands and port-forwards itself.
const BY_RUNTIME: [&str; 2] = ["--exec=runtime", "--port-forward=runtime"];
/// A cluster whose sessions go through our face, or through our node in the kubelet's place.
type Place = fn() -> (Cluster, Option<Server>);

/// A kubelet checks the certificate of a runtime's streams by the CAs of its system; its directory
/// is the cluster's.
const TRUSTED: (&str, &str) = ("SSL_CERT_FILE", "pki/ca.crt");
const IN_TLS: [&str; 2] = [
    "--streaming-tls-cert-file={dir}/pki/kubelet.crt",
    "--streaming-tls-private-key-file={dir}/pki/kubelet.key",
];

/// Its streams are in TLS.
fn with_face() -> (Cluster, Option<Server>) {
    let (cluster, node) = face_with(&IN_TLS, &[TRUSTED]);
    let streams = streams(&cluster);
    assert!(streams.starts_with("https://"), "{streams}");
    (cluster, node)
}

fn with_node() -> (Cluster, Option<Server>) {
    node_with(&[])
}

/// The same before streams of the runtime's own.
fn with_face_before_streams() -> (Cluster, Option<Server>) {
    face_with(&BY_RUNTIME, &[])
}

fn with_node_before_streams() -> (Cluster, Option<Server>) {
    node_with(&BY_RUNTIME)
}

fn face_with(flags: &[&str], settings: &[(&str, &str)]) -> (Cluster, Option<Server>) {
    let cluster = Cluster::behind(&face(&flags.join(" ")), settings);
    run_talker(&cluster);
    (cluster, None)
}

fn node_with(flags: &[&str]) -> (Cluster, Option<Server>) {
    let cluster = Cluster::up(&[]);
    run_talker(&cluster);
    let node = in_the_kubelets_place(&cluster, flags);
    (cluster, Some(node))
}

/// What clients of WebSocket come as there: a kubelet asks its runtime over SPDY alone.
pub fn newer(node: Option<&Server>) -> [&'static str; 2] {
    if node.is_some() { [V5, TUNNEL] } else { [SPDY, FORWARD_SPDY] }
}

/// In each pod, over both carriers.
fn clients(cluster: &Cluster) -> Vec<Client> {
    let client = |pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod));
    PODS.map(client).concat()
}

/// Starts these scripts by each client.
fn running<'a>(clients: &'a [Client], scripts: &[&str]) -> Vec<(&'a Client, Child)> {
    let each = clients.iter().flat_map(|client| scripts.iter().map(move |one| (client, *one)));
    each.map(|(client, script)| (client, up(client, script))).collect()
}

pub fn a_killed_runtime_is_a_loss(cluster: &Cluster, kinds: &Kinds<'_>, ports: Ports) {
    let clients = clients(cluster);
    let of_other_kinds = kinds.begin();
    let running = running(&clients, &["sleep 60", "yes"]);
    let kubectls = KUBECTLS.map(|age| kubectl(age, &cluster.admin(), &[PODS[0]]));
    let by_kubectl: Vec<_> =
        kubectls.iter().map(|client| (client, up(client, "sleep 60"))).collect();
    cluster.signal("containerd", Signal::KILL);
    let begun = Instant::now();
    // All at once: an output that nobody reads holds up its session's end.
    thread::scope(|scope| {
        scope.spawn(|| are_lost(of_other_kinds, ports, begun));
        for (client, child) in running {
            scope.spawn(move || {
                is_lost(client, child, "");
                let elapsed = begun.elapsed();
                println!("{}: lost after {:.1} s", client.name, elapsed.as_secs_f64());
                assert!(elapsed < SOON, "{}: {elapsed:?}", client.name);
            });
        }
        // kubectl has no code for it, and may wait; but a success it is not.
        for (client, child) in by_kubectl {
            scope.spawn(move || {
                let left = left(child, Input::Nothing, false).unwrap();
                let elapsed = begun.elapsed().as_secs_f64();
                println!("{}: after {elapsed:.1} s: {}", client.name, left.stderr.trim());
                assert_eq!(left.status.code(), Some(1), "{}: {left:?}", client.name);
            });
        }
    });
}

fn a_killed_runtime_is_a_loss_at(place: Place, ports: Ports) {
    let (cluster, node) = place();
    let kinds = Kinds::start(&cluster, node.as_ref(), newer(node.as_ref()));
    a_killed_runtime_is_a_loss(&cluster, &kinds, ports);
}

#[test]
fn a_killed_runtime_is_a_loss_through_the_face() {
    a_killed_runtime_is_a_loss_at(with_face, Ports::Node);
}

#[test]
fn a_killed_runtime_is_a_loss_through_our_node() {
    a_killed_runtime_is_a_loss_at(with_node, Ports::Node);
}

#[test]
fn a_killed_runtime_is_a_loss_of_its_own_streams_through_the_face() {
    a_killed_runtime_is_a_loss_at(with_face_before_streams, Ports::Runtime);
}

#[test]
fn a_killed_runtime_is_a_loss_of_its_own_streams_through_our_node() {
    a_killed_runtime_is_a_loss_at(with_node_before_streams, Ports::Runtime);
}

/// A session's bytes do not go through the runtime, and its end is asked for again.
fn a_runtime_that_is_back_at_once_ends_no_session(place: Place) {
    let (cluster, node) = place();
    let clients = clients(&cluster);
    let script = "echo up; read -r word; echo \"$word\"; exit 7";
    let running: Vec<_> = clients.iter().map(|client| client.begin(&["-i"], script)).collect();
    cluster.signal("containerd", Signal::KILL);
    let begun = Instant::now();
    cluster.restart("containerd");
    println!("restarted within {:.1} s", begun.elapsed().as_secs_f64());
    for (client, (child, line)) in clients.iter().zip(running) {
        assert_eq!(line, "up", "{}", client.name);
        let left = left(child, Input::Bytes(b"goes on\n"), true).unwrap();
        assert_eq!(left.stdout, b"goes on\n", "{}: {left:?}", client.name);
        assert_eq!(left.status.code(), Some(7), "{}: {left:?}", client.name);
    }
    drop(node);
}

#[test]
fn a_runtime_that_is_back_at_once_ends_no_session_through_the_face() {
    a_runtime_that_is_back_at_once_ends_no_session(with_face);
}

#[test]
fn a_runtime_that_is_back_at_once_ends_no_session_through_our_node() {
    a_runtime_that_is_back_at_once_ends_no_session(with_node);
}

/// In the cluster's pods, over both carriers, and with kubectl: all are killed at once. `newer` is
/// what clients of WebSocket come as.
pub fn the_command_of_a_killed_client_is_gone(cluster: &Cluster, legs: &Legs<'_>, newer: &str) {
    let kubectls = ["1.20", "1.37"].map(|age| kubectl(age, &cluster.admin(), &[PODS[0]]));
    let mut running = Vec::new();
    for (number, client) in clients(cluster).into_iter().chain(kubectls).enumerate() {
        let is_old = client.name.contains("1.20") || client.name.contains("over SPDY");
        let way = if is_old { SPDY } else { newer };
        let [one, two, three] = [1, 2, 3].map(|kind| format!("612345{number}{kind}"));
        // The second one is not impressed by the hang-up.
        for (script, mark) in [
            (format!("sleep {one}"), one),
            (format!("trap '' HUP; sleep {two}"), two),
            (format!("sleep {three} & wait"), three),
        ] {
            let child = legs.begin_as(1, way, &client.name, || up(&client, &script));
            until("the command runs", SOON, || commands_with(&mark) == 1);
            running.push((child, format!("{}: {script:?}", client.name), mark));
        }
    }
    let begun = Instant::now();
    for (child, ..) in &mut running {
        kill_process(Pid::from_child(child), Signal::KILL).unwrap();
        child.wait().unwrap();
    }
    for (_, what, mark) in running {
        until(&format!("{what} is gone"), SOON, || commands_with(&mark) == 0);
        println!("{what} is gone within {:.2} s", begun.elapsed().as_secs_f64());
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// How many processes are a `sleep` of so many seconds.
fn commands_with(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let commands = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let sleep = format!("sleep\0{mark}\0");
    commands.filter(|command| *command == sleep.as_bytes()).count()
}

/// Two clients run the same words in one container, and one of them is killed, the first or the
/// second. Its command is gone; the other's goes on to its own end.
fn a_killed_client_ends_no_others_command(cluster: &Cluster) {
    for (number, client) in clients(cluster).iter().enumerate() {
        for second in [false, true] {
            let mark = format!("/tmp/go-{number}-{second}");
            let script = format!("until [ -e {mark} ]; do sleep 0.2; done; exit 9");
            let mut children = [0, 1].map(|_| up(client, &script));
            until("both run", SOON, || scripts_with(&mark) == 2);
            let [killed, other] = &mut children;
            let (killed, other) = if second { (other, killed) } else { (killed, other) };
            let begun = Instant::now();
            kill_process(Pid::from_child(killed), Signal::KILL).unwrap();
            killed.wait().unwrap();
            until("its command is gone", SOON, || scripts_with(&mark) < 2);
            println!("{}: one of two: {:.2} s", client.name, begun.elapsed().as_secs_f64());
            assert_eq!(scripts_with(&mark), 1, "{}", client.name);
            assert!(other.try_wait().unwrap().is_none(), "{}: the other ended", client.name);
            assert!(client.run(&[], &["touch", &mark], Input::Nothing).status.success());
            let [first, last] = children;
            let left = left(if second { first } else { last }, Input::Nothing, true).unwrap();
            assert_eq!(left.status.code(), Some(9), "{}: {left:?}", client.name);
            until("nothing is left", SOON, || scripts_with(&mark) == 0);
        }
    }
}

/// How many shells in containers run a script with these words.
fn scripts_with(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let commands = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let texts = commands.map(|command| String::from_utf8_lossy(&command).into_owned());
    texts.filter(|text| text.starts_with("sh\0-c\0") && text.contains(mark)).count()
}

/// What clients leave behind that are killed: nothing, and all of the others'.
fn nothing_is_left_of_killed_clients(place: Place) {
    let (cluster, node) = place();
    let newer = newer(node.as_ref());
    the_command_of_a_killed_client_is_gone(&cluster, &Legs::of(&cluster, node.as_ref()), newer[0]);
    a_killed_client_ends_no_others_command(&cluster);
    Kinds::start(&cluster, node.as_ref(), newer).are_gone_with_their_clients();
    drop(node);
}

#[test]
fn nothing_is_left_of_killed_clients_through_the_face() {
    nothing_is_left_of_killed_clients(with_face);
}

#[test]
fn nothing_is_left_of_killed_clients_through_our_node() {
    nothing_is_left_of_killed_clients(with_node);
}

#[test]
fn nothing_is_left_of_killed_clients_whom_the_runtime_serves_through_the_face() {
    nothing_is_left_of_killed_clients(with_face_before_streams);
}

#[test]
fn nothing_is_left_of_killed_clients_whom_the_runtime_serves_through_our_node() {
    nothing_is_left_of_killed_clients(with_node_before_streams);
}

/// With `--stream-hangup=none` a command runs on, whoever serves it.
#[test]
fn the_command_of_a_killed_client_runs_on_where_that_is_wanted() {
    let cluster = Cluster::up(&[]);
    for by in ["--exec=auto", BY_RUNTIME[0]] {
        let node = cluster.beside_the_kubelet(&bowline(), &["-v=2", "--stream-hangup=none", by]);
        cluster.has_as_kubelet(&node);
        let legs = Legs::of(&cluster, Some(&node));
        let clients = both_carriers(&ours(&cluster.admin(), &[PODS[0]]).named(by));
        let marks = [0, 1].map(|number| format!("/tmp/on{by}-{number}"));
        for ((client, mark), way) in clients.iter().zip(&marks).zip([V5, SPDY]) {
            let script = format!("until [ -e {mark} ]; do sleep 0.2; done");
            let mut child = legs.begin_as(1, way, &client.name, || up(client, &script));
            let ended = legs.ended();
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
            until("its session is over", SOON, || legs.ended() > ended);
        }
        // One that takes longer than to hang up another.
        assert!(clients[0].run(&[], &["sleep", "2"], Input::Nothing).status.success());
        for mark in &marks {
            assert_eq!(scripts_with(mark), 1, "{by}: {}", node.log());
            assert!(clients[0].run(&[], &["touch", mark], Input::Nothing).status.success());
            until("it ends by itself", SOON, || scripts_with(mark) == 0);
        }
    }
}
