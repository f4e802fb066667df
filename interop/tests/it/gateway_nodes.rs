//! Our gateway in the API server's place in front of a real cluster's kubelets: the list, nodes
//! that come, change and go or are not who they say, and an API server that stops.

use std::process::Command;

use bowline_interop::attach::talks;
use bowline_interop::client::{Client, Input};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::copy::there_and_back;
use bowline_interop::forward;
use bowline_interop::list::check;
use bowline_interop::server::Server;
use rustix::process::Signal;

use crate::attach;
use crate::forward::{CONTAINERD as FORWARD_OF_CONTAINERD, host_pod};
use crate::gateway::{AMOUNTS, FORWARDED, WRITTEN_BYTES};
use crate::parts::{bowline, kubectl, ours};
use crate::real::CONTAINERD;
use crate::who::ask;

/// The cluster's node is on loopback, where nodes are not believed to be.
pub const LOOPBACK: &str = "--allow-node-addresses=127.0.0.0/8,::1/128";
/// What asks for a stream, after the line that says who asks.
const STREAM: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                      Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

pub fn gateway(cluster: &Cluster, flags: &[&str]) -> Server {
    let mut gateway = Command::new(bowline());
    gateway.args(["gateway", "--backend=nodes", "--secure-port=0", "--bind-address=127.0.0.1"]);
    gateway.args(["--upstream", &cluster.admin()]).args(flags);
    for (flag, file) in [
        ("--client-ca-file", "ca.crt"),
        ("--kubelet-certificate-authority", "ca.crt"),
        ("--kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        ("--kubelet-client-key", "apiserver-kubelet-client.key"),
    ] {
        gateway.arg(flag).arg(cluster.path("pki").join(file));
    }
    Server::start(&mut gateway)
}

/// A kubeconfig for the gateway, of the administrator by certificate.
pub fn kubeconfig(cluster: &Cluster, gateway: &Server) -> String {
    let (address, pki) = (gateway.address(), cluster.text("pki"));
    let file = cluster.text("gateway-nodes.kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://{address}', \
         insecure-skip-tls-verify: true}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u, namespace: default}}}}]\n\
         users: [{{name: u, user: {{client-certificate: '{pki}/admin.crt', \
         client-key: '{pki}/admin.key'}}}}]\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// What a client that cannot run a command has to say, in one line.
fn refused(client: &Client) -> String {
    let left = client.run(&[], &["true"], Input::Nothing);
    assert_eq!(left.status.code(), Some(1), "{left:?}");
    left.stderr.trim().to_owned()
}

#[test]
fn clients_of_all_ages_reach_real_kubelets() {
    let cluster = Cluster::shared();
    reaches_kubelets(&cluster, &["1.37", "1.20"], FORWARD_OF_CONTAINERD);
}

/// All that leads to pods, with nodes and pods that are found in the cluster, by kubectls of these
/// ages and `bowline`. `of_runtime` is what its runtime gets wrong of a port-forward.
pub fn reaches_kubelets(cluster: &Cluster, ages: &[&str], of_runtime: &[forward::Point]) {
    let gateway = gateway(cluster, &[LOOPBACK]);
    let file = kubeconfig(cluster, &gateway);
    host_pod(cluster);
    let [talker, ..] = attach::run(cluster, PODS[0], "-box-nodes").names();
    let clients = |pod: &str| {
        let kubectls = ages.iter().map(|age| kubectl(age, &file, &[pod]));
        let clients = kubectls.chain([ours(&file, &[pod])]);
        clients.map(|client| client.named("gateway in front of nodes")).collect::<Vec<_>>()
    };
    // The last ones in the other pod, which differs in its tools alone.
    for (index, client) in clients(PODS[0]).iter().enumerate() {
        let pod = PODS[usize::from(index > 0)];
        let client = Client { target: vec![pod.to_owned()], ..client.clone() };
        check(&client, &AMOUNTS, CONTAINERD);
        there_and_back(&client, pod);
    }
    for client in clients(&talker) {
        talks(&client, WRITTEN_BYTES);
    }
    for client in clients("host") {
        // kubectl since 1.32 ends with any word on an error stream, and containerd has one for each
        // reset.
        let resets: &[forward::Point] =
            if client.name.contains("1.37") { &[forward::Point::Reset] } else { &[] };
        forward::check(&client.forwarding(), &FORWARDED, &[of_runtime, resets].concat());
    }
}

#[test]
fn who_may_not_is_refused_as_by_the_api_server() {
    let cluster = Cluster::shared();
    let gateway = gateway(&cluster, &[LOOPBACK]);
    let target = "/api/v1/namespaces/default/pods/box/exec?command=true&stdout=1";
    for (who, expected) in [("Bearer viewer-token", "403"), ("Bearer nobody", "401")] {
        let lines = format!("Authorization: {who}\r\n{STREAM}");
        let theirs = ask(&cluster.address(), "GET", target, &lines);
        let ours = ask(&gateway.address(), "GET", target, &lines);
        assert_eq!((&*ours.code, &*theirs.code), (expected, expected), "{who}");
        // Of what is missing, the API server does not tell those who ask by WebSocket.
        assert!(ours.message.starts_with(theirs.message.trim()), "{ours:?} {theirs:?}");
    }
}

/// A Node, its address and port, and a Pod on it that no kubelet has.
fn node(cluster: &Cluster, name: &str, address: &str, port: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus:\n  addresses:\n  - \
         {{type: InternalIP, address: {address}}}\n  \
         daemonEndpoints: {{kubeletEndpoint: {{Port: {port}}}}}\n"
    ));
}

fn pod_on(cluster: &Cluster, node: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}, namespace: default}}\nspec:\n  \
         nodeName: {node}\n  automountServiceAccountToken: false\n  \
         containers: [{{name: box, image: none}}]\n"
    ));
}

#[test]
fn nodes_that_come_change_and_go_are_followed_and_not_believed() {
    let cluster = Cluster::shared();
    let gateway = gateway(&cluster, &[LOOPBACK]);
    let file = kubeconfig(&cluster, &gateway);
    let says = |words: &str| {
        let said = refused(&kubectl("1.37", &file, &["on-impostor"]));
        assert!(said.contains(words), "{said}");
    };
    node(&cluster, "impostor", "127.0.0.1", cluster.env("KUBELET_PORT"));
    pod_on(&cluster, "impostor");
    says(
        "the certificate has the common name \"system:node:localhost\", not \
         \"system:node:impostor\"",
    );
    node(&cluster, "impostor", "169.254.169.254", "80");
    says("address not allowed: 169.254.169.254");
    node(&cluster, "impostor", "127.0.0.1", "1");
    says("dial tcp 127.0.0.1:1: connect: connection refused");
    cluster.kubectl(&["delete", "node", "impostor"]);
    says("nodes \"impostor\" not found");
    cluster.kubectl(&["delete", "pod", "on-impostor", "--force", "--grace-period=0"]);

    let strict = self::gateway(&cluster, &[]);
    let file = kubeconfig(&cluster, &strict);
    let said = refused(&ours(&file, &["box"]));
    assert!(said.contains("dial tcp: localhost: address not allowed: 127.0.0.1"), "{said}");
}

#[test]
fn nothing_is_served_from_what_an_api_server_said_before_it_stopped() {
    let cluster = Cluster::up(&[]);
    let tokens = cluster.text("gateway-tokens.csv");
    std::fs::write(&tokens, "known,admin,0,system:masters\n").unwrap();
    let known = ["--authorization-mode=AlwaysAllow", "--token-auth-file", &tokens];
    let gateway = gateway(&cluster, &[&[LOOPBACK], &known[..]].concat());
    let client = ours(&kubeconfig(&cluster, &gateway), &["box"]);
    let (mut child, line) = client.begin(&["-i"], "echo begun; read line; exit 3");
    assert_eq!(line, "begun");
    let asked = |words: &[&str]| {
        let target = "/api/v1/namespaces/default/pods/box/exec?command=true&stdout=1";
        let lines = format!("Authorization: Bearer known\r\n{STREAM}");
        let answer = ask(&gateway.address(), "GET", target, &lines);
        let expected = if words.is_empty() { "101" } else { "500" };
        assert_eq!(answer.code, expected, "{answer:?}");
        let says = words.is_empty() || words.iter().any(|words| answer.message.contains(words));
        assert!(says, "{answer:?}");
    };
    asked(&[]);
    cluster.signal("kube-apiserver", Signal::STOP);
    // What it is depends on whether a connection was kept, or just begun.
    let away =
        ["Unable to connect to the server: ", "was refused - did you specify the right host"];
    asked(&away);
    cluster.signal("kube-apiserver", Signal::CONT);
    asked(&[]);
    cluster.signal("kube-apiserver", Signal::KILL);
    asked(&away);
    // What runs needs no API server.
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
