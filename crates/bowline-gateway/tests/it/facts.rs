//! Facts that are in memory, and nodes where they say.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bowline_gateway::components::Components;
use bowline_gateway::facts::{Answer, Facts, Node, NodeAddress, Pod, Unavailable};
use bowline_gateway::gates::Gates;
use bowline_gateway::nodes::{NodeChecks, Nodes};
use bowline_gateway::server::Living;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{SPDY, WEBSOCKET, ask, code, get, message, upgrade};
use crate::components::{components, start, start_living};
use crate::kubelet::{self, Kubelet};

/// Pods and nodes by name; pods are all in one namespace.
#[derive(Debug, Default)]
struct Memory {
    pods: BTreeMap<&'static str, Arc<Pod>>,
    nodes: BTreeMap<&'static str, Arc<Node>>,
}

impl Facts for Memory {
    fn pod<'a>(&'a self, namespace: &'a str, name: &'a str) -> Answer<'a, Option<Arc<Pod>>> {
        let pod = self.pods.get(name).filter(|_| namespace == "ns");
        Box::pin(ready(Ok(pod.cloned())))
    }

    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Arc<Node>>> {
        Box::pin(ready(match name {
            "unknown" => Err(Unavailable::new("the cluster does not answer")),
            _ => Ok(self.nodes.get(name).cloned()),
        }))
    }
}

fn pod(name: &str, node: Option<&str>) -> Arc<Pod> {
    Arc::new(Pod {
        name: name.to_owned(),
        node: node.map(ToOwned::to_owned),
        containers: vec!["c".into()],
        ..Pod::default()
    })
}

fn node(kind: &str, port: u16, features: &[&str]) -> Arc<Node> {
    Arc::new(Node {
        name: "node".into(),
        addresses: vec![NodeAddress { kind: kind.to_owned(), host: "127.0.0.1".into() }],
        kubelet_port: Some(port),
        features: features.iter().map(|&feature| feature.to_owned()).collect(),
    })
}

/// A gateway before one kubelet: the node of `old` and, since it declares that it takes WebSocket,
/// that of `new`.
pub fn before(kubelet: &Kubelet) -> Components {
    let pods = [
        ("old", Some("old")),
        ("new", Some("new")),
        ("homeless", None),
        ("stray", Some("absent")),
        ("elsewhere", Some("elsewhere")),
        ("asked", Some("unknown")),
    ];
    let nodes = [
        ("old", node("InternalIP", kubelet.port, &[])),
        ("new", node("InternalIP", kubelet.port, &["ExtendWebSocketsToKubelet"])),
        ("elsewhere", node("ExternalIP", kubelet.port, &[])),
    ];
    let facts = Memory {
        pods: pods.into_iter().map(|(name, node)| (name, pod(name, node))).collect(),
        nodes: nodes.into(),
    };
    let nodes = Nodes {
        facts: Arc::new(facts),
        address_types: vec!["InternalIP".into()],
        tls: None,
        gates: Gates::default(),
        checks: NodeChecks::default(),
    };
    Components { backend: Arc::new(nodes), ..components() }
}

pub fn path(pod: &str, what: &str) -> String {
    format!("/api/v1/namespaces/ns/pods/{pod}/{what}")
}

#[tokio::test]
async fn a_command_goes_to_the_node_that_the_facts_name() {
    // On channel 1 what the command writes, on channel 3 its outcome, and a goodbye.
    let said = b"\x82\x03\x01hi\x82\x15\x03{\"status\":\"Success\"}\x88\x02\x03\xe8";
    let mut kubelet = Kubelet::start(kubelet::WEBSOCKET, said).await;
    let gateway = start(before(&kubelet)).await;
    let target = path("new", "exec?command=echo&command=hi&stdout=true");
    let (head, mut stream) = upgrade(gateway, "GET", &target, WEBSOCKET).await;
    assert_eq!(code(&head), 101, "{head}");
    assert_eq!(
        kubelet.line().await,
        "GET /exec/ns/new/c?command=echo&command=hi&output=1 HTTP/1.1"
    );
    // The first message is empty, as the API server's.
    let expected = [b"\x82\x01\x01", &said[..]].concat();
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
}

#[tokio::test]
async fn a_forward_is_bytes_between_client_and_node() {
    let mut kubelet = Kubelet::start(kubelet::SPDY, b"first ").await;
    let gateway = start(before(&kubelet)).await;
    let (head, mut stream) = upgrade(gateway, "POST", &path("old", "portforward"), SPDY).await;
    assert_eq!(code(&head), 101, "{head}");
    stream.write_all(b"and back").await.unwrap();
    let mut bytes = [0; 14];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"first and back");
    assert_eq!(kubelet.line().await, "POST /portForward/ns/old HTTP/1.1");
}

/// Browsers and libraries never ping, and boxes in between end what is silent.
#[tokio::test]
async fn clients_over_websocket_are_pinged_while_they_are_quiet() {
    let living = Living { ping_every: Some(Duration::from_millis(20)), ..Living::default() };
    let lines = |protocol| WEBSOCKET.replace("v5.channel.k8s.io", protocol);
    // An API server's first message is empty.
    let (v5, tunnel) = ("v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io");
    for (answer, pod, what, protocol, first) in [
        (kubelet::WEBSOCKET, "new", "exec?command=id&stdout=true", v5, &b"\x82\x01\x01"[..]),
        (kubelet::WEBSOCKET, "old", "portforward?ports=80", "v4.channel.k8s.io", b""),
        (kubelet::SPDY, "old", "portforward", tunnel, b""),
    ] {
        let kubelet = Kubelet::start(answer, b"").await;
        let gateway = start_living(before(&kubelet), living).await;
        let (head, mut stream) = upgrade(gateway, "GET", &path(pod, what), &lines(protocol)).await;
        assert_eq!(code(&head), 101, "{protocol}: {head}");
        let expected = [first, b"\x89\0\x89\0"].concat();
        let mut bytes = vec![0; expected.len()];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, expected, "{protocol}");
    }
}

#[tokio::test]
async fn a_log_is_passed_on_as_it_comes() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n";
    let mut kubelet = Kubelet::start(answer, b"a line").await;
    let gateway = start(before(&kubelet)).await;
    assert_eq!(get(gateway, &path("old", "log?tailLines=1")).await, (200, "a line".into()));
    assert_eq!(kubelet.line().await, "GET /containerLogs/ns/old/c?tailLines=1 HTTP/1.1");
}

#[tokio::test]
async fn what_a_node_refuses_is_refused_in_its_words() {
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\n";
    let kubelet = Kubelet::start(answer, b"not you").await;
    let gateway = start(before(&kubelet)).await;
    for (pod, what, method, lines) in [
        ("new", "exec?command=id&stdout=1", "GET", WEBSOCKET),
        ("old", "exec?command=id&stdout=1", "GET", WEBSOCKET),
        ("old", "portforward", "POST", SPDY),
    ] {
        let lines = format!("Authorization: Bearer good\r\nConnection: Upgrade\r\n{lines}");
        let (code, body) = ask(gateway, method, &path(pod, what), &lines).await;
        assert_eq!((code, message(&body)), (403, "not you".into()), "{pod}/{what}");
    }
    let (code, body) = get(gateway, &path("old", "log")).await;
    assert_eq!((code, message(&body)), (403, "not you".into()));
}

/// All of it is known before anything is dialled.
#[tokio::test]
async fn what_is_absent_is_not_what_cannot_be_found_out() {
    let mut kubelet = Kubelet::start(kubelet::SPDY, b"").await;
    let gateway = start(before(&kubelet)).await;
    for (pod, what, expected, words) in [
        ("none", "log", 404, "pods \"none\" not found"),
        ("homeless", "log", 400, "pod homeless does not have a host assigned"),
        ("stray", "log", 404, "nodes \"absent\" not found"),
        // It has no address of a kind that is used.
        ("elsewhere", "log", 404, "nodes \"elsewhere\" not found"),
        ("asked", "log", 500, "Internal error occurred: the cluster does not answer"),
        ("old", "log?container=x", 400, "container x is not valid for pod old"),
        // The handshake is judged behind that.
        ("stray", "exec", 404, "nodes \"absent\" not found"),
        ("old", "exec", 400, "Upgrade request required"),
        ("old", "portforward", 400, "Upgrade request required"),
    ] {
        let (code, body) = get(gateway, &path(pod, what)).await;
        assert_eq!((code, &*message(&body)), (expected, words), "{pod}/{what}");
    }
    assert!(kubelet.asked.try_recv().is_err());
}
