//! Every kubectl and `bowline port-forward` against `bowline dev`, and each of our parts in a real
//! Kubernetes: the list of what a port-forward must show.

use std::io::{Read, Write};

use bowline_interop::client::{Client, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::forward::{Amounts, Forward, Point, check};
use bowline_interop::server::{Server, until};

use crate::parts::{KUBECTLS, bowline, kubectl, ours};
use crate::real::{declare, gateway, kubeconfig, kubelet, our_node};

const TARGET: &[&str] = &["nginx"];

/// No kubectl has a half-close from the pod: the end of that direction is the end of all for it.
pub const KUBECTL: &[Point] = &[Point::ServerEnds];

/// What containerd 2.x itself gets wrong: the end of one direction is no end for the pod, and the
/// end of both a second later.
pub const CONTAINERD: &[Point] = &[Point::ClientEnds, Point::ServerEnds];

/// What containerd 1.7 gets wrong: it makes a good end of a reset as well.
pub const OLD_CONTAINERD: &[Point] = &[Point::ClientEnds, Point::ServerEnds, Point::Reset];

/// How much is transferred: 64 MiB each way unless `BOWLINE_BULK_MIB` says otherwise.
fn amounts() -> Amounts {
    let mib = std::env::var("BOWLINE_BULK_MIB").ok();
    let mib: u64 = mib.map_or(64, |text| text.parse().expect("BOWLINE_BULK_MIB is a number"));
    Amounts { parallel: 200, sequential: 2000, bulk: mib << 20 }
}

#[test]
fn every_kubectl_against_dev() {
    let dev = Server::dev(&bowline(), &[]);
    for version in KUBECTLS {
        let client = kubectl(version, &dev.kubeconfig(), TARGET).forwarding();
        check(&client, &amounts(), KUBECTL);
    }
}

#[test]
fn bowline_against_dev() {
    let dev = Server::dev(&bowline(), &[]);
    let client = ours(&dev.kubeconfig(), TARGET).forwarding();
    check(&client, &amounts(), &[]);
    check(&client.over_spdy(), &amounts(), &[]);
}

#[test]
fn with_the_gate_off_the_newest_kubectl_falls_back() {
    let dev = Server::dev(&bowline(), &["--feature-gates=PortForwardWebsockets=false"]);
    check(&kubectl("1.37", &dev.kubeconfig(), TARGET).forwarding(), &amounts(), KUBECTL);
}

#[test]
fn our_client_in_a_real_cluster() {
    let cluster = Cluster::shared();
    let target = host_pod(&cluster);
    let client = ours(&cluster.admin(), &target).forwarding();
    check(&client, &amounts(), CONTAINERD);
    check(&client.over_spdy(), &amounts(), CONTAINERD);
}

#[test]
fn our_node_behind_the_real_api_server() {
    let cluster = Cluster::up(&[("NO_KUBELET", "1")]);
    let node = our_node(&cluster);
    for declared in [true, false] {
        declare(&cluster, &node, declared);
        for mut client in clients(&cluster.admin(), &["box"]) {
            client.name.push_str(if declared { ", declared" } else { ", not declared" });
            let except = if client.name.contains("kubectl") { KUBECTL } else { &[] };
            check(&client, &amounts(), except);
        }
    }
}

#[test]
fn our_gateway_before_the_real_kubelet() {
    let cluster = Cluster::shared();
    let target = host_pod(&cluster);
    for declared in [true, false] {
        let gateway = gateway(&cluster, kubelet(&cluster), declared, &target);
        let kubeconfig = kubeconfig(&cluster, &gateway);
        for mut client in clients(&kubeconfig, &target) {
            client.name.push_str(if declared { ", declared" } else { ", not declared" });
            // kubectl since 1.32 ends with any word on an error stream, and containerd has one for
            // each reset.
            let newest = client.name.starts_with("kubectl 1.37");
            let resets: &[Point] = if newest { &[Point::Reset] } else { &[] };
            check(&client, &amounts(), &[CONTAINERD, resets].concat());
        }
    }
}

fn clients(kubeconfig: &str, target: &[&str]) -> Vec<Client> {
    let ours = ours(kubeconfig, target);
    let clients = [
        kubectl("1.20", kubeconfig, target),
        kubectl("1.37", kubeconfig, target),
        ours.over_spdy(),
        ours,
    ];
    clients.iter().map(Client::forwarding).collect()
}

/// A pod whose ports are this machine's, as those of our node are.
pub fn host_pod(cluster: &Cluster) -> [&'static str; 1] {
    cluster.run_pods(HOST_POD, &["host"]);
    ["host"]
}

const HOST_POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: host, namespace: default}\n\
                        spec:\n  nodeName: localhost\n  hostNetwork: true\n  \
                        automountServiceAccountToken: false\n  terminationGracePeriodSeconds: 0\n  \
                        containers:\n  - {name: box, image: \"localhost/box:1\", imagePullPolicy: \
                        Never, command: [sleep, \"2147483647\"]}\n";

/// Workloads and services lead to a ready pod, and to another one when that is gone: by force at
/// once, and in good order as soon as it is to end.
#[test]
fn a_forward_moves_on_when_its_pod_is_gone() {
    let cluster = Cluster::shared();
    cluster.apply(SERVICE);
    cluster.apply(&workload("Deployment", ""));
    cluster.apply(&workload("ReplicaSet", ""));
    cluster.apply(&workload("StatefulSet", "  serviceName: web\n"));
    let (mut now, mut next) = ("web-a", "web-b");
    cluster.run_pods(&web_pod(now, "web"), &[now]);
    for (target, port) in [
        ("svc/web", ":http"),
        ("deploy/web", ":8080"),
        ("rs/web", ":page"),
        ("sts/web", ":8080"),
        ("svc/web", ":8080"),
    ] {
        let client = ours(&cluster.admin(), &[target]).forwarding();
        let forward = Forward::start_words(&client, &[port]);
        assert!(answers(&forward), "{target}: {}", forward.stderr());
        let _open = forward.ask(0, "GET /");
        cluster.run_pods(&web_pod(next, "web"), &[next]);
        let force: &[&str] = if now == "web-a" { &["--grace-period=0", "--force"] } else { &[] };
        cluster.kubectl(&[&["delete", "pod", now], force].concat());
        until("the other pod answers", PATIENCE, || {
            answers(&forward) && forward.stderr().contains("connected again")
        });
        let said = forward.stderr();
        println!("{target}: {said}");
        assert_eq!(said.matches("lost connection to pod").count(), 1, "{target}: {said}");
        assert!(said.contains(&format!("lost connection to pod {now}: ")), "{target}: {said}");
        assert!(said.contains(&format!("connected again, to pod {next}\n")), "{target}: {said}");
        assert_eq!(forward.interrupt().code(), Some(0), "{target}");
        (now, next) = (next, now);
    }
}

/// A pod that was named: one line says that it is gone, whoever finds out, and it is waited for.
#[test]
fn a_forward_says_that_its_pod_is_gone_and_waits_for_it() {
    let cluster = Cluster::shared();
    let delete = || {
        cluster.kubectl(&["delete", "pod", "lone", "--grace-period=0", "--force"]);
    };
    let run = || cluster.run_pods(&web_pod("lone", "lone"), &["lone"]);
    run();
    let client = ours(&cluster.admin(), &["lone"]).forwarding();
    for client in [client.clone(), client.over_spdy()] {
        let mut ends = Forward::start_words(&client.with("--exit-on-lost"), &[":8080"]);
        let stays = Forward::start_words(&client, &[":8080"]);
        let open = [&ends, &stays].map(|forward| {
            assert!(answers(forward), "{}", forward.stderr());
            forward.ask(0, "GET /")
        });
        delete();
        // The pod's end is that of the connection, and nobody else comes.
        stays.says("lost connection to pod lone: ");
        let mut status = None;
        until("it ends", PATIENCE, || {
            status = ends.has_ended();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(1), "{}", ends.stderr());
        assert!(ends.stderr().ends_with("error: lost connection to pod\n"), "{}", ends.stderr());
        drop(open);
        // One of the same name is another pod.
        run();
        until("the new pod answers", PATIENCE, || answers(&stays));
        stays.says("connected again, to pod lone\n");
        let said = stays.stderr();
        println!("{}: {said}", client.name);
        assert_eq!(said.matches("lost connection to pod").count(), 1, "{said}");
        assert_eq!(stays.interrupt().code(), Some(0));
    }
}

/// The pod is replaced by one of its name while nothing is connected: a new connection finds out,
/// and the next ones reach the new pod.
#[test]
fn a_forward_finds_a_new_pod_of_the_same_name() {
    let cluster = Cluster::shared();
    let run = || cluster.run_pods(&web_pod("again", "again"), &["again"]);
    run();
    let client = ours(&cluster.admin(), &["again"]).forwarding();
    let forward = Forward::start_words(&client, &[":8080"]);
    assert!(answers(&forward), "{}", forward.stderr());
    cluster.kubectl(&["delete", "pod", "again", "--grace-period=0", "--force"]);
    run();
    until("the new pod answers", PATIENCE, || {
        answers(&forward) && forward.stderr().contains("connected again, to pod again\n")
    });
    println!("{}", forward.stderr());
}

/// Whether a web server says something, be it that there is no page.
fn answers(forward: &Forward) -> bool {
    // Between two pods a connection is reset, whatever is done with it.
    let mut socket = forward.connect(0);
    let mut text = String::new();
    let asked = socket.write_all(b"GET / HTTP/1.0\r\n\r\n");
    let _ = asked.and_then(|()| socket.read_to_string(&mut text));
    text.starts_with("HTTP/1.")
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: \
                       {app: web}\n  ports: [{name: http, port: 8080, targetPort: page}]\n";

/// One that nobody looks after here: it only says which pods are its own.
fn workload(kind: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n{more}  selector: \
         {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
         spec: {{containers: [{{name: box, image: none}}]}}\n"
    )
}

fn web_pod(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  \
         nodeName: localhost\n  automountServiceAccountToken: false\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: box, image: \
         \"localhost/box:1\", imagePullPolicy: Never, command: [httpd, -f, -p, \"8080\"], ports: \
         [{{name: page, containerPort: 8080}}], readinessProbe: {{tcpSocket: {{port: 8080}}, \
         periodSeconds: 1}}}}\n"
    )
}
