//! A container runtime that is stuck: who asks is told within a while, and is served once it goes
//! on. As in `waits.rs`, these tests run side by side.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bowline_interop::client::{Client, Input, left};
use bowline_interop::cluster::{Cluster, PODS, RUNTIME_ALONE};
use bowline_interop::grpc::Connection;
use rustix::process::Signal;

use crate::cri::{face, in_the_kubelets_place};
use crate::cri_face::{Pod, both, method};
use crate::cri_urls::begin;
use crate::ends::both_carriers;
use crate::parts::ours;

/// How long a request at a runtime that is stuck may take: our client asks over one carrier, and
/// over the other, for 15 s each.
const DEADLINE: Duration = Duration::from_secs(40);

/// Asks while the runtime is stopped, and once it goes on, in each pod over both carriers; what is
/// said meanwhile has these words.
fn is_told(cluster: &Cluster, words: &str) {
    let client = |pod| both_carriers(&ours(&cluster.admin(), &[pod]).named(pod));
    let clients = PODS.map(client).concat();
    cluster.signal("containerd", Signal::STOP);
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(move || {
                let begun = Instant::now();
                let left = left(echo(client), Input::Nothing, true).unwrap();
                let elapsed = begun.elapsed();
                let said = left.stderr.trim();
                println!("{}: {:.1} s: {said}", client.name, elapsed.as_secs_f64());
                assert!(!left.status.success(), "{}: {left:?}", client.name);
                assert!(elapsed < DEADLINE, "{}: {elapsed:?}", client.name);
                assert!(said.contains(words), "{}: {left:?}", client.name);
            });
        }
    });
    cluster.signal("containerd", Signal::CONT);
    for client in &clients {
        let left = left(echo(client), Input::Nothing, true).unwrap();
        assert_eq!(left.stdout, b"here\n", "{}: {left:?}", client.name);
    }
}

fn echo(client: &Client) -> Child {
    let mut process = client.process(&[], &["echo", "here"]);
    process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.spawn().unwrap()
}

#[test]
fn a_stopped_runtime_is_named_by_our_node_and_works_again() {
    let cluster = Cluster::up(&[]);
    let node = in_the_kubelets_place(&cluster, &[]);
    is_told(&cluster, "the container runtime at unix://");
    drop(node);
}

/// The deadline is the kubelet's own, as are the words.
#[test]
fn a_stopped_runtime_ends_a_kubelets_requests_through_the_face() {
    let settings = [("KUBELET_ARGS", "--runtime-request-timeout=10s")];
    let cluster = Cluster::behind(&face(""), &settings);
    is_told(&cluster, "DeadlineExceeded");
}

/// The URL is there, and then the runtime is stuck: whoever uses it is told within a while.
#[test]
fn a_stopped_runtime_is_named_by_the_faces_streams_and_works_again() {
    let cluster = Cluster::behind(&face(""), &[RUNTIME_ALONE]);
    let pod = Pod::run(&cluster, "stopped", &["sleep", "2147483647"]);
    let [_, face] = both(&cluster);
    let mut connection = Connection::open(&face, "localhost");
    let url = connection.call(&method("Exec"), &pod.exec()).url();
    cluster.signal("containerd", Signal::STOP);
    let begun = Instant::now();
    let (status, text) = begin(&url);
    println!("{status} {text}: {:.1} s", begun.elapsed().as_secs_f64());
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    assert!(status >= 500, "{status} {text}");
    assert!(text.contains("the container runtime at unix://"), "{text}");
    cluster.signal("containerd", Signal::CONT);
    let url = connection.call(&method("Exec"), &pod.exec()).url();
    assert_eq!(begin(&url).0, 101);
}
