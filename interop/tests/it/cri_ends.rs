//! Ends of a session over a container runtime: a runtime that is killed, and clients that are gone,
//! through the socket in front of the runtime's and through our node.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::server::{Server, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::cri::{face, in_the_kubelets_place};
use crate::ends::{both_carriers, is_lost, up};
use crate::parts::{KUBECTLS, kubectl, ours};

/// How long an end may take to be known.
const SOON: Duration = Duration::from_secs(5);
const BY_RUNTIME: &str = "--exec=runtime";
/// A cluster whose sessions go through our face, or through our node in the kubelet's place.
type Place = fn() -> (Cluster, Option<Server>);

fn with_face() -> (Cluster, Option<Server>) {
    (Cluster::behind(&face(""), &[]), None)
}

fn with_node() -> (Cluster, Option<Server>) {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    (cluster, Some(node))
}

/// The same with commands that the runtime streams itself.
fn with_face_before_streams() -> (Cluster, Option<Server>) {
    (Cluster::behind(&face(BY_RUNTIME), &[]), None)
}

fn with_node_before_streams() -> (Cluster, Option<Server>) {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[BY_RUNTIME]);
    (cluster, Some(node))
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

fn a_killed_runtime_is_a_loss(place: Place) {
    let (cluster, node) = place();
    let clients = clients(&cluster);
    let running = running(&clients, &["sleep 60", "yes"]);
    let kubectls = KUBECTLS.map(|age| kubectl(age, &cluster.admin(), &[PODS[0]]));
    let by_kubectl: Vec<_> =
        kubectls.iter().map(|client| (client, up(client, "sleep 60"))).collect();
    cluster.signal("containerd", Signal::KILL);
    let begun = Instant::now();
    // All at once: an output that nobody reads holds up its session's end.
    thread::scope(|scope| {
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
    drop(node);
}

#[test]
fn a_killed_runtime_is_a_loss_through_the_face() {
    a_killed_runtime_is_a_loss(with_face);
}

#[test]
fn a_killed_runtime_is_a_loss_through_our_node() {
    a_killed_runtime_is_a_loss(with_node);
}

#[test]
fn a_killed_runtime_is_a_loss_of_its_own_streams_through_the_face() {
    a_killed_runtime_is_a_loss(with_face_before_streams);
}

#[test]
fn a_killed_runtime_is_a_loss_of_its_own_streams_through_our_node() {
    a_killed_runtime_is_a_loss(with_node_before_streams);
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

fn the_command_of_a_killed_client_is_gone(place: Place) {
    let (cluster, node) = place();
    let kubectls = ["1.20", "1.37"].map(|age| kubectl(age, &cluster.admin(), &[PODS[0]]));
    for client in clients(&cluster).into_iter().chain(kubectls) {
        // The second one is not impressed by the hang-up.
        for (mark, script) in [
            ("61234567", "sleep 61234567"),
            ("61234568", "trap '' HUP; sleep 61234568"),
            ("61234569", "sleep 61234569 & wait"),
        ] {
            let mut child = up(&client, script);
            until("the command runs", SOON, || commands_with(mark) == 1);
            let begun = Instant::now();
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
            let what = format!("{}: the command {script:?} is gone", client.name);
            until(&what, SOON, || commands_with(mark) == 0);
            println!("{}: {script}: {:.2} s", client.name, begun.elapsed().as_secs_f64());
        }
    }
    drop(node);
}

/// How many processes are a `sleep` of so many seconds.
fn commands_with(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let commands = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let sleep = format!("sleep\0{mark}\0");
    commands.filter(|command| *command == sleep.as_bytes()).count()
}

#[test]
fn the_command_of_a_killed_client_is_gone_through_the_face() {
    the_command_of_a_killed_client_is_gone(with_face);
}

#[test]
fn the_command_of_a_killed_client_is_gone_through_our_node() {
    the_command_of_a_killed_client_is_gone(with_node);
}

/// Two clients run the same words in one container, and one of them is killed, the first or the
/// second. Its command may be left alone where it cannot be told which it is; the other's goes on
/// to its own end.
fn a_killed_client_ends_no_others_command(place: Place, is_known: bool) {
    let (cluster, node) = place();
    for (number, client) in clients(&cluster).iter().enumerate() {
        for second in [false, true] {
            let mark = format!("/tmp/go-{number}-{second}");
            let script = format!("until [ -e {mark} ]; do sleep 0.2; done; exit 9");
            let mut children = [0, 1].map(|_| up(client, &script));
            until("both run", SOON, || scripts_with(&mark) == 2);
            let before = decisions(&cluster, node.as_ref());
            let [killed, other] = &mut children;
            let (killed, other) = if second { (other, killed) } else { (killed, other) };
            kill_process(Pid::from_child(killed), Signal::KILL).unwrap();
            killed.wait().unwrap();
            if is_known {
                until("its command is gone", SOON, || scripts_with(&mark) == 1);
            } else {
                until("it is decided", 2 * SOON, || decisions(&cluster, node.as_ref()) > before);
            }
            println!("{}: {} left of 2", client.name, scripts_with(&mark));
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

/// How often it was decided what becomes of a lost client's command.
fn decisions(cluster: &Cluster, node: Option<&Server>) -> usize {
    let of_face = || fs::read_to_string(cluster.path("log/face.log")).unwrap();
    let log = node.map_or_else(of_face, Server::log);
    ["is left as it is", "is hung up"].map(|words| log.matches(words).count()).iter().sum()
}

#[test]
fn a_killed_client_ends_no_others_command_through_the_face() {
    a_killed_client_ends_no_others_command(with_face, true);
}

#[test]
fn a_killed_client_ends_no_others_command_through_our_node() {
    a_killed_client_ends_no_others_command(with_node, true);
}

#[test]
fn a_killed_client_ends_no_others_command_that_the_runtime_streams_through_the_face() {
    a_killed_client_ends_no_others_command(with_face_before_streams, false);
}

#[test]
fn a_killed_client_ends_no_others_command_that_the_runtime_streams_through_our_node() {
    a_killed_client_ends_no_others_command(with_node_before_streams, false);
}
