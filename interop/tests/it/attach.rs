//! Every kubectl and `bowline attach` against `bowline dev`, and each of our parts in a real
//! Kubernetes: the list of what an attach must show. And the logs that kubectl shows of it.

use bowline_interop::attach::{Attached, Pods, pods_file, talks, two, types};
use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::server::{Server, until};

use crate::parts::{KUBECTLS, bowline, kubectl, ours};
use crate::real::{declare, gateway, kubeconfig, kubelet, our_node_with};

/// What is written at once, to two clients.
const BYTES: usize = 50_000_000;

fn check(client: &Client) {
    let begun = std::time::Instant::now();
    talks(client, BYTES);
    let keys = ["1.36", "1.37", "bowline"].iter().any(|name| client.name.contains(name));
    types(client, keys);
    println!("{}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
}

#[test]
fn every_client_against_dev() {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(&bowline(), &["-f", &pods_file(place.path())]);
    for version in KUBECTLS {
        check(&kubectl(version, &dev.kubeconfig(), &["talker"]));
    }
    check(&ours(&dev.kubeconfig(), &["talker"]));
    check(&ours(&dev.kubeconfig(), &["talker"]).over_spdy());
}

#[test]
fn every_kubectl_reads_the_logs_of_dev() {
    let place = tempfile::tempdir().unwrap();
    let dev = Server::dev(&bowline(), &["-f", &pods_file(place.path())]);
    let (mut typist, watcher) = two(&ours(&dev.kubeconfig(), &["talker"]));
    for version in KUBECTLS {
        for line in ["one", "two", "three"] {
            typist.says(&format!("say {line}"));
            let _ = watcher.finds(line);
        }
        let mut client = kubectl(version, &dev.kubeconfig(), &["talker"]);
        client.words[0] = "logs".to_owned();
        let left = client.run(&["--tail=3"], &[], Input::Nothing);
        assert_eq!(String::from_utf8_lossy(&left.stdout), "one\ntwo\nthree\n", "{version}");
        let follower = Attached::start(&client, &["-f", "--tail=1"]);
        assert_eq!(follower.line().text, "three");
        typist.says("err errors as well");
        assert_eq!(follower.line().text, "errors as well");
    }
    let mut client = kubectl("1.37", &dev.kubeconfig(), &["talker"]);
    client.words[0] = "logs".to_owned();
    let follower = Attached::start(&client, &["-f", "--tail=0"]);
    typist.says("end 0");
    assert!(follower.ends().success(), "the log ends with the container");
}

/// Pods of a real kubelet, with these tools; their names end with `suffix`: a dash, and more.
pub fn run<'a>(cluster: &Cluster, tools: &'a str, suffix: &'a str) -> Pods<'a> {
    let pods = Pods { node: Some("localhost"), tools, suffix, runs: false };
    cluster.run_pods(&pods.manifests().join("---\n"), &pods.names().each_ref().map(|name| &**name));
    pods
}

#[test]
fn our_client_in_a_real_cluster() {
    let cluster = Cluster::shared();
    for tools in PODS {
        let suffix = format!("-{tools}");
        let [talker, ..] = run(&cluster, tools, &suffix).names();
        let client = ours(&cluster.admin(), &[&talker]);
        check(&client);
        check(&client.over_spdy());
        let left = client.attaching("talker").run(&["--replay=5"], &[], Input::Nothing);
        assert_eq!(left.status.code(), Some(1), "{left:?}");
        let advice = format!("kubectl logs --tail=5 {talker}");
        assert!(left.stderr.contains(&advice), "{left:?}");
    }
}

/// What `dev` shows of the end of a process, and of the end of its input, in a real cluster.
#[test]
fn ends_in_a_real_cluster() {
    let cluster = Cluster::shared();
    for tools in PODS {
        for (carrier, spdy) in [("ws", false), ("spdy", true)] {
            let suffix = format!("-{tools}-{carrier}");
            let [talker, once, _] = run(&cluster, tools, &suffix).names();
            let client = ours(&cluster.admin(), &[&talker]);
            let client = if spdy { client.over_spdy() } else { client };
            let left = client.attaching("once").run(&["-iq"], &[], Input::Bytes(b"a\nb\n"));
            assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"a\nb\n"[..]), "{left:?}");
            let phase = ["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"];
            cluster.kubectl(&[&phase[..], &[&format!("pod/{once}")]].concat());
            let (mut typist, watcher) = two(&client);
            typist.says("end 3");
            let ends = [typist.ends().code(), watcher.ends().code()];
            println!("{}: {talker}: ended by {ends:?}", client.name);
            assert_eq!(ends, [Some(0), Some(0)], "{}", client.name);
        }
    }
}

#[test]
fn our_node_behind_the_real_api_server() {
    let cluster = Cluster::up(&[("NO_KUBELET", "1")]);
    let pods = Pods { node: Some("ours"), tools: "box", suffix: "", runs: false };
    let node = our_node_with(&cluster, &pods.manifests().join("---\n"));
    for declared in [true, false] {
        declare(&cluster, &node, declared);
        for pod in (Pods { runs: true, ..pods }).manifests() {
            cluster.apply(&pod);
        }
        for mut client in clients(&cluster.admin(), "talker") {
            client.name.push_str(if declared { ", declared" } else { ", not declared" });
            check(&client);
        }
    }
}

#[test]
fn our_gateway_before_the_real_kubelet() {
    let cluster = Cluster::shared();
    for (tools, declared) in [("box", true), ("gnu", false)] {
        let suffix = format!("-{tools}-gateway");
        let pods = run(&cluster, tools, &suffix).names();
        let pods = pods.each_ref().map(|name| &**name);
        let gateway = gateway(&cluster, kubelet(&cluster), declared, &pods);
        let kubeconfig = kubeconfig(&cluster, &gateway);
        for mut client in clients(&kubeconfig, pods[0]) {
            client.name.push_str(if declared { ", declared" } else { ", not declared" });
            check(&client);
        }
        let mut client = kubectl("1.37", &kubeconfig, &[pods[0]]);
        client.words[0] = "logs".to_owned();
        let (mut typist, _watcher) = two(&ours(&kubeconfig, &[pods[0]]));
        // A kubelet that has just begun another file shows nothing of the one before.
        until("a line is in the log", PATIENCE, || {
            typist.says("say logged");
            let left = client.run(&["--tail=1"], &[], Input::Nothing);
            assert!(left.status.success(), "{left:?}");
            left.stdout == b"logged\n"
        });
    }
}

fn clients(kubeconfig: &str, talker: &str) -> Vec<Client> {
    let ours = ours(kubeconfig, &[talker]);
    vec![
        kubectl("1.20", kubeconfig, &[talker]),
        kubectl("1.37", kubeconfig, &[talker]),
        ours.over_spdy(),
        ours,
    ]
}
