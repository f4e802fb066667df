//! What is no stream, through our gateway and without it: the same output.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use bowline_interop::attach::{Attached, two};
use bowline_interop::client::{Input, PATIENCE, noise};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::until;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::attach;
use crate::gateway::{Front, kubeconfig_without_tls};
use crate::parts::{KUBECTLS, kubectl, ours, part};

/// Nearly as much as an object may have.
const BIG_BYTES: u64 = 1_000_000;

pub fn run(age: &str, kubeconfig: &str, words: &[&str]) -> Output {
    let mut kubectl = Command::new(part(&format!("kubectl/{age}/kubectl")));
    kubectl.arg("--kubeconfig").arg(kubeconfig).args(words).stdin(Stdio::null());
    kubectl.output().unwrap()
}

/// Runs kubectl both ways: it must end and say the same.
fn same(front: &Front, age: &str, words: &[&str]) -> Output {
    let [direct, through] = [&front.direct, &front.through].map(|one| run(age, one, words));
    let shown = |output: &Output| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(shown(&direct), shown(&through), "kubectl {age} {words:?}");
    through
}

/// All of it in front of another cluster, which is the test's own.
pub fn everything(cluster: &Cluster, front: &Front) {
    requests(front);
    megabyte(cluster, front);
    watches(cluster, front);
    logs(cluster, front);
    kubectls_proxy(cluster, front);
    aggregated(cluster, front);
}

#[test]
fn plain_requests_show_the_same_through_it() {
    requests(&Front::of(&Cluster::shared(), &[]));
}

fn requests(front: &Front) {
    for age in KUBECTLS {
        for words in [
            &["get", "pod", "box", "-o", "yaml"][..],
            &["get", "clusterroles"],
            &["get", "--raw", "/version"],
            &["get", "--raw", "/api/v1/namespaces/default/pods/box?pretty=true"],
            &["get", "--raw", "/apis/nothing"],
            &["get", "pod", "nothing"],
            &["api-versions"],
            &["api-resources", "--sort-by=name"],
            &["explain", "pod.spec"],
            &["logs", "box"],
            &["logs", "nothing"],
            &["auth", "can-i", "create", "pods/exec"],
            &["auth", "can-i", "--list"],
            &["auth", "can-i", "get", "pods", "--as", "nobody"],
            &["get", "pods", "--as", "nobody"],
            &["delete", "pod", "nothing"],
            &["get", "pods", "--token", "wrong"],
        ] {
            same(front, age, words);
        }
    }
    same(front, "1.37", &["auth", "whoami", "-o", "yaml"]);
    same(front, "1.37", &["get", "--raw", "/openapi/v3"]);
}

#[test]
fn an_object_of_a_megabyte_passes_both_ways() {
    let cluster = Cluster::shared();
    megabyte(&cluster, &Front::of(&cluster, &[]));
}

fn megabyte(cluster: &Cluster, front: &Front) {
    let mut blob = String::new();
    let _ = noise::<()>(BIG_BYTES / 2, |piece| {
        blob.extend(piece.iter().map(|byte| format!("{byte:02x}")));
        Ok(())
    });
    let file = cluster.path("big.yaml");
    let file = file.to_str().unwrap();
    let object = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{blob: \"{blob}\"}}\n"
    );
    std::fs::write(file, object).unwrap();
    for age in KUBECTLS {
        let apply = run(age, &front.through, &["apply", "--server-side", "-f", file]);
        assert!(apply.status.success(), "{age}: {apply:?}");
        let get = ["get", "configmap", "big", "-o", "jsonpath={.data.blob}"];
        let got = same(front, age, &get);
        assert!(got.stdout == blob.as_bytes(), "{age}: {} bytes", got.stdout.len());
        same(front, age, &["delete", "configmap", "big", "--dry-run=server"]);
    }
    cluster.kubectl(&["delete", "configmap", "big"]);
}

/// A kubectl whose lines are read as they come.
struct Lines {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    fn of(age: &str, kubeconfig: &str, words: &[&str]) -> Lines {
        let mut kubectl = Command::new(part(&format!("kubectl/{age}/kubectl")));
        kubectl.arg("--kubeconfig").arg(kubeconfig).args(words);
        let mut child = kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Lines { child, stdout }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watches_show_each_event_at_once() {
    let cluster = Cluster::shared();
    watches(&cluster, &Front::of(&cluster, &[]));
}

/// Each event comes before there is another.
fn watches(cluster: &Cluster, front: &Front) {
    cluster.kubectl(&["create", "configmap", "watched", "--from-literal=n=0"]);
    let columns = "jsonpath={.metadata.name} {.data.n}{\"\\n\"}";
    let watch = ["get", "configmap", "watched", "-w", "-o", columns];
    let mut watches: Vec<_> = KUBECTLS
        .iter()
        .flat_map(|age| [&front.direct, &front.through].map(|one| Lines::of(age, one, &watch)))
        .collect();
    for n in 0..10 {
        if n > 0 {
            let patch = format!("{{\"data\":{{\"n\":\"{n}\"}}}}");
            cluster.kubectl(&["patch", "configmap", "watched", "--type=merge", "-p", &patch]);
        }
        for lines in &mut watches {
            assert_eq!(lines.next(), format!("watched {n}"));
        }
    }
    cluster.kubectl(&["delete", "configmap", "watched"]);
    for lines in &mut watches {
        assert_eq!(lines.next(), "watched 9");
    }
}

#[test]
fn logs_are_followed_line_by_line() {
    let cluster = Cluster::shared();
    logs(&cluster, &Front::of(&cluster, &[]));
}

/// Each line of a log comes while there is no other.
fn logs(cluster: &Cluster, front: &Front) {
    let [talker, ..] = attach::run(cluster, "box", "-box-logs").names();
    let (mut typist, watcher) = two(&ours(&cluster.admin(), &[&talker]));
    for age in KUBECTLS {
        let mut client = kubectl(age, &front.through, &[&talker]);
        client.words[0] = "logs".to_owned();
        typist.says(&format!("say for-{age}"));
        let _ = watcher.finds(&format!("for-{age}"));
        let follower = Attached::start(&client, &["-f", "--tail=1"]);
        let _ = follower.finds(&format!("for-{age}"));
        for n in 0..5 {
            typist.says(&format!("say {age}-{n}"));
            assert_eq!(follower.line().text, format!("{age}-{n}"));
        }
    }
}

#[test]
fn kubectls_proxy_works_in_front_of_it() {
    let cluster = Cluster::shared();
    kubectls_proxy(&cluster, &Front::of(&cluster, &[]));
}

/// kubectl's own proxy in front of ours, for plain requests and for streams.
fn kubectls_proxy(cluster: &Cluster, front: &Front) {
    for age in [KUBECTLS[0], KUBECTLS[3]] {
        let words = ["proxy", "--port=0", "--disable-filter=true"];
        let mut proxy = Lines::of(age, &front.through, &words);
        let line = proxy.next();
        let address = line.rsplit(' ').next().unwrap().to_owned();
        let path = "/api/v1/namespaces/default/pods/box";
        let mut curl = Command::new("curl");
        // What looks like a browser gets it indented.
        curl.args(["--silent", "--fail", "--noproxy", "*", "--user-agent", "kubectl"]);
        curl.arg(format!("http://{address}{path}"));
        let direct = run("1.37", &front.direct, &["get", "--raw", path]);
        assert_eq!(curl.output().unwrap().stdout, direct.stdout, "kubectl {age} proxy");
        let config = kubeconfig_without_tls(cluster, "proxied", &address);
        for client in [kubectl(age, &config, &["box"]), ours(&config, &["box"])] {
            let left = client.run(&["-i"], &["cat"], Input::Bytes(b"magic"));
            assert_eq!((left.status.code(), &*left.stdout), (Some(0), &b"magic"[..]), "{left:?}");
        }
    }
}

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
const SERVICE: &str = r"apiVersion: v1
kind: Service
metadata: {name: metrics, namespace: default}
spec: {type: ExternalName, externalName: localhost, ports: [{port: PORT}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics, namespace: default, port: PORT}
";

#[test]
fn an_aggregated_server_is_reached_through_it() {
    // Of its own: as long as an aggregated server is gone, every client of the cluster is told so.
    let cluster = Cluster::up(&[("NO_KUBELET", "1")]);
    aggregated(&cluster, &Front::of(&cluster, &[]));
}

/// `kubectl top`, whose answers come from a server behind the API server.
fn aggregated(cluster: &Cluster, front: &Front) {
    let port = metrics(cluster);
    let file = cluster.path("metrics.yaml");
    std::fs::write(&file, SERVICE.replace("PORT", &port.to_string())).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    let available = ["wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io"];
    cluster.kubectl(&available);
    // An old API server passes requests on a moment later.
    until("requests are passed on", PATIENCE, || {
        run("1.37", &front.direct, &["get", "--raw", METRICS]).status.success()
    });
    for age in KUBECTLS {
        let top = same(front, age, &["top", "pods"]);
        let text = String::from_utf8_lossy(&top.stdout);
        assert!(text.contains("measured") && text.contains("7m"), "{top:?}");
        same(front, age, &["get", "--raw", METRICS]);
    }
}

/// A server that has measured one pod.
fn metrics(cluster: &Cluster) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let certificate = CertificateDer::from_pem_file(cluster.path("pki/apiserver.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(cluster.path("pki/apiserver.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let session = ServerConnection::new(config.clone()).unwrap();
            let stream = StreamOwned::new(session, socket.unwrap());
            thread::spawn(move || answer(BufReader::new(stream)));
        }
    });
    port
}

fn answer(mut stream: BufReader<impl std::io::Read + Write>) {
    loop {
        let (mut first, mut line) = (String::new(), String::new());
        if !matches!(stream.read_line(&mut first), Ok(1..)) {
            return;
        }
        while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
            line.clear();
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let (code, body) = match path.strip_prefix(METRICS) {
            Some("") => ("200 OK", RESOURCES),
            Some(rest) if rest.ends_with("/pods") => ("200 OK", MEASURED),
            _ => ("404 Not Found", "{}"),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        if stream.get_mut().write_all([&head, body].concat().as_bytes()).is_err() {
            return;
        }
    }
}

const RESOURCES: &str = r#"{"kind":"APIResourceList","apiVersion":"v1",
"groupVersion":"metrics.k8s.io/v1beta1","resources":[{"name":"pods","singularName":"",
"namespaced":true,"kind":"PodMetrics","verbs":["get","list"]}]}"#;
const MEASURED: &str = r#"{"kind":"PodMetricsList","apiVersion":"metrics.k8s.io/v1beta1",
"metadata":{},"items":[{"metadata":{"name":"measured","namespace":"default"},
"timestamp":"2026-01-01T00:00:00Z","window":"15s",
"containers":[{"name":"c","usage":{"cpu":"7m","memory":"10Mi"}}]}]}"#;
