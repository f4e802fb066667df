//! Logs of a container whose files a real kubelet rotates meanwhile, through our node beside it and
//! our gateway.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use bowline_interop::client::{Client, Input};
use bowline_interop::cluster::{Cluster, PODS};
use bowline_interop::server::Server;
use rustix::process::{Pid, Signal, kill_process};

use crate::parts::{bowline, kubectl, ours};
use crate::real::{gateway, kubeconfig};

/// At each look there is something to rotate; three files stay.
const ROTATION: (&str, &str) = (
    "KUBELET_CONFIG",
    "containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 3\ncontainerLogMonitorInterval: 3s",
);
const BURSTS: usize = 20;
/// With a burst a second the container writes 4 MB a second.
const BURST_LINES: usize = 4000;
const LINES: usize = BURSTS * BURST_LINES;

/// A pod that writes numbered lines of 1,000 characters, once it is told to begin.
fn writer(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  nodeName: localhost
  restartPolicy: Never
  automountServiceAccountToken: false
  containers:
  - name: box
    image: localhost/box:1
    imagePullPolicy: Never
    command:
    - sh
    - -c
    - |
      echo begin; until [ -e /tmp/go ]; do sleep 0.2; done
      burst() {{ awk -v from="$1" 'BEGIN {{
        pad = sprintf("%990s", ""); gsub(/ /, "x", pad)
        for (n = from; n < from + {BURST_LINES}; n++) printf "%d %s\n", n, pad }}'; }}
      n=0; while [ $n -lt {BURSTS} ]; do burst $((n * {BURST_LINES})); sleep 1; n=$((n + 1)); done
"#
    )
}

/// Somebody who follows the writer's log.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// What a follower has read.
struct Read {
    /// Lines from the first on, without a gap.
    lines: usize,
    is_good_end: bool,
    stderr: String,
}

impl Follower {
    fn start(kubeconfig: &str, pod: &str) -> Follower {
        let client = kubectl("1.37", kubeconfig, &[]);
        let mut process = Command::new(&client.program);
        process.args(["logs", "--kubeconfig", kubeconfig, "-f", pod]);
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert_eq!(first, "begin\n");
        Follower { child, lines }
    }

    fn finish(self) -> Read {
        let Follower { child, lines } = self;
        let mut count = 0;
        for line in lines.lines() {
            let line = line.unwrap();
            let number = line.split(' ').next().unwrap();
            assert_eq!(number.parse(), Ok(count), "a line is missing, or comes twice: {number:?}");
            count += 1;
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Read { lines: count, is_good_end: output.status.success(), stderr }
    }
}

/// A cluster whose kubelet rotates, our node beside it and our gateway before that.
struct Place {
    cluster: Cluster,
    node: Server,
    gateway: Server,
}

impl Place {
    fn up(pods: &[&str]) -> Place {
        let cluster = Cluster::up(&[ROTATION]);
        let manifests: Vec<String> = pods.iter().map(|pod| writer(pod)).collect();
        cluster.run_pods(&manifests.join("---\n"), pods);
        let node = cluster.beside_the_kubelet(&bowline(), &["-v=2"]);
        let address = node.address();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        let gateway = gateway(&cluster, port, true, &[&PODS[..], pods].concat());
        Place { cluster, node, gateway }
    }

    fn follower(&self, pod: &str) -> Follower {
        Follower::start(&kubeconfig(&self.cluster, &self.gateway), pod)
    }

    fn begin(&self, pod: &str) {
        let client: Client = ours(&self.cluster.admin(), &[pod]);
        let left = client.run(&[], &["touch", "/tmp/go"], Input::Nothing);
        assert!(left.status.success(), "{left:?}");
    }

    /// Waits until the container has ended and its first files are rotated away.
    fn is_rotated(&self, pod: &str) {
        let phase = "--for=jsonpath={.status.phase}=Succeeded";
        self.cluster.kubectl(&["wait", phase, "--timeout=120s", &format!("pod/{pod}")]);
        let glob = format!("/var/log/pods/default_{pod}_*/box/*");
        let list = format!("ls -l {glob}; gzip -dc $(ls {glob}.gz | head -n 1) | head -n 1");
        let output = self.cluster.enter("sh").args(["-c", &list]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{}", text.chars().take(800).collect::<String>());
        let oldest = text.lines().last().unwrap();
        assert!(oldest.contains(" stdout F "), "{text}");
        assert!(!oldest.contains("begin"), "three rotations at least: {text}");
    }
}

#[test]
fn who_follows_a_log_through_a_kubelets_rotations_reads_each_line_once() {
    let place = Place::up(&["writer"]);
    let followers = [place.follower("writer"), place.follower("writer")];
    place.begin("writer");
    let threads = followers.map(|follower| thread::spawn(move || follower.finish()));
    for read in threads.map(|thread| thread.join().unwrap()) {
        assert!(read.is_good_end, "{} lines, then {}", read.lines, read.stderr);
        assert_eq!(read.lines, LINES);
    }
    place.is_rotated("writer");
}

/// What the kubelet has removed meanwhile is gone; that is said, and what was read has no gap.
#[test]
fn who_is_slower_than_a_kubelets_rotations_is_told_of_what_is_gone() {
    let place = Place::up(&["slow"]);
    let follower = place.follower("slow");
    let id = Pid::from_child(&follower.child);
    kill_process(id, Signal::STOP).unwrap();
    place.begin("slow");
    place.is_rotated("slow");
    kill_process(id, Signal::CONT).unwrap();
    let read = follower.finish();
    println!("{} of {LINES} lines, then {}", read.lines, read.stderr.trim());
    if read.lines < LINES {
        assert!(!read.is_good_end, "it ends as if {} were all of {LINES}", read.lines);
        let log = place.node.log();
        assert!(log.contains("its reader was too slow"), "{log}");
    }
}
