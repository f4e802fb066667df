//! A cluster of 2020 that has our socket in front of its runtime's and nothing else that is new:
//! its API server and its kubelet pass upgrades that they do not know.

use bowline_interop::attach::{Pods, talks, types};
use bowline_interop::cluster::{Cluster, OLD_KUBERNETES, OLD_RUNTIME, PODS};
use bowline_interop::copy::there_and_back;
use bowline_interop::forward;

use crate::cri::{FORWARDED, PROBED, WRITTEN_BYTES, face, listed, restarted};
use crate::cri_ends::{a_killed_runtime_is_a_loss, the_command_of_a_killed_client_is_gone};
use crate::cri_kinds::{Kinds, Ports};
use crate::forward::{KUBECTL, OLD_CONTAINERD, host_pod};
use crate::legs::{FORWARD_SPDY, Legs, SPDY, TUNNEL, V5};
use crate::parts::{kubectl, ours};
use crate::who::ask;

/// A request for the tunnel, by somebody who may `get` it.
const ASKS_FOR_THE_TUNNEL: &str = "Authorization: Bearer viewer-token\r\nConnection: Upgrade\r\n\
                                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                                   Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n";

#[test]
fn a_cluster_of_2020_speaks_websocket_v5_and_the_tunnel() {
    let settings = [OLD_RUNTIME, OLD_KUBERNETES];
    let cluster = Cluster::behind(&face(""), &settings);
    let admin = cluster.admin();
    let legs = Legs::of(&cluster, None);
    let [box_pod, gnu_pod] = PODS;
    let ours = ours(&admin, &[box_pod]);
    let of_age = |age, pod| kubectl(age, &admin, &[pod]).named(pod);
    // Once is enough where the tools alone differ.
    for (client, pod, way) in [
        (of_age("1.20", box_pod), box_pod, SPDY),
        (of_age("1.37", box_pod), box_pod, V5),
        (ours.named(box_pod), box_pod, V5),
        (of_age("1.37", gnu_pod), gnu_pod, V5),
    ] {
        legs.come_as(way, &client.name, || {
            listed(&client);
            there_and_back(&client, pod);
        });
    }
    forwards(&cluster, &legs);
    attaches(&cluster, &legs);
    cluster.run_pods(PROBED, &["probed"]);
    restarted(&cluster);
    // What is killed last is the runtime.
    the_command_of_a_killed_client_is_gone(&cluster, &legs, V5);
    let kinds = Kinds::start(&cluster, None, [V5, TUNNEL]);
    kinds.are_gone_with_their_clients();
    a_killed_runtime_is_a_loss(&cluster, &kinds, Ports::Node);
}

/// The same cluster as it was: the runtime refuses the tunnel that its kubelet has passed to it.
#[test]
fn our_forward_through_a_cluster_of_2020_falls_back() {
    let cluster = Cluster::up(&[OLD_RUNTIME, OLD_KUBERNETES]);
    host_pod(&cluster);
    forward::check(&ours(&cluster.admin(), &["host"]).forwarding(), &FORWARDED, OLD_CONTAINERD);
}

fn attaches(cluster: &Cluster, legs: &Legs<'_>) {
    let pods = Pods { node: Some("localhost"), tools: PODS[0], ..Pods::default() };
    cluster.run_pods(&pods.manifests().join("---\n"), &pods.names().each_ref().map(|name| &**name));
    let (admin, target) = (cluster.admin(), [PODS[0]]);
    let ours = ours(&admin, &target);
    for (client, way) in [
        (kubectl("1.20", &admin, &target), SPDY),
        (kubectl("1.37", &admin, &target), V5),
        (ours.over_spdy(), SPDY),
        (ours, V5),
    ] {
        legs.come_as(way, &client.name, || {
            talks(&client, WRITTEN_BYTES);
            types(&client, way == V5);
        });
    }
}

fn forwards(cluster: &Cluster, legs: &Legs<'_>) {
    // The old kubelet wants a port in the path of any WebSocket: who names none falls back, and
    // whoever does gets the tunnel, which the old kubelet has never heard of.
    let path = "/api/v1/namespaces/default/pods/box/portforward";
    let address = cluster.address();
    let bare = ask(&address, "GET", path, ASKS_FOR_THE_TUNNEL);
    assert_eq!(bare.code, "400", "{bare:?}");
    let named = ask(&address, "GET", &format!("{path}?ports=8080"), ASKS_FOR_THE_TUNNEL);
    println!("{}, {}", bare.message, named.head.lines().next().unwrap_or_default());
    assert_eq!(named.code, "101", "{named:?}");
    let lower = named.head.to_lowercase();
    assert!(lower.contains("sec-websocket-protocol: spdy/3.1+portforward.k8s.io"), "{named:?}");

    host_pod(cluster);
    let (admin, target) = (cluster.admin(), ["host"]);
    // A kubectl names no port.
    for (client, way, except) in [
        (kubectl("1.20", &admin, &target), FORWARD_SPDY, KUBECTL),
        (kubectl("1.37", &admin, &target), FORWARD_SPDY, KUBECTL),
        (ours(&admin, &target), TUNNEL, &[]),
    ] {
        let client = client.forwarding();
        legs.come_as(way, &client.name, || forward::check(&client, &FORWARDED, except));
    }
}
