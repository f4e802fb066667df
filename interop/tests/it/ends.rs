//! Parts and connections that end in the middle of a session in a real cluster: `bowline exec` says
//! that it does not know, whatever tools the container has.

use std::process::Child;

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS};
use rustix::process::Signal;

use crate::parts::ours;
use crate::wire::{Break, Wire};

/// Starts a command that says when it is up.
pub fn up(client: &Client, script: &str) -> Child {
    up_with(client, &[], script)
}

fn up_with(client: &Client, flags: &[&str], script: &str) -> Child {
    let (child, line) = client.begin(flags, &format!("echo up; {script}"));
    assert_eq!(line, "up", "{}", client.name);
    child
}

/// The same client twice.
pub fn both_carriers(client: &Client) -> [Client; 2] {
    [client.clone(), client.over_spdy()]
}

/// Of each pod, over both carriers.
fn clients(cluster: &Cluster, flags: &[&str]) -> Vec<Client> {
    let client = |pod| {
        let client = ours(&cluster.admin(), &[pod]).named(pod);
        flags.iter().fold(client, |client, flag| client.with(flag))
    };
    PODS.map(|pod| both_carriers(&client(pod))).concat()
}

/// It says that it does not know, and where on the way that was.
pub fn is_lost(client: &Client, child: Child, hop: &str) {
    let left = left(child, Input::Nothing, false).unwrap();
    println!("{}: {}", client.name, left.stderr.trim());
    assert_eq!(left.status.code(), Some(255), "{}: {left:?}", client.name);
    assert!(left.stderr.contains("outcome is unknown"), "{}: {left:?}", client.name);
    assert!(left.stderr.contains("may still be running"), "{}: {left:?}", client.name);
    assert!(left.stderr.contains(hop), "{}: {left:?}", client.name);
}

#[test]
fn a_killed_part_of_a_real_cluster_is_a_loss() {
    for part in ["kube-apiserver", "kubelet"] {
        let cluster = Cluster::up(&[]);
        let clients = clients(&cluster, &[]);
        let running: Vec<_> = clients
            .iter()
            .flat_map(|client| ["sleep 60", "yes"].map(|script| (client, up(client, script))))
            .collect();
        cluster.signal(part, Signal::KILL);
        for (client, child) in running {
            println!("{part} killed");
            is_lost(client, child, "");
        }
    }
}

#[test]
fn a_connection_that_breaks_is_a_loss() {
    let cluster = Cluster::shared();
    for how in [Break::Reset, Break::End] {
        let wire = Wire::to(&cluster.address());
        let clients = clients(&cluster, &[&format!("--server=https://{}", wire.address)]);
        let scripts = [(&[][..], "sleep 60"), (&[], "yes"), (&["-i"], "cat"), (&["-i"], "wc")];
        let running: Vec<_> = clients
            .iter()
            .flat_map(|client| {
                scripts.map(|(flags, script)| (client, up_with(client, flags, script)))
            })
            .collect();
        wire.breaks(how);
        for (client, child) in running {
            println!("{how:?}");
            is_lost(client, child, "on the way to 127.0.0.1:");
        }
    }
}

/// Here a real part falls short: kubelet 1.37, as the WebSocket server that it is by now, takes
/// the end of containerd's silence for success, and sends a Status that says so. No client can know
/// better. If this fails, it has learned.
#[test]
fn a_killed_containerd_is_a_loss_but_for_a_status_that_the_kubelet_invents() {
    let cluster = Cluster::up(&[]);
    let clients = clients(&cluster, &[]);
    let running: Vec<_> = clients.iter().map(|client| (client, up(client, "sleep 60"))).collect();
    cluster.signal("containerd", Signal::KILL);
    for (client, child) in running {
        let left = left(child, Input::Nothing, false).unwrap();
        println!("containerd killed: {}: {}", client.name, left.stderr.trim());
        let code = if client.name.contains("SPDY") { 255 } else { 0 };
        assert_eq!(left.status.code(), Some(code), "{}: {left:?}", client.name);
    }
}

#[test]
fn a_pod_that_is_deleted_kills_the_command() {
    let cluster = Cluster::shared();
    let names = PODS.map(|tools| format!("doomed-{tools}"));
    let manifests = PODS.map(|tools| pod(&format!("doomed-{tools}"), tools, "[sleep, \"60000\"]"));
    let names = names.each_ref().map(|name| &**name);
    cluster.run_pods(&manifests.join("---\n"), &names);
    let clients = names.map(|pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod)));
    let running: Vec<_> =
        clients.iter().flatten().map(|client| (client, up(client, "sleep 300"))).collect();
    cluster.kubectl(&[&["delete", "pod", "--wait=false"][..], &names].concat());
    for (client, child) in running {
        let left = left(child, Input::Nothing, false).unwrap();
        println!("pod deleted: {}: {}", client.name, left.stderr.trim());
        assert_eq!(left.status.code(), Some(137), "{}: {left:?}", client.name);
    }
}

/// A pod with the tools of `box` or `gnu`, whose main process is `command`.
pub fn pod(name: &str, tools: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         nodeName: localhost\n  automountServiceAccountToken: false\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: {tools}, image: \
         \"localhost/{tools}:1\", imagePullPolicy: Never, command: {command}}}\n"
    )
}
