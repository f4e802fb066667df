//! The node on a real container runtime: the whole list through a socket in front of containerd's
//! that a real kubelet uses, and through our node in the kubelet's place, both behind a real API
//! server.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use bowline_interop::attach::{Pods, talks, types};
use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::cluster::{Cluster, OLD_RUNTIME, PODS, our_face};
use bowline_interop::copy::{keeps_all, there_and_back};
use bowline_interop::forward::Forward;
use bowline_interop::forward::app::Place;
use bowline_interop::list::{Amounts, Point};
use bowline_interop::pair::port;
use bowline_interop::server::{Server, until};
use bowline_interop::{forward, list};

use crate::forward::{CONTAINERD, KUBECTL, host_pod};
use crate::legs::{FORWARD_SPDY, Legs, SPDY, TUNNEL, V5};
use crate::parts::{KUBECTLS, bowline, kubectl, ours};
use crate::real::{gateway, kubeconfig};

/// How much is transferred: what fails with more has been tried at `dev` and in a real cluster, and
/// there are many clients here.
const AMOUNTS: Amounts =
    Amounts { times: 1, both_ways: 5_000_000, one_way: 50_000_000, truncations: 5 };
/// The same of a port-forward.
pub const FORWARDED: forward::Amounts =
    forward::Amounts { parallel: 100, sequential: 200, bulk: 16 << 20 };
/// What is written at once, to two attached clients.
pub const WRITTEN_BYTES: usize = 10_000_000;

/// What a real API server and kubelet pass on they cut off at the first end of either side: a
/// client that still sends input then may lose the outcome, and says so.
const PASSED_ON: &[Point] = &[Point::Ignored];

/// The words of a socket in front of the cluster's containerd.
pub fn face(flags: &str) -> String {
    our_face(&bowline(), &format!("-v=2 {flags}"))
}

/// Each client, for a pod, with kubectls of these ages. What runs in a pod with GNU's tools differs
/// in these alone, so that one client of each kind is enough there.
fn clients(cluster: &Cluster, ages: &[&str], pod: &str) -> Vec<Client> {
    let ours = ours(&cluster.admin(), &[pod]).named(pod);
    let is_enough = |age: &&&str| !pod.ends_with("gnu") || [KUBECTLS[0], KUBECTLS[3]].contains(age);
    let ages = ages.iter().filter(is_enough);
    let kubectls = ages.map(|age| kubectl(age, &cluster.admin(), &[pod]).named(pod));
    kubectls.chain([ours.over_spdy(), ours]).collect()
}

/// What a client's commands and attaches come as, and its forwards. A kubelet is a WebSocket server
/// itself, and asks its runtime over SPDY alone.
fn ways(client: &Client, node: Option<&Server>) -> [&'static str; 2] {
    let is_old = client.name.contains("1.20") || client.name.contains("over SPDY");
    if node.is_none() || is_old { [SPDY, FORWARD_SPDY] } else { [V5, TUNNEL] }
}

/// Creates the pods that [`everything`] needs, beside those that are there.
fn run_pods(cluster: &Cluster) {
    host_pod(cluster);
    for tools in PODS {
        let suffix = format!("-{tools}");
        let pods = Pods { node: Some("localhost"), tools, suffix: &suffix, runs: false };
        let names = pods.names();
        cluster.run_pods(&pods.manifests().join("---\n"), &names.each_ref().map(|name| &**name));
    }
}

/// The whole list of exec, with what is passed on.
pub fn listed(client: &Client) {
    list::check(client, &AMOUNTS, PASSED_ON);
    let left = client.run(&["-i"], &["true"], Input::Noise(20_000_000));
    let lost = if client.name.contains("bowline") { 255 } else { 1 };
    let code = left.status.code();
    println!("{}: true with 20000000 bytes of stdin: {code:?}", client.name);
    assert!(code == Some(0) || code == Some(lost), "{}: {left:?}", client.name);
}

/// All that exec, cp, attach and port-forward have to show, each over the carrier that its client
/// is meant to have. containerd's shortfalls are none here.
fn everything(cluster: &Cluster, node: Option<&Server>, ages: &[&str]) {
    let legs = Legs::of(cluster, node);
    for tools in PODS {
        for client in clients(cluster, ages, tools) {
            let begun = Instant::now();
            legs.come_as(ways(&client, node)[0], &client.name, || {
                listed(&client);
                there_and_back(&client, tools);
                if client.name.contains("bowline") {
                    keeps_all(&client, tools);
                }
            });
            println!("{}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
        }
        for client in clients(cluster, ages, &format!("talker-{tools}")) {
            let keys = ["1.36", "1.37", "bowline"].iter().any(|name| client.name.contains(name));
            legs.come_as(ways(&client, node)[0], &client.name, || {
                talks(&client, WRITTEN_BYTES);
                types(&client, keys);
            });
        }
    }
    for client in clients(cluster, ages, "host") {
        let client = client.forwarding();
        let except = if client.name.contains("kubectl") { KUBECTL } else { &[] };
        legs.come_as(ways(&client, node)[1], &client.name, || {
            forward::check(&client, &FORWARDED, except);
        });
    }
}

#[test]
fn a_kubelet_on_our_socket_streams_everything() {
    let cluster = Cluster::behind(&face(""), &[]);
    run_pods(&cluster);
    everything(&cluster, None, &KUBECTLS);
}

/// A pod that is found ready, and dead again and again, by commands of the kubelet's.
pub const PROBED: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: probed, namespace: default}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: box
    image: localhost/box:1
    imagePullPolicy: Never
    command: [sh, -c, "touch /tmp/up; sleep 2147483647"]
    readinessProbe: {exec: {command: [cat, /tmp/up]}, periodSeconds: 1}
    livenessProbe:
      {exec: {command: [test, "!", -e, /tmp/dead]}, periodSeconds: 1, failureThreshold: 1}
"#;

/// Has it restarted by its probe, and found ready again.
pub fn restarted(cluster: &Cluster) {
    let client = ours(&cluster.admin(), &["probed"]);
    let left = client.run(&[], &["touch", "/tmp/dead"], Input::Nothing);
    assert!(left.status.success(), "{left:?}");
    let count = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
    cluster.kubectl(&["wait", count, "--timeout=60s", "pod/probed"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/probed"]);
    let left = client.run(&[], &["echo", "again"], Input::Nothing);
    assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"again\n"[..]), "{left:?}");
}

/// The kubelet goes back to containerd's own socket and finds all as it was; and the other way.
#[test]
fn a_kubelet_runs_its_pods_through_our_socket_and_back_again() {
    let cluster = Cluster::behind(&face(""), &[]);
    cluster.run_pods(PROBED, &["probed"]);
    restarted(&cluster);
    let containers = |jsonpath| cluster.kubectl(&["get", "pods", "-o", jsonpath]);
    let ids = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
    let before = containers(ids);
    let config = cluster.path("kubelet.yaml");
    let (ours, theirs) = (cluster.env("RUNTIME_ENDPOINT").to_owned(), cluster.containerd());
    for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        cluster.restart("kubelet");
        host_pod(&cluster);
        let client = crate::parts::ours(&cluster.admin(), &["probed"]);
        let left = client.run(&[], &["echo", "there"], Input::Nothing);
        assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"there\n"[..]), "{left:?}");
        cluster.kubectl(&["delete", "pod", "host"]);
        assert_eq!(containers(ids), before);
    }
}

#[test]
fn our_node_streams_everything_of_the_old_containerds_pods() {
    let cluster = Cluster::up(&[OLD_RUNTIME]);
    run_pods(&cluster);
    let node = in_the_kubelets_place(&cluster, &[]);
    everything(&cluster, Some(&node), &["1.37"]);
    drop(node);
}

#[test]
fn our_node_streams_everything_of_containerds_pods() {
    let cluster = Cluster::up(&[]);
    run_pods(&cluster);
    let node = in_the_kubelets_place(&cluster, &[]);
    everything(&cluster, Some(&node), &KUBECTLS);
    drop(node);
}

/// A program of the pod's own, which a client has started and is still there for. Dropped, that
/// client ends, and the program with it.
struct Counter(Child);

impl Counter {
    /// Where it listens, and nobody else: the network is the pod's.
    const PORT: &str = "8080";
    /// The same for a forward, whose local port is the system's choice.
    const PORTS: &str = ":8080";

    /// Says of each connection how many bytes came, once that direction has ended.
    fn start(cluster: &Cluster) -> Counter {
        let listens = ["nc", "-ll", "-p", Counter::PORT, "-e", "wc", "-c"];
        let mut exec = ours(&cluster.admin(), &["box"]).process(&[], &listens);
        exec.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut counter = Counter(exec.spawn().unwrap());
        let client = ours(&cluster.admin(), &["box"]).forwarding();
        let forward = Forward::start_words(&client, &[Counter::PORTS]);
        until("it listens", PATIENCE, || {
            assert_eq!(counter.0.try_wait().unwrap(), None, "it has ended");
            counted(&forward, 1).is_ok()
        });
        counter
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a connection gets that has ended its direction after so many bytes.
fn counted(forward: &Forward, bytes: usize) -> Result<String, String> {
    let mut socket = forward.connect(0);
    let mut text = String::new();
    let sent = socket.write_all(&vec![7; bytes]).and_then(|()| socket.shutdown(Shutdown::Write));
    let read = sent.and_then(|()| socket.read_to_string(&mut text));
    read.map(|_| text).map_err(|error| error.to_string())
}

/// Clients of a forward to a pod with a network of its own.
fn forwarders(cluster: &Cluster) -> [Client; 3] {
    let ours = ours(&cluster.admin(), &["box"]).forwarding();
    [kubectl("1.37", &cluster.admin(), &["box"]).forwarding(), ours.over_spdy(), ours]
}

/// The list of a port-forward, to loopback of a network that is the pod's alone: nobody but a
/// process inside of it gets there.
#[test]
fn our_node_enters_a_pods_own_network() {
    let cluster = Cluster::up(&[]);
    let inside = Place::inside(&cluster.network_of("box"));
    let node = in_the_kubelets_place(&cluster, &[]);
    let inside_6 = inside.at(Ipv6Addr::LOCALHOST);
    for client in forwarders(&cluster) {
        let except = if client.name.contains("kubectl") { KUBECTL } else { &[] };
        forward::check_at(&inside, &client, &FORWARDED, except);
        if inside_6.is_there() {
            forward::check_at(&inside_6, &client.named("::1"), &forward::SMALL, except);
        } else {
            println!("{}: the pod has no ::1", client.name);
        }
    }
    let counter = Counter::start(&cluster);
    for client in forwarders(&cluster) {
        let forward = Forward::start_words(&client, &[Counter::PORTS]);
        for bytes in [0, 3_000_000] {
            let expected = format!("{bytes}\n");
            assert_eq!(counted(&forward, bytes), Ok(expected), "{}", client.name);
        }
    }
    drop((counter, node));
}

/// The same where containerd connects to the ports, without what it gets wrong. That is shown as
/// well: it ends in good order what it has cut, so that no client can tell.
#[test]
fn our_node_has_containerd_enter_a_pods_own_network() {
    let cluster = Cluster::up(&[]);
    let inside = Place::inside(&cluster.network_of("box"));
    let node = in_the_kubelets_place(&cluster, &["--port-forward=runtime"]);
    let counter = Counter::start(&cluster);
    for client in forwarders(&cluster) {
        let except: &[forward::Point] =
            if client.name.contains("kubectl") { &[forward::Point::Reset] } else { &[] };
        forward::check_at(&inside, &client, &FORWARDED, &[CONTAINERD, except].concat());
        is_cut(&client);
    }
    drop((counter, node));
    // One that may not enter it has containerd do so, and says why.
    let program = cluster.path("without-rights");
    let script = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-sys_admin -- '{}' \"$@\"\n",
        bowline().display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let node = cluster.beside_the_kubelet(&program, &["-v=2"]);
    cluster.has_as_kubelet(&node);
    assert!(!node.log().contains(LEFT), "{}", node.log());
    let counter = Counter::start(&cluster);
    for client in forwarders(&cluster) {
        is_cut(&client);
    }
    let log = node.log();
    assert_eq!(log.matches(LEFT).count(), 1, "{log}");
    assert!(log.contains("cannot be used: operation not permitted"), "{log}");
    drop((counter, node));
}

/// What a node logs that has the runtime connect to ports.
const LEFT: &str = "port-forwards are left to the runtime's own streaming server";

/// containerd's shortfall: if this fails, it has learned.
fn is_cut(client: &Client) {
    let forward = Forward::start_words(client, &[Counter::PORTS]);
    let got = counted(&forward, 3_000_000);
    println!("{}: the answer to an input that has ended: {got:?}", client.name);
    assert_eq!(got, Ok(String::new()), "{}: {}", client.name, forward.stderr());
}

/// Our node on the cluster's containerd, as the API server's kubelet.
pub fn in_the_kubelets_place(cluster: &Cluster, flags: &[&str]) -> Server {
    cluster.in_the_kubelets_place(&bowline(), &[&["-v=2"], flags].concat())
}

/// What is said where a runtime streams commands by itself.
const NO_ENV: &str = "this node's container runtime takes no env for a command";

/// A real API server leaves out what it does not know, so our gateway stands in its place.
#[test]
fn a_commands_environment_is_set_or_nothing_is_begun() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    let script = "echo \"$ONE\"; touch /tmp/begun-by-env";
    let command = ["sh", "-c", script];
    let dropped = ours(&cluster.admin(), &["box"]);
    let left = dropped.run(&["--env=ONE=1"], &command, Input::Nothing);
    assert_eq!((left.status.code(), &*left.stdout), (Some(1), &b""[..]), "{left:?}");
    assert!(left.stderr.contains("nothing was begun"), "{left:?}");
    let left = dropped.run(&[], &["ls", "/tmp/begun-by-env"], Input::Nothing);
    assert!(!left.status.success(), "{left:?}");
    let gateway = gateway(&cluster, port(&node.address()), true, &PODS);
    for pod in PODS {
        let client = ours(&kubeconfig(&cluster, &gateway), &[pod]);
        let left = client.run(&["--env=ONE=a b=c"], &command, Input::Nothing);
        assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"a b=c\n"[..]), "{left:?}");
    }
    drop((gateway, node));
    runtimes_take_no_environment(&cluster);
}

fn runtimes_take_no_environment(cluster: &Cluster) {
    let node = cluster.beside_the_kubelet(&bowline(), &["-v=2", "--exec=runtime"]);
    cluster.has_as_kubelet(&node);
    let gateway = gateway(cluster, port(&node.address()), true, &PODS);
    for pod in PODS {
        let client = ours(&kubeconfig(cluster, &gateway), &[pod]);
        for client in [client.over_spdy(), client] {
            let touch = ["touch", "/tmp/begun-by-the-runtime"];
            let left = client.run(&["--env=ONE=1"], &touch, Input::Nothing);
            assert_eq!(left.status.code(), Some(1), "{left:?}");
            assert!(left.stderr.contains(NO_ENV), "{left:?}");
            let left = client.run(&[], &["ls", touch[1]], Input::Nothing);
            assert!(left.status.code().is_some_and(|code| code != 0 && code != 255), "{left:?}");
        }
    }
    let refusals = node.log().matches(NO_ENV).count();
    assert_eq!(refusals, 2 * 2, "{}", node.log());
}
