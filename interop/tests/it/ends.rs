//! Real parts that are killed in the middle of a session: `bowline exec` says that it does not
//! know.

use std::process::Child;

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::Cluster;
use rustix::process::Signal;

use crate::parts::ours;

/// Starts a command that says when it is up.
fn up(client: &Client, script: &str) -> Child {
    let (child, line) = client.begin(&[], &format!("echo up; {script}"));
    assert_eq!(line, "up", "{}", client.name);
    child
}

#[test]
fn a_killed_part_of_a_real_cluster_is_a_loss() {
    for part in ["kube-apiserver", "kubelet"] {
        let cluster = Cluster::up(&[]);
        let client = ours(&cluster.admin(), &["box"]);
        let clients = [client.clone(), client.over_spdy()];
        let running: Vec<_> = clients
            .iter()
            .flat_map(|client| ["sleep 60", "yes"].map(|script| (client, up(client, script))))
            .collect();
        cluster.signal(part, Signal::KILL);
        for (client, child) in running {
            let left = left(child, Input::Nothing, false).unwrap();
            println!("{part} killed: {}: {}", client.name, left.stderr.trim());
            assert_eq!(left.status.code(), Some(255), "{part}: {left:?}");
            assert!(left.stderr.contains("may still be running"), "{part}: {left:?}");
        }
    }
}

/// Here a real part falls short: kubelet 1.37, as the WebSocket server that it is by now, takes
/// the end of containerd's silence for success, and sends a Status that says so. No client can know
/// better. If this fails, it has learned.
#[test]
fn a_killed_containerd_is_a_loss_but_for_a_status_that_the_kubelet_invents() {
    let cluster = Cluster::up(&[]);
    let client = ours(&cluster.admin(), &["box"]);
    let clients = [(client.clone(), 0), (client.over_spdy(), 255)];
    let running = clients.each_ref().map(|(client, code)| (client, code, up(client, "sleep 60")));
    cluster.signal("containerd", Signal::KILL);
    for (client, code, child) in running {
        let left = left(child, Input::Nothing, false).unwrap();
        println!("containerd killed: {}: {}", client.name, left.stderr.trim());
        assert_eq!(left.status.code(), Some(*code), "{}: {left:?}", client.name);
    }
}

#[test]
fn an_api_server_that_is_asked_to_end_is_a_loss_too() {
    let cluster = Cluster::up(&[]);
    let client = ours(&cluster.admin(), &["box"]);
    let clients = [client.clone(), client.over_spdy()];
    let running = clients.each_ref().map(|client| (client, up(client, "sleep 300")));
    cluster.signal("kube-apiserver", Signal::TERM);
    // It lets sessions live for about a minute, and then cuts them.
    for (client, child) in running {
        let left = left(child, Input::Nothing, false).unwrap();
        println!("asked to end: {}: {}", client.name, left.stderr.trim());
        assert_eq!(left.status.code(), Some(255), "{left:?}");
    }
}

#[test]
fn a_pod_that_is_deleted_kills_the_command() {
    let cluster = Cluster::up(&[]);
    let client = ours(&cluster.admin(), &["box"]);
    let clients = [client.clone(), client.over_spdy()];
    let running = clients.each_ref().map(|client| (client, up(client, "sleep 300")));
    cluster.kubectl(&["delete", "pod", "box", "--wait=false"]);
    for (client, child) in running {
        let left = left(child, Input::Nothing, false).unwrap();
        println!("pod deleted: {}: {}", client.name, left.stderr.trim());
        assert_eq!(left.status.code(), Some(137), "{left:?}");
    }
}
