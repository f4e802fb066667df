//! A cluster of 2020 that has our socket in front of its runtime's and nothing else that is new:
//! its API server and its kubelet pass upgrades that they do not know.

use std::fs;
use std::time::Instant;

use bowline_interop::client::Client;
use bowline_interop::cluster::{Cluster, OLD_KUBERNETES, OLD_RUNTIME, PODS};
use bowline_interop::copy::there_and_back;
use bowline_interop::forward;

use crate::cri::{FORWARDED, face, listed};
use crate::forward::{KUBECTL, OLD_CONTAINERD, host_pod};
use crate::parts::{kubectl, ours};
use crate::who::ask;

/// How sessions come to the face, as its log has it.
const V5: &str = "near=\"WebSocket v5.channel.k8s.io\"";
const SPDY: &str = "near=\"SPDY";
const FORWARD_TUNNEL: &str = "near=\"WebSocket SPDY/3.1+portforward.k8s.io\"";
/// A request for the tunnel, by somebody who may `get` it.
const TUNNEL: &str = "Authorization: Bearer viewer-token\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                      Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n";

#[test]
fn a_cluster_of_2020_speaks_websocket_v5_and_the_tunnel() {
    let settings = [OLD_RUNTIME, OLD_KUBERNETES];
    let cluster = Cluster::behind(&face(""), &settings);
    let admin = cluster.admin();
    let client = |age, pod| kubectl(age, &admin, &[pod]).named(pod);
    let [box_pod, gnu_pod] = PODS;
    comes_as(&cluster, &client("1.20", box_pod), box_pod, SPDY);
    comes_as(&cluster, &client("1.37", box_pod), box_pod, V5);
    comes_as(&cluster, &ours(&admin, &[box_pod]).named(box_pod), box_pod, V5);
    // Once is enough where the tools alone differ.
    comes_as(&cluster, &client("1.37", gnu_pod), gnu_pod, V5);
    forwards(&cluster);
}

/// The same cluster as it was: the runtime refuses the tunnel that its kubelet has passed to it.
#[test]
fn our_forward_through_a_cluster_of_2020_falls_back() {
    let cluster = Cluster::up(&[OLD_RUNTIME, OLD_KUBERNETES]);
    host_pod(&cluster);
    forward::check(&ours(&cluster.admin(), &["host"]).forwarding(), &FORWARDED, OLD_CONTAINERD);
}

/// All of the list, and copies: each session comes to the face in this way.
fn comes_as(cluster: &Cluster, client: &Client, pod: &str, way: &str) {
    let begun = Instant::now();
    let before = [count(cluster, V5), count(cluster, SPDY)];
    listed(client);
    there_and_back(client, pod);
    let after = [count(cluster, V5), count(cluster, SPDY)];
    let more = [after[0] - before[0], after[1] - before[1]];
    println!("{}: {more:?} sessions, {:.1} s", client.name, begun.elapsed().as_secs_f64());
    let [wanted, other] = if way == V5 { more } else { [more[1], more[0]] };
    assert!(wanted > 0, "{}: none came as {way}", client.name);
    assert_eq!(other, 0, "{}: some came otherwise than as {way}", client.name);
}

fn forwards(cluster: &Cluster) {
    // The old kubelet wants a port in the path of any WebSocket: who names none falls back, and
    // whoever does gets the tunnel, which the old kubelet has never heard of.
    let path = "/api/v1/namespaces/default/pods/box/portforward";
    let address = cluster.address();
    let bare = ask(&address, "GET", path, TUNNEL);
    assert_eq!(bare.code, "400", "{bare:?}");
    let named = ask(&address, "GET", &format!("{path}?ports=8080"), TUNNEL);
    println!("{}, {}", bare.message, named.head.lines().next().unwrap_or_default());
    assert_eq!(named.code, "101", "{named:?}");
    let lower = named.head.to_lowercase();
    assert!(lower.contains("sec-websocket-protocol: spdy/3.1+portforward.k8s.io"), "{named:?}");

    host_pod(cluster);
    let ways = || [FORWARD_TUNNEL, SPDY].map(|way| count(cluster, way));
    let before = ways();
    for age in ["1.20", "1.37"] {
        let client = kubectl(age, &cluster.admin(), &["host"]).forwarding();
        forward::check(&client, &FORWARDED, KUBECTL);
    }
    let kubectls = ways();
    assert_eq!(kubectls[0], before[0], "a kubectl names no port");
    forward::check(&ours(&cluster.admin(), &["host"]).forwarding(), &FORWARDED, &[]);
    let after = ways();
    assert!(after[0] > kubectls[0], "none of our forwards came as a tunnel");
    assert_eq!(after[1], kubectls[1], "some of our forwards came over SPDY");
}

/// How many sessions have come to the face so.
fn count(cluster: &Cluster, way: &str) -> usize {
    let log = fs::read_to_string(cluster.path("log/face.log")).unwrap();
    log.lines().filter(|line| line.contains("session begins") && line.contains(way)).count()
}
