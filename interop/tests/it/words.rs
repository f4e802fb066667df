//! `bowline exec` and kubectl 1.37 side by side in a real cluster: the same words, the same codes.

use std::process::Command;

use bowline_interop::cluster::Cluster;
use bowline_interop::server::Server;

use crate::parts::{bowline, part};

const OBJECTS: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: box, namespace: default},
   spec: {selector: {app: box}, ports: [{port: 80}]}}
- {apiVersion: v1, kind: Service, metadata: {name: nosel, namespace: default},
   spec: {ports: [{port: 80}]}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: some, namespace: default}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: box, namespace: default}
  spec: &workload
    selector: {matchLabels: {app: box}}
    template: {metadata: {labels: {app: box}}, spec: {containers: [{name: box, image: none}]}}
- {apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: box, namespace: default},
   spec: *workload}
- {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: box, namespace: default}, spec: *workload}
";

/// What is asked, after `exec`.
const ASKED: &[&[&str]] = &[
    &["box", "--", "echo", "out"],
    &["pod/box", "--", "sh", "-c", "echo out; echo err >&2; exit 3"],
    &["gnu", "--", "sh", "-c", "echo out; echo err >&2; exit 3"],
    &["gnu", "--", "bash", "-c", "kill -9 $$"],
    &["gnu", "--", "/no/such/binary"],
    &["po/box", "--", "true"],
    &["pods/box", "--", "true"],
    &["svc/box", "--", "true"],
    &["service/box", "-c", "box", "--", "true"],
    &["deploy/box", "--", "true"],
    &["deployments.apps/box", "--", "true"],
    &["deployment.v1.apps/box", "--", "true"],
    &["rs/box", "--", "true"],
    &["ds/box", "--", "true"],
    &["svc/nosel", "--", "true"],
    &["cm/some", "--", "true"],
    &["deploy/missing", "--", "true"],
    &["missing", "--", "true"],
    &["foo/box", "--", "true"],
    &["pod/box/x", "--", "true"],
    &["box", "-c", "nope", "--", "true"],
    &["box", "-n", "nowhere", "--", "true"],
    &["box", "true"],
    &["box", "junk", "--", "true"],
    &["box"],
    &["--", "true"],
    &[],
    &["box", "--bogus", "--", "true"],
    &["box", "-z", "--", "true"],
    &["box", "--tty=maybe", "--", "true"],
    &["box", "--pod-running-timeout=0", "--", "true"],
    &["box", "--pod-running-timeout=soon", "--", "true"],
    &["box", "--request-timeout=soon", "--", "true"],
    &["box", "--request-timeout=5s", "--", "true"],
    &["box", "--context=nope", "--", "true"],
    &["box", "--user=nope", "--", "true"],
    &["box", "--cluster=nope", "--", "true"],
    &["box", "--as=nobody", "--", "true"],
    &["box", "--as-group=g", "--", "true"],
    &["box", "-it", "--", "true"],
    &["box", "-itq", "--", "true"],
    &["box", "-t", "--", "true"],
    &["box", "-f", "/bowline-is-not-here", "--", "true"],
    &["-f", "/bowline-is-not-here", "--", "true"],
    &["box", "--", "/no/such/binary"],
    &["box", "--", "sh", "-c", "kill -9 $$"],
    &["box", "--server=https://127.0.0.1:1", "--", "true"],
    &["box", "--token=a", "--username=b", "--", "true"],
];

/// Exit code, stdout and stderr of one of them.
fn said(
    program: &std::path::Path,
    kubeconfig: &str,
    asked: &[&str],
) -> (Option<i32>, String, String) {
    let mut process = Command::new(program);
    process.arg("exec").arg("--kubeconfig").arg(kubeconfig).args(asked);
    let output = process.stdin(std::process::Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| normal(&String::from_utf8_lossy(bytes));
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Without what differs in every run, the program's name, and the log lines that kubectl prints
/// about a server that it cannot reach.
fn normal(text: &str) -> String {
    let is_log = |line: &&str| line.starts_with('E') && line.contains(" memcache.go:");
    let lines = text.lines().filter(|line| !is_log(line)).map(|line| {
        let word = |word: &str| {
            let id = word.trim_matches(['"', ':', '\\']);
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_id { "ID".to_owned() } else { word.to_owned() }
        };
        line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n"
    });
    lines.collect::<String>().replace("bowline exec", "kubectl exec")
}

#[test]
fn the_words_and_codes_are_kubectls() {
    let cluster = Cluster::shared();
    let file = cluster.path("targets.yaml");
    std::fs::write(&file, OBJECTS).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    let kubectl = part("kubectl/1.37/kubectl");
    let mut differences = Vec::new();
    for config in [cluster.admin(), cluster.text("viewer.kubeconfig")] {
        for asked in ASKED {
            let theirs = said(&kubectl, &config, asked);
            let ours = said(&bowline(), &config, asked);
            if theirs != ours {
                differences
                    .push(format!("{asked:?}\n  kubectl: {theirs:?}\n  bowline: {ours:?}\n"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.concat());
}

#[test]
fn as_a_plugin_it_is_called_by_kubectl() {
    let dev = Server::dev(&bowline(), &[]);
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(bowline(), place.path().join("kubectl-bowline")).unwrap();
    let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
    kubectl.args(["bowline", "exec", "nginx", "--", "sh", "-c", "echo out; exit 5"]);
    let path = std::env::var("PATH").unwrap_or_default();
    kubectl.env("PATH", format!("{}:{path}", place.path().display()));
    let output = kubectl.env("KUBECONFIG", dev.kubeconfig()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(output.stdout, b"out\n", "{output:?}");
}
