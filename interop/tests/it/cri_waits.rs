//! A container runtime that is stuck: who asks is told within a while, and is served once it goes
//! on. As in `waits.rs`, these tests run side by side.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS, RUNTIME_ALONE};
use bowline_interop::forward;
use bowline_interop::grpc::Connection;
use bowline_interop::server::Server;
use rustix::process::Signal;

use crate::cri::{face, in_the_kubelets_place};
use crate::cri_ends::newer;
use crate::cri_face::{Pod, both, method};
use crate::cri_kinds::{Kinds, TALKER, run_talker};
use crate::cri_urls::{begin, begin_websocket};
use crate::ends::both_carriers;
use crate::parts::ours;

/// How long a request at a runtime that is stuck may take: our client asks over one carrier, and
/// over the other, for 15 s each.
const DEADLINE: Duration = Duration::from_secs(40);

/// Asks while the runtime is stopped, for sessions of every kind over both carriers, and once it
/// goes on; what is said meanwhile has these words.
fn is_told(cluster: &Cluster, node: Option<&Server>, words: &str) {
    let client = |pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod));
    let clients = PODS.map(client).concat();
    let others = both_carriers(&ours(&cluster.admin(), &[PODS[0]]));
    let kinds = Kinds::start(cluster, node, newer(node));
    cluster.signal("containerd", Signal::STOP);
    thread::scope(|scope| {
        let refused = |what: String, process: Command| {
            scope.spawn(move || is_refused(&what, process, words));
        };
        for client in &clients {
            refused(client.name.clone(), echo(client));
        }
        for client in &others {
            let attach = client.attaching(TALKER).process(&[], &[]);
            refused(format!("{}: an attach", client.name), attach);
            let forward = forward::process(&client.forwarding(), &[":8080"]);
            refused(format!("{}: a forward", client.name), forward);
        }
    });
    cluster.signal("containerd", Signal::CONT);
    for client in &clients {
        let left = left(start(echo(client)), Input::Nothing, true).unwrap();
        assert_eq!(left.stdout, b"here\n", "{}: {left:?}", client.name);
    }
    drop(kinds.begin());
}

fn is_refused(what: &str, process: Command, words: &str) {
    let begun = Instant::now();
    let left = left(start(process), Input::Nothing, true).unwrap();
    let elapsed = begun.elapsed();
    let said = left.stderr.trim();
    println!("{what}: {:.1} s: {said}", elapsed.as_secs_f64());
    assert!(!left.status.success(), "{what}: {left:?}");
    assert!(elapsed < DEADLINE, "{what}: {elapsed:?}");
    assert!(said.contains(words), "{what}: {left:?}");
}

fn echo(client: &Client) -> Command {
    client.process(&[], &["echo", "here"])
}

fn start(mut process: Command) -> Child {
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.spawn().unwrap()
}

#[test]
fn a_stopped_runtime_is_named_by_our_node_and_works_again() {
    let cluster = Cluster::up(&[]);
    run_talker(&cluster);
    let node = in_the_kubelets_place(&cluster, &[]);
    is_told(&cluster, Some(&node), "the container runtime at unix://");
}

/// The deadline is the kubelet's own, as are the words.
#[test]
fn a_stopped_runtime_ends_a_kubelets_requests_through_the_face() {
    let settings = [("KUBELET_ARGS", "--runtime-request-timeout=10s")];
    let cluster = Cluster::behind(&face(""), &settings);
    run_talker(&cluster);
    is_told(&cluster, None, "DeadlineExceeded");
}

/// How a URL is used.
type Begin = fn(&str) -> (u16, String);
const BEGINS: [Begin; 2] = [begin, begin_websocket];

/// The URL is there, and then the runtime is stuck: whoever uses it is told within a while.
#[test]
fn a_stopped_runtime_is_named_by_the_faces_streams_and_works_again() {
    let cluster = Cluster::behind(&face(""), &[RUNTIME_ALONE]);
    let pod = Pod::run(&cluster, "stopped", &["sleep", "2147483647"]);
    let [_, face] = both(&cluster);
    // A URL of each kind for each of the ways.
    let urls = || {
        let mut connection = Connection::open(&face, "localhost");
        let asked =
            [("Exec", pod.exec()), ("Attach", pod.attach()), ("PortForward", pod.forward())];
        let mut url = |(name, message): (&str, Vec<u8>)| {
            BEGINS.map(|begin| (begin, connection.call(&method(name), &message).url()))
        };
        asked.map(&mut url).concat()
    };
    let before = urls();
    cluster.signal("containerd", Signal::STOP);
    thread::scope(|scope| {
        for (begin, url) in before {
            scope.spawn(move || {
                let begun = Instant::now();
                let (status, text) = begin(&url);
                println!("{url}: {status} {text}: {:.1} s", begun.elapsed().as_secs_f64());
                assert!(begun.elapsed() < DEADLINE, "{url}: {:?}", begun.elapsed());
                assert!(status >= 500, "{url}: {status} {text}");
                assert!(text.contains("the container runtime at unix://"), "{url}: {text}");
            });
        }
    });
    cluster.signal("containerd", Signal::CONT);
    for (begin, url) in urls() {
        assert_eq!(begin(&url).0, 101, "{url}");
    }
}
